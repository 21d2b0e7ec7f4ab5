"""The keys of TimeSformer. SlowFast's fork has the first two; the others are the constructor's arguments."""

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, section

KEYS = section(
    "TIMESFORMER",  # image size, frames and classes come from DATA and MODEL
    ATTENTION_TYPE=Key("divided_space_time", "attention over time, then space; over both at once; within frames",
                       choices="divided_space_time | joint_space_time | space_only"),
    PRETRAINED_MODEL=Key("", "the same as MODEL.PRETRAINED, which wins where both are set", affects="features"),
    PATCH_SIZE=Key(16, "side of a patch, pixels; divides the crop sizes", low=1),
    EMBED_DIM=Key(768, "width, a multiple of NUM_HEADS", low=1),
    DEPTH=Key(12, "blocks", low=1),
    NUM_HEADS=Key(12, "attention heads", low=1),
    MLP_RATIO=Key(4.0, "hidden width of the MLPs over EMBED_DIM", above=0),
    QKV_BIAS=Key(True, "biases of queries, keys and values"),
    DROP_RATE=Key(0.0, "dropout of embeddings, projections and MLPs", low=0, below=1),
    ATTN_DROP_RATE=Key(0.0, "dropout of attention weights", low=0, below=1),
    DROP_PATH_RATE=Key(0.1, "stochastic depth of the last block; earlier blocks less, in a line", low=0, below=1),
    INIT_STD=Key(0.02, "spread of the first weights; the published one. A small model from scratch: 0.2", above=0),
    TIME_EMBED_STD=Key(0.0, "spread of the first time embedding; the published one. A small model from scratch: 1.0",
                       low=0),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check that crops divide into patches, and the width into heads."""
    node, problems = cfg.TIMESFORMER, []
    if cfg.MODEL.MODEL_NAME != "TimeSformer":
        return []
    for part, key in (("TRAIN", "TRAIN_CROP_SIZE"), ("TEST", "TEST_CROP_SIZE")):
        if (part == "TRAIN" or cfg[part].ENABLE) and cfg.DATA[key] % node.PATCH_SIZE:
            text = f"DATA.{key} {cfg.DATA[key]}: must be a multiple of TIMESFORMER.PATCH_SIZE {node.PATCH_SIZE}"
            problems.append(Problem((f"DATA.{key}", "TIMESFORMER.PATCH_SIZE"), text))
    if node.EMBED_DIM % node.NUM_HEADS:
        text = f"TIMESFORMER.EMBED_DIM {node.EMBED_DIM}: must be a multiple of TIMESFORMER.NUM_HEADS {node.NUM_HEADS}"
        problems.append(Problem(("TIMESFORMER.EMBED_DIM", "TIMESFORMER.NUM_HEADS"), text))
    return problems


SYSTEM = System(KEYS, ("TimeSformer",), check)
