"""Keys of DUST: Video Swin, 1-D Swin on a sensor series, features handed from stage to stage, and their fusion."""

from yacs.config import CfgNode

from dust.config.problem import BELOW_ONE, COUNT, FROM_ZERO, POSITIVE, Problem, Range

MODALITIES = ("video", "series", "video_features")
SPLITS = ("train", "val", "test")
CHOICES: dict[str, tuple[str, ...]] = {
    "SERIES_SWIN.NORM": ("pre", "respost"),
    "SERIES_SWIN.ATTENTION": ("dot", "cosine"),
    "SERIES_SWIN.MASK": ("exact", "legacy"),
    "SERIES.FIT": ("error", "resample", "crop"),
    "SERIES.MISSING": ("error", "mask", "mask_channels"),
    "FUSION.MODE": ("concat", "gated", "cross_attention"),
    "FEATURES.DTYPE": ("float16", "float32"),
    "FEATURES.FORMAT": ("memmap", "npz", "per_video"),
}
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        [
            "VIDEO_SWIN.EMBED_DIM", "SERIES_SWIN.PATCH_SIZE", "SERIES_SWIN.EMBED_DIM", "SERIES_SWIN.WINDOW_SIZE",
            "SERIES.NUM_CHANNELS", "FUSION.EMBED_DIM", "FUSION.NUM_HEADS", "FEATURES.BATCH_SIZE", "FEATURES.NUM_VIEWS",
        ],
        COUNT,
    ),
    **dict.fromkeys(
        ["SERIES.LENGTH", "SERIES.RATE", "SERIES.NOISE", "FUSION.FEATURE_DIM", "FEATURES.STRIDE"], FROM_ZERO
    ),
    **dict.fromkeys(["VIDEO_SWIN.MLP_RATIO", "SERIES_SWIN.MLP_RATIO"], POSITIVE),
    **dict.fromkeys(
        [
            "VIDEO_SWIN.DROP_RATE", "VIDEO_SWIN.ATTN_DROP_RATE", "VIDEO_SWIN.DROP_PATH_RATE",
            "VIDEO_SWIN.HEAD_DROP_RATE", "SERIES_SWIN.DROP_RATE", "SERIES_SWIN.ATTN_DROP_RATE",
            "SERIES_SWIN.DROP_PATH_RATE", "FUSION.DROP_RATE",
        ],
        BELOW_ONE,
    ),
}  # fmt: skip

#: A key that names an earlier stage -> the section that is taken over from the checkpoint of that stage.
INHERITED = {"FUSION.SERIES_FROM": "SERIES_SWIN", "FUSION.VIDEO_FROM": "VIDEO_SWIN"}


def add_fusion(root: CfgNode) -> None:
    """Add the nodes VIDEO_SWIN, SERIES_SWIN, SERIES, FUSION and FEATURES."""
    video = root.VIDEO_SWIN = CfgNode()  # model VideoSwin; the defaults are Swin-T
    video.PATCH_SIZE = [2, 4, 4]  # frames, pixels, pixels
    video.EMBED_DIM = 96  # channels of the first stage; each later stage has twice as many
    video.DEPTHS = [2, 2, 6, 2]  # blocks per stage
    video.NUM_HEADS = [3, 6, 12, 24]  # attention heads per stage
    video.WINDOW_SIZE = [8, 7, 7]  # tokens in time, height and width
    video.MLP_RATIO = 4.0
    video.QKV_BIAS = True
    video.PATCH_NORM = True  # LayerNorm behind the patch embedding
    video.DROP_RATE = 0.0
    video.ATTN_DROP_RATE = 0.0
    video.DROP_PATH_RATE = 0.1  # of the last block, rising from 0
    video.FROZEN_STAGES = -1  # -1 trains all; k >= 0: patches and the first k stages stay as they are
    video.HEAD_DROP_RATE = 0.0  # before the classifier; the published K400 recipes use 0.5

    series = root.SERIES_SWIN = CfgNode()  # model SeriesSwin
    series.PATCH_SIZE = 1  # time points per token
    series.EMBED_DIM = 64
    series.DEPTHS = [2, 2, 6, 2]
    series.NUM_HEADS = [4, 4, 4, 4]
    series.WINDOW_SIZE = 8  # tokens
    series.MLP_RATIO = 4.0
    series.QKV_BIAS = True
    series.PATCH_NORM = True
    series.ABSOLUTE_POS_EMBED = False  # learnt positions; needs SERIES.LENGTH
    series.NORM = "respost"  # pre | respost: LayerNorm before attention and MLP, or behind them (DUST, Swin V2)
    series.ATTENTION = "dot"  # dot | cosine (Swin V2)
    series.MASK = "exact"  # exact | legacy: legacy repeats the published code, for weights trained with it
    series.DROP_RATE = 0.0
    series.ATTN_DROP_RATE = 0.0
    series.DROP_PATH_RATE = 0.1

    data = root.SERIES = CfgNode()  # how a series file becomes (channels, length)
    data.NUM_CHANNELS = 3
    data.LENGTH = 51  # time points that the model gets; 0 = as the data, which must then be of one length
    data.FIT = "error"  # error | resample | crop: what happens to a series of another length
    data.RATE = 0.0  # Hz; a series with a time column is brought to this rate first; 0 = as it is
    data.NORMALIZE = True  # each channel by mean and standard deviation of the training split
    data.MISSING = "error"  # error | mask (the channel's mean) | mask_channels (that, and a 0/1 channel beside each)
    data.NOISE = 0.0  # training: Gaussian noise of this many standard deviations, >= 0

    fusion = root.FUSION = CfgNode()  # model DualSwinFusion
    fusion.MODE = "concat"  # concat (DUST) | gated | cross_attention (needs features extracted as a map, or END_TO_END)
    fusion.FEATURE_DIM = 0  # channels of the video features; 0 = as FEATURES_FROM (or VIDEO_SWIN) says
    fusion.FEATURES_FROM = ""  # stage (folder beside OUTPUT_DIR) or folder whose features are joined by sample id
    fusion.SERIES_FROM = ""  # stage or checkpoint that the series backbone starts from; gives SERIES_SWIN.*
    fusion.VIDEO_FROM = ""  # stage or checkpoint that made the features; END_TO_END: that the backbone starts from
    fusion.END_TO_END = False  # train both backbones on raw video and series instead of stored features
    fusion.UNIMODAL_HEADS = True  # also report each modality alone (heads whose gradients stop before the backbones)
    fusion.EMBED_DIM = 256  # channels that gated and cross_attention fuse in
    fusion.NUM_HEADS = 4  # of cross_attention
    fusion.DROP_RATE = 0.0  # before the head

    features = root.FEATURES = CfgNode()  # stage that stores features instead of training
    features.ENABLE = False
    features.CHECKPOINT_FILE_PATH = ""  # stage, checkpoint or zoo://NAME to extract with
    features.SPLITS = ["train", "val", "test"]
    features.LAYER = "pooled"  # pooled (what the classifier sees) | map (before pooling) | a submodule's name
    features.DTYPE = "float32"  # float16 | float32
    features.FORMAT = "memmap"  # memmap (one .npy per split) | npz (one file per split) | per_video (one .npy each)
    features.BATCH_SIZE = 8  # views that run through the model at once
    features.NUM_VIEWS = 1  # clips over time per video, whose features are averaged
    features.NUM_CROPS = 1  # 1 | 3 crops per clip, averaged too
    features.STRIDE = 0  # per_video: frames from one window to the next; 0 = one window's length


def check(cfg: CfgNode) -> list[Problem]:
    """Stages, widths and modalities that go together."""
    return [*_swin(cfg), *_modalities(cfg), *_fusion(cfg), *_features(cfg)]


def _swin(cfg: CfgNode) -> list[Problem]:
    problems = []
    for section, used in (("VIDEO_SWIN", "VideoSwin"), ("SERIES_SWIN", "SeriesSwin")):
        node = cfg[section]
        if cfg.MODEL.MODEL_NAME not in (used, "DualSwinFusion"):
            continue
        depths, heads = f"{section}.DEPTHS", f"{section}.NUM_HEADS"
        if not node.DEPTHS or any(depth < 1 for depth in node.DEPTHS):
            problems.append(Problem((depths,), f"{depths} {node.DEPTHS}: at least one stage, each of at least 1 block"))
        elif len(node.DEPTHS) != len(node.NUM_HEADS):
            text = f"{depths} {node.DEPTHS} and {heads} {node.NUM_HEADS}: must be equally many, one for each stage"
            problems.append(Problem((depths, heads), text))
        elif any(count < 1 or node.EMBED_DIM * 2**i % count for i, count in enumerate(node.NUM_HEADS)):
            text = f"{heads} {node.NUM_HEADS}: must divide the stages' widths, {section}.EMBED_DIM {node.EMBED_DIM} "
            problems.append(Problem((heads, f"{section}.EMBED_DIM"), f"{text}doubled at each stage"))
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


def _modalities(cfg: CfgNode) -> list[Problem]:
    given, problems = cfg.DATA.MODALITIES, []
    unknown = [name for name in given if name not in MODALITIES]
    if unknown or not given or len(set(given)) < len(given):
        text = f"DATA.MODALITIES {given}: one or more of {', '.join(MODALITIES)}, each once"
        problems.append(Problem(("DATA.MODALITIES",), text))
    series = cfg.SERIES
    if series.FIT != "error" and not series.LENGTH:
        text = f"SERIES.FIT {series.FIT}: needs a SERIES.LENGTH to bring the series to"
        problems.append(Problem(("SERIES.FIT", "SERIES.LENGTH"), text))
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
    unknown = [split for split in features.SPLITS if split not in SPLITS]
    if unknown or not features.SPLITS or len(set(features.SPLITS)) < len(features.SPLITS):
        text = f"FEATURES.SPLITS {features.SPLITS}: one or more of {', '.join(SPLITS)}, each once"
        problems.append(Problem(("FEATURES.SPLITS",), text))
    if features.NUM_CROPS not in (1, 3):
        text = f"FEATURES.NUM_CROPS {features.NUM_CROPS}: choose 1 (centre) or 3 (left, centre, right)"
        problems.append(Problem(("FEATURES.NUM_CROPS",), text))
    if features.FORMAT == "per_video" and (features.NUM_VIEWS, features.NUM_CROPS) != (1, 1):
        text = "FEATURES.FORMAT per_video: stores every window by itself; set FEATURES.NUM_VIEWS 1 and NUM_CROPS 1"
        problems.append(Problem(("FEATURES.FORMAT", "FEATURES.NUM_VIEWS", "FEATURES.NUM_CROPS"), text))
    if features.STRIDE and features.FORMAT != "per_video":
        text = f"FEATURES.STRIDE {features.STRIDE}: windows are for FEATURES.FORMAT per_video; write 0"
        problems.append(Problem(("FEATURES.STRIDE", "FEATURES.FORMAT"), text))
    if not features.LAYER.strip():
        problems.append(Problem(("FEATURES.LAYER",), "FEATURES.LAYER is empty: pooled, map or a submodule's name"))
    return problems
