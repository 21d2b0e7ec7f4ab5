"""Full and read-only disks: what is there stays whole, one clear error says so, and the run goes on once it can."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dust.utils.checkpoint import list_checkpoints, verify_checkpoint
from tests.faults.victims import KINDS, assert_same_outcome, outcome, saves, words
from tests.processes import Run, until

RUN = {"SOLVER__MAX_EPOCH": 6, "LOG_PERIOD": 1}
ROOT_ONLY = "needs root, to mount a small disk"


def mounted(*words: str) -> bool:
    return os.geteuid() == 0 and subprocess.run(["mount", *words], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of its own, of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)):
        pytest.skip(ROOT_ONLY)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte more goes onto the disk while this lasts."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    ballast.unlink()


@pytest.fixture(scope="module")
def whole(zygote, clips, tmp_path_factory) -> dict:
    """What an undisturbed run comes to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    zygote.finish(words(clips, out, **RUN))
    return outcome(out)


def assert_failed(victim: Run, *said: str) -> None:
    """It has ended with one line that says all of this."""
    code, text = victim.wait(), victim.said
    assert code == 2, text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and all(one in errors[0] for one in said), (errors, said)


def assert_intact(checkpoints: Path) -> None:
    found = list_checkpoints(checkpoints)
    assert found and all(verify_checkpoint(path) == "ok" for path in found)
    left = [path.name for path in checkpoints.iterdir() if path.name.startswith(".")]
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["background", "sharded", pytest.param("plain", marks=pytest.mark.faults100)])
def test_a_disk_that_is_full_while_a_checkpoint_is_written(zygote, clips, disk, whole, kind):
    argv = words(clips, disk / "run", **RUN, **KINDS[kind])
    checkpoints = disk / "run" / "checkpoints"
    victim = zygote.start(argv)
    saves(checkpoints, victim, 3)
    with filled(disk):
        assert_failed(victim, str(checkpoints / "checkpoint_"), "could not be written", "No space left")
        assert_intact(checkpoints)
    zygote.finish(argv)
    assert_same_outcome(disk / "run", whole)


@contextlib.contextmanager
def read_only(folder: Path, victim: Run) -> Iterator[None]:
    if os.geteuid():
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    if not mounted("--bind", str(folder), str(folder)):
        pytest.skip("needs the right to mount")
    try:
        until(lambda: mounted("-o", "remount,ro,bind", str(folder)) or victim.ended(), "no open file there", victim)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_folder_that_turns_read_only(zygote, clips, tmp_path, whole):
    argv = words(clips, tmp_path / "run", **RUN)
    checkpoints = tmp_path / "run" / "checkpoints"
    victim = zygote.start(argv)
    saves(checkpoints, victim, 2)
    with read_only(checkpoints, victim):
        # which of its files meets it is chance: a new one, or an old one that is removed
        reason = "Permission denied" if os.geteuid() else "Read-only file system"
        assert_failed(victim, str(checkpoints / "checkpoint_"), reason)
        # a file that was whole but not renamed yet cannot be removed there; the next start does that
        assert all(verify_checkpoint(path) == "ok" for path in list_checkpoints(checkpoints))
    zygote.finish(argv)
    assert_intact(checkpoints)
    assert_same_outcome(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start(zygote, clips, disk):
    argv = words(clips, disk / "run", SOLVER__MAX_EPOCH=1, TEST__ENABLE=False)
    (disk / "run").mkdir()
    (disk / "run" / "config.yaml").write_text("old\n")
    with filled(disk):
        assert_failed(zygote.start(argv), str(disk / "run" / "config.yaml"), "No space left")
        assert (disk / "run" / "config.yaml").read_text() == "old\n"
    zygote.finish(argv)


@pytest.mark.slow
def test_results_on_a_full_disk(zygote, clips, disk):
    """The training is done and stays; results appear whole or not at all."""
    settings = {"SOLVER__MAX_EPOCH": 1, "LOG_PERIOD": 1, "TEST__NUM_ENSEMBLE_VIEWS": 40, "TEST__BATCH_SIZE": 1}
    argv = words(clips, disk / "run", **settings)
    log = disk / "run" / "stdout.log"
    victim = zygote.start(argv)
    until(lambda: victim.ended() or (log.exists() and '"test_iter"' in log.read_text()), "a test", victim)
    with filled(disk):
        assert_failed(victim, str(disk / "run"), "No space left")
        assert not (disk / "run" / "results").exists()
    zygote.finish(argv)
    assert (disk / "run" / "results" / "test.json").exists()


#: Two files of a run's folder are on another disk.
ELSEWHERE = """
import builtins, os
plain = builtins.open
def opened(file, *rest, **more):
    name = os.path.basename(os.fspath(file)) if isinstance(file, (str, os.PathLike)) else ""
    return plain(os.path.join({disk!r}, name) if name in ("stdout.log", "bad_clips.csv") else file, *rest, **more)
builtins.open = opened
"""


@pytest.mark.slow
def test_what_is_written_for_people_does_not_end_a_run(zygote, clips, disk, whole, tmp_path):
    """Console, stdout.log, bad_clips.csv and TensorBoard on full disks: the numbers are those of any other run."""
    pytest.importorskip("tensorboard")
    data = tmp_path / "clips"
    shutil.copytree(clips, data)
    (data / "broken.mp4").write_bytes(b"no video")
    with open(data / "val.csv", "a") as file:
        file.write("broken.mp4,dark\n")
    out = tmp_path / "run"
    out.mkdir()
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE.format(disk=str(disk)))
    board = {"TENSORBOARD__ENABLE": True, "TENSORBOARD__LOG_DIR": disk, "TEST__ON_BAD_CLIP": "skip"}
    argv = words(data, out, **RUN, **board)
    with filled(disk):
        victim = zygote.finish(argv, load=str(tmp_path / "elsewhere.py"))
    for name in ("stdout.log", "bad_clips.csv", "TensorBoard"):
        assert f"{name}" in victim.said, victim.said[-3000:]
    assert "cannot be written" in victim.said and "bad clip in val" in victim.said
    assert_same_outcome(out, whole)
    zygote.finish(words(clips, tmp_path / "silent", **RUN), console="/dev/full")
    assert_same_outcome(tmp_path / "silent", whole)
    assert "the console cannot be written to" in (tmp_path / "silent" / "stdout.log").read_text()


@pytest.mark.slow
def test_what_others_left_is_in_nobodys_way(zygote, clips, tmp_path, whole):
    """A stale lock, temporary files of killed processes, half-removed results."""
    out = tmp_path / "run"
    checkpoints = out / "checkpoints"
    left = [
        checkpoints / ".checkpoint_epoch_00001.pyth.4711.tmp",
        checkpoints / ".checkpoint_epoch_00001.pyth.sha256.4711.tmp",
        checkpoints / "checkpoint_epoch_00003_iter_0000007.pyth.sha256",
        checkpoints / ".checkpoint_epoch_00002.dcp.tmp" / "__0_0.distcp",
        out / ".config.yaml.4711.tmp",
        out / "results.partial" / "test.json",
        out / "results.replaced" / "test.json",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"cut o")
    (out / ".lock").write_text(f"host here pid {os.getpid()} since 2001-01-01 00:00:00")
    (out / "bad_clips.csv").write_bytes(b"")
    (out / "config.yaml").write_bytes(b"\0" * 512)
    zygote.finish(words(clips, out, **RUN))
    assert_same_outcome(out, whole)
    assert not [path for path in left if path.exists()]
