"""Keys of CAST and of its two experts, VideoMAE (with its pre-training) and CLIP's visual transformer."""

from yacs.config import CfgNode

from dust.config.problem import BELOW_ONE, COUNT, FROM_ZERO, POSITIVE, Problem, Range

CHOICES: dict[str, tuple[str, ...]] = {}
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        [
            "VIDEOMAE.PATCH_SIZE", "VIDEOMAE.TUBELET_SIZE", "VIDEOMAE.EMBED_DIM", "VIDEOMAE.DEPTH",
            "VIDEOMAE.NUM_HEADS", "VIDEOMAE.DECODER_EMBED_DIM", "VIDEOMAE.DECODER_DEPTH",
            "VIDEOMAE.DECODER_NUM_HEADS", "CLIP.PATCH_SIZE", "CLIP.WIDTH", "CLIP.LAYERS", "CLIP.HEADS",
            "CAST.PATCH_SIZE", "CAST.TUBELET_SIZE", "CAST.EMBED_DIM", "CAST.DEPTH", "CAST.NUM_HEADS",
            "CAST.DOWN_RATIO", "CAST.NUM_VERBS", "CAST.NUM_NOUNS",
        ],
        COUNT,
    ),
    **dict.fromkeys(
        ["VIDEOMAE.INIT_VALUES", "VIDEOMAE.INIT_SCALE", "CLIP.OUTPUT_DIM", "CLIP.INIT_SCALE", "CAST.INIT_SCALE"],
        FROM_ZERO,
    ),
    **dict.fromkeys(["VIDEOMAE.MLP_RATIO", "VIDEOMAE.INIT_STD", "CAST.MLP_RATIO"], POSITIVE),
    **dict.fromkeys(
        [
            "VIDEOMAE.DROP_RATE", "VIDEOMAE.ATTN_DROP_RATE", "VIDEOMAE.DROP_PATH_RATE", "VIDEOMAE.HEAD_DROP_RATE",
            "CLIP.HEAD_DROP_RATE", "CLIP.DROP_PATH_RATE", "CAST.HEAD_DROP_RATE", "CAST.DROP_PATH_RATE",
        ],
        BELOW_ONE,
    ),
    "VIDEOMAE.MASK_RATIO": (0, 1, False, False),
}  # fmt: skip


def add_cast(root: CfgNode) -> None:
    """Add the nodes VIDEOMAE, CLIP and CAST. Image size, frames and classes come from DATA and MODEL."""
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
    return _cast(cfg) if name == "CAST" else []


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
