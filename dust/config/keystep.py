"""Keys of KeyStep: contrastive frame encoder, temporal encoder, streaming inference, step decoding and its metrics."""

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, gather, section

KEYS = gather(  # the number of components is MODEL.NUM_CLASSES
    section(
        "KEYSTEP",
        LAYOUT=Key("auto", "layout of DATA.PATH_TO_DATA_DIR, as DATASET.md shows them",
                   choices="auto | own | industreal | meccano"),
        PROCEDURE=Key("", "industreal, meccano: procedure_info.json, where it is not in that folder"),
        GRAPH=Key("", "json file with the graph of each procedure: order, optional and repeated steps; '' = that of "
                  "procedure.json, else what the procedure requires, in any order", affects="nothing"),
        FEATURES_FROM=Key("", "the stage, or the folder, that holds the embeddings", stage="features"),
        SPATIAL_FROM=Key("", "model KeyStepVideo: the stage (or file, or zoo://NAME) that its frame encoder begins "
                         "from", stage="checkpoint"),
        TEMPORAL_FROM=Key("", "model KeyStepVideo: the same for its temporal encoder", stage="checkpoint"),
        VAL_EVERY=Key(1, "each so many-th window of a recording is validated", low=1),
        SANITY_CHECK=Key(False, "train on two windows only, validate on the same, and say whether they could be "
                         "learnt"),
        DTYPE=Key("embedding", "what ProcedureRecordings reads", choices="embedding (stored ones, stage 2) | video "
                  "(stage 3)"),
        FRAMES=Key(65, "N, frames of a window that the temporal encoder sees", low=1),
        SKIP_FACTOR=Key(3, "frames skipped between two of them; 65 frames then span 257", low=0),
        EMBED_DIM=Key(128, "channels of a frame's embedding", low=1),
        EXE_MODE=Key("no_error", "what a wrong installation is", choices="no_error (no installation) | errors (any "
                     "change of a component counts) | mistakes (an answer of its own, and in stage 1 a state)"),
        METRIC_MODE=Key("paper", "the definitions, or what one of the programs computes",
                        choices="paper | industreal | storm"),
        TIMELINES=Key(100, "recordings of a test of which a picture is drawn, those with the lowest F1; 0 = all", low=0,
                      affects="nothing"),
    ),
    section(
        "KEYSTEP.SPATIAL",  # frame encoder
        ARCH=Key("vit_small_patch16_224", "timm's name"),
        PRETRAINED=Key("", "stage 1: file of timm's weights for ARCH, or zoo://NAME; '' = from scratch",
                       stage="weights"),
        FROZEN=Key(False, "stage 3: do not train it"),
        LR_MULT=Key(0.01, "stage 3: its learning rate over that of the temporal encoder", low=0),
    ),
    section(
        "KEYSTEP.CONTRAST",  # stage 1
        LOSS=Key("supcon", "the contrastive loss", choices="supcon | simclr | batch_hard | batch_all | ce"),
        TEMPERATURE=Key(0.07, "of supcon and simclr", above=0),
        MARGIN=Key(0.01, "of the triplets", low=0),
        EXCLUDE_BG=Key(False, "background frames are negatives only"),
        N_CLASSES=Key(11, "states in a batch; 0 = all", low=0),
        N_REAL=Key(8, "real images of each", low=0),
        N_SYNTH=Key(0, "synthetic images of each", low=0),
        N_BG=Key(16, "background images in a batch", low=0),
        N_ITERS=Key(500, "batches in an epoch", low=1),
        KEY_FRAMES=Key(20, "frames after a change of state that carry the new state's label", low=1),
        BG_OFFSET=Key([7, 6], "background comes from so many times KEY_FRAMES before a change: from, to"),
        SYNTH_DIR=Key("", "N_SYNTH: folder with a folder of pictures for each state, such as 10010000000"),
        JITTER=Key([0.1, 0.1, 0.7], "brightness, contrast, saturation times a factor in 1 -+ these; [] = none"),
        BLUR=Key([0.01, 2.0], "sigma of a 5 x 5 Gaussian, pixels: from, to; [] = none"),
    ),
    section(
        "KEYSTEP.TEMPORAL",  # model TemporalEncoder
        TYPE=Key("transformer", "the temporal encoder", choices="transformer | gru | mlp (baseline)"),
        DEPTH=Key(6, "layers", low=1),
        HEADS=Key(8, "attention heads", low=1),
        DIM_HEAD=Key(128, "channels of a head; HEADS * DIM_HEAD need not be EMBED_DIM", low=1),
        MLP_DIM=Key(4096, "hidden width of the MLPs, and of the MLP encoder; 2048 in the original", low=1),
        DROPOUT=Key(0.1, "dropout", low=0, below=1),
        POOL=Key("cls", "what of its output is classified", choices="cls (a token of its own) | mean (of all tokens)"),
    ),
    section(
        "KEYSTEP.SAMPLER",  # training windows of stages 2 and 3
        STRATEGY=Key("bimodal", "where windows are drawn, seen from the steps",
                     choices="bimodal | gaussian | poisson | poission (as the published code spells it) | uniform"),
        SIGMA=Key(15.0, "frames; mean of poisson", above=0),
        SEP=Key(80.0, "frames from a step to the two humps of bimodal; less than a window's span", low=0),
        EPS=Key(1e-8, "weight of a frame far from any step", above=0),
        N_ITER=Key(160000, "windows in an epoch", low=1),
        MISTAKES=Key(0.25, "EXE_MODE mistakes: share of windows that are drawn around wrong installations, which are "
                     "rare", low=0, below=1, affects="training"),
    ),
    section(
        "KEYSTEP.INFER",
        PHASES=Key("first", "which frames are answered", choices="first (every SKIP_FACTOR + 1 frames, the published "
                   "protocol) | all (every frame)"),
        BATCH=Key(64, "windows that run through the temporal encoder at once; frames: TEST.BATCH_SIZE", low=1),
    ),
    section(
        "KEYSTEP.DECODE",
        MODE=Key("temporal", "how answers become steps",
                 choices="temporal | temporal_naive | b1 | b2 | b3 | dual | dual_published"),
        CUM_CONF=Key(0.0, "evidence that completes a step; 0 = the published 8 for b2 and b3, 6 otherwise", low=0),
        DECAY=Key(0.75, "of evidence that was not renewed", low=0, high=1),
        CONF=Key(0.5, "confidence of a digit, and of a detection in b1", low=0, high=1),
        WINDOW=Key(0, "frames that a change stays in view; 0 = the published FRAMES, or (FRAMES - 1) * (skip + 1)",
                   low=0),
        WEIGHT=Key(0.5, "of the temporal stream in dual", low=0, high=1),
    ),
    section(
        "KEYSTEP.MISTAKES", affects="nothing",  # alarms of a test and of a stream
        SCORE=Key(0.5, "what an alarm is scored at least", low=0, high=1),
        CUM_CONF=Key(0.0, "evidence that a part was put on wrongly; 0 = that of DECODE", low=0),
        WAIT=Key(0.0, "seconds without a step after which what is still to be done counts as left out; 0 = at the end",
                 low=0),
    ),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check that windows can hold what they are sampled for, and a background before the change."""
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
    """Check where pictures come from, and how they are augmented."""
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


SYSTEM = System(KEYS, ("TemporalEncoder", "KeyStepFrameEncoder", "KeyStepVideo"), check)
