"""Keys of KeyStep: contrastive frame encoder, temporal encoder, streaming inference, step decoding and its metrics."""

from yacs.config import CfgNode

from dust.config.problem import BELOW_ONE, COUNT, FRACTION, FROM_ZERO, POSITIVE, Problem, Range

STRATEGIES = ("bimodal", "gaussian", "poisson", "poission", "uniform")  # the fourth as the published code spells it
CHOICES: dict[str, tuple[str, ...]] = {
    "KEYSTEP.LAYOUT": ("auto", "own", "industreal", "meccano"),
    "KEYSTEP.DTYPE": ("embedding", "video"),
    "KEYSTEP.EXE_MODE": ("no_error", "errors"),
    "KEYSTEP.METRIC_MODE": ("paper", "industreal", "storm"),
    "KEYSTEP.CONTRAST.LOSS": ("supcon", "simclr", "batch_hard", "batch_all", "ce"),
    "KEYSTEP.TEMPORAL.TYPE": ("transformer", "gru", "mlp"),
    "KEYSTEP.TEMPORAL.POOL": ("cls", "mean"),
    "KEYSTEP.SAMPLER.STRATEGY": STRATEGIES,
    "KEYSTEP.INFER.PHASES": ("first", "all"),
    "KEYSTEP.DECODE.MODE": ("temporal", "temporal_naive", "b1", "b2", "b3", "dual", "dual_published"),
}
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        [
            "KEYSTEP.FRAMES", "KEYSTEP.EMBED_DIM", "KEYSTEP.CONTRAST.KEY_FRAMES", "KEYSTEP.CONTRAST.N_ITERS",
            "KEYSTEP.TEMPORAL.DEPTH", "KEYSTEP.TEMPORAL.HEADS", "KEYSTEP.TEMPORAL.DIM_HEAD",
            "KEYSTEP.TEMPORAL.MLP_DIM", "KEYSTEP.SAMPLER.N_ITER", "KEYSTEP.INFER.BATCH", "KEYSTEP.VAL_EVERY",
        ],
        COUNT,
    ),
    **dict.fromkeys(
        [
            "KEYSTEP.SKIP_FACTOR", "KEYSTEP.SPATIAL.LR_MULT", "KEYSTEP.CONTRAST.MARGIN", "KEYSTEP.CONTRAST.N_CLASSES",
            "KEYSTEP.CONTRAST.N_REAL", "KEYSTEP.CONTRAST.N_SYNTH", "KEYSTEP.CONTRAST.N_BG", "KEYSTEP.SAMPLER.SEP",
            "KEYSTEP.DECODE.CUM_CONF", "KEYSTEP.DECODE.WINDOW",
        ],
        FROM_ZERO,
    ),
    **dict.fromkeys(["KEYSTEP.CONTRAST.TEMPERATURE", "KEYSTEP.SAMPLER.SIGMA", "KEYSTEP.SAMPLER.EPS"], POSITIVE),
    **dict.fromkeys(["KEYSTEP.DECODE.DECAY", "KEYSTEP.DECODE.CONF", "KEYSTEP.DECODE.WEIGHT"], FRACTION),
    "KEYSTEP.TEMPORAL.DROPOUT": BELOW_ONE,
}  # fmt: skip


def add_keystep(root: CfgNode) -> None:
    """Add the node KEYSTEP. The number of components is MODEL.NUM_CLASSES."""
    node = root.KEYSTEP = CfgNode()
    node.LAYOUT = "auto"  # of DATA.PATH_TO_DATA_DIR: auto | own | industreal | meccano, see dust/datasets/DATASET.md
    node.PROCEDURE = ""  # industreal, meccano: procedure_info.json, where it is not in that folder
    node.FEATURES_FROM = ""  # the stage, or the folder, that holds the embeddings
    node.SPATIAL_FROM = ""  # model KeyStepVideo: the stage (or file, or zoo://NAME) that its frame encoder begins from
    node.TEMPORAL_FROM = ""  # and its temporal encoder
    node.VAL_EVERY = 1  # each so many-th window of a recording is validated
    node.SANITY_CHECK = False  # train on two windows only, validate on the same, and say whether they could be learnt
    node.DTYPE = "embedding"  # what ProcedureRecordings reads: embedding (stored ones, stage 2) | video (stage 3)
    node.FRAMES = 65  # N, frames of a window that the temporal encoder sees
    node.SKIP_FACTOR = 3  # frames skipped between two of them; 65 frames then span 257
    node.EMBED_DIM = 128  # channels of a frame's embedding
    node.EXE_MODE = "no_error"  # no_error (a wrong installation is none) | errors (any change of a component counts)
    node.METRIC_MODE = "paper"  # paper | industreal | storm: the definitions, or what one of the programs computes

    spatial = node.SPATIAL = CfgNode()  # frame encoder
    spatial.ARCH = "vit_small_patch16_224"  # timm's name
    spatial.PRETRAINED = ""  # stage 1: file of timm's weights for ARCH, or zoo://NAME; '' = from scratch
    spatial.FROZEN = False  # stage 3: do not train it
    spatial.LR_MULT = 0.01  # stage 3: its learning rate over that of the temporal encoder

    contrast = node.CONTRAST = CfgNode()  # stage 1
    contrast.LOSS = "supcon"  # supcon | simclr | batch_hard | batch_all | ce
    contrast.TEMPERATURE = 0.07
    contrast.MARGIN = 0.01  # of the triplets
    contrast.EXCLUDE_BG = False  # background frames are negatives only
    contrast.N_CLASSES = 11  # states in a batch; 0 = all
    contrast.N_REAL = 8  # real images of each
    contrast.N_SYNTH = 0  # synthetic images of each
    contrast.N_BG = 16  # background images in a batch
    contrast.N_ITERS = 500  # batches in an epoch
    contrast.KEY_FRAMES = 20  # frames after a change of state that carry the new state's label
    contrast.BG_OFFSET = [7, 6]  # background comes from so many times KEY_FRAMES before a change: from, to
    contrast.SYNTH_DIR = ""  # N_SYNTH: folder with a folder of pictures for each state, such as 10010000000
    contrast.JITTER = [0.1, 0.1, 0.7]  # brightness, contrast, saturation times a factor in 1 -+ these; [] = none
    contrast.BLUR = [0.01, 2.0]  # sigma of a 5 x 5 Gaussian, pixels: from, to; [] = none

    temporal = node.TEMPORAL = CfgNode()  # model TemporalEncoder
    temporal.TYPE = "transformer"  # transformer | gru | mlp (baseline)
    temporal.DEPTH = 6
    temporal.HEADS = 8
    temporal.DIM_HEAD = 128  # HEADS * DIM_HEAD need not be EMBED_DIM
    temporal.MLP_DIM = 4096  # width of the MLP encoder too; 2048 in the original
    temporal.DROPOUT = 0.1
    temporal.POOL = "cls"  # cls | mean

    sampler = node.SAMPLER = CfgNode()  # training windows of stages 2 and 3
    sampler.STRATEGY = "bimodal"  # bimodal | gaussian | poisson (or poission, as published) | uniform
    sampler.SIGMA = 15.0  # frames; mean of poisson
    sampler.SEP = 80.0  # frames from a step to the two humps of bimodal; less than a window's span
    sampler.EPS = 1e-8  # weight of a frame far from any step
    sampler.N_ITER = 160000  # windows in an epoch

    infer = node.INFER = CfgNode()
    infer.PHASES = "first"  # first (every SKIP_FACTOR + 1 frames, the published protocol) | all (every frame)
    infer.BATCH = 64  # windows that run through the temporal encoder at once; frames: TEST.BATCH_SIZE

    decode = node.DECODE = CfgNode()
    decode.MODE = "temporal"  # temporal | temporal_naive | b1 | b2 | b3 | dual | dual_published
    decode.CUM_CONF = 0.0  # evidence that completes a step; 0 = the published 8 for b2 and b3, 6 otherwise
    decode.DECAY = 0.75  # of evidence that was not renewed
    decode.CONF = 0.5  # confidence of a digit, and of a detection in b1
    decode.WINDOW = 0  # frames that a change stays in view; 0 = the published FRAMES, or (FRAMES - 1) * (skip + 1)
    decode.WEIGHT = 0.5  # of the temporal stream in dual


def check(cfg: CfgNode) -> list[Problem]:
    """Windows that can hold what they are sampled for, and a background before the change."""
    node, problems = cfg.KEYSTEP, []
    start, end = (*node.CONTRAST.BG_OFFSET, 0, 0)[:2]
    if len(node.CONTRAST.BG_OFFSET) != 2 or not start > end >= 0:
        text = f"KEYSTEP.CONTRAST.BG_OFFSET {node.CONTRAST.BG_OFFSET}: must be [from, to] with from > to >= 0"
        problems.append(Problem(("KEYSTEP.CONTRAST.BG_OFFSET",), text))
    problems += _pictures(node.CONTRAST)
    if node.CONTRAST.LOSS == "simclr" and node.CONTRAST.EXCLUDE_BG:
        text = "KEYSTEP.CONTRAST.EXCLUDE_BG True: LOSS simclr knows no classes, so it has no background to exclude"
        problems.append(Problem(("KEYSTEP.CONTRAST.EXCLUDE_BG", "KEYSTEP.CONTRAST.LOSS"), text))
    if node.SANITY_CHECK and (cfg.TEST.ENABLE or not cfg.TRAIN.EVAL_PERIOD):
        text = (
            "KEYSTEP.SANITY_CHECK True: two windows make no model to test, and validation says whether they were learnt"
        )
        keys = ("KEYSTEP.SANITY_CHECK", "TEST.ENABLE", "TRAIN.EVAL_PERIOD")
        problems.append(Problem(keys, f"{text}; set TEST.ENABLE False and TRAIN.EVAL_PERIOD 1"))
    span = (node.FRAMES - 1) * (node.SKIP_FACTOR + 1) + 1
    sampler = node.SAMPLER
    if (
        cfg.MODEL.MODEL_NAME in ("TemporalEncoder", "KeyStepVideo")
        and cfg.TRAIN.ENABLE
        and sampler.STRATEGY == "bimodal"
        and span <= sampler.SEP
    ):
        text = (
            f"KEYSTEP.SAMPLER.SEP {sampler.SEP:g}: windows of FRAMES {node.FRAMES} with SKIP_FACTOR {node.SKIP_FACTOR} "
            f"span {span} frames and would not hold the step; it must be less than {span}"
        )
        problems.append(Problem(("KEYSTEP.SAMPLER.SEP", "KEYSTEP.FRAMES", "KEYSTEP.SKIP_FACTOR"), text))
    return problems


def _pictures(contrast: CfgNode) -> list[Problem]:
    """Where pictures come from, and how they are augmented."""
    problems = []
    if contrast.JITTER and not (len(contrast.JITTER) == 3 and min(contrast.JITTER) >= 0):
        text = f"KEYSTEP.CONTRAST.JITTER {contrast.JITTER}: must be three numbers from 0 on, or []"
        problems.append(Problem(("KEYSTEP.CONTRAST.JITTER",), text))
    if contrast.BLUR and not (len(contrast.BLUR) == 2 and 0 < contrast.BLUR[0] <= contrast.BLUR[1]):
        text = f"KEYSTEP.CONTRAST.BLUR {contrast.BLUR}: must be [low, high] with 0 < low <= high, or []"
        problems.append(Problem(("KEYSTEP.CONTRAST.BLUR",), text))
    if contrast.N_SYNTH and not contrast.SYNTH_DIR:
        text = f"KEYSTEP.CONTRAST.N_SYNTH {contrast.N_SYNTH}: SYNTH_DIR is empty; name the folder, or set N_SYNTH 0"
        problems.append(Problem(("KEYSTEP.CONTRAST.N_SYNTH", "KEYSTEP.CONTRAST.SYNTH_DIR"), text))
    if contrast.N_REAL + contrast.N_SYNTH < 1:
        text = "KEYSTEP.CONTRAST.N_REAL 0 and N_SYNTH 0: a batch would hold no state"
        problems.append(Problem(("KEYSTEP.CONTRAST.N_REAL", "KEYSTEP.CONTRAST.N_SYNTH"), text))
    return problems
