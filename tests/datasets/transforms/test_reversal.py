"""Clips played backwards: which classes change, how often, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from dust.config import load_config
from dust.datasets import build_dataset
from dust.datasets.sample import SampleRequest
from dust.datasets.transforms.reversal import draw_reversal, reversed_classes
from dust.utils.errors import ConfigError
from dust.utils.rng import numpy_rng
from tests.config.test_validate import texts

NAMES = ["close", "open", "pass", "wait"]


def test_names_become_places():
    assert reversed_classes([{"close": "open"}, "wait"], NAMES) == {0: 1, 1: 0, 3: 3}
    assert reversed_classes([], NAMES) == {}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["clos"], "no class is called clos; did you mean close"),
        ([{"close": "open"}, "open"], "open is named twice"),
        ([{"close": "open", "wait": "pass"}], "is neither a class nor"),
        ([3], "3 is neither a class nor"),
    ],
)
def test_what_is_refused(entries, says):
    with pytest.raises(ConfigError, match=says):
        reversed_classes(entries, NAMES)


def test_half_of_the_clips_whose_classes_are_all_named():
    classes, rng = reversed_classes([{"close": "open"}, "wait"], NAMES), np.random.RandomState(0)
    drawn = [draw_reversal(0, classes, rng) for _ in range(2000)]
    assert set(drawn) == {(True, 1), (False, 0)} and 900 < sum(turned for turned, _ in drawn) < 1100
    assert {draw_reversal(2, classes, rng) for _ in range(50)} == {(False, 2)}
    assert {draw_reversal((0, 2), classes, rng) for _ in range(50)} == {(False, (0, 2))}
    assert (True, (1, 3)) in {draw_reversal((0, 3), classes, rng) for _ in range(50)}
    before = rng.get_state()[1].tolist()
    draw_reversal(0, {}, rng)
    assert rng.get_state()[1].tolist() == before


def test_frames_and_label_turn_together(tmp_path):
    """A clip that becomes brighter is reversed into one that becomes darker, under the other label; a test is not."""
    for split in ("train", "val"):
        for number in range(4):
            (tmp_path / f"{split}{number}").mkdir()
            for frame in range(8):
                grey = 20 + 25 * (frame if number % 2 else 7 - frame)
                Image.new("RGB", (32, 32), (grey,) * 3).save(tmp_path / f"{split}{number}" / f"{frame}.png")
        rows = [f"{split}{number},{'brighter' if number % 2 else 'darker'}" for number in range(4)]
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    values = {
        "DATA.PATH_TO_DATA_DIR": str(tmp_path), "DATA.NUM_FRAMES": 4, "DATA.SAMPLING": "whole_clip",
        "DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32, "DATA.TRAIN_JITTER_SCALES": [32, 32],
        "MODEL.NUM_CLASSES": 2, "AUG.ENABLE": True, "AUG.AA_TYPE": "", "AUG.COLOR_JITTER": 0.0,
        "AUG.TIME_REVERSAL": [{"brighter": "darker"}],
    }  # fmt: skip
    cfg = load_config(None, values)
    dataset = build_dataset(cfg.TRAIN.DATASET, cfg, "train")
    seen = set()
    for epoch in range(8):
        for number in range(4):
            (sample,) = dataset[SampleRequest(epoch, number)]
            level = sample["inputs"]["video"].float().mean(dim=(0, 2, 3))
            assert (level[-1] > level[0]) == (dataset.class_names[sample["label"]] == "brighter")
            seen.add((number % 2, sample["label"]))
    assert len(seen) == 4, "each clip is seen in both directions"
    evaluation = build_dataset(cfg.TRAIN.DATASET, cfg, "val")
    assert [evaluation[number]["label"] for number in range(4)] == [clip.label for clip in evaluation.clips]
    forward = evaluation[1]["inputs"]["video"][0].float().mean(dim=(0, 2, 3))
    assert forward[-1] > forward[0]


def test_it_acts_with_augmentation_of_video_alone():
    (text,) = texts(AUG__TIME_REVERSAL=["wait"])
    assert "AUG.TIME_REVERSAL ['wait']: acts with AUG.ENABLE True only" in text
    fused = {"AUG__ENABLE": True, "DATA__MODALITIES": ["video", "series"], "TRAIN__DATASET": "FusedDataset"}
    (text,) = texts(AUG__TIME_REVERSAL=["wait"], **fused)
    assert "series and features do not turn" in text


def test_other_draws_stay_as_they_are():
    """The reversal is drawn last: with it off, a clip's geometry and colours are those of before."""
    rng = numpy_rng(0, "augment", 0, 0, 0)
    first = rng.uniform()
    again = numpy_rng(0, "augment", 0, 0, 0)
    assert draw_reversal(0, {}, again) == (False, 0) and again.uniform() == first
