"""What killed processes and failing disks leave in the small files of a run."""

import csv
import errno
import fcntl
import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from dust.datasets.loader import Loader, _start_worker
from dust.datasets.sample import BadClip
from dust.engine.run_dir import BadClipLog, RunDir
from dust.utils.logging import _AboveProgressBar, _LogFile
from tests.processes import gone, until

HEAD = b"split,id,path,reason\r\n"
ROW = b"train,a,a.mp4,cut short\r\n"


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file) if row["reason"] is not None]


@pytest.mark.parametrize(
    ("left", "known"),
    [
        (b"", []),
        (HEAD, []),
        (HEAD[:9], []),
        (HEAD + ROW, ["a"]),
        (HEAD + ROW + b"train,b", ["a"]),
        (HEAD + ROW + b"train,b,b.mp4,\xff\xfe", ["a"]),
        (HEAD + ROW + b"\0" * 600, ["a"]),
        (HEAD + ROW + b'train,b,"b', ["a"]),
    ],
)
def test_a_list_of_bad_clips_that_was_cut_off(tmp_path, left, known):
    """The next start reads what is whole and goes on behind what is not."""
    path = tmp_path / "bad_clips.csv"
    path.write_bytes(left)
    for _ in range(2):
        log = BadClipLog(path, "train", "skip")
        for name in ("a", "c"):
            log(BadClip(name, f"{name}.mp4", "no frames"))
        assert log.count == 2
    data = path.read_bytes()
    assert data.startswith(left) and data.endswith(b"\r\n")
    assert data.count(b"train,c,c.mp4,no frames\r\n") == 1
    assert data.count(b"train,a,") == 1


def test_names_that_are_no_utf8(tmp_path, caplog):
    caplog.set_level(logging.ERROR, logger="dust")  # pytest's own messages are UTF-8
    path = tmp_path / "bad_clips.csv"
    BadClipLog(path, "val", "skip")(BadClip("x", os.fsdecode(b"caf\xe9.mp4"), "no frames"))
    assert rows(path) == ["x"]


def test_such_a_name_does_not_cost_the_console(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    for text in (os.fsdecode(b"caf\xe9.mp4"), "still here"):
        _AboveProgressBar().emit(logging.makeLogRecord({"msg": text}))
    assert raw.getvalue() == b"caf\\udce9.mp4\nstill here\n"


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def lockf(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with caplog.at_level("WARNING"), RunDir(tmp_path).lock():
        assert f"pid {os.getpid()}" in (tmp_path / ".lock").read_text()
    assert "No locks available" in caplog.text and "only one run" in caplog.text


def test_the_log_says_what_it_lost(tmp_path, capsys):
    """A disk that was full for a while: one warning then, and a line in the file once there is room."""
    handler = _LogFile(tmp_path / "stdout.log", encoding="utf-8")
    file = handler.stream

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = close = write

    def say(text):
        handler.handle(logging.LogRecord("dust", logging.INFO, __file__, 1, text, (), None))

    say("before")
    handler.stream = Full()
    for _ in range(3):
        say("lost")
    handler.stream = file
    say("after")
    handler.close()
    lines = (tmp_path / "stdout.log").read_text().splitlines()
    assert lines[:2] == ["before", "after"] and "3 lines before this may be missing" in lines[2] and len(lines) == 3
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_workers_mind_their_parent_only():
    """A scheduler signals every process of a job: that leaves the workers alive. Their parent still ends them."""
    loader = Loader(range(2000), num_workers=1, worker_init_fn=_start_worker, multiprocessing_context="fork")
    batches = iter(loader)
    next(batches)
    (worker,) = (one for one in psutil.Process().children() if one.pid == batches._workers[0].pid)
    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        subprocess.run(["kill", f"-{signum.value}", str(worker.pid)], check=True)
    assert sum(1 for _ in batches) == 1999

    batches = iter(loader)
    next(batches)
    worker = psutil.Process(batches._workers[0].pid)
    worker.terminate()
    until(lambda: gone(worker), "the end of the worker")
    del batches


def begin_without_a_parent(parent, sender):
    """A worker whose parent dies before the worker's first line."""
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.01)
    sender.send(os.getpid())
    _start_worker(0)
    time.sleep(600)


def parent_that_dies(sender):
    context = multiprocessing.get_context("fork")
    context.Process(target=begin_without_a_parent, args=(os.getpid(), sender)).start()
    time.sleep(600)


def test_a_worker_whose_parent_dies_as_it_begins():
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    parent = context.Process(target=parent_that_dies, args=(sender,))
    parent.start()
    worker = receiver.recv()
    until(lambda: not psutil.pid_exists(worker) or gone(psutil.Process(worker)), "the end of the worker")
    parent.join()
