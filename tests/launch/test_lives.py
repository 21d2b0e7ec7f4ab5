"""A job that saves nothing new in two lives in a row is not queued again, and says why."""

import json
import os
import signal
import time

import pytest

from dust.engine import run_net
from dust.launch.lives import RECORD, Lives, progress, time_limit
from dust.launch.requeue import ExitHandler

USR2 = signal.SIGUSR2
JOB = {"SLURM_JOB_ID": "9", "SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": "1600"}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins: scontrol notes what it is asked, squeue says what is in ``limit`` and fails without such a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (folder / "squeue").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/squeue\nexec cat {tmp_path}/limit\n')
    for script in folder.iterdir():
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def asked(slurm):
    path = slurm / "asked"
    return path.read_text().splitlines() if path.exists() else []


def life(*folders, environ=JOB, work=lambda: None):
    """One life of a job whose stages write to ``folders``; returns the exit code."""
    exit_handler = ExitHandler(environ)
    exit_handler.watch(map(str, folders))
    work()
    return exit_handler(USR2)


def write(path, text="{}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_second_life_without_a_step_is_the_last(slurm, caplog):
    run = slurm / "runs" / "new"
    (slurm / "limit").write_text("1:00\n")
    assert life(run) == 128 + USR2 and asked(slurm) == ["requeue 9"]
    assert life(run) == 1 and asked(slurm) == ["requeue 9"]
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    said = ("SIGUSR2: job 9 made no step in 2 lives in a row", "0 s after this life", "Its time limit is 1 min.")
    for part in (*said, "--timeout of dust submit", "--time of sbatch", "--signal of sbatch"):
        assert part in error, part
    assert (slurm / "squeue").read_text().split() == ["-h", "-j", "9", "-o", "%l"]
    assert not (run / RECORD).exists(), "who queues it by hand has changed something"
    assert life(run) == 128 + USR2


def test_how_long_each_life_lasted_is_told(slurm, caplog, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("dust.launch.requeue.time.monotonic", lambda: clock[0])

    def work(seconds):
        clock[0] += seconds

    life(slurm / "run", work=lambda: work(29))
    life(slurm / "run", work=lambda: work(31))
    assert "31 s after this life had begun and 29 s after the one before had" in caplog.records[-1].getMessage()


MADE = {
    "a step": ["checkpoints/checkpoint_epoch_00001_iter_0000004.pyth"],
    "a step, in parts": ["checkpoints/checkpoint_epoch_00001_iter_0000004.dcp/state.pyth"],
    "an epoch": ["checkpoints/checkpoint_epoch_00001.pyth"],
    "a test": ["results/test.json"],
    "features": ["features/val.npy", "features/val.json"],
    "features in one file": ["features/val.npz"],
}


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("made", MADE)
def test_a_life_with_a_step_begins_the_count_anew(slurm, made, stage):
    runs = [slurm / "one", slurm / "two"]

    def work():
        for name in MADE[made]:
            write(runs[stage] / name)

    assert life(*runs) == 128 + USR2
    assert (runs[0] / RECORD).exists()
    assert life(*runs, work=work) == 128 + USR2
    assert not (runs[0] / RECORD).exists() and not (runs[1] / RECORD).exists()
    assert life(*runs) == 128 + USR2
    assert life(*runs) == 1
    assert asked(slurm) == ["requeue 9"] * 3


def test_some_more_features_are_a_step(slurm):
    count = slurm / "run" / "features" / "val.count.partial"
    write(count, "[0, []]")
    assert life(slurm / "run") == 128 + USR2
    assert life(slurm / "run", work=lambda: write(count, "[8, []]")) == 128 + USR2
    assert life(slurm / "run") == 128 + USR2
    assert life(slurm / "run", work=lambda: write(count, "[8, []]")) == 1, "the same once more is none"


def test_what_is_only_made_again_is_no_step(slurm):
    """A life in which the validation does not end saves the same place again; a sweep of views tests the same again."""
    run = slurm / "run"

    def work():
        write(run / "checkpoints" / "checkpoint_epoch_00001_iter_0000004.pyth", str(time.time_ns()))
        write(run / "results" / "test.json")
        write(run / "results.partial" / "test.json", str(time.time_ns()))
        write(run / "checkpoints" / ".checkpoint_epoch_00002.pyth.tmp")
        write(run / "checkpoints" / "checkpoint_epoch_00001_iter_0000004.pyth.sha256", str(time.time_ns()))

    work()
    assert [life(run, work=work), life(run, work=work)] == [128 + USR2, 1]


def test_steps_of_a_life_that_was_killed_count(slurm):
    """It told nobody, but what it has saved is there."""
    run = slurm / "run"
    assert life(run) == 128 + USR2
    write(run / "checkpoints" / "checkpoint_epoch_00001.pyth")
    assert life(run) == 128 + USR2
    assert life(run) == 1


GOOD = {"job": "9", "seconds": [3.0]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "9", "[" * 900, json.dumps(GOOD), json.dumps({**GOOD, "progress": "/etc"}), "\xff\0",
     json.dumps({**GOOD, "job": "8", "progress": "."})],
)  # fmt: skip
def test_a_record_that_is_not_ours_is_none(slurm, text):
    write(slurm / "run" / RECORD, text)
    assert life(slurm / "run") == 128 + USR2
    assert json.loads((slurm / "run" / RECORD).read_text())["job"] == "9"


@pytest.mark.parametrize("seconds", ["x", None, {}, [True], [-1], ["3"], [float("nan")], [10**400]])
def test_seconds_that_are_none_are_no_life(slurm, seconds):
    assert life(slurm / "run") == 128 + USR2
    record = json.loads((slurm / "run" / RECORD).read_text())
    write(slurm / "run" / RECORD, json.dumps({**record, "seconds": seconds}))
    assert life(slurm / "run") == 128 + USR2


def test_another_jobs_lives_do_not_count(slurm):
    run = slurm / "run"
    array = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}
    for environ in (JOB, array, JOB, array):
        assert life(run, environ=environ) == 128 + USR2
    assert life(run, environ=array) == 1
    assert asked(slurm) == ["requeue 9", "requeue 70_3"] * 2


@pytest.mark.parametrize("in_the_way", ["a file", "a folder"])
def test_a_folder_that_cannot_be_written_to_counts_nothing(slurm, caplog, in_the_way):
    if in_the_way == "a file":
        write(slurm / "run")
    else:
        (slurm / "run" / RECORD).mkdir(parents=True)
    for _ in range(3):
        assert life(slurm / "run") == 128 + USR2
    assert "cannot be written" in caplog.text and asked(slurm) == ["requeue 9"] * 3


def test_only_after_a_signal_that_asks_for_the_job_again(slurm):
    for signum in (signal.SIGTERM, signal.SIGINT):
        exit_handler = ExitHandler(JOB)
        exit_handler.watch([str(slurm / "run")])
        assert exit_handler(signum) == 128 + signum
    assert not (slurm / "run").exists()


def test_outside_of_a_job_and_before_the_configurations_are_read_nothing_is_counted(slurm):
    assert [life(slurm / "run", environ={}) for _ in range(3)] == [128 + USR2] * 3
    assert [ExitHandler(JOB)(USR2) for _ in range(3)] == [128 + USR2] * 3
    assert not (slurm / "run").exists() and asked(slurm) == ["requeue 9"] * 3


class Store:
    """What the processes of a job see of each other."""

    def __init__(self):
        self.code = None

    def announce_exit(self, code, seconds):
        self.code = code

    def wait_for_exit(self, seconds):
        return self.code


def test_all_processes_end_alike(slurm):
    (slurm / "limit").write_text("1:00\n")
    for wanted in (128 + USR2, 1):
        store = Store()
        processes = [ExitHandler({**JOB, "SLURM_PROCID": str(rank)}) for rank in range(2)]
        for one in processes:
            one.rendezvous = store
            one.watch([str(slurm / "run")])
        assert [one(USR2) for one in processes] == [wanted, wanted]


def test_asked_twice_it_is_one_life(slurm):
    """By the thread that takes over from a process that hangs, and by that process when it wakes."""
    lives = Lives("9", [slurm / "run"], time.monotonic(), JOB)
    assert lives.go_on(USR2) and lives.go_on(USR2)


@pytest.mark.parametrize(
    ("says", "environ", "sentence"),
    [
        ("1-00:30:00", JOB, "Its time limit is 1470 min"),
        ("UNLIMITED", JOB, "It has no time limit"),
        ("", JOB, "Its time limit is 10 min"),
        (None, JOB, "Its time limit is 10 min"),
        (None, {}, "What its time limit is, Slurm does not say"),
        (None, {**JOB, "SLURM_JOB_END_TIME": "x"}, "What its time limit is, Slurm does not say"),
    ],
)
def test_the_limit_is_what_slurm_says_now_or_else_said_at_the_start(slurm, says, environ, sentence):
    if says is not None:
        (slurm / "limit").write_text(says)
    assert time_limit("9", environ) == sentence


def test_without_squeue_there_is_a_sentence_all_the_same(slurm, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert time_limit("9", JOB) == "Its time limit is 10 min"


def test_the_command_counts_its_lives(slurm, clips, monkeypatch):
    """Of its first folder, from the end of the configurations on; what it does to its end, it forgets."""
    from tests.runs import words

    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    argv = words(clips, slurm / "run", TEST__ENABLE=False)

    def too_early(*args):
        os.kill(os.getpid(), USR2)
        raise AssertionError("it has gone on")

    with monkeypatch.context() as early:
        early.setattr("dust.launch.launcher.Launcher.run", too_early)
        assert run_net.main(argv) == 128 + USR2
    assert (slurm / "run" / RECORD).exists()
    assert run_net.main(argv) == 0
    assert not (slurm / "run" / RECORD).exists()
    with monkeypatch.context() as early:
        early.setattr("dust.launch.launcher.Launcher.run", too_early)
        assert [run_net.main(argv) for _ in range(2)] == [128 + USR2, 1]


def test_what_a_run_leaves_is_seen(tiny, tmp_path):
    """The names are those that the stages write."""
    run_net.run_stage(tiny(SOLVER__MAX_EPOCH=1))
    trained = progress([tmp_path / "run"])
    assert "0 checkpoint_epoch_00001.pyth" in trained and any(one.startswith("0 test ") for one in trained)
    run_net.run_stage(tiny(TRAIN__ENABLE=False, TEST__ENABLE=False, FEATURES__ENABLE=True, FEATURES__SPLITS=["val"]))
    assert progress([tmp_path / "run"]) - trained == {"0 val.json"}
    run_net.run_stage(tiny(SOLVER__MAX_EPOCH=1))
    assert progress([tmp_path / "run"]) - trained == {"0 val.json"}, "the same test finds the same"
