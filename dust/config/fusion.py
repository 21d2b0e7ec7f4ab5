"""Keys of DUST: Video Swin, 1-D Swin on a sensor series, features handed from stage to stage, and their fusion."""

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, gather, section

KEYS = gather(
    section(
        "VIDEO_SWIN",  # model VideoSwin; the defaults are Swin-T
        PATCH_SIZE=Key([2, 4, 4], "size of a token: frames, pixels, pixels"),
        EMBED_DIM=Key(96, "channels of the first stage; each later stage has twice as many", low=1),
        DEPTHS=Key([2, 2, 6, 2], "blocks per stage"),
        NUM_HEADS=Key([3, 6, 12, 24], "attention heads per stage"),
        WINDOW_SIZE=Key([8, 7, 7], "tokens in time, height and width"),
        MLP_RATIO=Key(4.0, "hidden width of the MLPs over that of their stage", above=0),
        QKV_BIAS=Key(True, "biases of queries, keys and values"),
        PATCH_NORM=Key(True, "LayerNorm behind the patch embedding"),
        DROP_RATE=Key(0.0, "dropout of embeddings, projections and MLPs", low=0, below=1),
        ATTN_DROP_RATE=Key(0.0, "dropout of attention weights", low=0, below=1),
        DROP_PATH_RATE=Key(0.1, "stochastic depth of the last block, rising from 0", low=0, below=1),
        FROZEN_STAGES=Key(-1, "patches and the first k stages stay as they are; -1 trains all",
                          values="-1 to the number of stages"),
        HEAD_DROP_RATE=Key(0.0, "dropout before the classifier; the published K400 recipes use 0.5", low=0, below=1),
    ),
    section(
        "SERIES_SWIN",  # model SeriesSwin
        PATCH_SIZE=Key(1, "time points per token", low=1),
        EMBED_DIM=Key(64, "channels of the first stage; each later stage has twice as many", low=1),
        DEPTHS=Key([2, 2, 6, 2], "blocks per stage"),
        NUM_HEADS=Key([4, 4, 4, 4], "attention heads per stage"),
        WINDOW_SIZE=Key(8, "tokens that attend to each other", low=1),
        MLP_RATIO=Key(4.0, "hidden width of the MLPs over that of their stage", above=0),
        QKV_BIAS=Key(True, "biases of queries, keys and values"),
        PATCH_NORM=Key(True, "LayerNorm behind the patch embedding"),
        ABSOLUTE_POS_EMBED=Key(False, "learnt positions; needs SERIES.LENGTH"),
        NORM=Key("respost", "LayerNorm and the residual branches",
                 choices="pre (before attention and MLP) | respost (behind them; DUST, Swin V2)"),
        ATTENTION=Key("dot", "similarity of queries and keys", choices="dot | cosine (Swin V2)"),
        MASK=Key("exact", "what shifted windows may see",
                 choices="exact | legacy (repeats the published code, for weights trained with it)"),
        DROP_RATE=Key(0.0, "dropout of embeddings, projections and MLPs", low=0, below=1),
        ATTN_DROP_RATE=Key(0.0, "dropout of attention weights", low=0, below=1),
        DROP_PATH_RATE=Key(0.1, "stochastic depth of the last block, rising from 0", low=0, below=1),
    ),
    section(
        "SERIES_ROCKET",  # model SeriesRocket
        NUM_FEATURES=Key(10000, "about so many features, of the series and its differences together", low=1),
        SEQ_LEN=Key(128, "time points that the dilations are made for where SERIES.LENGTH is 0", low=9),
        DROP_RATE=Key(0.0, "dropout of the features", low=0, below=1),
    ),
    section(
        "SERIES",  # how a series file becomes (channels, length)
        NUM_CHANNELS=Key(3, "channels of a series", low=1),
        LENGTH=Key(51, "time points that the model gets; 0 = as the data, which must then be of one length", low=0),
        FIT=Key("error", "what happens to a series of another length",
                choices="error | resample | crop | windows (training sees a random one each time, a test all of them)"),
        STRIDE=Key(0, "FIT windows: points from one window of a test to the next; 0 = half a window", low=0),
        RATE=Key(0.0, "Hz; a series with a time column is brought to this rate first; 0 = as it is", low=0),
        NORMALIZE=Key(True, "each channel by mean and standard deviation of the training split"),
        MISSING=Key("error", "what happens where values are missing",
                    choices="error | mask (the channel's mean) | mask_channels (that, and a 0/1 channel beside each)"),
        TIMES=Key("error", "what happens where a file's times repeat or go backwards",
                  choices="error | mend (rows in the order of their times, those of one time averaged)"),
        PER_RECORDING=Key("as_is", "what is taken away from each recording before it is cut and normalised",
                          choices="as_is (nothing) | centre (each channel's mean over the recording) | standardize "
                          "(that, then divided by its deviation)"),
        DERIVATIVES=Key(0, "orders of derivatives in time that stand behind the channels, as channels of their own",
                        low=0, high=3),
        AUGMENT=Key([], "training: augmentations of series by name (scale, time_warp, crop, rotate, your own)",
                    kind=object,
                    values="names, or {name: {argument: value}}: [scale, {time_warp: {std: 0.3}}]"),
        NOISE=Key(0.0, "training: Gaussian noise of this many standard deviations", low=0),
    ),
    section(
        "FUSION",  # model DualSwinFusion
        MODE=Key("concat", "how the two meet", choices="concat (DUST) | gated | cross_attention (needs features "
                 "extracted as a map, or END_TO_END)"),
        FEATURE_DIM=Key(0, "channels of the video features; 0 = as FEATURES_FROM (or VIDEO_SWIN) says", low=0),
        FEATURES_FROM=Key("", "stage (folder beside OUTPUT_DIR) or folder whose features are joined by sample id",
                          stage="features"),
        SERIES_FROM=Key("", "stage or checkpoint that the series backbone starts from; gives SERIES_SWIN.*",
                        stage="checkpoint", inherits="SERIES_SWIN"),
        VIDEO_FROM=Key("", "stage or checkpoint that made the features; END_TO_END: that the backbone starts from",
                       stage="checkpoint", inherits="VIDEO_SWIN"),
        END_TO_END=Key(False, "train both backbones on raw video and series instead of stored features"),
        UNIMODAL_HEADS=Key(True, "also report each modality alone (heads whose gradients stop before the backbones)"),
        EMBED_DIM=Key(256, "channels that gated and cross_attention fuse in", low=1),
        NUM_HEADS=Key(4, "attention heads of cross_attention", low=1),
        DROP_RATE=Key(0.0, "dropout before the head", low=0, below=1),
        DROP_MODALITY=Key(0.0, "training: chance that a sample lacks one of the two, either as likely; above 0 a test "
                          "also reports each one absent, no_series_top1_acc and no_video_top1_acc", low=0, below=1),
    ),
    section(
        "FEATURES", affects="features",
        ENABLE=Key(False, "store features, after training and test if those are on too", affects="nothing"),
        CHECKPOINT_FILE_PATH=Key("", "stage, checkpoint or zoo://NAME to extract with", stage="weights",
                                 affects="nothing"),
        SPLITS=Key(["train", "val", "test"], "whose features are stored", choices="train | val | test",
                   affects="nothing"),
        LAYER=Key("pooled", "whose output is stored: pooled (what the classifier sees), map (before pooling), tokens "
                  "(for probes: each view by itself), or a submodule's name"),
        TOKENS=Key("all", "which tokens are stored, and seen by model Probe", affects="all",
                   choices="all | grid (means of a coarser grid) | queries (as many means, weighted by likeness)"),
        TOKEN_GRID=Key([1, 1, 1], "TOKENS grid: its time, height and width", length=3, affects="all"),
        TOKEN_QUERIES=Key(16, "TOKENS queries: how many", low=1, affects="all"),
        AUGMENTED_VIEWS=Key(0, "tokens: views of each training clip, augmented as in training; 0 = the fixed views of "
                            "the other splits", low=0),
        DTYPE=Key("float32", "type of the stored numbers", choices="float16 | bfloat16 | float32"),
        FORMAT=Key("memmap", "form of the files",
                   choices="memmap (one .npy per split) | npz (one file per split) | per_video (one .npy each)"),
        BATCH_SIZE=Key(8, "views that run through the model at once", low=1, affects="nothing"),
        NUM_VIEWS=Key(1, "clips over time per video, whose features are averaged", low=1),
        NUM_CROPS=Key(1, "crops per clip, averaged too", values="1 (centre) or 3 (left, centre, right)"),
        STRIDE=Key(0, "per_video: frames from one window to the next; 0 = one window's length", low=0),
    ),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check that stages, widths and modalities go together."""
    return [*_swin(cfg), *_series(cfg), *_fusion(cfg), *_features(cfg)]


def _swin(cfg: CfgNode) -> list[Problem]:
    problems = []
    for name, used in (("VIDEO_SWIN", "VideoSwin"), ("SERIES_SWIN", "SeriesSwin")):
        node = cfg[name]
        if cfg.MODEL.MODEL_NAME not in (used, "DualSwinFusion"):
            continue
        depths, heads = f"{name}.DEPTHS", f"{name}.NUM_HEADS"
        if not node.DEPTHS or any(depth < 1 for depth in node.DEPTHS):
            problems.append(Problem((depths,), f"{depths} {node.DEPTHS}: at least one stage, each of at least 1 block"))
        elif len(node.DEPTHS) != len(node.NUM_HEADS):
            text = f"{depths} {node.DEPTHS} and {heads} {node.NUM_HEADS}: must be equally many, one for each stage"
            problems.append(Problem((depths, heads), text))
        elif any(count < 1 or node.EMBED_DIM * 2**i % count for i, count in enumerate(node.NUM_HEADS)):
            text = f"{heads} {node.NUM_HEADS}: must divide the stages' widths, {name}.EMBED_DIM {node.EMBED_DIM} "
            problems.append(Problem((heads, f"{name}.EMBED_DIM"), f"{text}doubled at each stage"))
    video = cfg.VIDEO_SWIN
    if not -1 <= video.FROZEN_STAGES <= len(video.DEPTHS):
        text = f"VIDEO_SWIN.FROZEN_STAGES {video.FROZEN_STAGES}: must be -1 (none) to {len(video.DEPTHS)} (all stages)"
        problems.append(Problem(("VIDEO_SWIN.FROZEN_STAGES", "VIDEO_SWIN.DEPTHS"), text))
    for name in ("PATCH_SIZE", "WINDOW_SIZE"):
        if len(video[name]) != 3 or any(size < 1 for size in video[name]):
            key = f"VIDEO_SWIN.{name}"
            problems.append(Problem((key,), f"{key} {video[name]}: must be [frames, height, width], each at least 1"))
    if cfg.SERIES_SWIN.ABSOLUTE_POS_EMBED and not cfg.SERIES.LENGTH:
        text = "SERIES_SWIN.ABSOLUTE_POS_EMBED True: learnt positions need a fixed SERIES.LENGTH"
        problems.append(Problem(("SERIES_SWIN.ABSOLUTE_POS_EMBED", "SERIES.LENGTH"), text))
    return problems


def _series(cfg: CfgNode) -> list[Problem]:
    series, problems = cfg.SERIES, []
    if series.FIT != "error" and not series.LENGTH:
        text = f"SERIES.FIT {series.FIT}: needs a SERIES.LENGTH to bring the series to"
        problems.append(Problem(("SERIES.FIT", "SERIES.LENGTH"), text))
    if series.FIT == "windows" and list(cfg.DATA.MODALITIES) != ["series"]:
        text = f"SERIES.FIT windows: DATA.MODALITIES {cfg.DATA.MODALITIES}: only series alone are cut into windows"
        problems.append(Problem(("SERIES.FIT", "DATA.MODALITIES"), text))
    if cfg.MODEL.MODEL_NAME == "SeriesRocket" and 0 < series.LENGTH < 9:
        text = (
            f"SERIES.LENGTH {series.LENGTH}: SeriesRocket's kernels see 9 points; set SERIES.FIT resample and a length "
        )
        problems.append(Problem(("SERIES.LENGTH", "MODEL.MODEL_NAME"), f"{text}of 9 or more"))
    if series.STRIDE and series.FIT != "windows":
        text = f"SERIES.STRIDE {series.STRIDE}: is for SERIES.FIT windows; write 0"
        problems.append(Problem(("SERIES.STRIDE", "SERIES.FIT"), text))
    return problems


def _fusion(cfg: CfgNode) -> list[Problem]:
    fusion, problems = cfg.FUSION, []
    if cfg.MODEL.MODEL_NAME != "DualSwinFusion":
        return []
    wanted = ["video", "series"] if fusion.END_TO_END else ["series", "video_features"]
    if sorted(cfg.DATA.MODALITIES) != sorted(wanted):
        text = f"DATA.MODALITIES {cfg.DATA.MODALITIES}: with FUSION.END_TO_END {fusion.END_TO_END} the model takes "
        problems.append(Problem(("DATA.MODALITIES", "FUSION.END_TO_END"), f"{text}{wanted}"))
    if fusion.END_TO_END and fusion.FEATURES_FROM:
        text = f"FUSION.FEATURES_FROM {fusion.FEATURES_FROM}: stored features are not used with FUSION.END_TO_END True"
        problems.append(Problem(("FUSION.FEATURES_FROM", "FUSION.END_TO_END"), f"{text}; remove one of them"))
    if not fusion.END_TO_END and not fusion.FEATURES_FROM:
        text = "FUSION.FEATURES_FROM is empty: name the stage that extracted the video features, such as "
        problems.append(Problem(("FUSION.FEATURES_FROM", "FUSION.END_TO_END"), f"{text}stage3_features"))
    if fusion.MODE == "cross_attention" and fusion.EMBED_DIM % fusion.NUM_HEADS:
        text = f"FUSION.EMBED_DIM {fusion.EMBED_DIM}: must be a multiple of FUSION.NUM_HEADS {fusion.NUM_HEADS}"
        problems.append(Problem(("FUSION.EMBED_DIM", "FUSION.NUM_HEADS"), text))
    return problems


def _features(cfg: CfgNode) -> list[Problem]:
    features, problems = cfg.FEATURES, []
    if not features.ENABLE:
        return []
    if features.NUM_CROPS not in (1, 3):
        text = f"FEATURES.NUM_CROPS {features.NUM_CROPS}: choose 1 (centre) or 3 (left, centre, right)"
        problems.append(Problem(("FEATURES.NUM_CROPS",), text))
    if features.FORMAT == "per_video" and (features.NUM_VIEWS, features.NUM_CROPS) != (1, 1):
        text = "FEATURES.FORMAT per_video: stores every window by itself; set FEATURES.NUM_VIEWS 1 and NUM_CROPS 1"
        problems.append(Problem(("FEATURES.FORMAT", "FEATURES.NUM_VIEWS", "FEATURES.NUM_CROPS"), text))
    if features.STRIDE and features.FORMAT != "per_video":
        text = f"FEATURES.STRIDE {features.STRIDE}: windows are for FEATURES.FORMAT per_video; write 0"
        problems.append(Problem(("FEATURES.STRIDE", "FEATURES.FORMAT"), text))
    tokens = features.LAYER == "tokens"
    if tokens and features.FORMAT == "per_video":
        text = "FEATURES.LAYER tokens: are stored by clip; set FEATURES.FORMAT memmap or npz"
        problems.append(Problem(("FEATURES.LAYER", "FEATURES.FORMAT"), text))
    if features.DTYPE == "bfloat16" and features.FORMAT == "per_video":
        text = "FEATURES.DTYPE bfloat16: NumPy's files have no such type for others to read; set float16"
        problems.append(Problem(("FEATURES.DTYPE", "FEATURES.FORMAT"), text))
    if features.AUGMENTED_VIEWS and not tokens:
        text = f"FEATURES.AUGMENTED_VIEWS {features.AUGMENTED_VIEWS}: is for FEATURES.LAYER tokens; write 0"
        problems.append(Problem(("FEATURES.AUGMENTED_VIEWS", "FEATURES.LAYER"), text))
    if min(features.TOKEN_GRID) < 1:
        text = f"FEATURES.TOKEN_GRID {features.TOKEN_GRID}: time, height and width, each at least 1"
        problems.append(Problem(("FEATURES.TOKEN_GRID",), text))
    if not features.LAYER.strip():
        problems.append(Problem(("FEATURES.LAYER",), "FEATURES.LAYER is empty: pooled, map or a submodule's name"))
    return problems


def series_channels(cfg: CfgNode) -> int:
    """Return the channels of a series as the model gets it: with its derivatives, and those that say what was
    measured."""
    series = cfg.SERIES
    masks = series.NUM_CHANNELS if series.MISSING == "mask_channels" else 0
    return series.NUM_CHANNELS * (1 + series.DERIVATIVES) + masks


SYSTEM = System(KEYS, ("VideoSwin", "SeriesSwin", "SeriesRocket", "DualSwinFusion"), check)
