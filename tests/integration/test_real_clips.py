"""From scratch on real clips: which of several films is an unseen later segment from?"""

import json

import av
import pytest

from dust.decode.reader import VideoReader
from dust.engine import run_net
from tests.helpers import ROOT, VIDEOS, needs_videos

SOURCES = [
    "mma_demo.mp4",
    "mpy_chaplin.mp4",
    "skv_bikes.mp4",
    "skv_bbb.mp4",
    "mma_test.mp4",
    "ivid_example1.mp4",
]
FRAMES = 16


def write_segment(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"crf": "20"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def cut(source, folder, rows):
    """Train segments out of the first 60 % of a film's time, test segments out of the last 40 %."""
    with VideoReader(VIDEOS / source) as reader:
        border = int(len(reader) * 0.6)
        for split, first, last, count in (("train", 0, border, 12), ("test", border, len(reader), 6)):
            length = min(FRAMES, (last - first) // 2)
            for number in range(count):
                start = first + (last - first - length) * number // max(count - 1, 1)
                name = f"{source.split('.')[0]} {split} {number}.mp4"
                write_segment(folder / name, reader.frames(range(start, start + length), size=(96, 128)))
                rows[split].append(f"{name},{source}")


@needs_videos
@pytest.mark.slow
def test_unseen_segments_of_real_films_are_told_apart(tmp_path):
    rows = {"train": ["path,label"], "test": ["path,label"]}
    for source in SOURCES:
        cut(source, tmp_path, rows)
    for split, lines in rows.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    words = ["--cfg", str(ROOT / "configs" / "quickstart" / "video.yaml"), "DATA.PATH_TO_DATA_DIR", str(tmp_path)]
    words += ["MODEL.NUM_CLASSES", str(len(SOURCES)), "TRAIN.EVAL_PERIOD", "0", "OUTPUT_DIR", str(tmp_path / "run")]
    assert run_net.main([*words, "SOLVER.MAX_EPOCH", "12", "TEST.NUM_SPATIAL_CROPS", "3"]) == 0
    report = json.loads((tmp_path / "run" / "results" / "test.json").read_text())
    assert report["counts"] == {"samples": 6 * len(SOURCES), "bad_clips": 0}
    assert report["metrics"]["top1_acc"] > 3 * 100 / len(SOURCES)
