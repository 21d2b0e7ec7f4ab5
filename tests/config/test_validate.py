"""Every check: what is refused, and the words with which it is."""

import pytest

from dust.config import get_cfg, load_config
from dust.config.validate import find_problems, list_problems, processes_per_node
from dust.utils.errors import ConfigError


def texts(**settings):
    """The problems of the defaults with these settings; ``TRAIN__ENABLE`` stands for TRAIN.ENABLE."""
    cfg = get_cfg()
    for key, value in settings.items():
        node, (*sections, leaf) = cfg, key.split("__")
        for section in sections:
            node = node[section]
        assert leaf in node, key
        node[leaf] = value
    return [problem.text for problem in find_problems(cfg)]


def test_infinity_is_no_rate():
    assert texts(SOLVER__BASE_LR=float("inf")) == ["SOLVER.BASE_LR inf: must be at least 0"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"TASK": "ssl"}, "TASK ssl: contrastive training is not in dust"),
        ({"OUTPUT_DIR": " "}, "OUTPUT_DIR is empty"),
        ({"OUTPUT_DIR": "s3://bucket/run"}, "OUTPUT_DIR s3://bucket/run: is an address"),
        ({"MODEL__NUM_CLASSES": 0, "TEST__ENABLE": True}, "MODEL.NUM_CLASSES 0: a model without a classifier"),
        ({"SHARD_ID": 2, "NUM_SHARDS": 2}, "SHARD_ID 2: must be below NUM_SHARDS 2"),
        ({"NUM_GPUS": 2, "NUM_PROCS_PER_NODE": 4}, "NUM_PROCS_PER_NODE 4: with GPUs there is one process for each"),
        ({"TRAIN__BATCH_SIZE": 3, "NUM_GPUS": 4}, "TRAIN.BATCH_SIZE 3: is shared by the 4 processes"),
        ({"TRAIN__BATCH_SIZE": 1, "NUM_GPUS": 0, "NUM_PROCS_PER_NODE": 2}, "shared by the 2 processes"),
        ({"TRAIN__FINETUNE": True}, "TRAIN.FINETUNE True: name the weights in TRAIN.CHECKPOINT_FILE_PATH"),
        ({"TEST__CHECKPOINT": "best", "TRAIN__SAVE_BEST": False}, "TEST.CHECKPOINT best: set TRAIN.SAVE_BEST True"),
        ({"TEST__CHECKPOINT": "best", "TRAIN__EVAL_PERIOD": 0}, "or there will be none"),
        ({"TRAIN__EARLY_STOPPING_PATIENCE": 3, "TRAIN__EVAL_PERIOD": 0}, "TRAIN.EVAL_PERIOD 0 means none"),
        ({"SOLVER__WARMUP_EPOCHS": 300.0}, "SOLVER.WARMUP_EPOCHS 300.0: must be shorter than SOLVER.MAX_EPOCH 300"),
        ({"SOLVER__LR_POLICY": "steps_with_relative_lrs"}, "give SOLVER.STEPS, e.g. [0, 11, 14]"),
        ({"SOLVER__BETAS": (0.9, 1.0)}, "SOLVER.BETAS (0.9, 1.0): both must be"),
        ({"SOLVER__BETAS": (0.9,)}, "SOLVER.BETAS [0.9]: must have 2 values"),
        ({"SOLVER__CLIP_GRAD_VAL": 1.0, "SOLVER__CLIP_GRAD_L2NORM": 1.0}, "set one of them, None for the other"),
        ({"SOLVER__DAMPENING": 0.1}, "SOLVER.DAMPENING 0.1: must be 0 with SOLVER.NESTEROV True"),
        ({"SOLVER__OPTIMIZING_METHOD": ""}, "SOLVER.OPTIMIZING_METHOD is empty"),
        (
            {"DATA__MULTI_LABEL": True, "MODEL__LOSS_FUNC": "soft_cross_entropy"},
            "with DATA.MULTI_LABEL True the loss is bce_logit",
        ),
        ({"DATA__MULTI_LABEL": True, "MODEL__LABEL_SMOOTHING": 0.1}, "does not apply to multi-label"),
        ({"DATA__CLIPS_PER_VIEW": 2, "MODEL__MODEL_NAME": "VideoMAE"}, "which VideoMAE does not do; write 1"),
        ({"MODEL__CLASS_WEIGHTS": [1.0, 2.0]}, "2 weights for MODEL.NUM_CLASSES 400"),
        ({"MODEL__CLASS_WEIGHTS": [1.0, -2.0], "MODEL__NUM_CLASSES": 2}, "must not be negative"),
        ({"MODEL__CLASS_WEIGHTS": [0.0, 0.0], "MODEL__NUM_CLASSES": 2}, "nor all 0"),
        ({"AUG__ENABLE": True, "AUG__AA_TYPE": "augmix"}, "AUG.AA_TYPE 'augmix': write '' or a RandAugment"),
        ({"MIXUP__ENABLE": True, "MIXUP__ALPHA": 0.0, "MIXUP__CUTMIX_ALPHA": 0.0}, "there is nothing to mix"),
        ({"MIXUP__ENABLE": True, "DATA__MULTI_LABEL": True}, "mixed targets are for single labels"),
        (
            {"TRAIN__PARALLEL": "fsdp", "TRAIN__MIXED_PRECISION": True, "TRAIN__AMP_DTYPE": "float16"},
            "TRAIN.AMP_DTYPE float16: its loss scaling is not for TRAIN.PARALLEL fsdp; write bfloat16",
        ),
        (
            {"TRAIN__PARALLEL": "fsdp", "TRAIN__DDP_DTYPE": "bfloat16"},
            "TRAIN.DDP_DTYPE bfloat16: with TRAIN.PARALLEL fsdp gradients are summed in float32; write float32",
        ),
        ({"MIXUP__ENABLE": True, "NUM_GPUS": 8, "TRAIN__BATCH_SIZE": 8}, "needs at least 2 clips per process"),
        ({"DATA__STD": [0.0, 1.0, 1.0]}, "DATA.STD [0.0, 1.0, 1.0]: must be more than 0"),
        ({"DATA__MEAN": [0.5]}, "DATA.MEAN [0.5]: must have 3 values"),
        (
            {"DATA__MEAN": [123.675, 116.28, 103.53], "DATA__STD": [58.395, 57.12, 57.375]},
            "values of 0..255 are DATA.MEAN [0.485, 0.456, 0.406]; DATA.STD [0.229, 0.224, 0.225]",
        ),
        ({"DATA__STD": [127.5, 127.5, 127.5]}, "values of 0..255 are DATA.STD [0.5, 0.5, 0.5]"),
        ({"DATA__INPUT_CHANNEL_NUM": [1]}, "clips have 3 channels; write [3]"),
        ({"DATA__TRAIN_JITTER_SCALES": [320, 256]}, "must be [smallest, largest] short side"),
        ({"DATA__TRAIN_JITTER_SCALES": [200, 256]}, "the short side must be at least DATA.TRAIN_CROP_SIZE 224"),
        ({"DATA__TRAIN_JITTER_SCALES_RELATIVE": [0.1, 1.0]}, "give both, or neither"),
        (
            {"DATA__TRAIN_JITTER_SCALES_RELATIVE": [0.1, 2.0], "DATA__TRAIN_JITTER_ASPECT_RELATIVE": [0.7, 1.3]},
            "must be [smallest, largest] area",
        ),
        (
            {"DATA__TRAIN_JITTER_SCALES_RELATIVE": [0.1, 1.0], "DATA__TRAIN_JITTER_ASPECT_RELATIVE": [1.3, 0.7]},
            "must be [smallest, largest] width / height",
        ),
        ({"TEST__NUM_ENSEMBLE_VIEWS": 0}, "TEST.NUM_ENSEMBLE_VIEWS 0: must be at least 1, or -1"),
        ({"TEST__NUM_SPATIAL_CROPS": 2}, "TEST.NUM_SPATIAL_CROPS 2: choose 1 (centre) or 3"),
        ({"TEST__NUM_TEMPORAL_CLIPS": [1, 0]}, "TEST.NUM_TEMPORAL_CLIPS [1, 0]: each must be at least 1"),
        (
            {"TEST__NUM_SPATIAL_CROPS": 1, "DATA__TEST_CROP_SIZE": 320},
            "DATA.TEST_CROP_SIZE 320: with TEST.NUM_SPATIAL_CROPS 1 the short side is",
        ),
        ({"DATA__TRAIN_CROP_SIZE": 200}, "DATA.TRAIN_CROP_SIZE 200: must be a multiple of TIMESFORMER.PATCH_SIZE 16"),
        ({"DATA__TEST_CROP_SIZE": 250}, "DATA.TEST_CROP_SIZE 250: must be a multiple of TIMESFORMER.PATCH_SIZE 16"),
        ({"TIMESFORMER__NUM_HEADS": 7}, "TIMESFORMER.EMBED_DIM 768: must be a multiple of TIMESFORMER.NUM_HEADS 7"),
    ],
)
def test_refuses(settings, says):
    (text,) = texts(**settings)
    assert says in text


@pytest.mark.parametrize(
    ("steps", "lrs", "says"),
    [
        ([0, 11], [1.0], "must be equally many"),
        ([1, 11], [1.0, 0.1], "must begin at epoch 0 and rise"),
        ([0, 11, 11], [1.0, 0.1, 0.01], "must begin at epoch 0 and rise"),
        ([0, 14, 11], [1.0, 0.1, 0.01], "must begin at epoch 0 and rise"),
        ([0, 11], [1.0, -0.1], "must not be negative"),
    ],
)
def test_steps(steps, lrs, says):
    (text,) = texts(SOLVER__LR_POLICY="steps_with_relative_lrs", SOLVER__STEPS=steps, SOLVER__LRS=lrs)
    assert says in text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"TEST__NUM_ENSEMBLE_VIEWS": -1},
        {"TEST__NUM_TEMPORAL_CLIPS": [1, 5, 10]},
        {"SOLVER__LR_POLICY": "steps_with_relative_lrs", "SOLVER__STEPS": [0, 11], "SOLVER__LRS": [1.0, 0.1]},
        {"SOLVER__STEPS": [3], "SOLVER__LRS": []},
        {"AUG__ENABLE": True, "AUG__AA_TYPE": "rand-m7-n4-mstd0.5-inc1"},
        {"AUG__ENABLE": True, "AUG__AA_TYPE": ""},
        {"MIXUP__ENABLE": True, "TRAIN__BATCH_SIZE": 1, "AUG__NUM_SAMPLE": 2},
        {"MODEL__CLASS_WEIGHTS": "balanced"},
        {"MODEL__CLASS_WEIGHTS": [0.0, 2.0], "MODEL__NUM_CLASSES": 2},
        {"TEST__DATASET": "SSv2", "TEST__NUM_SPATIAL_CROPS": 1, "DATA__TEST_CROP_SIZE": 320},
        {"MODEL__MODEL_NAME": "MyNet", "DATA__TRAIN_CROP_SIZE": 200, "DATA__TEST_CROP_SIZE": 201},
        {"TRAIN__ENABLE": False, "TRAIN__BATCH_SIZE": 7, "NUM_GPUS": 8, "TRAIN__FINETUNE": True},
        {"TEST__ENABLE": False, "TEST__NUM_SPATIAL_CROPS": 2, "DATA__TEST_CROP_SIZE": 250},
        {"NUM_GPUS": 0, "NUM_PROCS_PER_NODE": 4},
        {"NUM_GPUS": 2, "NUM_PROCS_PER_NODE": 2},
        {"SOLVER__CLIP_GRAD_VAL": 0.5},
        {"SOLVER__LAYER_DECAY": 0.75},
        {"DATA__TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0], "DATA__TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333]},
        {"SOLVER__OPTIMIZING_METHOD": "adamw", "SOLVER__DAMPENING": 0.1},
    ],
)
def test_accepts(settings):
    assert texts(**settings) == []


def test_a_wrong_value_is_not_judged_a_second_time():
    assert texts(NUM_GPUS=-1) == ["NUM_GPUS -1: must be at least 0"]
    assert texts(TIMESFORMER__NUM_HEADS=0, TIMESFORMER__PATCH_SIZE=0, NUM_SHARDS=0) == [
        "NUM_SHARDS 0: must be at least 1",
        "TIMESFORMER.PATCH_SIZE 0: must be at least 1",
        "TIMESFORMER.NUM_HEADS 0: must be at least 1",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        "TRAIN.BATCH_SIZE 0 GLOBAL_BATCH_SIZE 64",
        "TRAIN.BATCH_SIZE -1 GLOBAL_BATCH_SIZE 64",
        "NUM_GPUS -5",
        "TIMESFORMER.NUM_HEADS 0",
        "TIMESFORMER.PATCH_SIZE 0",
        "DATA.TRAIN_JITTER_SCALES []",
        "DATA.TRAIN_JITTER_SCALES [256]",
        "DATA.INPUT_CHANNEL_NUM []",
        "DATA.INPUT_CHANNEL_NUM None",
        "SOLVER.BETAS []",
        "NUM_PROCS_PER_NODE -2",
        "SOLVER.BASE_LR -1e-3",
    ],
)
def test_absurd_values_give_an_error_and_not_a_crash(overrides):
    with pytest.raises(ConfigError, match=overrides.split()[0]):
        load_config(None, overrides.split())


def test_processes_per_node():
    for gpus, processes, expected in ((0, 0, 1), (0, 3, 3), (2, 0, 2), (2, 2, 2)):
        cfg = get_cfg()
        cfg.NUM_GPUS, cfg.NUM_PROCS_PER_NODE = gpus, processes
        assert processes_per_node(cfg) == expected


def test_list_problems_counts():
    assert list_problems(["a"], "x.yaml") == "1 problem in x.yaml:\n  1. a"
    assert list_problems(["a", "b"]) == "2 problems in the configuration:\n  1. a\n  2. b"
