"""Keys of CAST, of its two experts, VideoMAE (with its pre-training) and CLIP's visual transformer, and of TSTL."""

from collections.abc import Sequence

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, gather, section
from dust.utils.text import MAX_CLASSES

KEYS = gather(  # image size, frames and classes come from DATA and MODEL
    section(
        "VIDEOMAE",  # models VideoMAE and VideoMAEPretrain; the defaults are ViT-B
        PATCH_SIZE=Key(16, "side of a token, pixels; divides the crop sizes", low=1),
        TUBELET_SIZE=Key(2, "length of a token, frames; divides DATA.NUM_FRAMES", low=1),
        EMBED_DIM=Key(768, "width; of S, B, L, H: 384, 768, 1024, 1280", low=1),
        DEPTH=Key(12, "blocks; 12, 12, 24, 32", low=1),
        NUM_HEADS=Key(12, "attention heads; 6, 12, 16, 16 (Hugging Face's configuration of S says 16, which is wrong)",
                      low=1),
        MLP_RATIO=Key(4.0, "hidden width of the MLPs over EMBED_DIM", above=0),
        QKV_BIAS=Key(True, "biases of queries and values"),
        DROP_RATE=Key(0.0, "dropout of tokens, projections and MLPs", low=0, below=1),
        ATTN_DROP_RATE=Key(0.0, "dropout of attention weights", low=0, below=1),
        DROP_PATH_RATE=Key(0.1, "stochastic depth of the last block, rising from 0; pre-training uses 0",
                           low=0, below=1),
        HEAD_DROP_RATE=Key(0.0, "dropout before the classifier", low=0, below=1),
        INIT_VALUES=Key(0.0, "first value of LayerScale; 0 = none, as in all published weights", low=0),
        USE_MEAN_POOLING=Key(True, "classify the mean of all tokens, else the first"),
        INIT_SCALE=Key(0.001, "factor of the classifier's first weights; the published one. From scratch: 1", low=0),
        INIT_STD=Key(0.02, "spread of the first weights; the published one. A small model from scratch: 0.2", above=0),
        DECODER_EMBED_DIM=Key(384, "pre-training: width of the decoder; S, B, L, H: 192, 384, 512, 640", low=1),
        DECODER_DEPTH=Key(4, "pre-training: its blocks; 4, 4, 12, 12", low=1),
        DECODER_NUM_HEADS=Key(6, "pre-training: its attention heads; 3, 6, 8, 10", low=1),
        MASK_RATIO=Key(0.9, "share of the places that pre-training masks; UCF101 0.75", above=0, below=1),
        NORMALIZE_TARGET=Key(True, "predict each tubelet's pixels less their mean, over their standard deviation"),
    ),
    section(
        "CLIP",  # models CLIPVisual and CLIPZeroShot; the defaults are ViT-B/16
        PATCH_SIZE=Key(16, "side of a patch, pixels; divides the crop sizes", low=1),
        WIDTH=Key(768, "width, a multiple of HEADS", low=1),
        LAYERS=Key(12, "blocks", low=1),
        HEADS=Key(12, "attention heads; OpenAI's models: WIDTH / 64", low=1),
        OUTPUT_DIM=Key(512, "width of the embedding that is classified; 0 = no projection", low=0),
        ACTIVATION=Key("quick_gelu", "of the MLPs; OpenAI's weights need quick_gelu, most of OpenCLIP's gelu",
                       choices="quick_gelu | gelu"),
        HEAD_DROP_RATE=Key(0.0, "dropout before the classifier", low=0, below=1),
        DROP_PATH_RATE=Key(0.0, "stochastic depth of the last block, rising from 0", low=0, below=1),
        INIT_SCALE=Key(1.0, "factor of the classifier's first weights", low=0),
        PROMPTS=Key(["a video of {}."], "zero-shot: what is said of a class, {} its name; a class is the mean of all",
                    affects="features"),
        CLASSES=Key([], "zero-shot: the names to choose from, where no data and no --classes says them", kind=str,
                    affects="nothing"),
        FRAME_AVERAGE=Key("logits", "zero-shot: what of a clip's frames is averaged", affects="features",
                          choices="logits (of normalised frames) | renormalised (the mean frame, normalised again) | "
                          "raw (frames as they are, then normalised: ViFi-CLIP) | probs (the softmax of each frame)"),
        TEXT_WIDTH=Key(512, "zero-shot: width of the text transformer, a multiple of TEXT_HEADS; of L/14: 768", low=1),
        TEXT_LAYERS=Key(12, "zero-shot: its blocks", low=1),
        TEXT_HEADS=Key(8, "zero-shot: its attention heads; of L/14: 12", low=1),
        CONTEXT_LENGTH=Key(77, "zero-shot: longest text, tokens", low=1),
    ),
    section(
        "CAST",  # model CAST; the defaults are B-CAST, and both experts have these sizes
        SPATIAL_FROM=Key("", "stage, weight file or zoo://NAME of the spatial expert (CLIPVisual)", stage="checkpoint"),
        TEMPORAL_FROM=Key("", "stage, weight file or zoo://NAME of the temporal expert (VideoMAE)", stage="checkpoint"),
        TRUNK_FROM=Key("", "instead of these two: stage or checkpoint of a CAST whose experts are taken",
                       stage="checkpoint"),
        FREEZE=Key(True, "do not train the experts; False only for small ones that start from nothing"),
        PATCH_SIZE=Key(16, "side of a token, pixels; divides the crop sizes", low=1),
        TUBELET_SIZE=Key(2, "length of a token, frames; the spatial expert sees the last frame of each", low=1),
        EMBED_DIM=Key(768, "width of both experts", low=1),
        DEPTH=Key(12, "blocks of both experts", low=1),
        NUM_HEADS=Key(12, "attention heads of both experts, and of the attention between them", low=1),
        MLP_RATIO=Key(4.0, "of the temporal expert's MLPs; the spatial one's is 4", above=0),
        QKV_BIAS=Key(True, "of the temporal expert"),
        DOWN_RATIO=Key(2, "EMBED_DIM over the width of the attention between the experts", low=1),
        COMPOSITION=Key(False, "verbs and nouns (EPIC-KITCHENS) instead of one set of classes"),
        NUM_VERBS=Key(97, "TASK VerbNoun: classes of verbs", low=1, high=MAX_CLASSES // 2),
        NUM_NOUNS=Key(300, "TASK VerbNoun: classes of nouns", low=1, high=MAX_CLASSES // 2),
        HEAD_DROP_RATE=Key(0.0, "dropout before the classifier", low=0, below=1),
        DROP_PATH_RATE=Key(0.2, "stochastic depth of the last block's trained branches, rising from 0; SSv2 0.3",
                           low=0, below=1),
        INIT_SCALE=Key(1.0, "factor of the classifier's first weights", low=0),
        INIT_STD=Key(0.02, "spread of the first weights; a small model whose experts learn too (FREEZE False): 0.2",
                     above=0),
    ),
    section(
        "TSTL",  # CAST in two stages: a selector of groups of classes, and an expert for each group
        GROUPING=Key("", "class_grouping.json in the data folder, or a path; `dust group-classes` makes one"),
        GROUPS=Key([], "experts to train, one after the other in OUTPUT_DIR/experts/group_{i}, e.g. [0, 3]", kind=int,
                   words=("all",)),
        GROUP=Key(-1, "the expert of one such run, which GROUPS sets", low=-1),
        EXPERT_CLASSES=Key("group", "classes of an expert's head", choices="group (its own) | all (as published)"),
        GROUPS_PER_BATCH=Key(0, "selector: groups that each training batch holds, alike many clips of each; 0 = any",
                             low=0),
        TRIPLET_WEIGHT=Key(0.0, "selector: factor of the batch-all triplet loss on the fused features; 0 = none",
                           low=0),
        TRIPLET_MARGIN=Key(1.0, "margin of that loss, in the features' units", low=0),
        SELECTOR_FROM=Key("", "model TSTL: stage or checkpoint of the selector", stage="checkpoint"),
        EXPERTS_FROM=Key("", "model TSTL: stage whose experts/group_{i} are taken, or files such as "
                         "run/expert-{group}.pth", stage="checkpoint"),
        TOP_K=Key(1, "experts that see a clip, those of the selector's first groups", low=1),
        VOTE=Key("maxlogit", "how several experts agree", choices="maxlogit | selector_weighted | majority"),
        MASK_OUTSIDE=Key(False, "an expert says nothing of classes outside its group; only for EXPERT_CLASSES all"),
    ),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check that crops and frames divide into tokens, and widths into heads."""
    name = cfg.MODEL.MODEL_NAME
    if name in ("VideoMAE", "VideoMAEPretrain"):
        problems = _multiples(cfg, [*_clips("VIDEOMAE"), ("VIDEOMAE.EMBED_DIM", "VIDEOMAE.NUM_HEADS")])
        if name == "VideoMAEPretrain":
            problems += _multiples(cfg, [("VIDEOMAE.DECODER_EMBED_DIM", "VIDEOMAE.DECODER_NUM_HEADS")])
        return problems
    if name in ("CLIPVisual", "CLIPZeroShot"):
        problems = _multiples(cfg, [*_clips("CLIP")[:2], ("CLIP.WIDTH", "CLIP.HEADS")])
        return problems + (_zero_shot(cfg) if name == "CLIPZeroShot" else [])
    if name == "CAST":
        return [*_cast(cfg), *_weights(cfg), *_stages(cfg)]
    return [*_cast(cfg), *_weights(cfg), *_test(cfg)] if name == "TSTL" else []


def _zero_shot(cfg: CfgNode) -> list[Problem]:
    """Check that CLIP that reads the names of the classes is tested as it is."""
    problems = _multiples(cfg, [("CLIP.TEXT_WIDTH", "CLIP.TEXT_HEADS")])
    if cfg.TRAIN.ENABLE:
        text = (
            "TRAIN.ENABLE True: model CLIPZeroShot learns nothing; set it False, or train MODEL.MODEL_NAME CLIPVisual"
        )
        problems.append(Problem(("TRAIN.ENABLE", "MODEL.MODEL_NAME"), text))
    if cfg.CLIP.OUTPUT_DIM < 1:
        text = "CLIP.OUTPUT_DIM 0: model CLIPZeroShot compares embeddings; give their width"
        problems.append(Problem(("CLIP.OUTPUT_DIM", "MODEL.MODEL_NAME"), text))
    return problems + [Problem(("CLIP.PROMPTS",), text) for text in check_prompts(cfg.CLIP.PROMPTS)]


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Say what is wrong with prompts, each of which must hold the place of the class, {}, once."""
    if not prompts:
        return ["CLIP.PROMPTS is empty: write at least one, such as 'a video of {}.'"]
    wrong = [prompt for prompt in prompts if prompt.count("{}") != 1]
    return [f"CLIP.PROMPTS {prompt!r}: must hold {{}}, the class's place, once" for prompt in wrong]


def _weights(cfg: CfgNode) -> list[Problem]:
    """Check that experts that are frozen come from somewhere, and from one place."""
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
    """Check CAST as TSTL's selector or expert, and its verbs and nouns."""
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
    if node.COMPOSITION and classes not in (-1, node.NUM_VERBS + node.NUM_NOUNS):
        text = f"MODEL.NUM_CLASSES {classes}: with CAST.COMPOSITION it is CAST.NUM_VERBS + CAST.NUM_NOUNS, "
        keys = ("MODEL.NUM_CLASSES", "CAST.COMPOSITION", "CAST.NUM_VERBS", "CAST.NUM_NOUNS")
        problems.append(Problem(keys, f"{text}{node.NUM_VERBS + node.NUM_NOUNS}"))
    return problems


def _test(cfg: CfgNode) -> list[Problem]:
    """Check that model TSTL is put together from the two stages, and not trained."""
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


SYSTEM = System(KEYS, ("VideoMAE", "VideoMAEPretrain", "CLIPVisual", "CLIPZeroShot", "CAST", "TSTL"), check)
