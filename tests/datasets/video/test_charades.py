"""SlowFast's frame lists of Charades: pictures, and labels of each."""

import numpy as np
import pytest
from PIL import Image

from dust.config import get_cfg
from dust.convert.check import check_data
from dust.convert.fixes import write_clean
from dust.convert.lists import ListOptions
from dust.datasets.build import build_dataset
from dust.datasets.loader import collate_training
from dust.datasets.manifest import Clip, Manifest
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.video.charades import Charades, StepSampler
from dust.engine.classes import build_with_classes
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
    assert "out of range 0..5" in text and "line 2 and on: 7" in text and "line 3" in text and "line 5" in text
    assert "frames/CCC" in text and "DATA.PATH_PREFIX" in text
    path.write_text("path,label\n")
    with pytest.raises(DataError, match=f"the first line must be: {HEADER}"):
        build_dataset("Charades", cfg, "train")
    path.unlink()
    with pytest.raises(DataError, match=r"train.csv: set DATA.PATH_TO_DATA_DIR to SlowFast's frame lists"):
        build_dataset("Charades", cfg, "train")
    cfg.DATA.MULTI_LABEL = False
    with pytest.raises(DataError, match="Charades has several labels for a clip: set DATA.MULTI_LABEL True"):
        build_dataset("Charades", cfg, "train")


def rewrite(tmp_path, change, split="train"):
    """The rows of a list (without its header) as ``change`` makes them."""
    path = tmp_path / f"{split}.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *change(rows)]) + "\n")


def test_the_number_of_classes_is_that_of_the_training_list(cfg, tmp_path):
    cfg.MODEL.NUM_CLASSES = -1
    assert build_with_classes(cfg).MODEL.NUM_CLASSES == 5
    rewrite(tmp_path, lambda rows: [row.replace('"4"', '"2"') for row in rows], "val")
    assert list(build_dataset("Charades", cfg, "val").class_names) == list("01234")


def test_the_order_of_the_rows_does_not_matter(cfg, tmp_path):
    before = build_dataset("Charades", cfg, "train")
    rewrite(tmp_path, lambda rows: rows[::-1])
    after = build_dataset("Charades", cfg, "train")
    assert sorted(clip.id for clip in after.clips) == ["AAA", "BBB"]
    for name in ("AAA", "BBB"):
        for first in range(9):
            assert after.frame_labels[name].between(first, first + 1) == before.frame_labels[name].between(
                first, first + 1
            )
    rewrite(tmp_path, lambda rows: [row.replace(" 3 AAA", " 30 AAA") for row in rows])
    with pytest.raises(DataError, match=r"rise in another order than their frame_id:\n.*AAA"):
        build_dataset("Charades", cfg, "train")


def test_other_pictures_than_the_list_names_are_a_bad_clip(cfg, tmp_path):
    (tmp_path / "frames" / "AAA" / "AAA-000005.png").rename(tmp_path / "frames" / "AAA" / "AAA-000011.png")
    bad = build_dataset("Charades", cfg, "train")[SampleRequest(0, 0)]
    assert isinstance(bad, BadClip) and "other pictures" in bad.reason


@pytest.mark.parametrize("label", ["\u00b2", "1.5", "-1", "one", "\u0661\u0661\u0661\u0661\u0661\u0661\u0661x"])
def test_labels_that_are_no_numbers_are_said(cfg, tmp_path, label):
    rewrite(tmp_path, lambda rows: [row.replace('"1"', f'"{label}"') for row in rows])
    with pytest.raises(DataError, match="labels numbers"):
        build_dataset("Charades", cfg, "train")


def test_corrections_and_groups_as_of_every_list(cfg, tmp_path):
    rewrite(tmp_path, lambda rows: [f"{row} home{row[0]}" for row in rows])
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace(HEADER, f"{HEADER} person"))
    (tmp_path / "fix.csv").write_text('id,action,label,split\nAAA,relabel,"0,5",train\nBBB,drop,,train\n')
    cfg.DATA.GROUP_COLUMN, cfg.DATA.CORRECTIONS = "person", str(tmp_path / "fix.csv")
    dataset = build_dataset("Charades", cfg, "train")
    assert [(clip.id, clip.label, clip.group) for clip in dataset.clips] == [("AAA", (0, 5), "homeA")]
    labels = {tuple(dataset[SampleRequest(epoch, 0)][0]["label"].tolist()) for epoch in range(5)}
    assert labels == {(1, 0, 0, 0, 0, 1)}  # of all its frames
    cfg.DATA.CORRECTIONS = ""
    with pytest.raises(DataError, match="no column person"):
        build_dataset("Charades", cfg, "val")


def test_clips_of_no_list_can_be_asked_about(cfg, tmp_path):
    manifest = Manifest([Clip("new", str(tmp_path / "frames" / "BBB"), None)], list("012345"), "", True)
    item = Charades.for_clips(cfg, manifest, {})[0]
    listed = build_dataset("Charades", cfg, "test")[1]
    assert item["inputs"]["video"].equal(listed["inputs"]["video"])  # by the same frames
    clips = Charades.read_new_clips(cfg, str(tmp_path / "val.csv"))
    assert [(clip.id, clip.label) for clip in clips] == [("AAA", None), ("BBB", None)]


def test_a_check_reads_frame_lists(cfg, tmp_path):
    (tmp_path / "frames" / "BBB" / "BBB-000003.png").write_bytes(b"broken")
    report = check_data(str(tmp_path), ListOptions(path_prefix=str(tmp_path / "frames")))
    assert {one.id for one in report.findings if one.kind == "bad"} == {"BBB"}
    assert {one.id for one in report.findings if one.kind == "leak"} == {"AAA", "BBB"}  # val is train here
    assert any("train: 2 samples of 3 classes" in line for line in report.facts)
    with pytest.raises(DataError, match=r"FILE.csv, for DATA.CORRECTIONS"):
        write_clean(report, tmp_path / "clean")
