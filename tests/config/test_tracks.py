"""Keys of point tracks: the defaults go together, and what does not is named."""

import pytest

from dust.config import flatten, get_cfg
from dust.config.tracks import check


def cfg_of(model="PointTrackTransformer", **values):
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME = model
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "PointTracks"
    for key, value in values.items():
        cfg.TRACKS[key] = value
    return cfg


@pytest.mark.parametrize("model", ["PointTrackTransformer", "PointTrackLSTM"])
def test_the_defaults_go_together(model):
    assert check(cfg_of(model)) == []
    assert check(cfg_of(model, COMPAT=True, COORDINATES="pixels", NUM_HEADS=8)) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"VIEWS": []}, "TRACKS.VIEWS []: camera numbers from 0, each once"),
        ({"VIEWS": [0, 1, 1]}, "TRACKS.VIEWS [0, 1, 1]"),
        ({"VIEWS": [-1, 0]}, "TRACKS.VIEWS [-1, 0]"),
        ({"TEST_VIEWS": [0, 7]}, "TRACKS.TEST_VIEWS [0, 7]: must be among TRACKS.VIEWS [0, 1, 2, 3]"),
        ({"FRAME_SIZE": [480]}, "TRACKS.FRAME_SIZE [480]: must be [height, width]"),
        ({"FRAME_SIZE": [480, 0]}, "TRACKS.FRAME_SIZE [480, 0]"),
        ({"NUM_HEADS": 3}, "TRACKS.EMBED_DIM 256: must be a multiple of TRACKS.NUM_HEADS 3"),
        (
            {"COMPAT": True, "COORDINATES": "pixels", "VIEWS": [0, 1, 2], "VIEW_DIM": 5},
            "len(TRACKS.VIEWS) * TRACKS.VIEW_DIM = 15: must be a multiple of TRACKS.NUM_HEADS 4",
        ),
        ({"REDUCER": "flat"}, "TRACKS.REDUCER flat: is PointTrackLSTM's"),
        ({"COMPAT": True}, "TRACKS.COORDINATES normalised: with TRACKS.COMPAT True the models take pixels"),
        ({"COORDINATES": "pixels"}, "TRACKS.COORDINATES pixels: with TRACKS.COMPAT False"),
        (
            {"COMPAT": True, "COORDINATES": "pixels", "ROTATION": 5.0, "SCALE": 0.1},
            "TRACKS.ROTATION, TRACKS.SCALE: need TRACKS.COORDINATES normalised",
        ),
    ],
)
def test_what_does_not_go_together(values, words):
    (problem,) = check(cfg_of(**values))
    assert words in problem.text
    flat = flatten(get_cfg())
    assert all(key in flat for key in problem.keys)


def test_other_systems_are_left_alone():
    cfg = cfg_of("TimeSformer", NUM_HEADS=3, COORDINATES="pixels", ROTATION=5.0)
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "kinetics"
    assert check(cfg) == []
