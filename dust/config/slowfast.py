"""The keys of SlowFast's own models, with its names and defaults: SlowFast, Slow, C2D, I3D, X3D, MViT; and of adapters
that run torchvision's video models."""

from collections.abc import Iterator

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
_RESNETS = ("SlowFast", "ResNet")
_CONVOLUTIONS = (*_RESNETS, "X3D")
#: Models with batch norms.
WITH_BATCH_NORM = (*_CONVOLUTIONS, "TorchvisionVideo")
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
    "MODEL.DROPOUT_RATE": MODELS,
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
    """The architecture is one of the model's; frames divide by alpha, crops by the strides; tables have their rows."""
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
    if node.DEPTH not in (50, 101):
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
    tables = {
        f"RESNET.{name}": node[name] for name in ("NUM_BLOCK_TEMP_KERNEL", "SPATIAL_STRIDES", "SPATIAL_DILATIONS")
    }
    tables |= {f"NONLOCAL.{name}": cfg.NONLOCAL[name] for name in ("LOCATION", "GROUP")}
    for name, table in tables.items():
        rows = [len(row) if isinstance(row, (list, tuple)) else 0 for row in table]
        if len(rows) != 4 or not all(rows):
            text = f"{name} {table}: needs four rows, one for each stage, with a value for each pathway"
            problems.append(Problem((name,), text))
    return problems


def _sizes(cfg: CfgNode) -> list[Problem]:
    """Crops and frames that the strides of the model divide."""
    model, data, problems = cfg.MODEL.MODEL_NAME, cfg.DATA, []
    crops = [("DATA.TRAIN_CROP_SIZE", data.TRAIN_CROP_SIZE)]
    if cfg.TEST.ENABLE and model != "TorchvisionVideo":
        crops.append(("DATA.TEST_CROP_SIZE", data.TEST_CROP_SIZE))
    if model in _RESNETS and data.TRAIN_CROP_SIZE % 32:
        text = f"DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE}: must be a multiple of 32, the strides of {model} together"
        problems.append(Problem(("DATA.TRAIN_CROP_SIZE",), text))
    if model == "X3D":
        for name, size in crops:
            if size % 2:
                text = f"{name} {size}: the first stride of X3D is 2; take an even number of pixels"
                problems.append(Problem((name,), text))
    if model in _CONVOLUTIONS and len(crops) > 1 and -(-data.TEST_CROP_SIZE // 32) < -(-data.TRAIN_CROP_SIZE // 32):
        text = f"DATA.TEST_CROP_SIZE {data.TEST_CROP_SIZE}: the head of {model} pools over what DATA.TRAIN_CROP_SIZE "
        text += f"{data.TRAIN_CROP_SIZE} leaves, so a test's crop is at least as large"
        problems.append(Problem(("DATA.TEST_CROP_SIZE", "DATA.TRAIN_CROP_SIZE"), text))
    if model == "MViT":
        time, height, width = (max(int(step), 1) for step in cfg.MVIT.PATCH_STRIDE)
        divisors = [("DATA.NUM_FRAMES", data.NUM_FRAMES, time)] + [(*crop, max(height, width)) for crop in crops]
        for name, size, divisor in divisors:
            if size % divisor:
                text = f"{name} {size}: must be a multiple of {divisor}, of MVIT.PATCH_STRIDE {cfg.MVIT.PATCH_STRIDE}"
                problems.append(Problem((name, "MVIT.PATCH_STRIDE"), text))
        for name in ("POOL_KV_STRIDE_ADAPTIVE", "POOL_KVQ_KERNEL"):
            if len(cfg.MVIT[name]) not in (0, 3):
                text = f"MVIT.{name} {cfg.MVIT[name]}: give time, height and width, or []"
                problems.append(Problem((f"MVIT.{name}",), text))
        tables = {"DIM_MUL": "factor", "HEAD_MUL": "factor"}
        tables |= dict.fromkeys(("POOL_Q_STRIDE", "POOL_KV_STRIDE"), "time, height, width")
        for name, row_of in tables.items():
            if any(len(row) != 2 + row_of.count(",") for row in cfg.MVIT[name]):
                text = f"MVIT.{name} {cfg.MVIT[name]}: each entry is [block, {row_of}]"
                problems.append(Problem((f"MVIT.{name}",), text))
        if cfg.MVIT.POOL_KV_STRIDE and cfg.MVIT.POOL_KV_STRIDE_ADAPTIVE:
            text = "MVIT.POOL_KV_STRIDE and MVIT.POOL_KV_STRIDE_ADAPTIVE: set one of them, [] for the other"
            problems.append(Problem(("MVIT.POOL_KV_STRIDE", "MVIT.POOL_KV_STRIDE_ADAPTIVE"), text))
    return problems


SYSTEM = System(KEYS, MODELS, check)
