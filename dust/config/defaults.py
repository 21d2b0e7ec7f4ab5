"""Every key of dust with its default, in SlowFast's sections and order.

A key that SlowFast or TimeSformer also has keeps their name and default where it means the same here; docs/CONFIG.md
lists the differences. Units stand in the comments: frames, epochs, seconds, fractions (0..1) and percent.
"""

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from dust.config.cast import add_cast
from dust.config.foreign import add_foreign_keys
from dust.config.fusion import add_fusion
from dust.config.keystep import add_keystep
from dust.config.timesformer import add_timesformer
from dust.config.tracks import add_tracks

CN = CfgNode
_C = CN()

# Modules (my.package) or files (hooks.py) that are imported first, so that what they register can be named below.
_C.IMPORTS = []
# What kind of question the model answers: the name of a registered task. '' means Classification.
_C.TASK = "Classification"

# ------------------------------------------------------------------------------------------------ training
_C.TRAIN = CN()
_C.TRAIN.ENABLE = True  # train
_C.TRAIN.DATASET = "VideoDataset"  # a registered dataset class, for training and validation
_C.TRAIN.BATCH_SIZE = 64  # clips per step on one node, over all its GPUs (or processes)
_C.TRAIN.EVAL_PERIOD = 10  # validate every so many epochs, and after the last; 0 = never
_C.TRAIN.CHECKPOINT_PERIOD = 10  # save every so many epochs, and after the last; 0 = only then
_C.TRAIN.CHECKPOINT_PERIOD_ITERS = 0  # save within an epoch every so many iterations; 0 = only when stopped
_C.TRAIN.AUTO_RESUME = True  # go on from the newest checkpoint in OUTPUT_DIR
_C.TRAIN.CHECKPOINT_FILE_PATH = ""  # start from this checkpoint: weights, optimizer and epoch (see FINETUNE)
_C.TRAIN.CHECKPOINT_EPOCH_RESET = False  # take only the weights of CHECKPOINT_FILE_PATH, begin at epoch 0
_C.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN = ()  # substrings that are cut out of the checkpoint's parameter names
_C.TRAIN.CHECKPOINT_KEEP_LAST = 0  # keep the newest so many checkpoints of this run; 0 = all
_C.TRAIN.FINETUNE = False  # weights of CHECKPOINT_FILE_PATH, epoch 0; a requeued run resumes all the same
_C.TRAIN.CHECKPOINT_FORMAT = "full"  # full: one file | sharded: a folder to which every process writes its part
_C.TRAIN.CHECKPOINT_ASYNC = False  # write checkpoints behind the training, from a copy in the CPU's memory
_C.TRAIN.PARALLEL = "ddp"  # ddp: every process holds the model | fsdp: parameters are shared out over all (FSDP2)
_C.TRAIN.MIXED_PRECISION = False  # autocast on forward and loss
_C.TRAIN.AMP_DTYPE = "bfloat16"  # bfloat16 | float16 (float16 with loss scaling)
_C.TRAIN.COMPILE = False  # torch.compile the model
_C.TRAIN.CHANNELS_LAST = False  # channels-last memory format, which pays for convolutions
_C.TRAIN.DETERMINISTIC = False  # torch's deterministic algorithms (on CUDA slower; CPU runs repeat anyway)
_C.TRAIN.ON_BAD_CLIP = "skip"  # skip | raise: a clip that cannot be read in training
_C.TRAIN.SAVE_BEST = True  # keep the checkpoint with the best validation metric beside the newest
_C.TRAIN.BEST_METRIC = ""  # the metric that decides; '' = the task's own (top1_acc, map)
_C.TRAIN.EARLY_STOPPING_PATIENCE = 0  # stop after so many validations without improvement; 0 = never
_C.TRAIN.HOOKS = []  # registered hooks that hear of every step, evaluation and epoch, in this order

# ------------------------------------------------------------------------------------------------ augmentation
_C.AUG = CN()
_C.AUG.ENABLE = False  # the AUG.* below act in training
_C.AUG.NUM_SAMPLE = 1  # augmented clips per decoded video (repeated augmentation)
_C.AUG.COLOR_JITTER = 0.4  # strength of brightness, contrast and saturation jitter, >= 0
_C.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"  # RandAugment, one draw for all frames of a clip; '' = none
_C.AUG.INTERPOLATION = "bicubic"  # nearest | bilinear | bicubic, of RandAugment's geometric changes
_C.AUG.RE_PROB = 0.25  # chance of random erasing, 0..1
_C.AUG.RE_MODE = "pixel"  # pixel | rand | const: what erased boxes are filled with
_C.AUG.RE_COUNT = 1  # erased boxes per clip, >= 1

_C.MIXUP = CN()
_C.MIXUP.ENABLE = False  # MixUp and CutMix on the batch
_C.MIXUP.ALPHA = 0.8  # MixUp's Beta(alpha, alpha); 0 = no MixUp
_C.MIXUP.CUTMIX_ALPHA = 1.0  # CutMix's Beta(alpha, alpha); 0 = no CutMix
_C.MIXUP.PROB = 1.0  # chance that a batch is mixed
_C.MIXUP.SWITCH_PROB = 0.5  # chance that a mixed batch gets CutMix instead of MixUp, where both are on
_C.MIXUP.LABEL_SMOOTH_VALUE = 0.1  # smoothing of the mixed targets, 0..1

# ------------------------------------------------------------------------------------------------ testing
_C.TEST = CN()
_C.TEST.ENABLE = True  # test, after training if that is on too
_C.TEST.DATASET = "VideoDataset"  # a registered dataset class
_C.TEST.BATCH_SIZE = 8  # views that run through the model at once
_C.TEST.CHECKPOINT_FILE_PATH = ""  # weights to test; '' = those of OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH
_C.TEST.CHECKPOINT = "last"  # last | best: which of OUTPUT_DIR's checkpoints
_C.TEST.NUM_ENSEMBLE_VIEWS = 10  # clips over time per video; -1 = test with 1, 3, 5, 7 and 10 in turn
_C.TEST.NUM_SPATIAL_CROPS = 3  # 1 | 3 crops per clip
_C.TEST.NUM_TEMPORAL_CLIPS = []  # several NUM_ENSEMBLE_VIEWS to test in turn, e.g. [1, 5, 10]; [] = only that one
_C.TEST.ON_BAD_CLIP = "raise"  # raise | skip: a clip that cannot be read in test or validation
_C.TEST.ENSEMBLE_SPACE = "logits"  # logits | probs: what DATA.ENSEMBLE_METHOD sums or compares

_C.BN = CN()
_C.BN.WEIGHT_DECAY = 0.0  # of batch-norm parameters

# ------------------------------------------------------------------------------------------------ model
_C.MODEL = CN()
_C.MODEL.MODEL_NAME = "TimeSformer"  # a registered model class
_C.MODEL.NUM_CLASSES = 400  # >= 1
_C.MODEL.PRETRAINED = ""  # weight file that the model starts from; any layout that dust knows
_C.MODEL.POS_EMBED_RESIZE = "official"  # official | bicubic: positions of a file made for another size
_C.MODEL.ACT_CHECKPOINT = False  # recompute activations in the backward: less memory, more time
_C.MODEL.LOSS_FUNC = "cross_entropy"  # cross_entropy | soft_cross_entropy | bce_logit
_C.MODEL.LABEL_SMOOTHING = 0.0  # share of a hard target that is spread over all classes, 0..1
_C.MODEL.CLASS_WEIGHTS = []  # one factor per class, or the word balanced; [] = none

_C.EMA = CN()
_C.EMA.ENABLED = False  # keep a moving average of the weights; it is what validation, test and 'best' use
_C.EMA.DECAY = 0.9999  # share of the old average kept per step, 0..1
_C.EMA.WARMUP = False  # begin with a smaller decay, so that a short run's average is not its start

# ------------------------------------------------------------------------------------------------ data
_C.DATA = CN()
_C.DATA.PATH_TO_DATA_DIR = ""  # folder with train.csv, val.csv, test.csv (or what FORMAT says)
_C.DATA.FORMAT = "auto"  # auto | csv | folder | ssv2 | ucf101 | hmdb51, see dust/datasets/DATASET.md
_C.DATA.MODALITIES = ["video"]  # video | series | video_features: what FusedDataset gives the model
_C.DATA.PATH_LABEL_SEPARATOR = ""  # between path and label in a csv; '' = found out (tab, comma, last space)
_C.DATA.PATH_PREFIX = ""  # put before relative paths of the lists
_C.DATA.CLASS_LIST = ""  # file with one class name per line, in the order of the logits; '' = from the data
_C.DATA.SPLIT_NUMBER = 1  # 1..3: which of the official splits of UCF101 and HMDB51
_C.DATA.CHECK_FILES = True  # look whether every listed file exists before the run begins
_C.DATA.MAX_BAD_FRACTION = 0.05  # stop when more of an epoch's clips than this share cannot be read
_C.DATA.INDEX_CACHE = ""  # folder that keeps the frame indices of videos between runs; '' = only in memory
_C.DATA.NUM_FRAMES = 8  # frames per clip
_C.DATA.SAMPLING_RATE = 8  # step between a clip's frames, in frames at TARGET_FPS
_C.DATA.TARGET_FPS = 30  # frames per second that SAMPLING_RATE counts in
_C.DATA.SAMPLING = ""  # dense | segments | whole_clip | videomae_dense | videomae_tsn; '' = the dataset's own
_C.DATA.USE_OFFSET_SAMPLING = False  # test clips spread to the very end; one clip = the centre, not the start
_C.DATA.TRAIN_JITTER_FPS = 0.0  # the clip's span varies by up to this many frames per second, >= 0
_C.DATA.INPUT_CHANNEL_NUM = [3]  # channels of a clip (SlowFast's [3, 3] means the same here)
_C.DATA.MEAN = [0.45, 0.45, 0.45]  # of R, G, B in 0..1
_C.DATA.STD = [0.225, 0.225, 0.225]
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]  # range of the short side before the random crop, pixels
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []  # range of the crop's area, e.g. [0.08, 1.0]: random-resized crop; [] = off
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []  # range of that crop's aspect, e.g. [0.75, 1.3333]
_C.DATA.INV_UNIFORM_SAMPLE = False  # draw 1 / short side uniformly instead of the short side
_C.DATA.RANDOM_FLIP = True  # mirror half of the training clips: False where left and right differ in meaning
_C.DATA.TRAIN_CROP_SIZE = 224  # side of training and validation clips, pixels
_C.DATA.TEST_CROP_SIZE = 256  # side of test clips, pixels
_C.DATA.RESIZE = "swscale"  # swscale (while decoding) | torch (after it; SlowFast's arithmetic)
_C.DATA.REVERSE_INPUT_CHANNEL = False  # BGR instead of RGB
_C.DATA.MULTI_LABEL = False  # several labels per clip
_C.DATA.ENSEMBLE_METHOD = "sum"  # sum | max over a video's views

# ------------------------------------------------------------------------------------------------ optimization
_C.SOLVER = CN()
_C.SOLVER.BASE_LR = 0.1  # the learning rate
_C.SOLVER.LR_POLICY = "cosine"  # cosine | steps_with_relative_lrs | videomae_cosine | dust_linear_cosine
_C.SOLVER.COSINE_END_LR = 0.0  # where the cosine ends
_C.SOLVER.COSINE_AFTER_WARMUP = False  # the cosine begins where the warm-up ends
_C.SOLVER.STEPS = []  # epochs at which LRS change, the first 0
_C.SOLVER.LRS = []  # factors of BASE_LR, one per step
_C.SOLVER.MAX_EPOCH = 300
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.DAMPENING = 0.0
_C.SOLVER.NESTEROV = True
_C.SOLVER.BETAS = (0.9, 0.999)  # of Adam and AdamW
_C.SOLVER.WEIGHT_DECAY = 1e-4
_C.SOLVER.ZERO_WD_1D_PARAM = False  # no decay of biases and other 1-D parameters
_C.SOLVER.LAYER_DECAY = 1.0  # each layer below the head learns at this share of the next one's rate, 0..1
_C.SOLVER.BACKBONE_LR_SCALE = 1.0  # everything but the classifier learns at this share of the rate, 0..1
_C.SOLVER.WARMUP = "linear"  # linear: the form of the warm-up
_C.SOLVER.WARMUP_EPOCHS = 0.0  # length of the warm-up; 0 = none
_C.SOLVER.WARMUP_START_LR = 0.01  # rate of its first iteration
_C.SOLVER.OPTIMIZING_METHOD = "sgd"  # sgd | adam | adamw | any name in timm.optim.list_optimizers()
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False  # all rates times NUM_SHARDS
_C.SOLVER.CLIP_GRAD_VAL = None  # clip every gradient to this absolute value; None = off
_C.SOLVER.CLIP_GRAD_L2NORM = None  # clip the norm of all gradients; None = off

# ------------------------------------------------------------------------------------------------ the run
_C.NUM_GPUS = 1  # GPUs on this node; 0 = CPU
_C.NUM_PROCS_PER_NODE = 0  # processes on this node; 0 = one per GPU, or one on the CPU
_C.NUM_SHARDS = 1  # nodes
_C.SHARD_ID = 0  # which node this is, from 0
_C.DIST_BACKEND = "nccl"  # nccl | gloo; the CPU always uses gloo
_C.GLOBAL_BATCH_SIZE = 0  # clips per optimizer step over all nodes, by accumulating gradients; 0 = no accumulation
_C.RNG_SEED = 1  # everything random derives from it
_C.OUTPUT_DIR = "."  # checkpoints, logs and results go here
_C.LOG_PERIOD = 10  # iterations between log lines
_C.LOG_MODEL_INFO = True  # log parameters, FLOPs and memory of the model

_C.DATA_LOADER = CN()
_C.DATA_LOADER.NUM_WORKERS = 8  # decoding processes per training process; 0 = decode in the process itself
_C.DATA_LOADER.PIN_MEMORY = True  # page-locked batches, for CUDA
_C.DATA_LOADER.DROP_LAST = True  # leave out the last optimizer step of an epoch where it is not full
_C.DATA_LOADER.PREFETCH_FACTOR = 2  # batches that each worker keeps ready

_C.TENSORBOARD = CN()
_C.TENSORBOARD.ENABLE = False
_C.TENSORBOARD.LOG_DIR = ""  # under OUTPUT_DIR; '' = runs-<dataset>
_C.TENSORBOARD.INPUT_CLIPS = 0  # sample clips shown as GIFs per evaluation
_C.TENSORBOARD.CONFUSION_MATRIX = CN()
_C.TENSORBOARD.CONFUSION_MATRIX.ENABLE = False

_C.WANDB = CN()
_C.WANDB.ENABLE = False  # needs pip install dust-video[wandb]
_C.WANDB.PROJECT = "dust"
_C.WANDB.NAME = ""  # '' = the name of OUTPUT_DIR
_C.WANDB.MODE = "online"  # online | offline | disabled

# ------------------------------------------------------------------------------------------------ the systems
add_timesformer(_C)
add_fusion(_C)
add_cast(_C)
add_keystep(_C)
add_tracks(_C)

#: Keys whose default does not show what they hold: the type of a list's elements, or of a value that may be None.
VALUE_TYPES: dict[str, type] = {
    "IMPORTS": str,
    "TRAIN.HOOKS": str,
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": str,
    "TEST.NUM_TEMPORAL_CLIPS": int,
    "MODEL.CLASS_WEIGHTS": float,
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": float,
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": float,
    "SOLVER.STEPS": float,
    "SOLVER.LRS": float,
    "SOLVER.CLIP_GRAD_VAL": float,
    "SOLVER.CLIP_GRAD_L2NORM": float,
    "TRACKS.FRAME_SIZE": int,
    "TRACKS.TEST_VIEWS": int,
    "TSTL.GROUPS": int,
}

#: Words that a list key also takes.
LIST_WORDS: dict[str, tuple[str, ...]] = {"MODEL.CLASS_WEIGHTS": ("balanced",), "TSTL.GROUPS": ("all",)}


def flatten(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    """All keys of a configuration with their values: ``{"TRAIN.BATCH_SIZE": 64, ...}``."""
    flat: dict[str, object] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def with_values(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Copy a configuration with other values, ``{"TRAIN.BATCH_SIZE": 8, ...}``; the copy is frozen if ``cfg`` is."""
    changed = cfg.clone()
    changed.defrost()
    for name, value in values.items():
        *sections, leaf = name.split(".")
        node = changed
        for section in sections:
            node = node[section]
        node[leaf] = value
    if cfg.is_frozen():
        changed.freeze()
    return changed


#: The keys that dust acts on. Those of other systems (dust/config/foreign.py) are known, but not in here.
OWN_KEYS = frozenset(flatten(_C))

add_foreign_keys(_C)


def get_cfg() -> CfgNode:
    """All keys at their defaults, as a fresh copy that may be changed."""
    return _C.clone()
