"""Keys of SlowFast and TimeSformer for features that dust lacks, and names that mean something of ours.

The keys stay in the configuration with SlowFast's defaults, so that foreign YAMLs load and a SlowFast user's own model
finds what it reads. What happens to a value other than the default stands in three tables:

- ``REFUSED``: it asks for something that dust would silently not do; an error names the way out.
- ``REFUSED_FOR_OURS``: likewise, but a model of the user's own may read the key itself.
- everything else here has no effect; a note says so.
"""

from typing import Any

from dust.config import slowfast
from dust.config.schema import Key

INF = float("inf")
PCA_EIGVAL = [0.225, 0.224, 0.229]
PCA_EIGVEC = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
SHORT = 0.5**0.5

#: Key -> default, by section. Section names may be dotted. (SlowFast's list of common AVA classes is left out.)
DEFAULTS: dict[str, dict[str, Any]] = {
    "CONTRASTIVE": {
        "T": 0.07, "DIM": 128, "LENGTH": 239975, "QUEUE_LEN": 65536, "MOMENTUM": 0.5, "MOMENTUM_ANNEALING": False,
        "TYPE": "mem", "INTERP_MEMORY": False, "MEM_TYPE": "1d", "NUM_CLASSES_DOWNSTREAM": 400, "NUM_MLP_LAYERS": 1,
        "MLP_DIM": 2048, "BN_MLP": False, "BN_SYNC_MLP": False, "LOCAL_SHUFFLE_BN": True,
        "MOCO_MULTI_VIEW_QUEUE": False, "DELTA_CLIPS_MIN": -INF, "DELTA_CLIPS_MAX": INF, "PREDICTOR_DEPTHS": [],
        "SEQUENTIAL": False, "SIMCLR_DIST_ON": True, "SWAV_QEUE_LEN": 0, "KNN_ON": True,
    },
    "BN": {"NORM_TYPE": "batchnorm", "NUM_SPLITS": 1, "NUM_SYNC_DEVICES": 1, "GLOBAL_SYNC": False},
    "TRAIN": {
        "KILL_LOSS_EXPLOSION_FACTOR": 0.0, "CHECKPOINT_TYPE": "pytorch", "CHECKPOINT_INFLATE": False,
        "CHECKPOINT_IN_INIT": False,
    },
    "AUG": {
        "RE_SPLIT": False, "GEN_MASK_LOADER": False, "MASK_TUBE": False, "MASK_FRAMES": False,
        "MASK_WINDOW_SIZE": [8, 7, 7], "MASK_RATIO": 0.0, "MAX_MASK_PATCHES_PER_BLOCK": None,
    },
    "VIS_MASK": {"ENABLE": False},
    "MIXUP": {"ENABLED": False, "CUTMIX_MINMAX": None, "MODE": "batch"},
    "TEST": {"CHECKPOINT_TYPE": "pytorch", "SAVE_RESULTS_PATH": ""},
    "PREFETCH": {"NUM_LOADERS": 1},
    "RESNET": {"INPLACE_RELU": True, "ZERO_INIT_FINAL_CONV": False},
    "MODEL": {
        "SINGLE_PATHWAY_ARCH": ["2d", "c2d", "i3d", "slow", "x3d", "mvit", "maskmvit"],
        "MULTI_PATHWAY_ARCH": ["slowfast"], "DROPCONNECT_RATE": 0.0, "HEAD_ACT": "softmax", "DETACH_FINAL_FC": False,
        "FROZEN_BN": False, "FP16_ALLREDUCE": False,
    },
    "MVIT": {
        "MODE": "conv", "POOL_FIRST": False, "PATCH_2D": False, "LAYER_SCALE_INIT_VALUE": 0.0, "NORM": "layernorm",
        "NORM_STEM": False, "DROPOUT_RATE": 0.0, "SEPARATE_QKV": False, "USE_FIXED_SINCOS_POS": False,
    },
    "MVIT.REV": {
        "ENABLE": False, "RESPATH_FUSE": "concat", "BUFFER_LAYERS": [], "RES_PATH": "conv", "PRE_Q_FUSION": "avg",
    },
    "MASK": {
        "ENABLE": False, "MAE_ON": False, "MAE_RND_MASK": False, "PER_FRAME_MASKING": False,
        "TIME_STRIDE_LOSS": True, "NORM_PRED_PIXEL": True, "SCALE_INIT_BY_DEPTH": False, "DECODER_EMBED_DIM": 512,
        "DECODER_SEP_POS_EMBED": False, "DEC_KV_KERNEL": [], "DEC_KV_STRIDE": [], "PRETRAIN_DEPTH": [15],
        "HEAD_TYPE": "separate", "DECODER_DEPTH": 0, "PRED_HOG": False,
    },
    "DATA": {
        "TRAIN_PCA_EIGVAL": PCA_EIGVAL, "TRAIN_PCA_EIGVEC": PCA_EIGVEC, "PATH_TO_PRELOAD_IMDB": "",
        "TRAIN_JITTER_MOTION_SHIFT": False, "DECODING_BACKEND": "pyav",
        "DECODING_SHORT_SIZE": 256, "TRAIN_CROP_NUM_TEMPORAL": 1, "TRAIN_CROP_NUM_SPATIAL": 1,
        "COLOR_RND_GRAYSCALE": 0.0, "LOADER_CHUNK_SIZE": 0, "LOADER_CHUNK_OVERALL_SIZE": 0, "SKIP_ROWS": 0,
        "TIME_DIFF_PROB": 0.0, "SSL_COLOR_JITTER": False, "SSL_COLOR_BRI_CON_SAT": [0.4, 0.4, 0.4],
        "SSL_COLOR_HUE": 0.1, "SSL_MOCOV2_AUG": False, "SSL_BLUR_SIGMA_MIN": [0.0, 0.1],
        "SSL_BLUR_SIGMA_MAX": [0.0, 2.0], "IN22K_TRAINVAL": False, "IN22k_VAL_IN1K": "", "IN_VAL_CROP_RATIO": 0.875,
        "DUMMY_LOAD": False, "CROP_SIZE": 224, "TEMPORAL_EXTENT": 8, "DEIT_TRANSFORMS": False, "COLOR_JITTER": 0.0,
        "AUTO_AUGMENT": "", "RE_PROB": 0.0,
    },
    "SOLVER": {"GAMMA": 0.1, "STEP_SIZE": 1, "WARMUP_FACTOR": 0.1, "LARS_ON": False},
    "BENCHMARK": {"NUM_EPOCHS": 5, "LOG_PERIOD": 100, "SHUFFLE": True},
    "DATA_LOADER": {"ENABLE_MULTI_THREAD_DECODE": False},
    "DETECTION": {"ENABLE": False, "ALIGNED": True, "SPATIAL_SCALE_FACTOR": 16, "ROI_XFORM_RESOLUTION": 7},
    "AVA": {
        "FRAME_DIR": "", "FRAME_LIST_DIR": "", "ANNOTATION_DIR": "", "TRAIN_LISTS": ["train.csv"],
        "TEST_LISTS": ["val.csv"], "TRAIN_GT_BOX_LISTS": ["ava_train_v2.2.csv"], "TRAIN_PREDICT_BOX_LISTS": [],
        "TEST_PREDICT_BOX_LISTS": ["ava_val_predicted_boxes.csv"], "DETECTION_SCORE_THRESH": 0.9, "BGR": False,
        "TRAIN_USE_COLOR_AUGMENTATION": False, "TRAIN_PCA_JITTER_ONLY": True, "TEST_FORCE_FLIP": False,
        "FULL_TEST_ON_VAL": False, "LABEL_MAP_FILE": "ava_action_list_v2.2_for_activitynet_2019.pbtxt",
        "EXCLUSION_FILE": "ava_val_excluded_timestamps_v2.2.csv", "GROUNDTRUTH_FILE": "ava_val_v2.2.csv",
        "IMG_PROC_BACKEND": "cv2", "TRAIN_PCA_EIGVAL": PCA_EIGVAL, "TRAIN_PCA_EIGVEC": PCA_EIGVEC,
    },
    "MULTIGRID": {
        "EPOCH_FACTOR": 1.5, "SHORT_CYCLE": False, "SHORT_CYCLE_FACTORS": [0.5, SHORT], "LONG_CYCLE": False,
        "LONG_CYCLE_FACTORS": [[0.25, SHORT], [0.5, SHORT], [0.5, 1], [1, 1]], "BN_BASE_SIZE": 8, "EVAL_FREQ": 3,
        "LONG_CYCLE_SAMPLING_RATE": 0, "DEFAULT_B": 0, "DEFAULT_T": 0, "DEFAULT_S": 0,
    },
    "TENSORBOARD": {"PREDICTIONS_PATH": "", "CLASS_NAMES_PATH": "", "CATEGORIES_PATH": ""},
    "TENSORBOARD.CONFUSION_MATRIX": {"FIGSIZE": [8, 8], "SUBSET_PATH": ""},
    "TENSORBOARD.HISTOGRAM": {"ENABLE": False, "SUBSET_PATH": "", "TOPK": 10, "FIGSIZE": [8, 8]},
    "TENSORBOARD.MODEL_VIS": {
        "ENABLE": False, "MODEL_WEIGHTS": False, "ACTIVATIONS": False, "INPUT_VIDEO": False, "LAYER_LIST": [],
        "TOPK_PREDS": 1, "COLORMAP": "Pastel2",
    },
    "TENSORBOARD.MODEL_VIS.GRAD_CAM": {
        "ENABLE": True, "LAYER_LIST": [], "USE_TRUE_LABEL": False, "COLORMAP": "viridis",
    },
    "TENSORBOARD.WRONG_PRED_VIS": {"ENABLE": False, "TAG": "Incorrectly classified videos.", "SUBSET_PATH": ""},
    "DEMO": {
        "ENABLE": False, "LABEL_FILE_PATH": "", "WEBCAM": -1, "INPUT_VIDEO": "", "DISPLAY_WIDTH": 0,
        "DISPLAY_HEIGHT": 0, "DETECTRON2_CFG": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        "DETECTRON2_WEIGHTS":
            "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
        "DETECTRON2_THRESH": 0.9, "BUFFER_SIZE": 0, "OUTPUT_FILE": "", "OUTPUT_FPS": -1, "INPUT_FORMAT": "BGR",
        "CLIP_VIS_SIZE": 10, "NUM_VIS_INSTANCES": 2, "PREDS_BOXES": "", "THREAD_ENABLE": False, "NUM_CLIPS_SKIP": 0,
        "GT_BOXES": "", "STARTING_SECOND": 900, "FPS": 30, "VIS_MODE": "thres", "COMMON_CLASS_THRES": 0.7,
        "UNCOMMON_CLASS_THRES": 0.3, "COMMON_CLASS_NAMES": [], "SLOWMO": 1,
    },
}  # fmt: skip

_MASKED = "masked pre-training is not in this release; remove the key"
_VIS = "dust draws no such pictures; remove the key"
_SSL = "this self-supervised augmentation is not in dust; remove the key"

#: What asks for something that dust does not do -> what dust says about it.
REFUSED: dict[str, str] = {
    "AUG.GEN_MASK_LOADER": _MASKED,
    "AUG.RE_SPLIT": "dust erases in the whole batch; remove the key",
    "DATA.AUTO_AUGMENT": "no code stood behind this key; use AUG.ENABLE True and AUG.AA_TYPE",
    "DATA.COLOR_JITTER": "no code stood behind this key; use AUG.ENABLE True and AUG.COLOR_JITTER",
    "DATA.COLOR_RND_GRAYSCALE": _SSL,
    "DATA.DEIT_TRANSFORMS": "no code stood behind this key; use AUG.ENABLE True",
    "DATA.DUMMY_LOAD": "training on one cached batch is not in dust; use `dust benchmark` for speed tests",
    "DATA.IN22K_TRAINVAL": "training on images is not in dust; remove the key",
    "DATA.IN22k_VAL_IN1K": "training on images is not in dust; remove the key",
    "DATA.LOADER_CHUNK_OVERALL_SIZE": "dust reads a csv whole (10,000 rows take well under a second); remove the key",
    "DATA.LOADER_CHUNK_SIZE": "dust reads a csv whole (10,000 rows take well under a second); remove the key",
    "DATA.PATH_TO_PRELOAD_IMDB": "training on images is not in dust; remove the key",
    "DATA.RE_PROB": "no code stood behind this key; use AUG.ENABLE True and AUG.RE_PROB",
    "DATA.SKIP_ROWS": "dust reads every row of a csv and finds a header by itself; remove the key",
    "DATA.SSL_COLOR_JITTER": _SSL,
    "DATA.SSL_MOCOV2_AUG": _SSL,
    "DATA.TIME_DIFF_PROB": _SSL,
    "DATA.TRAIN_CROP_NUM_SPATIAL": "dust takes one crop per training clip; AUG.NUM_SAMPLE gives several clips",
    "DATA.TRAIN_CROP_NUM_TEMPORAL": "dust takes one clip per training sample; AUG.NUM_SAMPLE gives several",
    "DATA.TRAIN_JITTER_MOTION_SHIFT": "motion-shift jitter is not in dust; remove the key",
    "DEMO.PREDS_BOXES": "detection is not in dust; remove the key",
    "DEMO.GT_BOXES": "detection is not in dust; remove the key",
    "DETECTION.ENABLE": "detection (AVA) is not in dust; remove the key",
    "MASK.ENABLE": _MASKED,
    "MIXUP.CUTMIX_MINMAX": "dust draws CutMix boxes from MIXUP.CUTMIX_ALPHA; remove the key",
    "MIXUP.MODE": "dust mixes whole batches (MIXUP.MODE batch)",
    "MODEL.FP16_ALLREDUCE": "compressed gradient exchange is not in dust; remove the key",
    "MULTIGRID.LONG_CYCLE": "multigrid training is not in dust; remove the key",
    "MULTIGRID.SHORT_CYCLE": "multigrid training is not in dust; remove the key",
    "SOLVER.LARS_ON": "use SOLVER.OPTIMIZING_METHOD lars instead",
    "TENSORBOARD.CATEGORIES_PATH": _VIS,
    "TENSORBOARD.CONFUSION_MATRIX.SUBSET_PATH": "dust draws the matrix of all classes; remove the key",
    "TENSORBOARD.HISTOGRAM.ENABLE": _VIS,
    "TENSORBOARD.MODEL_VIS.ENABLE": _VIS,
    "TENSORBOARD.PREDICTIONS_PATH": _VIS,
    "TENSORBOARD.WRONG_PRED_VIS.ENABLE": _VIS,
    "TEST.SAVE_RESULTS_PATH": "predictions always go to OUTPUT_DIR/results/predictions.csv; remove the key",
    "TRAIN.KILL_LOSS_EXPLOSION_FACTOR": "dust stops at NaN and Inf, not at jumps of the loss; remove the key",
    "VIS_MASK.ENABLE": _MASKED,
}

#: What the engine would have to do to batch norms; nothing where a model has none.
REFUSED_WITH_BATCH_NORM: dict[str, str] = {"MODEL.FROZEN_BN": "freezing batch norms is not in dust; remove the key"}

#: What a model of SlowFast's can do there and not here: key -> the models that would have to, why not.
REFUSED_FOR_MODELS: dict[str, tuple[tuple[str, ...], str]] = {
    "MODEL.DROPCONNECT_RATE": (("SlowFast", "ResNet", "X3D"), "these networks drop no branches in dust; write 0.0"),
    "MVIT.DROPOUT_RATE": (("MViT",), "MViT has dropout before its head only (MODEL.DROPOUT_RATE); write 0.0"),
    "MVIT.LAYER_SCALE_INIT_VALUE": (("MViT",), "MViT has no layer scale in dust; write 0.0"),
    "MVIT.MODE": (("MViT",), "MViT pools by depthwise convolutions only; write conv"),
    "MVIT.NORM": (("MViT",), "MViT has layer norms only; write layernorm"),
    "MVIT.NORM_STEM": (("MViT",), "MViT has no norm behind its first convolution; remove the key"),
    "MVIT.PATCH_2D": (("MViT",), "training on images is not in dust; remove the key"),
    "MVIT.POOL_FIRST": (("MViT",), "MViT pools behind the linear layers only; remove the key"),
    "MVIT.REV.ENABLE": (("MViT",), "reversible MViT is not in dust; take an MViT, with MODEL.ACT_CHECKPOINT True to "
                        "spare memory"),
    "MVIT.SEPARATE_QKV": (("MViT",), "MViT has one linear layer for queries, keys and values; remove the key"),
    "MVIT.USE_FIXED_SINCOS_POS": (("MViT",), "MViT has no fixed positions in dust; remove the key"),
    "RESNET.ZERO_INIT_FINAL_CONV": (("SlowFast", "ResNet"), "use RESNET.ZERO_INIT_FINAL_BN"),
}  # fmt: skip

#: Keys that only a model reads, and ours do not; yet who sets them expects an effect.
REFUSED_FOR_OURS: dict[str, str] = {
    "MODEL.DETACH_FINAL_FC": "training the head alone is not in dust; remove the key",
    "MODEL.DROPCONNECT_RATE": "use TIMESFORMER.DROP_PATH_RATE",
}

#: What to say of keys without effect, by key or section; the longest match wins.
NO_EFFECT: dict[str, str] = {
    "AVA": "detection is off",
    "BN": "where several processes train, batch norms see the whole batch, on CUDA",
    "BENCHMARK": "`dust benchmark` takes its own options",
    "CONTRASTIVE": "contrastive training is off",
    "DATA.DECODING_BACKEND": "DATA.DECODER says what decodes",
    "DATA.DECODING_SHORT_SIZE": "dust decodes straight to the size that is wanted",
    "DATA.CROP_SIZE": "DATA.TRAIN_CROP_SIZE and DATA.TEST_CROP_SIZE act",
    "DATA.TEMPORAL_EXTENT": "DATA.NUM_FRAMES acts",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "each worker decodes with one thread",
    "DEMO": "PREDICT.* acts",
    "DETECTION": "detection is off",
    "MASK": "masked pre-training is off",
    "MODEL.HEAD_ACT": "models return logits",
    "MODEL.MULTI_PATHWAY_ARCH": "the model knows its pathways",
    "MODEL.SINGLE_PATHWAY_ARCH": "the model knows its pathways",
    "MULTIGRID": "multigrid training is off",
    "PREFETCH": "DATA_LOADER.PREFETCH_FACTOR says how many batches are kept ready",
    "RESNET.INPLACE_RELU": "it changes no number",
    "SOLVER.GAMMA": "no schedule uses it",
    "SOLVER.STEP_SIZE": "no schedule uses it",
    "SOLVER.WARMUP_FACTOR": "SOLVER.WARMUP_START_LR acts",
    "TEST.CHECKPOINT_TYPE": "the file itself shows what it is",
    "TRAIN.CHECKPOINT_INFLATE": "2-D kernels are inflated wherever a file has them",
    "TRAIN.CHECKPOINT_IN_INIT": "there is no TRAIN.CHECKPOINT_FILE_PATH",
    "TRAIN.CHECKPOINT_TYPE": "the file itself shows what it is",
    "TENSORBOARD.CLASS_NAMES_PATH": "class names come with the data or from DATA.CLASS_LIST",
}

#: SlowFast's keys of its demo that PREDICT.* is filled from.
DEMO_TAKEN = ("DEMO.ENABLE", "DEMO.WEBCAM", "DEMO.INPUT_VIDEO", "DEMO.OUTPUT_FILE", "DEMO.NUM_VIS_INSTANCES")

#: Names that foreign configurations use -> ours.
DATASET_ALIASES = {
    "kinetics": "VideoDataset", "Kinetics": "VideoDataset", "ptvkinetics": "VideoDataset",
    "Ptvkinetics": "VideoDataset", "Ptvssv2": "SSv2", "Ptvcharades": "Charades",
    "ssv2": "SSv2", "Ssv2": "SSv2", "ptvssv2": "SSv2", "charades": "Charades", "ptvcharades": "Charades",
}  # fmt: skip
MODEL_ALIASES = {
    "vit_base_patch16_224": "TimeSformer", "PTVSlowFast": "SlowFast", "PTVResNet": "ResNet", "PTVX3D": "X3D",
    "PTVMViT": "MViT", "ResNet_nopool": "ResNet",
}  # fmt: skip
#: Other models of SlowFast's -> what they are.
MODELS_REFUSED = {
    "PTVCSN": "channel-separated networks",
    "PTVR2plus1D": "R(2+1)D with bottlenecks (TorchvisionVideo with MODEL.ARCH r2plus1d_18 has basic blocks)",
    "ContrastiveModel": "contrastive training",
    "MaskMViT": "masked pre-training of MViT",
}
DATASETS_REFUSED = {
    "ava": "detection (AVA)",
    "imagenet": "training on images",
}
TASKS_REFUSED = {"ssl": "contrastive training", "ssl_eval": "evaluation of contrastive training"}

#: TimeSformer's default, which its YAMLs leave out.
TIMESFORMER_GLOBAL_BATCH_SIZE = 64


FOREIGN_KEYS = frozenset(f"{section}.{name}" for section, keys in DEFAULTS.items() for name in keys)


def foreign_keys() -> dict[str, Key]:
    """Return every key of ``DEFAULTS`` with its facts. A model of the user's own may learn by them, but for those of
    tests."""
    keys = {}
    for section, defaults in DEFAULTS.items():
        affects: Any = "nothing" if section.split(".")[0] in ("TEST", "TENSORBOARD") else "training"
        for name, default in defaults.items():
            choices = "pyav | torchvision | decord" if name == "DECODING_BACKEND" else ""
            doc = "of SlowFast or TimeSformer; dust does not act on it"
            keys[f"{section}.{name}"] = Key(default, doc, choices=choices, affects=affects)
    return keys


def refusal(name: str, model: str, ours: bool) -> str | None:
    """Return why a value of this foreign key other than its default is refused; None if it is not.

    Args:
        name: the key.
        model: what MODEL.MODEL_NAME says.
        ours: whether that is one of dust's.
    """
    if name in REFUSED_WITH_BATCH_NORM:
        return REFUSED_WITH_BATCH_NORM[name] if not ours or model in slowfast.WITH_BATCH_NORM else None
    models, reason = REFUSED_FOR_MODELS.get(name, ((), ""))
    if model in models:
        return reason
    return REFUSED.get(name) or (REFUSED_FOR_OURS.get(name) if ours else None)


def no_effect(name: str, model: str, ours: bool) -> str | None:
    """Return why this foreign key has no effect when ``model`` runs; None if a model of the user's own may read it."""
    matches = [part for part in NO_EFFECT if name == part or name.startswith(part + ".")]
    if matches:
        return NO_EFFECT[max(matches, key=len)]
    return f"{model} does not read it" if ours else None
