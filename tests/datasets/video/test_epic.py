"""EPIC-KITCHENS' csv: clips with a verb and a noun."""

import pytest

from dust.config import get_cfg
from dust.datasets.build import build_dataset
from dust.datasets.loader import collate_training
from dust.datasets.sample import SampleRequest
from dust.datasets.video.epic import EpicKitchens
from dust.utils.errors import DataError
from tests.datasets.clip_files import write_clip


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "P20_01_0.MP4", 12)
    write_clip(tmp_path / "videos" / "P20_01_1.mp4", 12)
    (tmp_path / "train.csv").write_text("P20_01_0,6,0\nP20_01_1,2,3\n")
    (tmp_path / "val.csv").write_text("clip_id,verb,noun\nP20_01_1,1,3\n")
    (tmp_path / "test.csv").write_text("P20_01_1\n")
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path)
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 2, 1
    cfg.DATA.TRAIN_JITTER_SCALES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = [32, 32], 32, 32
    cfg.CAST.NUM_VERBS, cfg.CAST.NUM_NOUNS, cfg.MODEL.NUM_CLASSES = 7, 4, 11
    return cfg


def test_clips_have_a_verb_and_a_noun(cfg):
    dataset = build_dataset("EpicKitchens", cfg, "train")
    assert isinstance(dataset, EpicKitchens) and len(dataset.class_names) == 11
    assert (dataset.class_names[6], dataset.class_names[7]) == ("verb:6", "noun:0")
    assert [clip.id for clip in dataset.clips] == ["P20_01_0", "P20_01_1"]
    batch = collate_training([dataset[SampleRequest(0, 0)], dataset[SampleRequest(0, 1)]])
    assert {kind: label.tolist() for kind, label in batch["label"].items()} == {"verb": [6, 2], "noun": [0, 3]}
    assert batch["inputs"]["video"].shape == (2, 3, 2, 32, 32)
    assert dataset.class_counts() == [0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1]
    assert dataset.fitted == {"actions": [[2, 3], [6, 0]]}


def test_evaluation_keeps_the_actions_that_training_saw(cfg):
    fitted = build_dataset("EpicKitchens", cfg, "train").fitted
    dataset = build_dataset("EpicKitchens", cfg, "val", fitted=fitted)
    assert dataset.fitted == fitted and dataset[0]["label"] == {"verb": 1, "noun": 3}
    test = build_dataset("EpicKitchens", cfg, "test", fitted=fitted)
    assert test[0]["label"] is None and test.clips[0].label is None


def test_published_names(cfg, tmp_path):
    verbs = "id,key,instances\n" + "".join(f"{i},v{i},\"['v{i}']\"\n" for i in (3, 1, 0, 2, 4, 6, 5))
    (tmp_path / "EPIC_100_verb_classes.csv").write_text(verbs)
    names = build_dataset("EpicKitchens", cfg, "val").class_names
    assert names[:8] == [*(f"verb:v{i}" for i in range(7)), "noun:0"]
    with pytest.raises(DataError, match="other verbs or nouns than in training"):
        build_dataset("EpicKitchens", cfg, "val", ["a"])
    (tmp_path / "EPIC_100_noun_classes.csv").write_text("id,key\n0,a\n1,b\n")
    with pytest.raises(DataError, match="each id from 0 to 3 a key; it has 2 rows"):
        build_dataset("EpicKitchens", cfg, "val")


def test_all_that_is_wrong_is_said_at_once(cfg, tmp_path):
    (tmp_path / "train.csv").write_text(
        "P20_01_0,7,0\nP20_01_0,1,1\nP20_01_1,x,1\nP20_01_1 2 3\nP20_01_9,1,1\nP20_01_8,1,4\n"
    )
    with pytest.raises(DataError) as error:
        build_dataset("EpicKitchens", cfg, "train")
    for words in (
        "a verb that is no number from 0 to 6 (CAST.NUM_VERBS) (2 cases)", "line 1: 7", "line 3: x",
        "a clip named twice:\n      line 2: P20_01_0 (before: line 1)", "line 4: P20_01_1 2 3",
        "a file that is missing", "line 5: P20_01_9.MP4", "a noun that is no number from 0 to 3", "line 6: 4",
    ):  # fmt: skip
        assert words in str(error.value), words
    (tmp_path / "val.csv").write_text("clip_id,verb,noun\n")
    with pytest.raises(DataError, match="holds no clip"):
        build_dataset("EpicKitchens", cfg, "val")
    cfg.DATA.CHECK_FILES = False
    (tmp_path / "train.csv").write_text("P20_01_9,1,1\n")
    assert build_dataset("EpicKitchens", cfg, "train").clips[0].path.endswith("P20_01_9.MP4")
