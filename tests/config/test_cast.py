"""Keys of VideoMAE, CLIP and CAST: models are built from the defaults, and what does not go together is named."""

import pytest

from dust.config import get_cfg
from dust.config.cast import check


def cfg_of(model, **values):
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME = model
    cfg.CAST.SPATIAL_FROM, cfg.CAST.TEMPORAL_FROM = "clip.safetensors", "videomae"
    if model == "TSTL":
        cfg.TRAIN.ENABLE, cfg.TEST.ENSEMBLE_SPACE = False, "probs"
        cfg.TSTL.GROUPING, cfg.TSTL.SELECTOR_FROM, cfg.TSTL.EXPERTS_FROM = "g.json", "tstl_selector", "tstl_experts"
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = 16, 224, 224
    for key, value in values.items():
        section, name = key.split("__")
        cfg[section][name] = value
    return cfg


MODELS = {"VideoMAE": "VIDEOMAE", "VideoMAEPretrain": "VIDEOMAE", "CLIPVisual": "CLIP", "CAST": "CAST"}
MODELS["TSTL"] = "TSTL"


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_go_together(model):
    assert check(cfg_of(model)) == []


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        ("VideoMAE", {"DATA__NUM_FRAMES": 15}, "DATA.NUM_FRAMES 15: must be a multiple of VIDEOMAE.TUBELET_SIZE 2"),
        ("VideoMAE", {"VIDEOMAE__NUM_HEADS": 5}, "VIDEOMAE.EMBED_DIM 768: must be a multiple of VIDEOMAE.NUM_HEADS 5"),
        ("VideoMAE", {"DATA__TEST_CROP_SIZE": 225}, "DATA.TEST_CROP_SIZE 225: must be a multiple of VIDEOMAE.PATCH"),
        ("VideoMAEPretrain", {"VIDEOMAE__DECODER_NUM_HEADS": 5}, "VIDEOMAE.DECODER_EMBED_DIM 384"),
        ("CLIPVisual", {"CLIP__PATCH_SIZE": 15}, "DATA.TRAIN_CROP_SIZE 224: must be a multiple of CLIP.PATCH_SIZE 15"),
        ("CAST", {"CAST__DOWN_RATIO": 5}, "CAST.EMBED_DIM 768: must be a multiple of CAST.DOWN_RATIO 5 x CAST.NUM_H"),
        ("CAST", {"DATA__TEST_CROP_SIZE": 256}, "DATA.TEST_CROP_SIZE 256: must be DATA.TRAIN_CROP_SIZE 224"),
        ("TSTL", {"CAST__DOWN_RATIO": 5}, "CAST.EMBED_DIM 768: must be a multiple of CAST.DOWN_RATIO 5"),
        ("CAST", {"CAST__SPATIAL_FROM": ""}, "CAST.SPATIAL_FROM '' and CAST.TEMPORAL_FROM 'videomae': give both"),
        ("TSTL", {"CAST__TRUNK_FROM": "x"}, "CAST.TRUNK_FROM x: gives both experts"),
        ("CAST", {"CAST__SPATIAL_FROM": "", "CAST__TEMPORAL_FROM": ""}, "CAST.FREEZE True: the frozen experts need"),
        ("CAST", {"TSTL__GROUPS": ["all"]}, "TSTL.GROUPING is empty, and TSTL.GROUPS need"),
        (
            "CAST",
            {"TSTL__GROUPING": "g", "TSTL__GROUPS_PER_BATCH": 3},
            "TRAIN.BATCH_SIZE 64: must be a multiple of TSTL",
        ),
        ("CAST", {"CAST__COMPOSITION": True}, "MODEL.NUM_CLASSES 400: with CAST.COMPOSITION it is"),
        ("TSTL", {"TRAIN__ENABLE": True}, "TRAIN.ENABLE True: model TSTL is only tested"),
        ("TSTL", {"TEST__ENSEMBLE_SPACE": "logits"}, "TEST.ENSEMBLE_SPACE logits: views that different experts"),
        ("TSTL", {"TSTL__EXPERTS_FROM": ""}, "TSTL.EXPERTS_FROM is empty: name the experts"),
        ("TSTL", {"CAST__COMPOSITION": True}, "CAST.COMPOSITION True"),
    ],
)
def test_what_does_not_go_together_is_named(model, values, words):
    (problem, *_) = check(cfg_of(model, **values))
    assert problem.text.startswith(words), problem.text
    assert all(key in problem.text for key in problem.keys)
    assert check(cfg_of("TimeSformer", **values)) == []


def test_the_test_crop_does_not_matter_without_a_test():
    assert check(cfg_of("CAST", DATA__TEST_CROP_SIZE=255, TEST__ENABLE=False)) == []
