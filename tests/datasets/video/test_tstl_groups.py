"""One data set as the selector, an expert and the routing model see it."""

import pytest
import torch

from dust.config import get_cfg
from dust.datasets.build import build_dataset
from dust.datasets.sample import SampleRequest
from dust.datasets.video.tstl_groups import GroupedVideo
from dust.utils.errors import ConfigError, DataError
from dust.utils.tstl_grouping import Grouping, write_grouping
from tests.datasets.clip_files import write_clip

NAMES = ("ant", "bee", "cat", "dog", "eel")
GROUPS = ((3, 0), (1, 2, 4))


@pytest.fixture
def cfg(tmp_path):
    write_clip(tmp_path / "clip.mp4", 12)
    rows = [f"clip.mp4 {name}\n" for name in (*NAMES, *NAMES)]
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("".join(rows))
    write_grouping(tmp_path / "g.json", Grouping(GROUPS, NAMES))
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path)
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 2, 1
    cfg.DATA.TRAIN_JITTER_SCALES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = [32, 32], 32, 32
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = 2, 3
    cfg.TSTL.GROUPING = str(tmp_path / "g.json")
    cfg.MODEL.NUM_CLASSES = 2
    return cfg


def labels(dataset):
    return [clip.label for clip in dataset.clips]


def test_the_selector_sees_groups(cfg):
    dataset = build_dataset("GroupedVideo", cfg, "train")
    assert isinstance(dataset, GroupedVideo) and dataset.class_names == ["group_0", "group_1"]
    assert labels(dataset) == [0, 1, 1, 0, 1] * 2 and dataset.class_counts() == [4, 6]
    (sample,) = dataset[SampleRequest(0, 3)]
    assert sample["label"] == 0 and set(sample["inputs"]) == {"video"}
    assert dataset.training_sampler(4, seed=0) is None
    cfg.TSTL.GROUPS_PER_BATCH = 2
    sampler = build_dataset("GroupedVideo", cfg, "train").training_sampler(4, seed=0, rank=0, world_size=1)
    for batch in sampler:
        assert sorted(labels(dataset)[draw.sample] for draw in batch) == [0, 0, 1, 1]


def test_an_expert_sees_its_own_classes(cfg):
    cfg.TSTL.GROUP, cfg.MODEL.NUM_CLASSES, cfg.TSTL.GROUPS_PER_BATCH = 1, 3, 2
    dataset = build_dataset("GroupedVideo", cfg, "val", ["bee", "cat", "eel"])
    assert dataset.class_names == ["bee", "cat", "eel"] and labels(dataset) == [0, 1, 2, 0, 1, 2]
    assert dataset.training_sampler(4, seed=0) is None
    assert dataset[1]["label"] == 1
    cfg.TSTL.GROUP, cfg.MODEL.NUM_CLASSES = 0, 2
    dataset = build_dataset("GroupedVideo", cfg, "train")
    assert dataset.class_names == ["dog", "ant"] and labels(dataset) == [1, 0, 1, 0]  # the order of the grouping
    cfg.TSTL.EXPERT_CLASSES, cfg.MODEL.NUM_CLASSES = "all", 5
    dataset = build_dataset("GroupedVideo", cfg, "train")
    assert dataset.class_names == list(NAMES) and labels(dataset) == [0, 3, 0, 3]


def test_the_routing_model_sees_classes_and_groups(cfg):
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES = "TSTL", 5
    dataset = build_dataset("GroupedVideo", cfg, "test")
    assert labels(dataset) == [0, 1, 2, 3, 4] * 2
    sample = dataset[3]
    assert sample["inputs"]["video"].shape == (6, 3, 2, 32, 32)
    assert torch.equal(sample["inputs"]["group"], torch.zeros(6, dtype=torch.int64))
    assert dataset[4]["inputs"]["group"].tolist() == [1] * 6


def test_classes_from_the_data_where_the_grouping_has_no_names(cfg, tmp_path):
    write_grouping(tmp_path / "g.json", Grouping(GROUPS))
    cfg.TSTL.GROUP, cfg.MODEL.NUM_CLASSES = 1, 3
    assert build_dataset("GroupedVideo", cfg, "val").class_names == ["bee", "cat", "eel"]


def test_what_does_not_fit_is_named(cfg, tmp_path):
    def refused(words, error=DataError, names=None):
        with pytest.raises(error, match=words):
            build_dataset("GroupedVideo", cfg, "train", names)

    refused(r"3 other classes, here / there: group_0 / a", names=["a", "group_1", "c"])
    cfg.MODEL.NUM_CLASSES = 5
    refused("selector by .*g.json: 2 classes. MODEL.NUM_CLASSES is 5: set MODEL.NUM_CLASSES 2")
    cfg.TSTL.GROUP = 2
    refused("TSTL.GROUP 2, the groups are 0 to 1")
    cfg.TSTL.GROUP = 0
    (tmp_path / "train.csv").write_text("clip.mp4 bee\nclip.mp4 cat\n")
    refused("no clip of the classes of group 0: dog, ant")
    write_grouping(tmp_path / "g.json", Grouping(((0, 1), (2, 3)), ("ant", "bee", "cow", "dog")))
    refused("(?s)cat.*the number of classes, 4, is that of TSTL.GROUPING")
    cfg.DATA.MULTI_LABEL = True
    refused("one class each", ConfigError)
    cfg.DATA.MULTI_LABEL, cfg.TSTL.GROUPING = False, ""
    refused("TSTL.GROUPING is empty", ConfigError)
