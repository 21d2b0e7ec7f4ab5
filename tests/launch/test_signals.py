"""Signals: noted where a loop listens, raised where nobody does, the more urgent one wins."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from dust.launch import signals
from dust.launch.requeue import ExitHandler, job_of, requeue
from dust.launch.signals import Interrupted, InterruptFlag, forward_signals, handle_signals, most_urgent
from tests.helpers import ROOT


def send(signum):
    os.kill(os.getpid(), signum)


def never(signum):
    raise AssertionError("the main thread has heard of it")


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140)]
)
def test_where_nobody_listens_a_signal_ends_what_goes_on(signum, code):
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as stop, handle_signals(never):
        send(signum)
    assert stop.value.exit_code == code and stop.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_process_that_leaves_is_not_ended_by_term_before(tmp_path):
    """srun sends it to all as soon as one has left, and threads that block nothing are there to take it."""
    program = tmp_path / "leaves.py"
    program.write_text(
        "import os, signal, sys, threading, time\n"
        "from dust.launch.signals import ignore_termination\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "ignore_termination()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, str(program)], env=environment, timeout=300).returncode == 1


def test_what_takes_errors_does_not_take_an_interrupt():
    with pytest.raises(Interrupted), handle_signals(never):
        try:
            send(signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")


@pytest.mark.parametrize(
    ("came", "wins"),
    [
        ("TERM USR2", "USR2"),
        ("USR2 TERM", "USR2"),
        ("USR1 TERM INT", "USR1"),
        ("TERM TERM TERM", "TERM"),
        ("INT TERM", "TERM"),
        ("USR2 USR2", "USR2"),
    ],
)
def test_a_loop_stops_where_it_asks_and_the_most_urgent_wins(came, wins):
    flag, steps = InterruptFlag(), 0
    with pytest.raises(Interrupted) as stop, handle_signals(never), flag.listening():
        flag.check()
        for name in came.split():
            send(signal.Signals[f"SIG{name}"])
            steps += 1
        flag.check()
    assert steps == len(came.split()) and stop.value.signum == signal.Signals[f"SIG{wins}"]


def test_what_may_be_broken_off_is(monkeypatch):
    flag, before = InterruptFlag(), []
    with pytest.raises(Interrupted) as stop, handle_signals(never), flag.listening():
        send(signal.SIGINT)
        before.append(True)
        with flag.breakable():
            send(signal.SIGTERM)
            pytest.fail("it goes on")
    assert before and stop.value.signum == signal.SIGTERM
    with handle_signals(never), pytest.raises(Interrupted), flag.listening():
        send(signal.SIGTERM)
        flag.check_waiting()
        monkeypatch.setattr(signals, "DATA_PATIENCE_S", -1.0)
        flag.check_waiting()
        pytest.fail("it goes on waiting")


STUCK = """
import ctypes
from dust.launch.signals import InterruptFlag, handle_signals

mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
with handle_signals(lambda signum: 1), InterruptFlag().listening():
    lock(mutex)
    print("stuck", flush=True)
    lock(mutex)  # no signal ends this call
"""


def test_a_second_ctrl_c_ends_a_process_that_is_stuck():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGINT)
    time.sleep(signals.SAME_KEY_PRESS_S + 0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stdout.close()


def test_a_signal_after_the_last_question_is_not_forgotten():
    done = []
    with pytest.raises(Interrupted), InterruptFlag().listening():
        send(signal.SIGTERM)
        done.append(True)
    assert done


def test_after_the_first_stop_signals_change_the_reason_only():
    """Slurm sends TERM behind its own requeue, in the midst of the way out."""
    with handle_signals(never):
        try:
            send(signal.SIGTERM)
        except Interrupted as stop:
            send(signal.SIGTERM)
            send(signal.SIGUSR2)
            assert most_urgent(stop.signum) == signal.SIGUSR2
    with handle_signals(never):
        assert most_urgent() == 0, "another command begins anew"


def test_a_signal_that_is_heard_of_late_ends_nobody(monkeypatch):
    """The thread that watches may wake up when the block is over and the next one has begun, with no signal yet."""
    next_block, ended, opened = threading.Event(), [], os.fdopen

    class Late:
        def __init__(self, *args, **kwargs):
            self.file = opened(*args, **kwargs)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def read(self, size):
            numbers = self.file.read(size)
            next_block.wait(60)
            return numbers

    monkeypatch.setattr(signals, "SIGNAL_RESPONSE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    monkeypatch.setattr(signals.os, "fdopen", Late)
    known = set(threading.enumerate())
    with pytest.raises(Interrupted), handle_signals(ended.append):
        send(signal.SIGTERM)
    (watcher,) = set(threading.enumerate()) - known
    with handle_signals(ended.append):
        next_block.set()
        watcher.join(60)
    assert not watcher.is_alive() and not ended


def test_signals_are_handed_on():
    sent = []
    with handle_signals(never), forward_signals(sent.append):
        for signum in (signal.SIGUSR2, signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            send(signum)
    assert sent == [signal.SIGUSR2, signal.SIGINT, signal.SIGINT, signal.SIGTERM]


def test_a_forked_child_minds_its_own_signals():
    with handle_signals(never):
        child = os.fork()
        if not child:
            send(signal.SIGUSR2)  # nobody's there, until the child says otherwise
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert most_urgent() == 0


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in that notes what it is asked; its exit code is in ``code``."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    (tmp_path / "code").write_text("0")
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho not permitted >&2\nexit $(cat {tmp_path}/code)\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return tmp_path


def asked(scontrol):
    path = scontrol / "asked"
    return path.read_text().splitlines() if path.exists() else []


ARRAY = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(("environ", "job"), [({}, ""), ({"SLURM_JOB_ID": "9"}, "9"), (ARRAY, "70_3")])
def test_which_job_this_is(environ, job):
    assert job_of(environ) == job


@pytest.mark.parametrize(
    ("name", "environ", "wanted"),
    [
        ("USR1", {"SLURM_JOB_ID": "9"}, ["requeue 9"]),
        ("USR2", {**ARRAY, "SLURM_PROCID": "0"}, ["requeue 70_3"]),
        ("TERM", {"SLURM_JOB_ID": "9"}, []),
        ("INT", {"SLURM_JOB_ID": "9"}, []),
        ("USR2", {"SLURM_JOB_ID": "9", "SLURM_PROCID": "1"}, []),
        ("USR2", {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "RANK": "1"}, []),
        ("USR2", {}, []),
    ],
)
def test_who_asks_for_the_job_again(scontrol, monkeypatch, name, environ, wanted):
    monkeypatch.setattr("dust.launch.requeue.time.sleep", lambda seconds: None)
    signum = signal.Signals[f"SIG{name}"]
    assert ExitHandler(environ)(signum) == 128 + signum
    assert asked(scontrol) == wanted


def test_what_cannot_be_queued_again_is_one_line(scontrol, caplog, monkeypatch):
    (scontrol / "code").write_text("1")
    with caplog.at_level("INFO", logger="dust"):
        assert not requeue(signal.SIGUSR2, {"SLURM_JOB_ID": "9"})
        monkeypatch.setenv("PATH", "/nowhere")
        assert not requeue(signal.SIGUSR2, {"SLURM_JOB_ID": "9"})
        assert not requeue(signal.SIGUSR2, {})
    first, second, third = (record.getMessage() for record in caplog.records)
    assert "job 9 could not be queued again (not permitted)" in first and "scontrol" in second
    assert "start the same command again" in third
