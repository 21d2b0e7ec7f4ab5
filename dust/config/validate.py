"""Is a configuration possible? All checks, none of which needs torch, a GPU or the file system."""

import math
import re

from yacs.config import CfgNode

from dust.config.defaults import KEYS, OUR_MODELS, SYSTEMS, flatten, with_values
from dust.config.foreign import DATASETS_REFUSED, MODELS_REFUSED, TASKS_REFUSED
from dust.config.schema import Problem
from dust.config.slowfast import MODELS as WITH_ARCH
from dust.config.space import read_space

RAND_AUGMENT = re.compile(r"rand(-(m|n|mstd|mmax|inc|w|p)[0-9.]+)*")

#: Tasks and datasets of dust that learn, or read, no shares of classes, and whose lists have no segments to complete.
_OTHER_TASKS = ("Contrastive", "GroupSelection", "KeyStep", "Masked", "Routing", "VerbNoun")
_OTHER_LISTS = (
    *("PointTracks", "EpicKitchens", "Charades"),
    *("KeyFrames", "RecordingFrames", "ProcedureRecordings", "EmbeddingWindows", "VideoWindows"),
)


def list_problems(texts: list[str], what: str = "the configuration") -> str:
    """Return one message of all problems."""
    count = f"{len(texts)} problem{'s' if len(texts) > 1 else ''} in {what}:"
    return "\n".join([count, *(f"  {number}. {text}" for number, text in enumerate(texts, 1))])


def find_problems(cfg: CfgNode) -> list[Problem]:
    """Return everything that is wrong with the values, alone and together; types are taken for granted."""
    values = flatten(cfg)
    texts = {name: facts.wrong(name, values[name]) for name, facts in KEYS.items()}
    problems = [Problem((name,), text) for name, text in texts.items() if text]
    wrong = {key for problem in problems for key in problem.keys}
    # so that the checks below may divide and index
    sane = with_values(cfg, {name: KEYS[name].default for name in wrong}) if wrong else cfg
    core = (_names, _run, _training, _schedule, _optimizer, _loss, _mixing, _data, _testing, _predicting, _tuning)
    checks = (*core, *(system.check for system in SYSTEMS))
    for check in checks:
        problems += [one for one in check(sane) if not wrong.intersection(one.keys)]
    return problems


def _names(cfg: CfgNode) -> list[Problem]:
    problems = []
    if cfg.TASK in TASKS_REFUSED:
        problems.append(Problem(("TASK",), f"TASK {cfg.TASK}: {TASKS_REFUSED[cfg.TASK]} is not in dust"))
    model, arch = cfg.MODEL.MODEL_NAME, cfg.MODEL.ARCH
    whose = cfg.PROBE.BACKBONE if model == "Probe" else model
    if model in MODELS_REFUSED:
        text = f"MODEL.MODEL_NAME {model}: not in dust: {MODELS_REFUSED[model]}"
        problems.append(Problem(("MODEL.MODEL_NAME",), text))
    with_arch = (*WITH_ARCH, "HuggingFaceVideo")
    if arch != KEYS["MODEL.ARCH"].default and whose in OUR_MODELS and whose not in with_arch:
        text = f"MODEL.ARCH {arch}: asks for a model of SlowFast's; set MODEL.MODEL_NAME to it (SlowFast, ResNet, X3D, "
        problems.append(Problem(("MODEL.ARCH", "MODEL.MODEL_NAME"), f"{text}MViT), or remove the key"))
    for section in ("TRAIN", "TEST"):
        name = cfg[section].DATASET
        if cfg[section].ENABLE and name.lower() in DATASETS_REFUSED:
            key = f"{section}.DATASET"
            problems.append(Problem((key,), f"{key} {name}: {DATASETS_REFUSED[name.lower()]} is not in dust"))
    if not cfg.OUTPUT_DIR.strip():
        problems.append(Problem(("OUTPUT_DIR",), "OUTPUT_DIR is empty: name a folder, or . for this one"))
    if "://" in cfg.OUTPUT_DIR:
        text = f"OUTPUT_DIR {cfg.OUTPUT_DIR}: is an address; results are written to a folder of this machine"
        problems.append(Problem(("OUTPUT_DIR",), text))
    if cfg.MODEL.NUM_CLASSES == 0 and cfg.TASK == "Classification" and (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        text = "MODEL.NUM_CLASSES 0: a model without a classifier tells no classes apart; -1 is as many as the data has"
        problems.append(Problem(("MODEL.NUM_CLASSES", "TASK"), text))
    return problems


def processes_per_node(cfg: CfgNode) -> int:
    """Return the training processes on each node: one per GPU, or as many as NUM_PROCS_PER_NODE says on the CPU."""
    return cfg.NUM_PROCS_PER_NODE or max(cfg.NUM_GPUS, 1)


def _run(cfg: CfgNode) -> list[Problem]:
    problems = []
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        text = f"SHARD_ID {cfg.SHARD_ID}: must be below NUM_SHARDS {cfg.NUM_SHARDS} (nodes count from 0)"
        problems.append(Problem(("SHARD_ID", "NUM_SHARDS"), text))
    if cfg.NUM_GPUS and cfg.NUM_PROCS_PER_NODE not in (0, cfg.NUM_GPUS):
        text = f"NUM_PROCS_PER_NODE {cfg.NUM_PROCS_PER_NODE}: with GPUs there is one process for each of "
        problems.append(Problem(("NUM_PROCS_PER_NODE", "NUM_GPUS"), f"{text}NUM_GPUS {cfg.NUM_GPUS}; write 0"))
    if cfg.TRAIN.ENABLE and processes_per_node(cfg) > cfg.TRAIN.BATCH_SIZE:
        text = f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}: is shared by the {processes_per_node(cfg)} processes of a "
        keys = ("TRAIN.BATCH_SIZE", "NUM_GPUS", "NUM_PROCS_PER_NODE")
        problems.append(Problem(keys, f"{text}node (NUM_GPUS, NUM_PROCS_PER_NODE), so it must be at least as many"))
    return problems


def _training(cfg: CfgNode) -> list[Problem]:
    problems: list[Problem] = []
    if not cfg.TRAIN.ENABLE:
        return problems
    if cfg.TRAIN.FINETUNE and not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        keys = ("TRAIN.FINETUNE", "TRAIN.CHECKPOINT_FILE_PATH")
        problems.append(Problem(keys, "TRAIN.FINETUNE True: name the weights in TRAIN.CHECKPOINT_FILE_PATH"))
    if cfg.TRAIN.PARALLEL == "fsdp" and cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16":
        text = "TRAIN.AMP_DTYPE float16: its loss scaling is not for TRAIN.PARALLEL fsdp; write bfloat16"
        problems.append(Problem(("TRAIN.AMP_DTYPE", "TRAIN.PARALLEL"), text))
    if cfg.TRAIN.PARALLEL == "fsdp" and cfg.TRAIN.DDP_DTYPE != "float32":
        text = f"TRAIN.DDP_DTYPE {cfg.TRAIN.DDP_DTYPE}: with TRAIN.PARALLEL fsdp gradients are summed in float32; "
        keys = ("TRAIN.DDP_DTYPE", "TRAIN.PARALLEL")
        problems.append(Problem(keys, f"{text}write float32, or TRAIN.PARALLEL ddp"))
    if cfg.TRAIN.DETERMINISTIC and cfg.TRAIN.SDPA == "cudnn":
        text = "TRAIN.SDPA cudnn: its backward pass is not deterministic; write flash, or TRAIN.DETERMINISTIC False"
        problems.append(Problem(("TRAIN.SDPA", "TRAIN.DETERMINISTIC"), text))
    if cfg.TEST.ENABLE and cfg.TEST.CHECKPOINT == "best" and not (cfg.TRAIN.SAVE_BEST and cfg.TRAIN.EVAL_PERIOD):
        text = "TEST.CHECKPOINT best: set TRAIN.SAVE_BEST True and TRAIN.EVAL_PERIOD, or there will be none"
        problems.append(Problem(("TEST.CHECKPOINT", "TRAIN.SAVE_BEST", "TRAIN.EVAL_PERIOD"), text))
    if cfg.TRAIN.EARLY_STOPPING_PATIENCE and not cfg.TRAIN.EVAL_PERIOD:
        text = f"TRAIN.EARLY_STOPPING_PATIENCE {cfg.TRAIN.EARLY_STOPPING_PATIENCE}: counts validations, and "
        keys = ("TRAIN.EARLY_STOPPING_PATIENCE", "TRAIN.EVAL_PERIOD")
        problems.append(Problem(keys, f"{text}TRAIN.EVAL_PERIOD 0 means none"))
    return problems


def _schedule(cfg: CfgNode) -> list[Problem]:
    solver, problems = cfg.SOLVER, []
    if not cfg.TRAIN.ENABLE:
        return []
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        text = f"SOLVER.WARMUP_EPOCHS {solver.WARMUP_EPOCHS}: must be shorter than SOLVER.MAX_EPOCH {solver.MAX_EPOCH}"
        problems.append(Problem(("SOLVER.WARMUP_EPOCHS", "SOLVER.MAX_EPOCH"), text))
    if (solver.LR_POLICY == "cosine_restart") != (solver.T_0 > 0):
        text = (
            f"SOLVER.LR_POLICY {solver.LR_POLICY}, T_0 {solver.T_0:g}: cosine_restart, and nothing else, has a T_0 > 0"
        )
        problems.append(Problem(("SOLVER.LR_POLICY", "SOLVER.T_0"), text))
    if solver.LR_POLICY != "steps_with_relative_lrs":
        return problems
    keys: tuple[str, ...] = ("SOLVER.STEPS", "SOLVER.LRS")
    if not solver.STEPS:
        text = "SOLVER.LR_POLICY steps_with_relative_lrs: give SOLVER.STEPS, e.g. [0, 11, 14], and SOLVER.LRS"
        return [*problems, Problem(keys, f"{text}, e.g. [1, 0.1, 0.01]")]
    if len(solver.STEPS) != len(solver.LRS):
        text = f"SOLVER.STEPS {solver.STEPS} and SOLVER.LRS {solver.LRS}: must be equally many, one rate for each step"
        problems.append(Problem(keys, text))
    if solver.STEPS[0] != 0 or any(b <= a for a, b in zip(solver.STEPS, solver.STEPS[1:], strict=False)):
        problems.append(Problem(keys[:1], f"SOLVER.STEPS {solver.STEPS}: must begin at epoch 0 and rise"))
    if any(rate < 0 for rate in solver.LRS):
        problems.append(Problem(keys[1:], f"SOLVER.LRS {solver.LRS}: must not be negative"))
    return problems


def _optimizer(cfg: CfgNode) -> list[Problem]:
    solver, problems = cfg.SOLVER, []
    if any(not 0 <= beta < 1 for beta in solver.BETAS):
        text = f"SOLVER.BETAS {tuple(solver.BETAS)}: both must be at least 0 and less than 1"
        problems.append(Problem(("SOLVER.BETAS",), text))
    if solver.CLIP_GRAD_VAL is not None and solver.CLIP_GRAD_L2NORM is not None:
        text = "SOLVER.CLIP_GRAD_VAL and SOLVER.CLIP_GRAD_L2NORM: set one of them, None for the other"
        problems.append(Problem(("SOLVER.CLIP_GRAD_VAL", "SOLVER.CLIP_GRAD_L2NORM"), text))
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and solver.DAMPENING and solver.MOMENTUM:
        text = f"SOLVER.DAMPENING {solver.DAMPENING}: must be 0 with SOLVER.NESTEROV True"
        problems.append(Problem(("SOLVER.DAMPENING", "SOLVER.NESTEROV"), text))
    if not solver.OPTIMIZING_METHOD:
        problems.append(Problem(("SOLVER.OPTIMIZING_METHOD",), "SOLVER.OPTIMIZING_METHOD is empty: write e.g. adamw"))
    return problems


def _loss(cfg: CfgNode) -> list[Problem]:
    model, problems = cfg.MODEL, []
    if cfg.DATA.MULTI_LABEL and model.LOSS_FUNC == "soft_cross_entropy":
        text = "MODEL.LOSS_FUNC soft_cross_entropy: with DATA.MULTI_LABEL True the loss is bce_logit"
        problems.append(Problem(("MODEL.LOSS_FUNC", "DATA.MULTI_LABEL"), text))
    binary = cfg.DATA.MULTI_LABEL or model.LOSS_FUNC == "bce_logit"
    if model.LOSS_FUNC == "focal" and not (0 <= model.FOCAL_ALPHA <= 1 or model.FOCAL_ALPHA == -1):
        text = f"MODEL.FOCAL_ALPHA {model.FOCAL_ALPHA}: from 0 to 1, or -1 for none"
        problems.append(Problem(("MODEL.FOCAL_ALPHA",), text))
    if model.LOSS_FUNC == "focal" and not binary and model.LABEL_SMOOTHING:
        text = f"MODEL.LABEL_SMOOTHING {model.LABEL_SMOOTHING}: the focal loss is for targets as they are; write 0"
        problems.append(Problem(("MODEL.LABEL_SMOOTHING", "MODEL.LOSS_FUNC"), text))
    if binary and model.LABEL_SMOOTHING:
        text = f"MODEL.LABEL_SMOOTHING {model.LABEL_SMOOTHING}: does not apply to multi-label (bce_logit); write 0"
        problems.append(Problem(("MODEL.LABEL_SMOOTHING", "MODEL.LOSS_FUNC", "DATA.MULTI_LABEL"), text))
    weights = model.CLASS_WEIGHTS
    if isinstance(weights, str) or not weights:
        return problems
    by_name = [entry for entry in weights if isinstance(entry, dict)]
    named = [number for entry in by_name for number in entry.values()]
    if by_name and (len(by_name) < len(weights) or not named):
        text = f"MODEL.CLASS_WEIGHTS {weights}: numbers for all classes, or {{name: number}} for some; not both"
        return [*problems, Problem(("MODEL.CLASS_WEIGHTS",), text)]
    if not named and len(weights) != model.NUM_CLASSES and model.NUM_CLASSES >= 0:
        text = f"MODEL.CLASS_WEIGHTS: {len(weights)} weights for MODEL.NUM_CLASSES {model.NUM_CLASSES}"
        problems.append(Problem(("MODEL.CLASS_WEIGHTS", "MODEL.NUM_CLASSES"), text))
    if any(not 0 <= weight < math.inf for weight in named or weights) or not (named or any(weights)):
        text = f"MODEL.CLASS_WEIGHTS {weights}: must not be negative, nor all 0"
        problems.append(Problem(("MODEL.CLASS_WEIGHTS",), text))
    return problems


def _mixing(cfg: CfgNode) -> list[Problem]:
    mixup, problems = cfg.MIXUP, []
    aug_type = cfg.AUG.AA_TYPE
    if cfg.AUG.ENABLE and aug_type and not cfg.AUG.LIST and not RAND_AUGMENT.fullmatch(aug_type):
        text = f"AUG.AA_TYPE {aug_type!r}: write '' or a RandAugment such as rand-m7-n4-mstd0.5-inc1"
        problems.append(Problem(("AUG.AA_TYPE",), text))
    if cfg.AUG.LIST and not cfg.AUG.ENABLE:
        text = f"AUG.LIST {cfg.AUG.LIST}: acts with AUG.ENABLE True only; set that, or AUG.LIST []"
        problems.append(Problem(("AUG.LIST", "AUG.ENABLE"), text))
    if cfg.AUG.LIST and cfg.AUG.AA_WHERE == "device":
        text = "AUG.AA_WHERE device: is for AUG.AA_TYPE, and what AUG.LIST names runs in the workers; write workers"
        problems.append(Problem(("AUG.AA_WHERE", "AUG.LIST"), text))
    turned = cfg.AUG.TIME_REVERSAL
    if turned and not cfg.AUG.ENABLE:
        text = f"AUG.TIME_REVERSAL {turned}: acts with AUG.ENABLE True only; set that, or AUG.TIME_REVERSAL []"
        problems.append(Problem(("AUG.TIME_REVERSAL", "AUG.ENABLE"), text))
    if turned and cfg.TRAIN.DATASET == "FusedDataset" and list(cfg.DATA.MODALITIES) != ["video"]:
        text = f"AUG.TIME_REVERSAL {turned}: plays videos backwards; series and features do not turn with them "
        text += f"(DATA.MODALITIES {cfg.DATA.MODALITIES}): write []"
        problems.append(Problem(("AUG.TIME_REVERSAL", "DATA.MODALITIES"), text))
    if not (mixup.ENABLE and cfg.TRAIN.ENABLE):
        return problems
    if mixup.ALPHA == 0 and mixup.CUTMIX_ALPHA == 0:
        text = "MIXUP.ENABLE True: MIXUP.ALPHA and MIXUP.CUTMIX_ALPHA are both 0, so there is nothing to mix"
        problems.append(Problem(("MIXUP.ENABLE", "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"), text))
    if cfg.DATA.MULTI_LABEL or cfg.MODEL.LOSS_FUNC == "bce_logit":
        text = "MIXUP.ENABLE True: mixed targets are for single labels, not for DATA.MULTI_LABEL or bce_logit"
        problems.append(Problem(("MIXUP.ENABLE", "DATA.MULTI_LABEL", "MODEL.LOSS_FUNC"), text))
    clips = cfg.TRAIN.BATCH_SIZE // processes_per_node(cfg) * cfg.AUG.NUM_SAMPLE
    if clips < 2 and mixup.PROB:
        text = f"MIXUP.ENABLE True: needs at least 2 clips per process; TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} gives "
        problems.append(Problem(("MIXUP.ENABLE", "TRAIN.BATCH_SIZE", "NUM_GPUS", "AUG.NUM_SAMPLE"), f"{text}{clips}"))
    return problems


def _folders(cfg: CfgNode) -> list[Problem]:
    """Check several data folders, and how often clips are drawn."""
    data, problems = cfg.DATA, []
    folders, weights = data.PATH_TO_DATA_DIR, list(data.DATASET_WEIGHTS)
    count = len(folders) if isinstance(folders, list) else 1
    if weights and (len(weights) != count or count == 1):
        text = (
            f"DATA.DATASET_WEIGHTS {weights}: one for each data folder of a list, and DATA.PATH_TO_DATA_DIR has {count}"
        )
        problems.append(Problem(("DATA.DATASET_WEIGHTS", "DATA.PATH_TO_DATA_DIR"), text))
    if any(not 0 < weight < math.inf for weight in weights):
        problems.append(Problem(("DATA.DATASET_WEIGHTS",), f"DATA.DATASET_WEIGHTS {weights}: must be more than 0"))
    if isinstance(folders, list) and len(set(folders)) < count:
        text = f"DATA.PATH_TO_DATA_DIR {folders}: a folder is named twice"
        problems.append(Problem(("DATA.PATH_TO_DATA_DIR",), text))
    if isinstance(folders, list) and data.CORRECTIONS:
        text = (
            f"DATA.CORRECTIONS {data.CORRECTIONS}: is of one data folder; write corrected lists (dust check --fix DIR)"
        )
        problems.append(Problem(("DATA.CORRECTIONS", "DATA.PATH_TO_DATA_DIR"), text))
    if cfg.TRAIN.ENABLE and cfg.DATA_LOADER.SAMPLER == "balanced" and data.MULTI_LABEL:
        text = "DATA_LOADER.SAMPLER balanced: is for clips of one class each; with DATA.MULTI_LABEL set shuffle, and "
        keys = ("DATA_LOADER.SAMPLER", "DATA.MULTI_LABEL")
        problems.append(Problem(keys, f"{text}MODEL.CLASS_WEIGHTS or MODEL.LOSS_FUNC focal"))
    return problems


def _soft_labels(cfg: CfgNode) -> list[Problem]:
    """Report what the shares of several annotators do not go with."""
    if not cfg.DATA.SOFT_LABELS:
        return []
    problems, text = [], "DATA.SOFT_LABELS True:"
    if cfg.DATA.MULTI_LABEL:
        kind = f"{text} is for clips of one class of which people are unsure; DATA.MULTI_LABEL for clips of several"
        problems.append(Problem(("DATA.SOFT_LABELS", "DATA.MULTI_LABEL"), kind))
    if cfg.MODEL.LOSS_FUNC == "bce_logit":
        kind = f"{text} shares are of classes that exclude each other; MODEL.LOSS_FUNC bce_logit takes each by itself"
        problems.append(Problem(("DATA.SOFT_LABELS", "MODEL.LOSS_FUNC"), kind))
    if cfg.AUG.TIME_REVERSAL:
        kind = f"{text} a clip that is played backwards has one class; write AUG.TIME_REVERSAL []"
        problems.append(Problem(("DATA.SOFT_LABELS", "AUG.TIME_REVERSAL"), kind))
    if cfg.TASK in _OTHER_TASKS:
        problems.append(Problem(("DATA.SOFT_LABELS", "TASK"), f"{text} TASK {cfg.TASK} takes no shares of classes"))
    return [*problems, *_of_other_lists(cfg, "SOFT_LABELS", (*_OTHER_LISTS, "StoredTokens", "GroupedVideo"))]


def _annotations(cfg: CfgNode) -> list[Problem]:
    data, of_files = cfg.DATA, ("activitynet", "kinetics", "epic")
    if data.ANNOTATIONS and data.FORMAT not in of_files:
        text = f"DATA.ANNOTATIONS {data.ANNOTATIONS}: goes with DATA.FORMAT {', '.join(of_files)}"
        return [Problem(("DATA.ANNOTATIONS", "DATA.FORMAT"), text)]
    return []


def _background(cfg: CfgNode) -> list[Problem]:
    if not cfg.DATA.BACKGROUND:
        return []
    return _of_other_lists(cfg, "BACKGROUND", (*_OTHER_LISTS, "FusedDataset"))


def _of_other_lists(cfg: CfgNode, name: str, others: tuple[str, ...]) -> list[Problem]:
    """Report where a dataset that is used does not heed a key of DATA."""
    used = [section for section in ("TRAIN", "TEST") if cfg[section].ENABLE and cfg[section].DATASET in others]
    text = f"DATA.{name} {cfg.DATA[name]}: {{}} does not read it; VideoDataset does"
    keys = [(f"DATA.{name}", f"{section}.DATASET") for section in used]
    return [Problem(pair, text.format(cfg[section].DATASET)) for section, pair in zip(used, keys, strict=True)]


def _data(cfg: CfgNode) -> list[Problem]:
    data, problems = cfg.DATA, []
    if any(not 0 < value < math.inf for value in data.STD):
        problems.append(Problem(("DATA.STD",), f"DATA.STD {data.STD}: must be more than 0"))
    if max(map(abs, [*data.MEAN, *data.STD]), default=0) > 1:
        shares = "; ".join(
            f"DATA.{name} {[round(value / 255, 4) for value in values]}"
            for name, values in (("MEAN", data.MEAN), ("STD", data.STD))
            if max(map(abs, values), default=0) > 1
        )
        text = f"DATA.MEAN {data.MEAN}, DATA.STD {data.STD}: of pixels in 0..1, where values of 0..255 are {shares}"
        problems.append(Problem(("DATA.MEAN", "DATA.STD"), text))
    if any(channels != 3 for channels in data.INPUT_CHANNEL_NUM) or not data.INPUT_CHANNEL_NUM:
        text = f"DATA.INPUT_CHANNEL_NUM {data.INPUT_CHANNEL_NUM}: clips have 3 channels; write [3]"
        problems.append(Problem(("DATA.INPUT_CHANNEL_NUM",), text))
    model = cfg.MODEL.MODEL_NAME
    if data.CLIPS_PER_VIEW > 1 and model in OUR_MODELS and model != "VJEPA2":
        text = (
            f"DATA.CLIPS_PER_VIEW {data.CLIPS_PER_VIEW}: joins the tokens of several clips, which {model} does not do; "
        )
        problems.append(Problem(("DATA.CLIPS_PER_VIEW", "MODEL.MODEL_NAME"), f"{text}write 1"))
    problems += [*_folders(cfg), *_soft_labels(cfg), *_annotations(cfg), *_background(cfg)]
    if not cfg.TRAIN.ENABLE:
        return problems
    low, high = data.TRAIN_JITTER_SCALES
    relative = data.TRAIN_JITTER_SCALES_RELATIVE
    if not 0 < low <= high:
        text = f"DATA.TRAIN_JITTER_SCALES {data.TRAIN_JITTER_SCALES}: must be [smallest, largest] short side, in pixels"
        problems.append(Problem(("DATA.TRAIN_JITTER_SCALES",), text))
    elif low < data.TRAIN_CROP_SIZE:
        text = f"DATA.TRAIN_JITTER_SCALES {data.TRAIN_JITTER_SCALES}: the short side must be at least "
        keys = ("DATA.TRAIN_JITTER_SCALES", "DATA.TRAIN_CROP_SIZE")
        problems.append(Problem(keys, f"{text}DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE}"))
    aspect = data.TRAIN_JITTER_ASPECT_RELATIVE
    if relative and not (len(relative) == 2 and 0 < relative[0] <= relative[1] <= 1):
        text = f"DATA.TRAIN_JITTER_SCALES_RELATIVE {relative}: must be [smallest, largest] area in 0..1, or []"
        problems.append(Problem(("DATA.TRAIN_JITTER_SCALES_RELATIVE",), text))
    if aspect and not (len(aspect) == 2 and 0 < aspect[0] <= aspect[1] < math.inf):
        text = f"DATA.TRAIN_JITTER_ASPECT_RELATIVE {aspect}: must be [smallest, largest] width / height, or []"
        problems.append(Problem(("DATA.TRAIN_JITTER_ASPECT_RELATIVE",), text))
    if bool(relative) != bool(aspect):
        text = "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE: give both, or neither"
        problems.append(Problem(("DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"), text))
    return problems


def _testing(cfg: CfgNode) -> list[Problem]:
    test, problems = cfg.TEST, []
    if not test.ENABLE:
        return []
    if test.NUM_ENSEMBLE_VIEWS < 1 and test.NUM_ENSEMBLE_VIEWS != -1:
        text = f"TEST.NUM_ENSEMBLE_VIEWS {test.NUM_ENSEMBLE_VIEWS}: must be at least 1, or -1 for 1, 3, 5, 7 and 10"
        problems.append(Problem(("TEST.NUM_ENSEMBLE_VIEWS",), text))
    if test.NUM_SPATIAL_CROPS not in (1, 3):
        text = f"TEST.NUM_SPATIAL_CROPS {test.NUM_SPATIAL_CROPS}: choose 1 (centre) or 3 (left, centre, right)"
        problems.append(Problem(("TEST.NUM_SPATIAL_CROPS",), text))
    if any(views < 1 for views in test.NUM_TEMPORAL_CLIPS):
        text = f"TEST.NUM_TEMPORAL_CLIPS {test.NUM_TEMPORAL_CLIPS}: each must be at least 1"
        problems.append(Problem(("TEST.NUM_TEMPORAL_CLIPS",), text))
    side, crop = cfg.DATA.TRAIN_JITTER_SCALES[0], cfg.DATA.TEST_CROP_SIZE
    if test.NUM_SPATIAL_CROPS == 1 and crop > side and test.DATASET != "SSv2":
        text = f"DATA.TEST_CROP_SIZE {crop}: with TEST.NUM_SPATIAL_CROPS 1 the short side is the first of "
        keys = ("DATA.TEST_CROP_SIZE", "TEST.NUM_SPATIAL_CROPS", "DATA.TRAIN_JITTER_SCALES")
        text += f"DATA.TRAIN_JITTER_SCALES {cfg.DATA.TRAIN_JITTER_SCALES}, which is smaller"
        problems.append(Problem(keys, text))
    return problems


def _predicting(cfg: CfgNode) -> list[Problem]:
    predict = cfg.PREDICT
    if not predict.ENABLE:
        return []
    if not [source for source in predict.SOURCES if source]:
        text = "PREDICT.ENABLE True: name what to predict in PREDICT.SOURCES, e.g. [clip.mp4, more/] or [camera:0]"
        return [Problem(("PREDICT.SOURCES",), text)]
    return []


def _tuning(cfg: CfgNode) -> list[Problem]:
    tune = cfg.TUNE
    if not tune.SPACE:
        return []
    dimensions, texts = read_space(tune.SPACE)
    problems = [Problem(("TUNE.SPACE",), text) for text in texts]
    if tune.SAMPLER == "grid":
        endless = [dimension.key for dimension in dimensions if not dimension.grid()]
        if endless:
            text = (
                f"TUNE.SAMPLER grid: {', '.join(endless)} has no end of values; list them, or give low, high and step"
            )
            problems.append(Problem(("TUNE.SAMPLER", "TUNE.SPACE"), text))
    if tune.PRUNER and not cfg.TRAIN.EVAL_PERIOD:
        text = f"TUNE.PRUNER {tune.PRUNER}: judges by validations, and TRAIN.EVAL_PERIOD 0 means none"
        problems.append(Problem(("TUNE.PRUNER", "TRAIN.EVAL_PERIOD"), text))
    return problems
