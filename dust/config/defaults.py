"""Every key of dust with its facts, in SlowFast's sections and order, and the configuration that they make.

A key that SlowFast or TimeSformer also has keeps their name and default where it means the same here; docs/CONFIG.md
lists the differences, and has a table of all keys with their units.
"""

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from dust.config import cast, clip_moments, fusion, keystep, probe, slowfast, timesformer, tracks, vjepa2
from dust.config.foreign import DATASET_ALIASES, MODEL_ALIASES, foreign_keys
from dust.config.schema import Key, System, gather, section, set_value, tree
from dust.config.values import Folders, Weight
from dust.utils.errors import ConfigError
from dust.utils.text import MAX_CLASSES

#: The systems, one line for each key file.
SYSTEMS: tuple[System, ...] = (
    timesformer.SYSTEM,
    fusion.SYSTEM,
    cast.SYSTEM,
    vjepa2.SYSTEM,
    probe.SYSTEM,
    slowfast.SYSTEM,
    clip_moments.SYSTEM,
    keystep.SYSTEM,
    tracks.SYSTEM,
)

CORE = gather(
    section(
        "",
        TASK=Key("Classification", "the kind of question that the model answers: a registered task",
                 aliases={"": "Classification"}),
        IMPORTS=Key([], "modules (my.package) or files (hooks.py) that are imported first, so that what they register "
                    "can be named", kind=str, affects="nothing"),
    ),
    # -------------------------------------------------------------------------------------------- training
    section(
        "TRAIN", affects="training",
        ENABLE=Key(True, "train", affects="nothing"),
        DATASET=Key("VideoDataset", "a registered dataset class, for training and validation", affects="all",
                    aliases=DATASET_ALIASES),
        BATCH_SIZE=Key(64, "clips per step on one node, over all its GPUs (or processes)", low=1),
        EVAL_PERIOD=Key(10, "validate every so many epochs, and after the last; 0 = never", low=0, affects="nothing"),
        CHECKPOINT_PERIOD=Key(10, "save every so many epochs, before each evaluation and after the last; 0 = only then",
                              low=0, affects="nothing"),
        CHECKPOINT_PERIOD_ITERS=Key(0, "save within an epoch every so many iterations; 0 = only when stopped", low=0,
                                    affects="nothing"),
        AUTO_RESUME=Key(True, "continue from the newest checkpoint in OUTPUT_DIR", affects="nothing"),
        CHECKPOINT_FILE_PATH=Key("", "start from this checkpoint: weights, optimizer and epoch (see FINETUNE)",
                                 stage="weights", affects="nothing"),
        CHECKPOINT_EPOCH_RESET=Key(False, "take only the weights of CHECKPOINT_FILE_PATH, begin at epoch 0"),
        CHECKPOINT_CLEAR_NAME_PATTERN=Key((), "substrings that are cut out of the checkpoint's parameter names",
                                          kind=str),
        CHECKPOINT_KEEP_LAST=Key(0, "keep the newest so many checkpoints of this run; 0 = all", low=0,
                                 affects="nothing"),
        FINETUNE=Key(False, "weights of CHECKPOINT_FILE_PATH, epoch 0; a requeued run resumes all the same"),
        CHECKPOINT_FORMAT=Key("full", "form of a checkpoint", affects="nothing",
                              choices="full (one file) | sharded (a folder to which every process writes its part)"),
        CHECKPOINT_ASYNC=Key(False, "write checkpoints behind the training, from a copy in the CPU's memory",
                             affects="nothing"),
        PARALLEL=Key("ddp", "how several processes train", affects="nothing",
                     choices="ddp (every process holds the model) | fsdp (they share its parameters out, FSDP2)"),
        DDP_DTYPE=Key("float32", "type in which gradients travel between processes, with PARALLEL ddp",
                      choices="float32 | bfloat16 (half the bytes; they are rounded to 8 bits)"),
        MIXED_PRECISION=Key(False, "autocast on forward and loss", affects="all"),
        AMP_DTYPE=Key("bfloat16", "type of that autocast", choices="bfloat16 | float16 (with loss scaling)",
                      affects="all"),
        COMPILE=Key(False, "torch.compile the model"),
        COMPILE_UNIT=Key("model", "what COMPILE compiles as one",
                         choices="model (whole) | blocks (each by itself: those that are alike once, in seconds)"),
        CHANNELS_LAST=Key(False, "channels-last memory format, which pays for convolutions"),
        DETERMINISTIC=Key(False, "the same bits every time on CUDA (slower; CPU runs repeat anyway), or an error that "
                                 "names the operation that cannot"),
        FLOAT32=Key("auto", "how float32 is multiplied on CUDA", affects="all",
                    choices="auto (tf32, with DETERMINISTIC ieee) | ieee (24 bits) | tf32 (11 bits, much faster)"),
        SDPA=Key("flash", "which attention kernels may be used on CUDA", affects="nothing",
                 choices="flash (and efficient) | cudnn (too; not with DETERMINISTIC) | auto (torch's choice)"),
        ON_BAD_CLIP=Key("skip", "a clip that cannot be used in training or validation", choices="skip | raise",
                        affects="nothing"),
        SAVE_BEST=Key(True, "keep the checkpoint with the best validation metric beside the newest",
                      affects="nothing"),
        BEST_METRIC=Key("", "the metric that decides; '' = the task's own (top1_acc, map)"),
        HOOKS=Key([], "registered hooks that hear of every step, evaluation and epoch, in this order", kind=str,
                  affects="nothing"),
        EARLY_STOPPING_PATIENCE=Key(0, "stop after so many validations without improvement; 0 = never", low=0,
                                    affects="nothing"),
    ),
    # -------------------------------------------------------------------------------------------- augmentation
    section(
        "AUG", affects="training",
        ENABLE=Key(False, "the other AUG.* act in training"),
        NUM_SAMPLE=Key(1, "augmented clips per decoded video (repeated augmentation)", low=1),
        COLOR_JITTER=Key(0.4, "strength of brightness, contrast and saturation jitter", low=0, empty=0.0),
        AA_TYPE=Key("rand-m9-mstd0.5-inc1", "RandAugment, one draw for all frames of a clip; '' = none"),
        AA_WHERE=Key("workers", "what computes AA_TYPE, of clips of 1 or 3 channels",
                     choices="workers (by Pillow, before the batch) | device (where the model is, other draws)"),
        LIST=Key([], "augmentations by name, in place of AA_TYPE and COLOR_JITTER", kind=object,
                 values="names, or {name: {argument: value}}"),
        INTERPOLATION=Key("bicubic", "of RandAugment's geometric changes", choices="nearest | bilinear | bicubic"),
        TIME_REVERSAL=Key([], "classes whose training clips are played backwards half of the time: a name stays the "
                          "class it is, {a: b} change places; [] = none", kind=object,
                          values="names of classes, or pairs: [{open: close}, wait]"),
        RE_PROB=Key(0.25, "chance of random erasing", low=0, high=1),
        RE_MODE=Key("pixel", "what erased boxes are filled with", choices="pixel | rand | const"),
        RE_COUNT=Key(1, "erased boxes per clip", low=1),
        RE_NOISE=Key("device", "where the noise of erased boxes is drawn",
                     choices="device (where the model is) | cpu (the same numbers on a GPU, for which it waits)"),
    ),
    section(
        "MIXUP", affects="training",
        ENABLE=Key(False, "MixUp and CutMix on the batch"),
        ALPHA=Key(0.8, "MixUp's Beta(alpha, alpha); 0 = no MixUp", low=0),
        CUTMIX_ALPHA=Key(1.0, "CutMix's Beta(alpha, alpha); 0 = no CutMix", low=0),
        PROB=Key(1.0, "chance that a batch is mixed", low=0, high=1),
        SWITCH_PROB=Key(0.5, "chance that a mixed batch gets CutMix instead of MixUp, where both are on",
                        low=0, high=1),
        LABEL_SMOOTH_VALUE=Key(0.1, "smoothing of the mixed targets", low=0, high=1),
    ),
    # -------------------------------------------------------------------------------------------- testing
    section(
        "TEST", affects="nothing",
        ENABLE=Key(True, "test, after training if that is on too"),
        DATASET=Key("VideoDataset", "a registered dataset class", affects="features", aliases=DATASET_ALIASES),
        BATCH_SIZE=Key(8, "views that run through the model at once", low=1),
        CHECKPOINT_FILE_PATH=Key("", "weights to test; '' = those of OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH",
                                 stage="weights", affects="nothing"),
        CHECKPOINT=Key("auto", "which checkpoint of OUTPUT_DIR; later stages that name this one take the same",
                       choices="auto (best where EARLY_STOPPING_PATIENCE > 0, else last) | last | best",
                       affects="features"),
        SPLIT=Key("test", "whose clips are measured, with TEST's views and metrics", choices="test | val"),
        NUM_ENSEMBLE_VIEWS=Key(10, "clips over time per video", values="at least 1, or -1: 1, 3, 5, 7 and 10 in turn"),
        NUM_SPATIAL_CROPS=Key(3, "crops per clip", values="1 (centre) or 3 (left, centre, right)"),
        NUM_TEMPORAL_CLIPS=Key([], "several NUM_ENSEMBLE_VIEWS to test in turn, e.g. [1, 5, 10]; [] = only that one",
                               kind=int),
        ON_BAD_CLIP=Key("raise", "a clip that cannot be used in test or extraction",
                        choices="raise (once all others are done) | skip"),
        METRICS=Key([], "registered metrics that are measured beside the task's own", kind=str),
        VIEW_METRICS=Key(False, "also measure every view by itself (windows of a series, clips and crops of a video): "
                         "view_top1_acc, view_macro_f1"),
        PREDICTIONS_TOP_K=Key(0, "predictions.csv holds the so many most probable classes of a clip; 0 = the "
                              "probability of every class", low=0),
        CALIBRATE=Key(False, "fit a temperature on val, by TEST's views, into results/calibration.json, which "
                             "--calibrated applies"),
        REPORT=Key(True, "write results/report.html after a test of up to 200,000 clips; `dust report` adds "
                         "playing clips"),
        ENSEMBLE_SPACE=Key("logits", "what DATA.ENSEMBLE_METHOD sums or compares", choices="logits | probs"),
    ),
    section(
        "PREDICT", affects="nothing",
        ENABLE=Key(False, "when all else is done, ask the model about SOURCES, as `dust predict` does"),
        SOURCES=Key([], "files, folders, patterns, csv lists; or one camera (camera:0) or stream (rtsp://)", kind=str),
        OUTPUT=Key("", "folder of the predictions; '' = predictions in OUTPUT_DIR. What is there is replaced"),
        THRESHOLD=Key(0.0, "below this probability the answer is 'none of these'", low=0, high=1),
        TOP=Key(2, "so many of the likeliest classes are shown", low=1),
        TIMELINE=Key(False, "windows and segments of long videos"),
        OVERLAY=Key(False, "write videos with label, bars and timeline burnt in"),
        WINDOW=Key(0.0, "length of a window in seconds; 0 = the training's", low=0),
        STRIDE=Key(0.0, "seconds from one window to the next; 0 = half a window", low=0),
        HYSTERESIS=Key(0.0, "by how much a new label must be likelier", low=0, high=1),
        MIN_LENGTH=Key(0.0, "segments below so many seconds are merged", low=0),
    ),
    section(
        "BN", affects="training",
        WEIGHT_DECAY=Key(0.0, "weight decay of batch-norm parameters", low=0),
        USE_PRECISE_STATS=Key(False, "before an evaluation or a checkpoint, batch norms get the statistics of training "
                              "batches under the weights of that moment"),
        NUM_BATCHES_PRECISE=Key(200, "of how many batches, or of all of an epoch where it has fewer", low=1),
    ),
    # -------------------------------------------------------------------------------------------- model
    section(
        "MODEL",
        MODEL_NAME=Key("TimeSformer", "a registered model class", aliases=MODEL_ALIASES),
        ARCH=Key("vit", "the variant of a model that has several; vit = its first",
                 values="slow, c2d, i3d, slow_c2d, slow_i3d of ResNet; r3d_18, mc3_18, r2plus1d_18, s3d of "
                 "TorchvisionVideo; of HuggingFaceVideo a folder with a config.json, or vivit, timesformer, ..."),
        NUM_CLASSES=Key(400, "number of classes; -1 = as many as the data has, 0 = no classifier", low=-1,
                        high=MAX_CLASSES, affects="training"),
        PRETRAINED=Key("", "weights that the model starts from: a file in any layout that dust knows, or a folder of "
                       "Hugging Face's", stage="weights", affects="nothing"),
        WEIGHTS=Key("auto", "of a file with raw and averaged (EMA) weights; auto: averaged where a run with "
                    "EMA.ENABLED tests or extracts, else raw", choices="auto | raw | averaged", affects="features"),
        EXPECT_PRETRAINED=Key(False, "the recipe is meant for pre-trained weights: a training that begins from random "
                              "ones warns", affects="nothing"),
        POS_EMBED_RESIZE=Key("official", "positions of a file made for another size", choices="official | bicubic"),
        DROPOUT_RATE=Key(0.5, "dropout before the head, of the convolutional models and MViT", low=0, below=1),
        FC_INIT_STD=Key(0.01, "spread of a convolutional network's first weights of the head", above=0),
        ACT_CHECKPOINT=Key(False, "recompute activations in the backward: less memory, more time"),
        LOSS_FUNC=Key("cross_entropy", "the loss", aliases={"bce": "bce_logit"},
                      choices="cross_entropy | soft_cross_entropy | bce_logit | focal (of softmax, with MULTI_LABEL of "
                      "sigmoids)"),
        FOCAL_GAMMA=Key(2.0, "of focal: how much less a clip counts that is answered well; 0 = cross-entropy", low=0),
        FOCAL_ALPHA=Key(0.25, "of focal with MULTI_LABEL: weight of a class that is there, 1 less that of one that is "
                        "not; -1 = both 1", values="0 to 1, or -1"),
        LABEL_SMOOTHING=Key(0.0, "share of a hard target that is spread over all classes", low=0, below=1),
        CLASS_WEIGHTS=Key([], "one factor per class, or of the classes that are named, 1 for others: [{cut: 2}]; "
                          "[] = none", kind=Weight, words=("balanced",)),
    ),
    section(
        "EMA",
        ENABLED=Key(False, "keep a moving average of the weights; it is what validation, test and 'best' use"),
        DECAY=Key(0.9999, "share of the old average kept per step", low=0, below=1, affects="training"),
        WARMUP=Key(False, "begin with a smaller decay, so that a short run's average is not its start",
                   affects="training"),
    ),
    # -------------------------------------------------------------------------------------------- data
    section(
        "DATA",
        PATH_TO_DATA_DIR=Key("", "folder with train.csv, val.csv, test.csv (or what FORMAT says); several as a list, "
                             "[a, b], whose classes are merged by name", kind=Folders, affects="nothing"),
        DATASET_WEIGHTS=Key([], "of several data folders, each one's share of the training clips; [] = every clip once "
                            "an epoch", kind=float, affects="training"),
        FORMAT=Key("auto", "layout of that folder, as DATASET.md shows them",
                   choices="auto | csv | folder | ssv2 | ucf101 | hmdb51 | charades | shards | activitynet | "
                           "kinetics | epic"),
        ANNOTATIONS=Key("", "of the last three formats: the annotation file, or a folder of them, in the data folder "
                        "or elsewhere; '' = the data folder"),
        EPIC_LABEL=Key("action", "what of an annotation of EPIC-KITCHENS is the class, with FORMAT epic",
                       choices="action (verb and noun) | verb | noun"),
        MODALITIES=Key(["video"], "what FusedDataset gives the model", choices="video | series | video_features"),
        PATH_LABEL_SEPARATOR=Key("", "between path and label in a csv; '' = found out (tab, comma, last space)"),
        PATH_PREFIX=Key("", "put before relative paths of the lists", affects="nothing"),
        CLASS_LIST=Key("", "file with one class name per line, in the order of the logits; '' = from the data"),
        GROUP_COLUMN=Key("", "column of the lists that says what belongs together (subject, recording, camera), to be "
                         "in one split only; '' = group, if there is one", affects="nothing"),
        CORRECTIONS=Key("", "csv of id,action,label[,split] (keep | drop | relabel), applied when lists are read; "
                        "`dust check --fix FILE.csv` writes one"),
        SEGMENT_UNIT=Key("seconds", "what the columns start and end of a csv count: a clip is [start, end) of its file",
                         choices="seconds (from the first frame's time) | frames (as they are decoded, from 0)"),
        SOFT_LABELS=Key(False, "several people's labels: wave:0.7|push:0.3 in a cell, or a row for each of them; "
                        "training takes the shares, a test measures by the largest"),
        BACKGROUND=Key("", "a class that is made of the gaps between the segments of a video, also before the first "
                       "and behind the last; '' = none"),
        BACKGROUND_RATIO=Key(1.0, "its clips for each segment of another class, drawn from the gaps; 0 = all", low=0),
        BACKGROUND_MIN_LENGTH=Key(1.0, "shortest gap, and shortest clip of one, seconds", above=0),
        BACKGROUND_SEED=Key(0, "of that draw, which is the same whatever RNG_SEED is", low=0),
        EXTRA_COLUMNS=Key([], "columns of the lists that are not read, and of which nothing is to be said", kind=str,
                          affects="nothing"),
        SPLIT_NUMBER=Key(1, "which of the official splits of UCF101 and HMDB51", low=1, high=3),
        CHECK_FILES=Key(True, "look whether every listed file exists before the run begins", affects="nothing"),
        MAX_BAD_FRACTION=Key(0.05, "stop when more of an epoch's clips than this share cannot be read", low=0, high=1,
                             affects="nothing"),
        INDEX_CACHE=Key("", "folder that keeps the frame indices of videos between runs, and the columns of long lists "
                            "that cannot be written beside them; '' = only in memory", affects="nothing"),
        SHARD_CACHE=Key("", "folder that keeps what was fetched of shards with an address, for all processes of a "
                            "node; '' = shards/ below $DUST_HOME (~/.cache/dust)", affects="nothing"),
        SHARD_CACHE_GB=Key(20.0, "what it may hold, gigabytes; clips that were not used for longest go first", above=0,
                           below=1e9, affects="nothing"),
        NUM_FRAMES=Key(8, "frames per clip", low=1),
        CLIPS_PER_VIEW=Key(1, "clips of NUM_FRAMES frames that make a view together, one of each of as many parts of "
                           "the video; VJEPA2 joins their tokens", low=1),
        SAMPLING_RATE=Key(8, "step between a clip's frames, in frames at TARGET_FPS", low=1),
        TARGET_FPS=Key(30, "frames per second that SAMPLING_RATE counts in", low=1),
        SAMPLING=Key("", "which frames make a clip",
                     choices="'' (the dataset's own) | dense | segments | whole_clip | videomae_dense | videomae_tsn | "
                             "vjepa"),
        USE_OFFSET_SAMPLING=Key(False, "test clips spread to the very end; one clip = the centre, not the start"),
        TRAIN_JITTER_FPS=Key(0.0, "the clip's span varies by up to this many frames per second", low=0),
        INPUT_CHANNEL_NUM=Key([3], "channels of a clip (SlowFast's [3, 3] means the same here)"),
        MEAN=Key([0.45, 0.45, 0.45], "mean of R, G, B in 0..1, which is subtracted", length=3),
        STD=Key([0.225, 0.225, 0.225], "spread of R, G, B in 0..1, by which they are divided", length=3),
        SUBTRACT_CLIP_MEAN=Key(False, "take away each pixel's mean over the frames of its clip: for cameras that stand "
                               "still, so that only what moves is seen"),
        TRAIN_JITTER_SCALES=Key([256, 320], "range of the short side before the random crop, pixels", length=2),
        TRAIN_JITTER_SCALES_RELATIVE=Key(
            [], "range of the crop's area, e.g. [0.08, 1.0]: random-resized crop; [] = off", kind=float),
        TRAIN_JITTER_ASPECT_RELATIVE=Key([], "range of that crop's aspect, e.g. [0.75, 1.3333]", kind=float),
        INV_UNIFORM_SAMPLE=Key(False, "draw 1 / short side uniformly instead of the short side"),
        RANDOM_FLIP=Key(True, "mirror half of the training clips: False where left and right differ in meaning"),
        TRAIN_CROP_SIZE=Key(224, "side of training and validation clips, pixels", low=1),
        TEST_CROP_SIZE=Key(256, "side of test clips, pixels", low=1, affects="features"),
        DECODER=Key("pyav", "what decodes video files", values="pyav, torchcodec, or a registered reader"),
        FRAME_PATTERN=Key("", "which pictures of a folder are its frames, where there are several kinds: img_*.jpg"),
        RESIZE=Key("swscale", "who scales the frames",
                   choices="swscale (while decoding) | torch (after it; SlowFast's arithmetic)"),
        PIXEL_ASPECT=Key("stored", "pixels that are not square: as the file stores them, or stretched as it is shown",
                         choices="stored (as published protocols read them) | displayed"),
        REVERSE_INPUT_CHANNEL=Key(False, "BGR instead of RGB"),
        MULTI_LABEL=Key(False, "several labels per clip"),
        ENSEMBLE_METHOD=Key("sum", "how the answers to a video's views are joined", choices="sum | max",
                            affects="features"),
    ),
    # -------------------------------------------------------------------------------------------- optimization
    section(
        "SOLVER", affects="training",
        BASE_LR=Key(0.1, "the learning rate", low=0),
        LR_POLICY=Key("cosine", "the schedule of the learning rate",
                      choices="cosine | cosine_restart (of T_0) | steps_with_relative_lrs | videomae_cosine | "
                      "dust_linear_cosine"),
        T_0=Key(0.0, "cosine_restart: epochs from one start to the next", low=0),
        COSINE_END_LR=Key(0.0, "where the cosine ends", low=0),
        COSINE_AFTER_WARMUP=Key(False, "the (first) cosine begins where the warm-up ends"),
        STEPS=Key([], "epochs at which LRS change, the first 0", kind=float),
        LRS=Key([], "factors of BASE_LR, one per step", kind=float),
        MAX_EPOCH=Key(300, "number of epochs", low=1, affects="nothing"),
        MOMENTUM=Key(0.9, "of SGD", low=0, below=1),
        DAMPENING=Key(0.0, "of SGD's momentum", low=0, high=1),
        NESTEROV=Key(True, "Nesterov's momentum, of SGD"),
        BETAS=Key((0.9, 0.999), "of Adam and AdamW", length=2),
        WEIGHT_DECAY=Key(1e-4, "of all parameters but batch norms' (and see ZERO_WD_1D_PARAM)", low=0),
        ZERO_WD_1D_PARAM=Key(False, "no decay of biases and other 1-D parameters"),
        LAYER_DECAY=Key(1.0, "each layer below the head learns at this share of the next one's rate", above=0, high=1),
        BACKBONE_LR_SCALE=Key(1.0, "everything but the classifier learns at this share of the rate", low=0, high=1),
        WARMUP=Key("linear", "the form of the warm-up", choices="linear"),
        WARMUP_EPOCHS=Key(0.0, "length of the warm-up; 0 = none", low=0),
        WARMUP_START_LR=Key(0.01, "rate of its first iteration", low=0),
        OPTIMIZING_METHOD=Key("sgd", "sgd, adam, adamw, or any name in timm.optim.list_optimizers()",
                              aliases={"mt_adamw": "adamw"}),
        BASE_LR_SCALE_NUM_SHARDS=Key(False, "all rates times NUM_SHARDS"),
        CLIP_GRAD_VAL=Key(None, "clip every gradient to this absolute value; None = off", above=0, kind=float),
        CLIP_GRAD_L2NORM=Key(None, "clip the norm of all gradients; None = off", above=0, kind=float),
    ),
    # -------------------------------------------------------------------------------------------- the run
    section(
        "", affects="nothing",
        NUM_GPUS=Key(1, "GPUs on this node; 0 = CPU", low=0),
        NUM_PROCS_PER_NODE=Key(0, "processes on this node; 0 = one per GPU, or one on the CPU", low=0),
        NUM_SHARDS=Key(1, "nodes", low=1),
        SHARD_ID=Key(0, "which node this is, from 0", low=0),
        DIST_BACKEND=Key("nccl", "how processes exchange what is on GPUs; the CPU always uses gloo",
                         choices="nccl | gloo"),
        DIST_TIMEOUT=Key(1800.0, "seconds that a process waits for the others in one exchange", above=0),
        GLOBAL_BATCH_SIZE=Key(0, "clips per optimizer step over all nodes, by accumulating gradients; 0 = off", low=0,
                              affects="training"),
        RNG_SEED=Key(1, "everything random derives from it", low=0, affects="training"),
        OUTPUT_DIR=Key(".", "checkpoints, logs and results go here"),
        LOG_PERIOD=Key(10, "iterations between log lines", low=1),
        LOG_MODEL_INFO=Key(True, "log parameters, FLOPs and memory of the model"),
    ),
    # -------------------------------------------------------------------------------------------- many runs
    section(
        "TUNE", affects="nothing",
        SPACE=Key([], "the keys that `dust tune` varies", kind=object,
                  values="{KEY: [value, value]} or {KEY: {low: , high: , log: , step: }}"),
        TRIALS=Key(20, "trials of the study, pruned and failed ones too; a grid ends with its last point",
                   low=1),
        JOBS=Key(1, "trials at the same time", low=1),
        SAMPLER=Key("tpe", "how values are drawn; trial n always draws from RNG_SEED and n",
                    choices="tpe (from what earlier trials gave) | random | grid (every point, in order)"),
        METRIC=Key("top1_acc", "what counts: a metric of results/test.json"),
        DIRECTION=Key("maximize", "which way is better", choices="maximize | minimize"),
        SPLIT=Key("val", "whose clips a trial is tested on, by TEST's views; the test split is for the end",
                  choices="val | test"),
        PRUNER=Key("", "ends a trial after a validation that gives little hope",
                   choices="'' (nothing does) | median (its best so far is worse than the median of the others there)"),
        PRUNER_STARTUP=Key(5, "complete trials before the median counts", low=0),
        PRUNER_WARMUP=Key(0, "first epochs of a trial, after which it is not pruned", low=0),
        ON_ERROR=Key("stop", "where a trial ends with an error (one that diverges has failed in any case)",
                     choices="stop (and take it up again with the next start) | fail (and continue with the next one)"),
    ),
    section(
        "DATA_LOADER", affects="nothing",
        NUM_WORKERS=Key(8, "decoding processes per training process; 0 = decode in the process itself", low=0),
        PIN_MEMORY=Key(True, "page-locked batches, for CUDA"),
        SAMPLER=Key("shuffle", "which clips make an epoch of training", affects="training",
                    choices="shuffle (each once) | balanced (drawn again and again, classes equally often) | "
                            "blocks (each once, neighbours of the list at about the same time: for shards that are far "
                            "away)"),
        BLOCK_CLIPS=Key(256, "of SAMPLER blocks: clips that stand one behind the other in the list and stay together",
                        low=1, affects="training"),
        BLOCKS_MIXED=Key(16, "of SAMPLER blocks: blocks whose clips are shuffled together", low=1, affects="training"),
        DROP_LAST=Key(True, "leave out the last optimizer step of an epoch where it is not full", affects="training"),
        PREFETCH_FACTOR=Key(2, "batches that each worker keeps ready", low=1),
        TIMEOUT=Key(600, "seconds after which a batch of the workers is given up and the run saves and ends; 0 = never",
                    low=0),
    ),
    section(
        "TENSORBOARD", affects="nothing",
        ENABLE=Key(False, "write TensorBoard's event files"),
        LOG_DIR=Key("", "their folder under OUTPUT_DIR; '' = runs-<dataset>"),
        INPUT_CLIPS=Key(0, "sample clips shown as GIFs per evaluation", low=0),
    ),
    section("TENSORBOARD.CONFUSION_MATRIX", affects="nothing", ENABLE=Key(False, "draw the confusion matrix")),
    section(
        "WANDB", affects="nothing",
        ENABLE=Key(False, "log to Weights & Biases; needs pip install dust-video[wandb]"),
        PROJECT=Key("dust", "the project there"),
        NAME=Key("", "the run's name there; '' = the name of OUTPUT_DIR"),
        MODE=Key("online", "whether it is sent at once, by hand, or never", choices="online | offline | disabled"),
    ),
    section(
        "MLFLOW", affects="nothing",
        ENABLE=Key(False, "log to MLflow; needs pip install dust-video[mlflow]"),
        TRACKING_URI=Key("", "address or folder of its store; '' = as MLflow's environment says"),
        EXPERIMENT=Key("dust", "the experiment there"),
        NAME=Key("", "the run's name there; '' = the name of OUTPUT_DIR"),
    ),
)  # fmt: skip

OWN = gather(CORE, *(system.keys for system in SYSTEMS))
#: The facts of every key by its whole name. Those of other systems' (dust/config/foreign.py) stand behind ours.
KEYS: Mapping[str, Key] = gather(OWN, foreign_keys())
#: The keys that dust acts on.
OWN_KEYS = frozenset(OWN)
#: Names of the models that are ours.
OUR_MODELS = frozenset(model for system in SYSTEMS for model in system.models)

_C = tree(KEYS)


def get_cfg() -> CfgNode:
    """Return all keys at their defaults, as a fresh copy that may be changed."""
    return _C.clone()


def flatten(cfg: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Return all keys of a configuration, or of nested dicts, with their values: ``{"TRAIN.BATCH_SIZE": 64, ...}``."""
    flat: dict[str, object] = {}
    for name, value in cfg.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def with_values(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Copy a configuration with other values, ``{"TRAIN.BATCH_SIZE": 8, ...}``; the copy is frozen if ``cfg`` is.

    The only way in which a configuration changes after it was loaded. Nothing is checked but that the keys exist.

    Raises:
        ConfigError: a key that ``cfg`` does not have.
    """
    unknown = sorted(values.keys() - flatten(cfg).keys())
    if unknown:
        raise ConfigError(f"the configuration has no {', '.join(unknown)}")
    changed = cfg.clone()
    changed.defrost()
    for name, value in values.items():
        set_value(changed, name, value)
    if cfg.is_frozen():
        changed.freeze()
    return changed
