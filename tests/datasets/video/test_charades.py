"""SlowFast's frame lists of Charades: pictures, and labels of each."""

import numpy as np
import pytest
from PIL import Image

from dust.config import get_cfg
from dust.datasets.build import build_dataset
from dust.datasets.loader import collate_training
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.video.charades import StepSampler
from dust.utils.errors import DataError

HEADER = "original_vido_id video_id frame_id path labels"


@pytest.fixture
def cfg(tmp_path):
    """Two videos of ten frames; of the first the labels change from 1 to 1 and 3 to none."""
    rows = [HEADER]
    for video, (name, labels) in enumerate({"AAA": ["1"] * 4 + ["1,3"] * 2 + [""] * 4, "BBB": ["4"] * 10}.items()):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for frame, label in enumerate(labels):
            path = f"{name}/{name}-{frame + 1:06d}.png"
            Image.fromarray(np.full((24, 32, 3), 20 * frame, np.uint8)).save(tmp_path / "frames" / path)
            rows.append(f'{name} {video} {frame} {path} "{label}"')
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX = str(tmp_path), str(tmp_path / "frames")
    cfg.DATA.MULTI_LABEL, cfg.MODEL.NUM_CLASSES, cfg.MODEL.LOSS_FUNC = True, 6, "bce_logit"
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.RANDOM_FLIP = 2, 2, False
    cfg.DATA.TRAIN_JITTER_SCALES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = [24, 24], 24, 24
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = 3, 1
    return cfg


def test_a_training_clip_has_the_labels_of_its_frames(cfg):
    dataset, seen = build_dataset("Charades", cfg, "train"), set()
    assert [clip.id for clip in dataset.clips] == ["AAA", "BBB"] and dataset.class_counts() == [0, 1, 0, 1, 1, 0]
    for epoch in range(60):
        batch = collate_training([dataset[SampleRequest(epoch, 0)]])
        first, last = (round(float(frame.float().mean()) / 20) for frame in batch["inputs"]["video"][0].unbind(1))
        assert last == first + 2
        shown = set().union(*({1} if frame < 4 else {1, 3} if frame < 6 else set() for frame in range(first, last + 1)))
        assert {int(label) for label in batch["label"][0].nonzero()} == shown
        seen.add(first)
    assert seen == set(range(8))


def test_an_evaluation_has_the_labels_of_the_whole_video(cfg):
    item = build_dataset("Charades", cfg, "test")[0]  # SlowFast tests on val.csv
    assert item["label"].tolist() == [0, 1, 0, 1, 0, 0] and item["inputs"]["video"].shape == (3, 3, 2, 24, 24)
    starts = [round(float(view[:, 0].float().mean()) / 20) for view in item["inputs"]["video"]]
    assert starts == [0, 4, 7]  # to the very end: 3 frames of 10


def test_frames_of_a_clip_by_typed_out_lists():
    sampler = StepSampler(mode="dense", num_frames=3, sampling_rate=4, target_fps=30)
    assert sampler.val(20, 30.0) == [5, 9, 13]
    assert sampler.test(20, 30.0, 3) == [[0, 4, 8], [6, 10, 14], [11, 15, 19]]
    assert sampler.test(5, 30.0, 2) == [[0, 4, 4], [0, 4, 4]]
    draws = {tuple(sampler.train(5, 30.0, np.random.RandomState(seed))) for seed in range(40)}
    assert draws == {(0, 4, 4), (0, 3, 4), (0, 2, 4), (0, 1, 4), (0, 0, 4)}


def test_a_folder_with_other_frames_than_the_list_is_a_bad_clip(cfg, tmp_path):
    (tmp_path / "frames" / "AAA" / "AAA-000010.png").unlink()
    bad = build_dataset("Charades", cfg, "train")[SampleRequest(0, 0)]
    assert isinstance(bad, BadClip) and "the list has 10 frames of it, the folder 9 pictures" in bad.reason


def test_lists_that_cannot_be_are_told_whole(cfg, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f'{HEADER}\nAAA 0 0 AAA/1.png "7"\nAAA 0 1 AAA/2.png one\nCCC 1 0 CCC/1.png "1"\nAAA 0 2\n')
    with pytest.raises(DataError) as error:
        build_dataset("Charades", cfg, "train")
    text = str(error.value)
    assert "none of the 6 classes" in text and "line 2: 7" in text and "line 3" in text and "line 5" in text
    assert "frames/CCC" in text and "DATA.PATH_PREFIX" in text
    path.write_text("path,label\n")
    with pytest.raises(DataError, match=f"the first line must be: {HEADER}"):
        build_dataset("Charades", cfg, "train")
    path.unlink()
    with pytest.raises(DataError, match="train.csv: set DATA.PATH_TO_DATA_DIR to SlowFast's frame lists"):
        build_dataset("Charades", cfg, "train")
    cfg.DATA.MULTI_LABEL = False
    with pytest.raises(DataError, match="Charades has several labels for a clip: set DATA.MULTI_LABEL True"):
        build_dataset("Charades", cfg, "train")
