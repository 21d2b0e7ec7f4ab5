"""The keys of TimeSformer. SlowFast's fork has the first two; the others are the constructor's arguments."""

from yacs.config import CfgNode


def add_timesformer(cfg: CfgNode) -> None:
    """Add the section TIMESFORMER. Image size, frames and classes come from DATA and MODEL."""
    node = cfg.TIMESFORMER = CfgNode()
    node.ATTENTION_TYPE = "divided_space_time"  # divided_space_time | joint_space_time | space_only
    node.PRETRAINED_MODEL = ""  # the same as MODEL.PRETRAINED, which wins where both are set
    node.PATCH_SIZE = 16  # side of a patch, pixels; divides the crop sizes
    node.EMBED_DIM = 768  # width, a multiple of NUM_HEADS
    node.DEPTH = 12  # blocks
    node.NUM_HEADS = 12
    node.MLP_RATIO = 4.0  # hidden width of the MLPs over EMBED_DIM
    node.QKV_BIAS = True
    node.DROP_RATE = 0.0  # dropout of embeddings, projections and MLPs, 0..1
    node.ATTN_DROP_RATE = 0.0  # dropout of attention weights, 0..1
    node.DROP_PATH_RATE = 0.1  # stochastic depth of the last block, 0..1; earlier blocks less, in a line
    node.INIT_STD = 0.02  # spread of the first weights; the published one. A small model from scratch: 0.2
    node.TIME_EMBED_STD = 0.0  # spread of the first time embedding; the published one. A small model from scratch: 1.0
