"""Several processes: the same run as one, the same report, and an end within seconds when one of them dies."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import psutil
import pytest

from dust.launch.launcher import _lost, lost_another
from dust.launch.lives import Lives
from dust.launch.rendezvous import DistEnv, Rendezvous, first_host, process_group, read_dist_env
from dust.launch.signals import Interrupted
from dust.utils.errors import ConfigError, DustError
from tests.helpers import ROOT
from tests.processes import KILL, gone, until, zygote
from tests.runs import PLAIN, assert_close_weights, epochs, run, weights, words

#: Makes a run slow, as its environment says.
SLOW_STEPS = ROOT / "tests" / "slurm" / "slow_steps" / "sitecustomize.py"
LONG = {**PLAIN, "SOLVER__MAX_EPOCH": 500, "TRAIN__EVAL_PERIOD": 0}


@pytest.fixture(scope="module")
def alone(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("alone") / "run", 1)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"GLOBAL_BATCH_SIZE": 8}], ids=["plain", "accumulated"])
def test_two_processes_are_one(clips, tmp_path, alone, more):
    """10 clips in batches of 4: the last batch is short. With accumulation the gradient is exchanged once a step."""
    reference = run(clips, tmp_path / "one", 1, **more) if more else alone
    both = run(clips, tmp_path / "two", 2, **more)
    one, two = weights(reference), weights(both)
    assert_close_weights(one, two)
    assert two["updates"] == one["updates"] and two["world_size"] == 2
    for (epoch, loss, error), (epoch_2, loss_2, error_2) in zip(epochs(reference), epochs(both), strict=True):
        assert (epoch_2, error_2) == (epoch, error) and loss_2 == pytest.approx(loss, abs=1.1e-5)


@pytest.mark.slow
def test_three_processes_write_the_report_of_one(clips, tmp_path, alone):
    """4 test clips over 3 processes: every clip once, in the same order."""
    out = tmp_path / "three"
    checkpoint = alone / "checkpoints" / "checkpoint_epoch_00002.pyth"
    run(clips, out, 3, TRAIN__ENABLE=False, TEST__CHECKPOINT_FILE_PATH=checkpoint, TRAIN__BATCH_SIZE=3)
    reports = [json.loads((folder / "results" / "test.json").read_text()) for folder in (alone, out)]
    assert reports[0]["counts"] == reports[1]["counts"] and reports[0]["metrics"] == reports[1]["metrics"]
    rows = []
    for folder in (alone, out):
        with open(folder / "results" / "predictions.csv", newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        assert float(first["prob_dark"]) == pytest.approx(float(second["prob_dark"]), abs=1e-5)


def begun(clips, out, **more):
    """A long run of two processes that has saved its first epoch."""
    process = zygote().start(words(clips, out, **{**LONG, "NUM_PROCS_PER_NODE": 2}), **more)
    until((out / "checkpoints" / "checkpoint_epoch_00001.pyth").exists, "a checkpoint", process)
    return process


@pytest.mark.slow
def test_a_dead_process_ends_the_run_and_it_resumes(clips, tmp_path):
    process = begun(clips, tmp_path / "run")
    ranks = process.ranks()
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was ended by SIGKILL; the others stop" in error
    assert all(gone(rank) for rank in ranks)
    done = len(list((tmp_path / "run" / "checkpoints").glob("checkpoint_epoch_*.pyth")))
    run(clips, tmp_path / "run", 1, SOLVER__MAX_EPOCH=done + 1, TRAIN__EVAL_PERIOD=0)
    log = (tmp_path / "run" / "stdout.log").read_text()
    assert "resumed from" in log and "written by 2 processes (1 batches per step), now there are 1 (1)" in log


@pytest.mark.slow
def test_term_saves_in_all_and_exits_143(clips, tmp_path):
    """New interpreters, as users have them: signals are minded from the start of each."""
    process = begun(clips, tmp_path / "run", spawn=True)
    process.send(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "Traceback" not in error
    assert "stopped at epoch" in (tmp_path / "run" / "stdout.log").read_text()


@pytest.mark.slow
def test_an_error_of_all_is_said_once(clips, tmp_path):
    process = zygote().start(
        words(clips, tmp_path / "run", **{**PLAIN, "NUM_PROCS_PER_NODE": 2, "MODEL__NUM_CLASSES": 7})
    )
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2 and error.count("error:") == 1 and "NUM_CLASSES 2" in error, error


def test_nodes_need_a_place_to_meet(clips, tmp_path, capsys):
    from dust.engine import run_net

    assert run_net.main(words(clips, tmp_path / "run", NUM_SHARDS=2)) == 2
    assert "--init_method tcp://" in capsys.readouterr().err


TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a"}
SLURM = {
    "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "node[7-8]", "SLURM_JOB_ID": "40123",
}  # fmt: skip


def test_places(monkeypatch):
    assert read_dist_env({}) is None
    assert read_dist_env(TORCHRUN) == DistEnv(5, 8, 1, 4, "env://")
    monkeypatch.setattr("dust.launch.rendezvous.first_host", lambda nodes: {"node[7-8]": "node7"}[nodes])
    assert read_dist_env(SLURM) == DistEnv(3, 4, 1, 2, "tcp://node7:28246")
    assert read_dist_env({**SLURM, "MASTER_PORT": "9"}) == DistEnv(3, 4, 1, 2, "tcp://node7:9")
    one_task = {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert read_dist_env(one_task) is None, "an sbatch script, or srun with one task"


def free_port():
    from dust.launch.launcher import free_port

    return str(free_port())


def tasks(argv, count, scontrol=None, *, nodes=1, load=None, **more):
    """``count`` processes as srun starts them, on one node or, as they see it, on each of several one.

    ``load``: as in tests/zygote.py; ``more``: added to the environment.
    """
    environ = {
        "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_JOB_ID": "9", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **more,
    }  # fmt: skip
    if scontrol is not None:
        environ["PATH"] = f"{scontrol}:{os.environ['PATH']}"
    envs = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % (count // nodes))} for rank in range(count)]
    loaded = {} if load is None else {"load": str(load)}
    return [zygote().start(argv, env={**environ, **env}, **loaded) for env in envs]


@pytest.fixture
def scontrol(tmp_path):
    """A stand-in for scontrol that notes what it is asked, late."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\nsleep 1\necho "$@" >> {tmp_path}/asked\n')
    (folder / "scontrol").chmod(0o755)
    return folder


@pytest.mark.slow
def test_usr2_saves_and_asks_for_the_job_before_any_task_has_gone(clips, tmp_path, scontrol):
    """srun may end the others as soon as one task is gone, so the second stays until the first has asked."""
    first, second = tasks(words(clips, tmp_path / "run", **LONG), 2, scontrol)
    until((tmp_path / "run" / "checkpoints" / "checkpoint_epoch_00001.pyth").exists, "a checkpoint", first)
    for process in (second, first):
        process.send(signal.SIGUSR2)
    second.wait(timeout=60)
    assert (tmp_path / "asked").read_text() == "requeue 9\n", "before, and once"
    errors = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (140, 140), errors
    assert "Traceback" not in "".join(errors)
    assert "stopped at epoch" in (tmp_path / "run" / "stdout.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_gets_nowhere_fails_in_all_tasks(clips, tmp_path, scontrol, processes):
    """A task for each process, or for each node, which starts that node's. The life before was without a step too."""
    run = tmp_path / "run"
    assert Lives("9", [run], time.monotonic(), {}).go_on(signal.SIGUSR2)
    argv = words(clips, run, **{**PLAIN, "NUM_PROCS_PER_NODE": processes})
    both = tasks(argv, 2, scontrol, nodes=processes, load=SLOW_STEPS, SECONDS_BEFORE_STEPS="600")
    log = run / "stdout.log"
    until(lambda: log.exists() and "training from scratch" in log.read_text(), "training")
    for process in reversed(both):
        process.send(signal.SIGUSR2)
    said = ["".join(process.communicate(timeout=120)) for process in both]
    assert [process.returncode for process in both] == [1, 1], said
    assert "SIGUSR2: job 9 made no step in 2 lives in a row" in said[0] and "Traceback" not in "".join(said)
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "lives", "code"), [(signal.SIGTERM, 0, 143), (signal.SIGUSR2, 0, 140), (signal.SIGUSR2, 1, 1)]
)
def test_a_signal_while_waiting_for_the_others(clips, tmp_path, scontrol, signum, lives, code):
    """The second task never comes; the first hangs in a call that Python's own handlers cannot break off."""
    for _ in range(lives):
        assert Lives("9", [tmp_path / "run"], time.monotonic(), {}).go_on(signum)
    process, absent = tasks(words(clips, tmp_path / "run", **PLAIN), 2, scontrol)
    absent.send(KILL)
    absent.wait()

    def waits():  # its store listens: from here on
        return [one for one in psutil.Process(process.pid).net_connections() if one.status == psutil.CONN_LISTEN]

    until(waits, "a port that it listens at", process)
    process.send(signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in error, error
    assert (tmp_path / "asked").exists() == (code == 140)
    assert ("job 9 made no step in 2 lives in a row" in error) == (code == 1)


@pytest.mark.slow
def test_a_dead_task_is_told_behind_its_own_words(clips, tmp_path):
    first, second = tasks(words(clips, tmp_path / "run", **LONG), 2)
    until((tmp_path / "run" / "checkpoints" / "checkpoint_epoch_00001.pyth").exists, "a checkpoint", first)
    second.send(KILL)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 1 and "error: process 0 of 2 stops: another one has ended" in error, error
    assert "Traceback" not in error
    second.communicate()


@pytest.mark.slow
def test_an_error_of_all_tasks_is_said_once(clips, tmp_path):
    """And is what the job ends with, although srun ends the rest by TERM as soon as one task has gone."""
    processes = tasks(words(clips, tmp_path / "run", **{**PLAIN, "MODEL__NUM_CLASSES": 7}), 2)
    while all(process.poll() is None for process in processes):
        time.sleep(0.001)
    for process in processes:
        process.send(signal.SIGTERM)
    said = "".join(process.communicate(timeout=120)[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2] and said.count("error: ") == 1, said


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["srun", "torchrun"])
def test_stages_of_all_processes_follow_each_other(clips, tmp_path, alone, starter):
    """Training, features, a test. Whoever started the processes, they learn what one process does."""
    (tmp_path / "learn.yaml").write_text("TEST:\n  ENABLE: False\n")
    (tmp_path / "look.yaml").write_text(
        "TRAIN:\n  ENABLE: False\nTEST:\n  ENABLE: False\nFEATURES:\n  ENABLE: True\n  CHECKPOINT_FILE_PATH: learn\n"
    )
    (tmp_path / "test.yaml").write_text("TRAIN:\n  ENABLE: False\nTEST:\n  CHECKPOINT_FILE_PATH: learn\n")
    files = [str(tmp_path / f"{name}.yaml") for name in ("learn", "look", "test")]
    argv = ["--cfg", *files, *words(clips, tmp_path / "run", **PLAIN)]
    if starter == "srun":
        processes = tasks(argv, 2)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [*command, str(ROOT / "tools" / "run_net.py"), *argv],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ,
            )
        ]  # fmt: skip
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert_close_weights(weights(alone), weights(tmp_path / "run" / "learn"))
    assert (tmp_path / "run" / "look" / "features" / "val.npy").exists()
    assert json.loads((tmp_path / "run" / "test" / "results" / "test.json").read_text())["counts"]["samples"] == 4


@pytest.mark.slow
def test_nodes_started_by_hand_are_one_job(clips, tmp_path, alone):
    meet = ["--num_shards", "2", "--init_method", f"tcp://127.0.0.1:{free_port()}"]
    argv = words(clips, tmp_path / "run", **{**PLAIN, "TRAIN__BATCH_SIZE": 2})
    nodes = [zygote().start([*meet, "--shard_id", str(shard), *argv]) for shard in range(2)]
    for node in nodes:
        _, error = node.communicate(timeout=300)
        assert node.returncode == 0, error
    assert_close_weights(weights(alone), weights(tmp_path / "run"))


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}, where the 2 processes meet, is in use") as error:
            Rendezvous(DistEnv(0, 2, 0, 2, f"tcp://127.0.0.1:{port}"))
    assert "MASTER_PORT" in str(error.value)


def test_processes_of_one_machine_are_not_heard_elsewhere(monkeypatch):
    """torch's store listens at all addresses of its own accord, and gloo at that of the host's name."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    before = listening()
    env = DistEnv(0, 1, 0, 1, f"tcp://127.0.0.1:{free_port()}")
    with process_group(env, Rendezvous(env)):
        added = listening() - before
    assert added and {ip for ip, _ in added} == {"127.0.0.1"}


def listening():
    connections = psutil.Process().net_connections("tcp")
    return {tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN}


def test_a_list_of_one_host_needs_no_scontrol(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert read_dist_env({**SLURM, "SLURM_STEP_NODELIST": "node07"}).init_method.startswith("tcp://node07:")
    assert first_host("node07,node[9-12]") == "node07"
    with pytest.raises(ConfigError, match=r"node\[7-8\].*MASTER_ADDR"):
        read_dist_env(SLURM)
    assert read_dist_env({**SLURM, "MASTER_ADDR": "a"}).init_method.startswith("tcp://a:")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 12000ms for recv operation to complete",
            "hangs",
        ),
        ("wait timeout after 1800000ms, keys: /stage1/0/default_pg/0//cpu//0/rank_1", "hangs"),
        (
            "[/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:23716",
            "has ended, look for its own",
        ),
    ],
)
def test_a_process_that_hangs_is_told_from_one_that_has_ended(said, cause):
    error = RuntimeError(said)
    assert lost_another(error) and not lost_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    text = _lost(DistEnv(0, 2, 0, 2, ""), error)
    assert cause in text and ("DIST_TIMEOUT" in text) == (cause == "hangs") and said.split("] ")[-1] in text


def test_others_that_never_come_are_an_error():
    with pytest.raises(DustError, match="not all have come to tcp://127.0.0.1:"):
        Rendezvous(DistEnv(0, 2, 0, 2, f"tcp://127.0.0.1:{free_port()}"), timeout=1)


@pytest.mark.parametrize("error", [DustError("no such folder"), Interrupted(signal.SIGUSR1)])
def test_where_the_first_process_has_no_answer(error):
    """The others end with an error of its own at once; after a signal, which may ask for the job again, they wait."""
    port, heard = free_port(), Future()

    def other():
        try:
            heard.set_result(Rendezvous(DistEnv(1, 2, 1, 2, f"tcp://127.0.0.1:{port}")).broadcast_decision(None))
        except DustError as met:
            heard.set_exception(met)

    def question():
        raise error

    thread = threading.Thread(target=other)
    thread.start()
    first = Rendezvous(DistEnv(0, 2, 0, 2, f"tcp://127.0.0.1:{port}"))
    with pytest.raises(type(error)):
        first.broadcast_decision(question)
    if isinstance(error, DustError):
        with pytest.raises(DustError, match="the first process has gone"):
            heard.result(60)
    else:
        assert not first.store.check(["answer1"])
        first.store.set("answer1", "0")
        assert heard.result(60) is False
    thread.join()


def test_steps_and_jobs_meet_at_different_ports():
    ports = {
        read_dist_env({**SLURM, "MASTER_ADDR": "a", "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).init_method
        for job in range(4000, 4040)
        for step in range(3)
    }
    assert len(ports) == 120
    with pytest.raises(ConfigError, match="SLURM_STEP_NUM_TASKS 3"):
        read_dist_env({**SLURM, "SLURM_STEP_NUM_TASKS": "3"})
