"""The keys of SlowFast's own models, with its names and defaults: SlowFast, Slow, C2D, I3D, X3D, MViT; and of adapters
that run torchvision's video models."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, gather, section

KEYS = gather(
    section(
        "SLOWFAST",
        BETA_INV=Key(8, "channels of the slow pathway for one of the fast", low=1),
        ALPHA=Key(8, "frames of the fast pathway for one of the slow; divides DATA.NUM_FRAMES", low=1),
        FUSION_CONV_CHANNEL_RATIO=Key(2, "channels that fusing adds to the slow pathway, over the fast one's", low=1),
        FUSION_KERNEL_SZ=Key(5, "frames that the fusing convolution sees", low=1),
    ),
    section(
        "RESNET",  # of ResNet and SlowFast; X3D reads ZERO_INIT_FINAL_BN
        TRANS_FUNC=Key("bottleneck_transform", "the residual function; X3D's is always its own",
                       choices="bottleneck_transform | x3d_transform"),
        NUM_GROUPS=Key(1, "groups of the 3x3 convolutions (ResNeXt)", low=1),
        WIDTH_PER_GROUP=Key(64, "channels of the stem, and of each group in the first stage", low=1),
        STRIDE_1X1=Key(False, "the stride stands on a block's first convolution, not on its 3x3"),
        ZERO_INIT_FINAL_BN=Key(False, "the last batch norm of each block begins at zero"),
        DEPTH=Key(50, "layers", values="50 or 101"),
        NUM_BLOCK_TEMP_KERNEL=Key([[3], [4], [6], [3]], "of each stage and pathway, how many blocks see several "
                                  "frames"),
        SPATIAL_STRIDES=Key([[1], [2], [2], [2]], "of each stage and pathway"),
        SPATIAL_DILATIONS=Key([[1], [1], [1], [1]], "of each stage and pathway"),
    ),
    section(
        "NONLOCAL",
        LOCATION=Key([[[]], [[]], [[]], [[]]], "of each stage and pathway, the blocks behind which a non-local block "
                     "stands"),
        GROUP=Key([[1], [1], [1], [1]], "of each stage and pathway, into how many parts the time is cut for it"),
        INSTANTIATION=Key("dot_product", "how its scores become weights", choices="dot_product | softmax"),
        POOL=Key([[[1, 2, 2], [1, 2, 2]] for _ in range(4)], "of each stage and pathway, its pooling of keys and "
                 "values: time, height, width"),
    ),
    section(
        "X3D",
        WIDTH_FACTOR=Key(1.0, "of all channels; published: 2.0", above=0),
        DEPTH_FACTOR=Key(1.0, "of the blocks; XS, S, M 2.2, L 5.0", above=0),
        BOTTLENECK_FACTOR=Key(1.0, "inner channels of a block over its own; published: 2.25", above=0),
        DIM_C1=Key(12, "channels of the stem before the factor", low=1),
        DIM_C5=Key(2048, "channels of the head's hidden layer", low=1),
        SCALE_RES2=Key(False, "the first stage is twice as wide"),
        BN_LIN5=Key(False, "a batch norm behind the head's hidden layer"),
        CHANNELWISE_3x3x3=Key(True, "depthwise 3x3x3 convolutions; False: full ones"),
    ),
    section(
        "MVIT",
        DEPTH=Key(16, "blocks", low=1),
        EMBED_DIM=Key(96, "channels of the first block", low=1),
        NUM_HEADS=Key(1, "attention heads of the first block", low=1),
        MLP_RATIO=Key(4.0, "hidden width of the MLPs over a block's own", above=0),
        QKV_BIAS=Key(True, "biases of queries, keys and values"),
        PATCH_KERNEL=Key([3, 7, 7], "of the first convolution: time, height, width", length=3),
        PATCH_STRIDE=Key([2, 4, 4], "its stride, which divides the frames and the crop", length=3),
        PATCH_PADDING=Key([2, 4, 4], "its padding; published: [1, 3, 3]", length=3),
        DIM_MUL=Key([], "where channels grow: [block, factor]", kind=list),
        HEAD_MUL=Key([], "where heads grow: [block, factor]", kind=list),
        DIM_MUL_IN_ATT=Key(False, "channels grow in the attention (v2), not in the MLP before (v1)"),
        POOL_Q_STRIDE=Key([], "strides of the queries: [block, time, height, width]", kind=list),
        POOL_KV_STRIDE=Key([], "strides of keys and values: [block, time, height, width]", kind=list),
        POOL_KV_STRIDE_ADAPTIVE=Key([], "the first block's stride of keys and values; strides of queries divide it, "
                                    "block by block", kind=int),
        POOL_KVQ_KERNEL=Key([], "kernel of all pooling; [] = one more than the stride", kind=int),
        RESIDUAL_POOLING=Key(False, "pooled queries are added to what attention gives (v2)"),
        REL_POS_SPATIAL=Key(False, "decomposed relative positions in height and width (v2)"),
        REL_POS_TEMPORAL=Key(False, "and in time (v2)"),
        REL_POS_ZERO_INIT=Key(False, "their tables begin at zero"),
        USE_ABS_POS=Key(True, "a table of absolute positions (v1)"),
        SEP_POS_EMBED=Key(False, "made of one table for places and one for times"),
        ZERO_DECAY_POS_CLS=Key(True, "no weight decay of tables of positions and of the class token"),
        CLS_EMBED_ON=Key(True, "a class token is classified; False: the mean of the tokens"),
        USE_MEAN_POOLING=Key(False, "the mean of the tokens although there is a class token"),
        DROPPATH_RATE=Key(0.1, "stochastic depth of the last block, rising from 0", low=0, below=1),
        HEAD_INIT_SCALE=Key(1.0, "factor of the head's first weights", low=0),
    ),
)  # fmt: skip

#: Which MODEL.ARCH goes with each model; the first is also what the key's default, vit, means there.
ARCHS: dict[str, tuple[str, ...]] = {
    "SlowFast": ("slowfast",),
    "ResNet": ("slow", "c2d", "i3d", "slow_c2d", "slow_i3d"),
    "X3D": ("x3d",),
    "MViT": ("mvit",),
    "TorchvisionVideo": ("r3d_18", "mc3_18", "r2plus1d_18", "s3d"),
}
MODELS = tuple(ARCHS)
#: RESNET.DEPTH -> blocks of the four stages.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_RESNETS = ("SlowFast", "ResNet")
_CONVOLUTIONS = (*_RESNETS, "X3D")
#: Models with batch norms.
WITH_BATCH_NORM = (*_CONVOLUTIONS, "TorchvisionVideo", "SeriesRocket", "ClipMoments")
#: Key or section -> the models of ours that read it. The longest match counts.
READ_BY: dict[str, tuple[str, ...]] = {
    "SLOWFAST": ("SlowFast",),
    "RESNET": _RESNETS,
    "RESNET.TRANS_FUNC": _CONVOLUTIONS,
    "RESNET.STRIDE_1X1": _RESNETS,
    "RESNET.ZERO_INIT_FINAL_BN": _CONVOLUTIONS,
    "NONLOCAL": _RESNETS,
    "X3D": ("X3D",),
    "MVIT": ("MViT",),
    "MODEL.FC_INIT_STD": _CONVOLUTIONS,
    "MODEL.DROPOUT_RATE": (*MODELS, "HuggingFaceVideo"),
    "BN.USE_PRECISE_STATS": WITH_BATCH_NORM,
    "BN.NUM_BATCHES_PRECISE": WITH_BATCH_NORM,
}
_INSTEAD = {"MODEL.DROPOUT_RATE": {"TimeSformer": "TIMESFORMER.DROP_RATE acts"}}


def unread(cfg: CfgNode, changed: set[str], ours: frozenset[str]) -> Iterator[str]:
    """Say which of the ``changed`` keys the model, one of ``ours``, does not read."""
    model = cfg.MODEL.MODEL_NAME
    if model not in ours:
        return
    for name in sorted(changed):
        matches = [part for part in READ_BY if name == part or name.startswith(part + ".")]
        if not matches or model in READ_BY[max(matches, key=len)]:
            continue
        value = cfg
        for part in name.split("."):
            value = value[part]
        reason = _INSTEAD.get(name, {}).get(model) or f"{model} does not read it"
        if name.startswith("BN."):
            reason = f"{model} has no batch norms"
        yield f"{name} {value} has no effect: {reason}"


def check(cfg: CfgNode) -> list[Problem]:
    """Check that the architecture is one of the model's, frames divide by alpha, crops by the strides, and tables have
    their rows."""
    model, problems = cfg.MODEL.MODEL_NAME, []
    if model not in MODELS:
        return []
    if cfg.MODEL.ARCH not in ("vit", *ARCHS[model]):
        text = f"MODEL.ARCH {cfg.MODEL.ARCH}: for MODEL.MODEL_NAME {model} write {', '.join(ARCHS[model])}"
        problems.append(Problem(("MODEL.ARCH", "MODEL.MODEL_NAME"), text))
    if cfg.BN.NORM_TYPE == "sub_batchnorm" and model in WITH_BATCH_NORM:
        text = "BN.NORM_TYPE sub_batchnorm: split batch norms are not in dust; write batchnorm, or a smaller batch"
        problems.append(Problem(("BN.NORM_TYPE",), text))
    if model in _RESNETS:
        problems += _resnets(cfg)
    problems += _sizes(cfg)
    return problems


def _resnets(cfg: CfgNode) -> list[Problem]:
    node, pathways, problems = cfg.RESNET, 2 if cfg.MODEL.MODEL_NAME == "SlowFast" else 1, []
    if node.DEPTH not in DEPTHS:
        problems.append(Problem(("RESNET.DEPTH",), f"RESNET.DEPTH {node.DEPTH}: choose 50 or 101"))
    if node.TRANS_FUNC != "bottleneck_transform":
        text = f"RESNET.TRANS_FUNC {node.TRANS_FUNC}: {cfg.MODEL.MODEL_NAME} is built of bottleneck_transform"
        problems.append(Problem(("RESNET.TRANS_FUNC", "MODEL.MODEL_NAME"), text))
    frames, alpha = cfg.DATA.NUM_FRAMES, cfg.SLOWFAST.ALPHA
    if pathways == 2 and frames % alpha:
        text = (
            f"DATA.NUM_FRAMES {frames}: must be a multiple of SLOWFAST.ALPHA {alpha}, frames of the fast pathway for "
        )
        problems.append(Problem(("DATA.NUM_FRAMES", "SLOWFAST.ALPHA"), f"{text}one of the slow"))
    if cfg.MODEL.ARCH in ("c2d", "i3d") and pathways == 1 and frames < 2:
        text = f"DATA.NUM_FRAMES {frames}: MODEL.ARCH {cfg.MODEL.ARCH} halves the time, so it takes 2 or more"
        problems.append(Problem(("DATA.NUM_FRAMES", "MODEL.ARCH"), text))
    problems += _tables_of_stages(cfg)
    if pathways == 2:
        problems += _two_pathways(cfg)
    return problems if problems else _non_local(cfg, pathways)


def _two_pathways(cfg: CfgNode) -> list[Problem]:
    kernel, beta, width, problems = cfg.SLOWFAST.FUSION_KERNEL_SZ, cfg.SLOWFAST.BETA_INV, cfg.RESNET.WIDTH_PER_GROUP, []
    if kernel % 2 == 0:
        text = (
            f"SLOWFAST.FUSION_KERNEL_SZ {kernel}: must be odd, or the fast pathway gives more frames than the slow has"
        )
        problems.append(Problem(("SLOWFAST.FUSION_KERNEL_SZ",), text))
    if width % beta:
        text = f"RESNET.WIDTH_PER_GROUP {width}: must be a multiple of SLOWFAST.BETA_INV {beta}"
        problems.append(Problem(("RESNET.WIDTH_PER_GROUP", "SLOWFAST.BETA_INV"), text))
    for name in ("SPATIAL_STRIDES", "SPATIAL_DILATIONS"):
        table = cfg.RESNET[name]
        if any(len(row) > 1 and row[0] != row[1] for row in table if isinstance(row, (list, tuple))):
            text = f"RESNET.{name} {table}: must be alike in both pathways, which meet after every stage"
            problems.append(Problem((f"RESNET.{name}",), text))
    return problems


def _tables_of_stages(cfg: CfgNode) -> list[Problem]:
    """Check that each table has a row for each stage, with one value for all pathways, or one for each."""
    values = "a whole number of {} or more for each pathway"
    numbers = {"RESNET.NUM_BLOCK_TEMP_KERNEL": 0, "RESNET.SPATIAL_STRIDES": 1, "RESNET.SPATIAL_DILATIONS": 1}
    wanted: dict[str, tuple[str, Any]] = {
        name: (values.format(low), lambda value, _, low=low: are_whole([value], low))
        for name, low in {**numbers, "NONLOCAL.GROUP": 1}.items()
    }
    depths = DEPTHS.get(cfg.RESNET.DEPTH, DEPTHS[50])
    wanted["NONLOCAL.LOCATION"] = (
        f"a list of blocks for each pathway, which count from 0: RESNET.DEPTH {cfg.RESNET.DEPTH} has "
        f"{', '.join(map(str, depths))}",
        lambda value, stage: are_whole(value, 0, depths[stage] - 1),
    )
    wanted["NONLOCAL.POOL"] = (
        "time, height and width, of 1 or more, for each pathway",
        lambda value, _: are_whole(value, 1) and len(value) == 3,
    )
    problems = []
    for name, (words, right) in wanted.items():
        part, leaf = name.split(".")
        table = cfg[part][leaf]
        whole = len(table) == 4 and all(isinstance(row, (list, tuple)) and 0 < len(row) <= 2 for row in table)
        if not whole or not all(right(value, stage) for stage, row in enumerate(table) for value in row):
            text = f"{name} {table}: needs four rows, one for each stage, with {words}"
            problems.append(Problem((name, "RESNET.DEPTH") if leaf == "LOCATION" else (name,), text))
    return problems


def _non_local(cfg: CfgNode, pathways: int) -> list[Problem]:
    """Check that non-local blocks find as many frames and places as they cut and pool."""
    node, problems = cfg.NONLOCAL, []
    side, halves = cfg.DATA.TRAIN_CROP_SIZE, pathways == 1 and cfg.MODEL.ARCH in ("c2d", "i3d")
    for stage in range(4):
        side = -(-cfg.DATA.TRAIN_CROP_SIZE // total_stride(cfg.RESNET.SPATIAL_STRIDES[: stage + 1]))
        for pathway, blocks in enumerate(node.LOCATION[stage][:pathways]):
            frames = cfg.DATA.NUM_FRAMES // (cfg.SLOWFAST.ALPHA if pathways == 2 and pathway == 0 else 1)
            frames //= 2 if halves and stage else 1
            group, pool = ([*row, *row][pathway] for row in (node.GROUP[stage], node.POOL[stage]))
            where = f"at stage {stage + 1} pathway {pathway} has {frames} frames of {side} x {side}"
            if blocks and frames % group:
                text = f"NONLOCAL.GROUP {node.GROUP}: must divide the frames, and {where}"
                problems.append(Problem(("NONLOCAL.GROUP", "DATA.NUM_FRAMES"), text))
            elif blocks and any(
                window > size for window, size in zip(pool, (frames // group, side, side), strict=True)
            ):
                text = f"NONLOCAL.POOL {node.POOL}: pools over {list(pool)}, and {where}"
                text += f", cut into {group} (NONLOCAL.GROUP)" if group > 1 else ""
                problems.append(Problem(("NONLOCAL.POOL", "DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE"), text))
    return problems


def are_whole(values: Any, low: int, high: float = math.inf) -> bool:
    """Say whether ``values`` is a list (or tuple) of whole numbers of ``low`` to ``high``; True and False are none."""
    if not isinstance(values, (list, tuple)):
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high for value in values)


def total_stride(strides: Sequence[Any]) -> int:
    """Multiply the strides of the stem (4) and of stages, which are numbers, or rows that begin with one."""
    return 4 * math.prod(row if isinstance(row, int) else row[0] for row in strides)


def _sizes(cfg: CfgNode) -> list[Problem]:
    """Check that the strides of the model divide crops and frames."""
    model, data, problems = cfg.MODEL.MODEL_NAME, cfg.DATA, []
    crops = [("DATA.TRAIN_CROP_SIZE", data.TRAIN_CROP_SIZE)]
    if cfg.TEST.ENABLE and model != "TorchvisionVideo":
        crops.append(("DATA.TEST_CROP_SIZE", data.TEST_CROP_SIZE))
    if model == "X3D":
        for name, size in crops:
            if size % 2:
                text = f"{name} {size}: the first stride of X3D is 2; take an even number of pixels"
                problems.append(Problem((name,), text))
    if model in _CONVOLUTIONS and len(crops) > 1 and data.TEST_CROP_SIZE < data.TRAIN_CROP_SIZE:
        stride = 32 if model == "X3D" or _tables_of_stages(cfg) else total_stride(cfg.RESNET.SPATIAL_STRIDES)
        if -(-data.TEST_CROP_SIZE // stride) < -(-data.TRAIN_CROP_SIZE // stride):
            text = f"DATA.TEST_CROP_SIZE {data.TEST_CROP_SIZE}: the head of {model} pools over what "
            text += f"DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE} leaves, so a test's crop is at least as large"
            problems.append(Problem(("DATA.TEST_CROP_SIZE", "DATA.TRAIN_CROP_SIZE"), text))
    return problems + (_mvit(cfg, crops) if model == "MViT" else [])


def _mvit(cfg: CfgNode, crops: Sequence[tuple[str, int]]) -> list[Problem]:
    """Check that its strides divide clips, and its tables of blocks have whole rows of blocks that there are."""
    node, problems = cfg.MVIT, []

    def wrong(name: str, says: str, *others: str) -> None:
        problems.append(Problem((f"MVIT.{name}", *others), f"MVIT.{name} {node[name]}: {says}"))

    for name, low in (("PATCH_KERNEL", 1), ("PATCH_STRIDE", 1), ("PATCH_PADDING", 0)):
        if not are_whole(node[name], low):
            wrong(name, f"time, height and width are whole numbers of {low} or more")
    if are_whole(node.PATCH_STRIDE, 1):
        time, height, width = node.PATCH_STRIDE
        sides = [(*crop, math.lcm(height, width)) for crop in crops]
        for name, size, divisor in [("DATA.NUM_FRAMES", cfg.DATA.NUM_FRAMES, time), *sides]:
            if size % divisor:
                text = f"{name} {size}: must be a multiple of {divisor}, of MVIT.PATCH_STRIDE {node.PATCH_STRIDE}"
                problems.append(Problem((name, "MVIT.PATCH_STRIDE"), text))
    for name in ("POOL_KV_STRIDE_ADAPTIVE", "POOL_KVQ_KERNEL"):
        if len(node[name]) not in (0, 3) or not are_whole(node[name], 1):
            wrong(name, "give time, height and width, or [], as whole numbers of 1 or more")
    if any(size % 2 == 0 for size in node.POOL_KVQ_KERNEL):
        wrong("POOL_KVQ_KERNEL", "must be odd, or a stride of 1 would make the grid larger")
    first = 0 if node.DIM_MUL_IN_ATT else 1  # in v1 the block before widens
    ranges = {"DIM_MUL": (first, node.DEPTH - 1 + first), "HEAD_MUL": (0, node.DEPTH - 1 + first)}
    for name, row_of in (
        ("DIM_MUL", "factor"), ("HEAD_MUL", "factor"),
        ("POOL_Q_STRIDE", "time, height, width"), ("POOL_KV_STRIDE", "time, height, width"),
    ):  # fmt: skip
        low, high = ranges.get(name, (0, node.DEPTH - 1))
        rows = [
            row if isinstance(row, (list, tuple)) and len(row) == 2 + row_of.count(",") else () for row in node[name]
        ]
        factors = [row[1:] for row in rows]
        numbers = all(map(_are_factors, factors)) if row_of == "factor" else all(are_whole(row, 1) for row in factors)
        if not all(rows) or not numbers:
            above = "a number above 0" if row_of == "factor" else "whole numbers of 1 or more"
            wrong(name, f"each entry is [block, {row_of}], {above}")
        elif not are_whole([row[0] for row in rows], low, high) or len({row[0] for row in rows}) < len(rows):
            wrong(name, f"its blocks are of {low} to {high}, each once (MVIT.DEPTH {node.DEPTH})", "MVIT.DEPTH")
    if node.POOL_KV_STRIDE and node.POOL_KV_STRIDE_ADAPTIVE:
        text = "MVIT.POOL_KV_STRIDE and MVIT.POOL_KV_STRIDE_ADAPTIVE: set one of them, [] for the other"
        problems.append(Problem(("MVIT.POOL_KV_STRIDE", "MVIT.POOL_KV_STRIDE_ADAPTIVE"), text))
    return problems


def _are_factors(values: Sequence[Any]) -> bool:
    return all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf for value in values
    )


#: HuggingFaceVideo reads MODEL.ARCH too, but what that may be only transformers knows.
SYSTEM = System(KEYS, (*MODELS, "HuggingFaceVideo"), check)
