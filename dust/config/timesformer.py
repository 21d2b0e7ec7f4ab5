"""The keys of TimeSformer. SlowFast's fork has the first two; the others are the constructor's arguments."""

from yacs.config import CfgNode

from dust.config.problem import BELOW_ONE, COUNT, FROM_ZERO, POSITIVE, Problem, Range

CHOICES = {"TIMESFORMER.ATTENTION_TYPE": ("divided_space_time", "joint_space_time", "space_only")}
RANGES: dict[str, Range] = {
    **dict.fromkeys([f"TIMESFORMER.{key}" for key in ("PATCH_SIZE", "EMBED_DIM", "DEPTH", "NUM_HEADS")], COUNT),
    **dict.fromkeys(["TIMESFORMER.MLP_RATIO", "TIMESFORMER.INIT_STD"], POSITIVE),
    **dict.fromkeys([f"TIMESFORMER.{key}" for key in ("DROP_RATE", "ATTN_DROP_RATE", "DROP_PATH_RATE")], BELOW_ONE),
    "TIMESFORMER.TIME_EMBED_STD": FROM_ZERO,
}


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


def check(cfg: CfgNode) -> list[Problem]:
    """Crops divide into patches, and the width into heads."""
    node, problems = cfg.TIMESFORMER, []
    if cfg.MODEL.MODEL_NAME != "TimeSformer":
        return []
    for section, key in (("TRAIN", "TRAIN_CROP_SIZE"), ("TEST", "TEST_CROP_SIZE")):
        if (section == "TRAIN" or cfg[section].ENABLE) and cfg.DATA[key] % node.PATCH_SIZE:
            text = f"DATA.{key} {cfg.DATA[key]}: must be a multiple of TIMESFORMER.PATCH_SIZE {node.PATCH_SIZE}"
            problems.append(Problem((f"DATA.{key}", "TIMESFORMER.PATCH_SIZE"), text))
    if node.EMBED_DIM % node.NUM_HEADS:
        text = f"TIMESFORMER.EMBED_DIM {node.EMBED_DIM}: must be a multiple of TIMESFORMER.NUM_HEADS {node.NUM_HEADS}"
        problems.append(Problem(("TIMESFORMER.EMBED_DIM", "TIMESFORMER.NUM_HEADS"), text))
    return problems
