import os

import av
import numpy as np
import pytest

from dust.convert import prepare as module
from dust.convert.prepare import Encoding, prepare
from dust.datasets.manifest.table import read_csv
from dust.decode.reader import VideoReader
from dust.utils.errors import DataError
from tests.datasets.clip_files import damaged, turned, write_clip
from tests.helpers import contents, tool

SMALL = Encoding(short_side=48, preset="ultrafast", crf=12)
TIMES = np.cumsum([0] + [1, 3] * 20).tolist()


@pytest.fixture
def folder(tmp_path):
    """A dataset in three layouts at once: a subfolder, an avi, an irregular and a turned clip, a broken one, lists."""
    root = tmp_path / "raw"
    (root / "a b").mkdir(parents=True)
    write_clip(root / "a b" / "one, two.mp4", 40)
    write_clip(root / "irregular.mkv", 41, times=TIMES)
    write_clip(root / "old.avi", 30, codec="mpeg4")
    turned(write_clip(tmp_path / "x.mp4", 20), root / "turned.mp4", 0, 1, -1, 0)
    damaged(write_clip(tmp_path / "y.mp4", 60, container={"movflags": "+faststart"}), root / "cut.mp4", "cut")
    (root / "train.csv").write_text(f'"a b/one, two.mp4",0\nold.avi,1\n{root}/turned.mp4,2\n')
    (root / "notes.bin").write_bytes(b"left out")
    return root


def test_a_folder_becomes_the_same_tree(folder, tmp_path):
    before, out = contents(folder), tmp_path / "out"
    done = prepare(folder, out, SMALL)
    assert contents(folder) == before
    assert done.written == 4 and done.ready == 0 and list(done.copied) == [str(folder / "cut.mp4")]
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    clips = {"a b/one, two.mp4", "irregular.mkv", "old.mp4", "turned.mp4", "cut.mp4"}
    assert made == clips | {"train.csv", module.SETTINGS}
    assert (out / "cut.mp4").read_bytes() == before["cut.mp4"]
    assert [row.written for row in read_csv(out / "train.csv", split="train").rows] == [
        "a b/one, two.mp4",
        "old.mp4",
        str(out / "turned.mp4"),
    ]
    for name in clips - {"cut.mp4"}:
        source = folder / name if (folder / name).exists() else folder / "old.avi"
        with VideoReader(source) as old, VideoReader(out / name) as new:
            assert len(new) == len(old) and min(new.height, new.width) == 48 and new.fps == pytest.approx(old.fps)
            assert (new.height > new.width) == (old.height > old.width)
            assert np.allclose(new.pts - new.pts[0], old.pts - old.pts[0], atol=2e-3)
            scaled = old.frames([3, 17], size=(new.height, new.width)).astype(int)
            assert np.abs(scaled - new.frames([3, 17])).mean() < 6
        with av.open(str(out / name)) as container:
            keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
            assert np.diff(np.flatnonzero([*keys, True])).max() <= 16
            assert not container.streams.audio


def test_it_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare_clip, left = module.prepare_clip, [2]

    def stop_after_two(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return prepare_clip(*args)

    monkeypatch.setattr(module, "prepare_clip", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, out, SMALL)
    monkeypatch.setattr(module, "prepare_clip", prepare_clip)
    assert prepare(folder, out, SMALL).ready == 2
    before = contents(out)
    again = prepare(folder, out, SMALL)
    assert again.ready == 5 and again.written == 0 and contents(out) == before
    os.utime(folder / "turned.mp4")  # a source that changed is made anew
    assert prepare(folder, out, SMALL).written == 1
    assert not list(out.rglob(".*"))
    with pytest.raises(DataError, match="was prepared with"):
        prepare(folder, out, Encoding(short_side=64))


def test_a_csv_is_rewritten_beside_its_clips(folder, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "val.csv").write_text(f"path,label\n../raw/old.avi,run\n{folder}/irregular.mkv,walk\n../raw/old.avi,run\n")
    done = prepare(lists / "val.csv", tmp_path / "out", SMALL)
    assert done.written == 2
    rows = read_csv(tmp_path / "out" / "val.csv", split="val").rows
    assert [(row.written, row.label) for row in rows] == [
        ("old.mp4", "run"),
        ("irregular.mkv", "walk"),
        ("old.mp4", "run"),
    ]
    assert all((tmp_path / "out" / row.written).is_file() for row in rows)
    (lists / "bad.csv").write_text("nowhere.mp4,1\n")
    with pytest.raises(DataError, match=r"nowhere\.mp4"):
        prepare(lists / "bad.csv", tmp_path / "out2", SMALL)


def test_segments_of_a_csv_stay(folder, tmp_path):
    (tmp_path / "val.csv").write_text(
        f"path,label,start,end\n{folder}/irregular.mkv,run,0.5,1\n{folder}/irregular.mkv,walk,1,\n"
    )
    assert prepare(tmp_path / "val.csv", tmp_path / "out", SMALL).written == 1
    rows = read_csv(tmp_path / "out" / "val.csv", split="val").rows
    assert [(row.written, str(row.segment)) for row in rows] == [("irregular.mkv", "0.5-1"), ("irregular.mkv", "1-")]


def test_what_cannot_be_prepared_is_an_error(folder, tmp_path):
    with pytest.raises(DataError, match="lie in each other"):
        prepare(folder, folder / "out", SMALL)
    with pytest.raises(DataError, match="neither"):
        prepare(tmp_path / "missing", tmp_path / "out", SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="not empty"):
        prepare(folder, tmp_path / "full", SMALL)
    write_clip(folder / "old.mp4", 5)
    with pytest.raises(DataError, match="both become"):
        prepare(folder, tmp_path / "out", SMALL)
    with pytest.raises(DataError, match="short_side"):
        prepare(folder, tmp_path / "out", Encoding(short_side=0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="names no video"):
        prepare(tmp_path / "empty", tmp_path / "out", SMALL)


@pytest.mark.slow
def test_the_command_line_with_workers(folder, tmp_path):
    command = ["prepare_clips", folder, "--out", tmp_path / "out"]
    run = tool(*command, "--short-side", "48", "--preset", "ultrafast", "--workers", "2")
    assert run.returncode == 0, run.stderr
    assert "wrote 4 clips" in run.stdout and "copied as it is" in run.stdout
    again = tool(*command, "--short-side", "64")
    assert again.returncode == 2 and "was prepared with" in again.stderr
