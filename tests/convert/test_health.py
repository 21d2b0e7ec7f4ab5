"""Clips that open, that decode to the end, that do neither, and one that takes its process down."""

import multiprocessing.util
import os
import shutil
import subprocess
import sys

import numpy as np

from dust.convert import health
from dust.synthetic.motion import write_video
from tests.helpers import ROOT, VIDEOS, needs_videos


def clip(path, seed=0):
    write_video(path, np.random.RandomState(seed).randint(0, 255, (24, 32, 32, 3), np.uint8))
    return str(path)


def test_opening_and_decoding(tmp_path):
    good = clip(tmp_path / "good.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    short = tmp_path / "short.mp4"
    short.write_bytes((tmp_path / "good.mp4").read_bytes()[:2000])
    for decode in (False, True):
        bad = health.examine_all([good, str(text), str(short), good], decode=decode)
        assert list(bad) == [str(text), str(short)]
        assert all(bad.values())
        assert not any("\n" in reason for reason in bad.values())


def test_damage_that_only_decoding_finds(tmp_path):
    path = tmp_path / "hole.mp4"
    data = bytearray((tmp_path / os.path.basename(clip(path))).read_bytes())
    start = data.index(b"mdat") + len(data) // 2
    data[start : start + 3000] = bytes(3000)
    path.write_bytes(data)
    assert health.measure(str(path), decode=True).reason


def test_a_folder_of_frames(tmp_path):
    from PIL import Image

    for number in range(3):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(tmp_path / f"{number}.jpg")
    assert health.measure(str(tmp_path), decode=True).reason == ""
    (tmp_path / "1.jpg").write_bytes(b"")
    assert "1.jpg" in health.measure(str(tmp_path), decode=True).reason


def test_processes_find_the_same(tmp_path):
    paths = [clip(tmp_path / f"{number}.mp4", number) for number in range(4)]
    (tmp_path / "2.mp4").write_bytes(b"")
    one = health.examine_all(paths, decode=True)
    assert list(one) == [paths[2]]
    assert health.examine_all(paths, decode=True, workers=2) == one
    # a cleaner of /tmp between two calls takes away the folder in which processes of one program may meet
    os.makedirs(multiprocessing.util.get_temp_dir(), exist_ok=True)
    shutil.rmtree(multiprocessing.util.get_temp_dir())
    assert health.examine_all(paths, decode=True, workers=2) == one
    os.makedirs(multiprocessing.util.get_temp_dir(), exist_ok=True)  # it is removed when the tests end


def test_a_clip_that_kills_the_decoder_costs_only_itself(tmp_path, monkeypatch):
    paths = [clip(tmp_path / f"{number}.mp4", number) for number in range(6)]
    opened = health.open_clip

    def open_or_die(path, **options):
        if path == paths[3]:
            os._exit(139)
        return opened(path, **options)

    monkeypatch.setattr(health, "open_clip", open_or_die)
    monkeypatch.setattr(health, "get_context", lambda _: multiprocessing.get_context("fork"))  # to inherit the patch
    assert health.examine_all(paths, decode=True, workers=2) == {paths[3]: "the decoder crashed on it"}


@needs_videos
def test_real_clips():
    good = [str(VIDEOS / "mma_demo.mp4"), str(VIDEOS / "mma_test.avi"), str(VIDEOS / "bad" / "vfr.mp4")]
    bad = [
        str(VIDEOS / "bad" / name) for name in ("random.mp4", "audio_only.mp4", "trunc_faststart.mp4", "zero_hole.mp4")
    ]
    assert list(health.examine_all([*good, *bad], decode=True)) == bad


def test_a_process_that_dies_before_all_files_are_asked_for(tmp_path, monkeypatch):
    paths = [clip(tmp_path / f"{number}.mp4", number) for number in range(3)]
    submit, asked = health.ProcessPoolExecutor.submit, []

    def break_off(pool, *args):
        asked.append(args)
        if len(asked) == 2:
            raise health.BrokenProcessPool
        return submit(pool, *args)

    monkeypatch.setattr(health.ProcessPoolExecutor, "submit", break_off)
    (tmp_path / "1.mp4").write_bytes(b"")
    assert list(health.examine_all(paths, decode=True, workers=1)) == [paths[1]] and len(asked) == 4


def test_a_script_that_starts_no_process_is_told_so(tmp_path):
    paths = [clip(tmp_path / f"{number}.mp4", number) for number in range(2)]
    script = tmp_path / "mine.py"
    script.write_text(f"from dust.convert.health import examine_all\nexamine_all({paths!r}, decode=True, workers=2)\n")
    ended = subprocess.run([sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert ended.returncode == 1 and "worker processes end as soon as they start" in ended.stderr
