"""Keys of CAST, of its two experts, VideoMAE (with its pre-training) and CLIP's visual transformer, and of TSTL."""

from yacs.config import CfgNode

from dust.config.problem import BELOW_ONE, COUNT, FROM_ZERO, INF, POSITIVE, Problem, Range

CHOICES: dict[str, tuple[str, ...]] = {
    "TSTL.EXPERT_CLASSES": ("group", "all"),
    "TSTL.VOTE": ("maxlogit", "selector_weighted", "majority"),
}
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        [
            "VIDEOMAE.PATCH_SIZE", "VIDEOMAE.TUBELET_SIZE", "VIDEOMAE.EMBED_DIM", "VIDEOMAE.DEPTH",
            "VIDEOMAE.NUM_HEADS", "VIDEOMAE.DECODER_EMBED_DIM", "VIDEOMAE.DECODER_DEPTH",
            "VIDEOMAE.DECODER_NUM_HEADS", "CLIP.PATCH_SIZE", "CLIP.WIDTH", "CLIP.LAYERS", "CLIP.HEADS",
            "CAST.PATCH_SIZE", "CAST.TUBELET_SIZE", "CAST.EMBED_DIM", "CAST.DEPTH", "CAST.NUM_HEADS",
            "CAST.DOWN_RATIO", "CAST.NUM_VERBS", "CAST.NUM_NOUNS", "TSTL.TOP_K",
        ],
        COUNT,
    ),
    **dict.fromkeys(
        [
            "VIDEOMAE.INIT_VALUES", "VIDEOMAE.INIT_SCALE", "CLIP.OUTPUT_DIM", "CLIP.INIT_SCALE", "CAST.INIT_SCALE",
            "TSTL.GROUPS_PER_BATCH", "TSTL.TRIPLET_WEIGHT", "TSTL.TRIPLET_MARGIN",
        ],
        FROM_ZERO,
    ),
    **dict.fromkeys(["VIDEOMAE.MLP_RATIO", "VIDEOMAE.INIT_STD", "CAST.MLP_RATIO", "CAST.INIT_STD"], POSITIVE),
    **dict.fromkeys(
        [
            "VIDEOMAE.DROP_RATE", "VIDEOMAE.ATTN_DROP_RATE", "VIDEOMAE.DROP_PATH_RATE", "VIDEOMAE.HEAD_DROP_RATE",
            "CLIP.HEAD_DROP_RATE", "CLIP.DROP_PATH_RATE", "CAST.HEAD_DROP_RATE", "CAST.DROP_PATH_RATE",
        ],
        BELOW_ONE,
    ),
    "VIDEOMAE.MASK_RATIO": (0, 1, False, False),
    "TSTL.GROUP": (-1, INF, True, False),
}  # fmt: skip


def add_cast(root: CfgNode) -> None:
    """Add the nodes VIDEOMAE, CLIP, CAST and TSTL. Image size, frames and classes come from DATA and MODEL."""
    video = root.VIDEOMAE = CfgNode()  # models VideoMAE and VideoMAEPretrain; the defaults are ViT-B
    video.PATCH_SIZE = 16  # side of a token, pixels; divides the crop sizes
    video.TUBELET_SIZE = 2  # length of a token, frames; divides DATA.NUM_FRAMES
    video.EMBED_DIM = 768  # S, B, L, H: 384, 768, 1024, 1280
    video.DEPTH = 12  # blocks; 12, 12, 24, 32
    video.NUM_HEADS = 12  # 6, 12, 16, 16; Hugging Face's configuration of S says 16, which is wrong
    video.MLP_RATIO = 4.0
    video.QKV_BIAS = True
    video.DROP_RATE = 0.0  # of tokens, projections and MLPs
    video.ATTN_DROP_RATE = 0.0
    video.DROP_PATH_RATE = 0.1  # of the last block, rising from 0; pre-training uses 0
    video.HEAD_DROP_RATE = 0.0  # before the classifier
    video.INIT_VALUES = 0.0  # first value of LayerScale; 0 = none, as in all published weights
    video.USE_MEAN_POOLING = True  # classify the mean of all tokens, else the first
    video.INIT_SCALE = 0.001  # factor of the classifier's first weights; the published one. From scratch: 1
    video.INIT_STD = 0.02  # spread of the first weights; the published one. A small model from scratch: 0.2
    video.DECODER_EMBED_DIM = 384  # pre-training; S, B, L, H: 192, 384, 512, 640
    video.DECODER_DEPTH = 4  # 4, 4, 12, 12
    video.DECODER_NUM_HEADS = 6  # 3, 6, 8, 10
    video.MASK_RATIO = 0.9  # share of the places that pre-training masks; UCF101 0.75
    video.NORMALIZE_TARGET = True  # predict each tubelet's pixels less their mean, over their standard deviation

    clip = root.CLIP = CfgNode()  # model CLIPVisual; the defaults are ViT-B/16
    clip.PATCH_SIZE = 16  # pixels; divides the crop sizes
    clip.WIDTH = 768
    clip.LAYERS = 12
    clip.HEADS = 12  # OpenAI's models: WIDTH / 64
    clip.OUTPUT_DIM = 512  # width of the embedding that is classified; 0 = no projection
    clip.HEAD_DROP_RATE = 0.0  # before the classifier
    clip.DROP_PATH_RATE = 0.0  # of the last block, rising from 0
    clip.INIT_SCALE = 1.0  # factor of the classifier's first weights

    cast = root.CAST = CfgNode()  # model CAST; the defaults are B-CAST, and both experts have these sizes
    cast.SPATIAL_FROM = ""  # stage, weight file or zoo://NAME of the spatial expert (CLIPVisual)
    cast.TEMPORAL_FROM = ""  # stage, weight file or zoo://NAME of the temporal expert (VideoMAE)
    cast.TRUNK_FROM = ""  # instead of these two: stage or checkpoint of a CAST whose experts are taken
    cast.FREEZE = True  # do not train the experts; False only for small ones that start from nothing
    cast.PATCH_SIZE = 16
    cast.TUBELET_SIZE = 2  # the spatial expert sees the last frame of each tubelet
    cast.EMBED_DIM = 768
    cast.DEPTH = 12
    cast.NUM_HEADS = 12  # of both experts, and of the attention between them
    cast.MLP_RATIO = 4.0  # of the temporal expert; the spatial one's is 4
    cast.QKV_BIAS = True  # of the temporal expert
    cast.DOWN_RATIO = 2  # EMBED_DIM over the width of the attention between the experts
    cast.COMPOSITION = False  # verbs and nouns (EPIC-KITCHENS) instead of one set of classes
    cast.NUM_VERBS = 97
    cast.NUM_NOUNS = 300
    cast.HEAD_DROP_RATE = 0.0  # before the classifier
    cast.DROP_PATH_RATE = 0.2  # of the last block's trained branches, rising from 0; SSv2 0.3
    cast.INIT_SCALE = 1.0  # factor of the classifier's first weights
    cast.INIT_STD = 0.02  # spread of the first weights; a small model whose experts learn too (FREEZE False): 0.2

    tstl = root.TSTL = CfgNode()  # CAST in two stages: a selector of groups of classes, and an expert for each group
    tstl.GROUPING = ""  # class_grouping.json in the data folder, or a path; tools/group_classes.py makes one
    tstl.GROUPS = []  # experts to train, one after the other in OUTPUT_DIR/experts/group_{i}: all, or e.g. [0, 3]
    tstl.GROUP = -1  # the expert of one such run, which GROUPS sets
    tstl.EXPERT_CLASSES = "group"  # classes of an expert's head: group (its own) | all (as published)
    tstl.GROUPS_PER_BATCH = 0  # selector: groups that each training batch holds, alike many clips of each; 0 = any
    tstl.TRIPLET_WEIGHT = 0.0  # selector: factor of the batch-all triplet loss on the fused features; 0 = none
    tstl.TRIPLET_MARGIN = 1.0  # in the features' units
    tstl.SELECTOR_FROM = ""  # model TSTL: stage or checkpoint of the selector
    tstl.EXPERTS_FROM = (
        ""  # model TSTL: stage whose experts/group_{i} are taken, or files such as run/expert-{group}.pth
    )
    tstl.TOP_K = 1  # experts that see a clip, those of the selector's first groups
    tstl.VOTE = "maxlogit"  # maxlogit | selector_weighted | majority: how several experts agree
    tstl.MASK_OUTSIDE = False  # an expert says nothing of classes outside its group; needed only for EXPERT_CLASSES all


def check(cfg: CfgNode) -> list[Problem]:
    """Crops and frames divide into tokens, and widths into heads."""
    name = cfg.MODEL.MODEL_NAME
    if name in ("VideoMAE", "VideoMAEPretrain"):
        problems = _multiples(cfg, [*_clips("VIDEOMAE"), ("VIDEOMAE.EMBED_DIM", "VIDEOMAE.NUM_HEADS")])
        if name == "VideoMAEPretrain":
            problems += _multiples(cfg, [("VIDEOMAE.DECODER_EMBED_DIM", "VIDEOMAE.DECODER_NUM_HEADS")])
        return problems
    if name == "CLIPVisual":
        return _multiples(cfg, [*_clips("CLIP")[:2], ("CLIP.WIDTH", "CLIP.HEADS")])
    if name == "CAST":
        return [*_cast(cfg), *_weights(cfg), *_stages(cfg)]
    return [*_cast(cfg), *_weights(cfg), *_test(cfg)] if name == "TSTL" else []


def _weights(cfg: CfgNode) -> list[Problem]:
    """Experts that are frozen come from somewhere, and from one place."""
    node, problems = cfg.CAST, []
    both, trunk = ("CAST.SPATIAL_FROM", "CAST.TEMPORAL_FROM"), "CAST.TRUNK_FROM"
    if bool(node.SPATIAL_FROM) != bool(node.TEMPORAL_FROM):
        problems.append(
            Problem(both, f"{both[0]} {node.SPATIAL_FROM!r} and {both[1]} {node.TEMPORAL_FROM!r}: give both")
        )
    if node.TRUNK_FROM and (node.SPATIAL_FROM or node.TEMPORAL_FROM):
        text = f"{trunk} {node.TRUNK_FROM}: gives both experts, so remove {both[0]} and {both[1]}"
        problems.append(Problem((trunk, *both), text))
    start = (
        node.SPATIAL_FROM,
        node.TEMPORAL_FROM,
        node.TRUNK_FROM,
        cfg.MODEL.PRETRAINED,
        cfg.TRAIN.CHECKPOINT_FILE_PATH,
    )
    if cfg.TRAIN.ENABLE and cfg.MODEL.MODEL_NAME == "CAST" and node.FREEZE and not any(start):
        text = f"CAST.FREEZE True: the frozen experts need weights; name them in {both[0]} and {both[1]}"
        problems.append(Problem(("CAST.FREEZE", *both), f"{text} (or train them too: CAST.FREEZE False)"))
    return problems


def _stages(cfg: CfgNode) -> list[Problem]:
    """CAST as TSTL's selector or expert, and its verbs and nouns."""
    tstl, problems = cfg.TSTL, []
    used = [
        f"TSTL.{name}" for name, off in (("GROUPS", []), ("GROUP", -1), ("GROUPS_PER_BATCH", 0)) if tstl[name] != off
    ]
    if used and not tstl.GROUPING:
        text = f"TSTL.GROUPING is empty, and {', '.join(used)} need one: name a class_grouping.json"
        problems.append(Problem(("TSTL.GROUPING", *used), text))
    if cfg.TRAIN.ENABLE and tstl.GROUPS_PER_BATCH and cfg.TRAIN.BATCH_SIZE % tstl.GROUPS_PER_BATCH:
        text = f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}: must be a multiple of TSTL.GROUPS_PER_BATCH "
        problems.append(Problem(("TRAIN.BATCH_SIZE", "TSTL.GROUPS_PER_BATCH"), f"{text}{tstl.GROUPS_PER_BATCH}"))
    node, classes = cfg.CAST, cfg.MODEL.NUM_CLASSES
    if node.COMPOSITION and classes != node.NUM_VERBS + node.NUM_NOUNS:
        text = f"MODEL.NUM_CLASSES {classes}: with CAST.COMPOSITION it is CAST.NUM_VERBS + CAST.NUM_NOUNS, "
        keys = ("MODEL.NUM_CLASSES", "CAST.COMPOSITION", "CAST.NUM_VERBS", "CAST.NUM_NOUNS")
        problems.append(Problem(keys, f"{text}{node.NUM_VERBS + node.NUM_NOUNS}"))
    return problems


def _test(cfg: CfgNode) -> list[Problem]:
    """Model TSTL is put together from the two stages, and not trained."""
    problems = []
    if cfg.TRAIN.ENABLE:
        text = "TRAIN.ENABLE True: model TSTL is only tested; train its parts with MODEL.MODEL_NAME CAST"
        problems.append(Problem(("TRAIN.ENABLE", "MODEL.MODEL_NAME"), text))
    for key, what in (("GROUPING", "class_grouping.json"), ("SELECTOR_FROM", "selector"), ("EXPERTS_FROM", "experts")):
        if not cfg.TSTL[key]:
            problems.append(Problem((f"TSTL.{key}",), f"TSTL.{key} is empty: name the {what}"))
    if cfg.TEST.ENSEMBLE_SPACE != "probs":
        text = "TEST.ENSEMBLE_SPACE logits: views that different experts saw cannot be summed as logits; set probs"
        problems.append(Problem(("TEST.ENSEMBLE_SPACE",), text))
    if cfg.CAST.COMPOSITION:
        problems.append(Problem(("CAST.COMPOSITION",), "CAST.COMPOSITION True: TSTL routes one set of classes"))
    return problems


def _clips(section: str) -> list[tuple[str, str]]:
    return [
        ("DATA.TRAIN_CROP_SIZE", f"{section}.PATCH_SIZE"),
        ("DATA.TEST_CROP_SIZE", f"{section}.PATCH_SIZE"),
        ("DATA.NUM_FRAMES", f"{section}.TUBELET_SIZE"),
    ]


def _cast(cfg: CfgNode) -> list[Problem]:
    node, data = cfg.CAST, cfg.DATA
    problems = _multiples(cfg, [*_clips("CAST"), ("CAST.EMBED_DIM", "CAST.NUM_HEADS")])
    inner = node.DOWN_RATIO * node.NUM_HEADS
    if inner > 0 and node.EMBED_DIM % inner:
        keys: tuple[str, ...] = ("CAST.EMBED_DIM", "CAST.DOWN_RATIO", "CAST.NUM_HEADS")
        text = f"CAST.EMBED_DIM {node.EMBED_DIM}: must be a multiple of CAST.DOWN_RATIO {node.DOWN_RATIO} x "
        problems.append(Problem(keys, f"{text}CAST.NUM_HEADS {node.NUM_HEADS}"))
    if cfg.TEST.ENABLE and data.TEST_CROP_SIZE != data.TRAIN_CROP_SIZE:
        keys = ("DATA.TEST_CROP_SIZE", "DATA.TRAIN_CROP_SIZE")
        text = f"DATA.TEST_CROP_SIZE {data.TEST_CROP_SIZE}: must be DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE}, "
        problems.append(Problem(keys, f"{text}as CAST learns positions of one size"))
    return problems


def _multiples(cfg: CfgNode, pairs: list[tuple[str, str]]) -> list[Problem]:
    problems = []
    for key, of in pairs:
        value, divisor = _value(cfg, key), _value(cfg, of)
        if divisor > 0 and value % divisor and (key != "DATA.TEST_CROP_SIZE" or cfg.TEST.ENABLE):
            problems.append(Problem((key, of), f"{key} {value}: must be a multiple of {of} {divisor}"))
    return problems


def _value(cfg: CfgNode, key: str) -> int:
    section, name = key.split(".")
    return cfg[section][name]
