"""Loader workers that cannot deliver: the run says why, has saved what it learnt, and goes on to the same end."""

import signal
from pathlib import Path

import pytest

from tests.faults.victims import PARTS, newest, words
from tests.processes import until
from tests.runs import assert_same

#: Loaded into a run before it begins: once, in the second epoch, a worker of the chosen process fails in this way.
FAULT = """
import os, pathlib, time
import dust.datasets.video.video as video
from dust.utils import distributed

original, marker = video.VideoDataset.__getitem__, pathlib.Path({marker!r})


def kill():
    os.kill(os.getpid(), 9)


def hang():
    time.sleep(1000)


def getitem(self, key):
    if getattr(key, "epoch", 0) == 1 and distributed.rank() == {rank} and not marker.exists():
        marker.touch()
        {fault}()
    return original(self, key)


video.VideoDataset.__getitem__ = getitem
"""
RUN = {
    "SOLVER__MAX_EPOCH": 3,
    "TEST__ENABLE": False,
    "TRAIN__CHECKPOINT_PERIOD": 0,
    "TRAIN__CHECKPOINT_PERIOD_ITERS": 0,
}


@pytest.fixture(scope="module")
def whole(zygote, clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    zygote.finish(words(clips, out, **RUN))
    return newest(out)


def loaded(tmp_path, fault: str, rank: int = 0) -> tuple[str, Path]:
    marker = tmp_path / "marker"
    (tmp_path / "fault.py").write_text(FAULT.format(fault=fault, marker=str(marker), rank=rank))
    return str(tmp_path / "fault.py"), marker


def assert_goes_on(zygote, argv, out: Path, whole: dict) -> None:
    """What was learnt is there, and the same command comes to the same end."""
    assert newest(out)["updates"] > 0
    zygote.finish(argv)
    assert_same({part: newest(out)[part] for part in PARTS}, {part: whole[part] for part in PARTS})


@pytest.mark.slow
def test_a_dead_worker_is_said_and_the_state_is_saved(zygote, clips, tmp_path, whole):
    out = tmp_path / "run"
    argv = words(clips, out, **RUN)
    load, _ = loaded(tmp_path, "kill")
    run = zygote.start(argv, load=load)
    assert run.wait() == 2, run.said[-3000:]
    (error,) = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in ("SIGKILL", "memory", "DATA_LOADER.NUM_WORKERS", "Saved", "the same command"))
    assert "Traceback" not in run.said
    assert_goes_on(zygote, argv, out, whole)


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_a_worker_that_hangs(zygote, clips, tmp_path, whole):
    out = tmp_path / "run"
    argv = words(clips, out, **RUN)
    load, marker = loaded(tmp_path, "hang")
    run = zygote.start(argv, load=load)
    until(marker.exists, "the hang", run)
    run.send(signal.SIGTERM, group=True)
    assert run.wait() == 143, run.said[-3000:]
    assert_goes_on(zygote, argv, out, whole)


@pytest.mark.slow
def test_one_process_of_two(zygote, clips, tmp_path):
    """The step that one of them cannot take part in is made by none, and all save."""
    two = {
        **RUN,
        "NUM_PROCS_PER_NODE": 2,
        "TRAIN__BATCH_SIZE": 4,
        "GLOBAL_BATCH_SIZE": 8,
        "DATA_LOADER__NUM_WORKERS": 1,
    }
    out = tmp_path / "run"
    zygote.finish(words(clips, tmp_path / "whole", **two))
    argv = words(clips, out, **two)
    load, _ = loaded(tmp_path, "kill", rank=1)
    run = zygote.start(argv, load=load)
    assert run.wait() == 2, run.said[-3000:]
    assert "SIGKILL" in run.said and "the same command" in run.said, run.said[-3000:]
    assert_goes_on(zygote, argv, out, newest(tmp_path / "whole"))
