"""A clip that is a segment of a video is read as if it had been cut out of it."""

import itertools
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from dust.config import load_config, with_values
from dust.datasets.build import build_dataset
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.transforms.frames import MODES
from dust.engine.data_lists import fingerprint
from dust.engine.run_net import run_stage
from tests.datasets.clip_files import texture, write_clip
from tests.helpers import csv_dicts
from tests.runs import TINY

LOSSLESS = {"codec": "ffv1", "pixels": "bgr0"}
TIMES = np.cumsum(np.random.RandomState(1).randint(1, 4, 80)).tolist()
FIRST, LAST = 17, 59  # frames of the segment, the last one exclusive


def write_cut(path, times):
    """A lossless video of these frames of ``texture`` alone, the first of them at 0."""
    pictures = texture(80)[FIRST:LAST]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "bgr0"
        for picture, time in zip(pictures, times[FIRST:LAST], strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time - times[FIRST], Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture(scope="module", params=["steady", "irregular"])
def folders(request, tmp_path_factory):
    """(list of a segment in seconds, list of the same frames as a file of their own)."""
    root, times = tmp_path_factory.mktemp("segments"), TIMES if request.param == "irregular" else list(range(80))
    whole, cut = root / "whole", root / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    write_clip(whole / "a.mkv", 80, times=times, **LOSSLESS)
    write_cut(cut / "a.mkv", times)
    start, end = (times[FIRST] - times[0]) / 25, (times[LAST] - times[0] - 0.5) / 25
    for split in ("train", "val", "test"):
        (whole / f"{split}.csv").write_text(f"path,label,start,end\na.mkv,0,{start},{end}\n")
        (cut / f"{split}.csv").write_text("path,label\na.mkv,0\n")
    return whole, cut


def dataset(folder, split, **values):
    cfg = load_config(None, {**TINY, "DATA.PATH_TO_DATA_DIR": str(folder), "MODEL.NUM_CLASSES": 1, **values})
    return build_dataset("VideoDataset", cfg, split)


@pytest.mark.parametrize("mode", MODES)
def test_all_rules_and_all_views(folders, mode):
    values = {"DATA.SAMPLING": mode, "DATA.NUM_FRAMES": 4, "DATA.SAMPLING_RATE": 3, "DATA.TARGET_FPS": 12}
    values |= {"TEST.NUM_ENSEMBLE_VIEWS": 3, "DATA.USE_OFFSET_SAMPLING": True}
    whole, cut = ({split: dataset(folder, split, **values) for split in ("train", "val", "test")} for folder in folders)
    for split in ("val", "test"):
        segment, alone = whole[split][0], cut[split][0]
        assert torch.equal(segment["inputs"]["video"], alone["inputs"]["video"])
    draws = set()
    for epoch in range(6):
        ((segment,), (alone,)) = (one["train"][SampleRequest(epoch, 0)] for one in (whole, cut))
        assert torch.equal(segment["inputs"]["video"], alone["inputs"]["video"])
        draws.add(segment["inputs"]["video"].sum().item())
    assert len(draws) > 3
    assert segment["id"].startswith("a.mkv#") and segment["path"] == str(folders[0] / "a.mkv")


def test_sliding_windows_stay_within(folders):
    found = [dataset(folder, "test", **{"DATA.SAMPLING": "dense"}).windows(stride=3, chunk=4) for folder in folders]
    assert len(found[0]) == len(found[1]) > 1
    for one, other in zip(*found, strict=True):
        assert torch.equal(one["inputs"]["video"], other["inputs"]["video"])


def test_frames_as_a_unit_and_segments_that_hold_nothing(folders):
    folder = folders[0]
    (folder / "new.csv").write_text(f"path,label,start,end\na.mkv,0,{FIRST},{LAST}\na.mkv,0,80,90\n")
    whole = dataset(folder / "new.csv", "test", **{"DATA.SEGMENT_UNIT": "frames"})
    assert torch.equal(whole[0]["inputs"]["video"], dataset(folders[1], "test")[0]["inputs"]["video"])
    bad = whole[1]
    assert isinstance(bad, BadClip) and bad.id == "a.mkv#80-90" and "no frame lies in frames 80 to 90" in bad.reason


def test_a_resumed_training_must_find_the_same_segments(folders):
    prints = set()
    for start in (0, 1):
        (folders[0] / "one.csv").write_text(f"id,path,label,start\nrun,a.mkv,0,{start}\n")
        prints.add(fingerprint(dataset(folders[0] / "one.csv", "train"), {}))
    assert len(prints) == 2


def test_a_prediction_is_what_the_test_of_the_segments_says(run, model, tmp_path):
    write_clip(tmp_path / "0.mp4", 100)
    shutil.copy(tmp_path / "0.mp4", tmp_path / "1.mp4")
    rows = [f"{number}.mp4,{'dark' if number else 'bright'},{start},{start + 1.2}\n"
            for number, start in itertools.product(range(2), (0, 0.9, 2.5))]  # fmt: skip
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("path,label,start,end\n" + "".join(rows))
    cfg = load_config(None, {**TINY, "DATA.PATH_TO_DATA_DIR": str(tmp_path), "OUTPUT_DIR": str(tmp_path / "out")})
    values = {
        "TRAIN.ENABLE": False,
        "TEST.CHECKPOINT_FILE_PATH": str(run / "checkpoints" / "checkpoint_epoch_00001.pyth"),
    }
    run_stage(with_values(cfg, values))
    tested = csv_dicts(tmp_path / "out" / "results" / "predictions.csv")
    found = model(str(tmp_path / "test.csv"))
    assert [one.id for one in found] == [row["id"] for row in tested] == [
        f"{number}.mp4#{times}" for number, times in itertools.product(range(2), ("0-1.2", "0.9-2.1", "2.5-3.7"))
    ]  # fmt: skip
    logits = np.stack([one.logits for one in found])
    assert len(np.unique(logits[:, 0])) == 3, "each segment has an answer of its own; both videos are alike"
    for one, row in zip(found, tested, strict=True):
        assert one.probabilities == pytest.approx(
            {name: float(row[f"prob_{name}"]) for name in one.probabilities}, abs=1e-5
        )


def test_statistics_take_the_video_for_the_group(model):
    records = [{"id": f"a.mp4#{n}-{n + 1}", "path": "/data/a.mp4"} for n in range(3)]
    assert model.evaluation().group_names(records, {}) == ["/data/a.mp4"] * 3
