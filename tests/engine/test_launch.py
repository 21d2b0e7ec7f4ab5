"""Several processes: the same run as one, the same report, and an end within seconds when one of them dies."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from dust.engine.place import Place, place_from_environment
from dust.utils.checkpoint import load_checkpoint
from tests.engine.test_run_net import start, words
from tests.helpers import ROOT

#: Nothing random that depends on the process: what is left is rounding. (Adam would make steps of it, where a gradient
#: is nothing else: at the bias of the keys.)
PLAIN = {
    "SOLVER__OPTIMIZING_METHOD": "sgd",
    "SOLVER__BASE_LR": 0.1,
    "TIMESFORMER__DROP_RATE": 0.0,
    "TIMESFORMER__DROP_PATH_RATE": 0.0,
    "TRAIN__BATCH_SIZE": 4,
    "DATA_LOADER__DROP_LAST": False,
    "SOLVER__MAX_EPOCH": 2,
    "EMA__ENABLED": True,
    "EMA__DECAY": 0.9,
}


def run(clips, out, count, **more):
    """One run in ``count`` processes, to its end."""
    settings = {**PLAIN, "NUM_PROCS_PER_NODE": count, **more}
    process = start(words(clips, out, **settings), env={**os.environ, "OMP_NUM_THREADS": "1"})
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, output + error
    return out


def weights(out, epoch=2):
    return load_checkpoint(out / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth")


def epochs(out):
    lines = (out / "stdout.log").read_text().splitlines()
    lines = [json.loads(line.split("json_stats: ")[1]) for line in lines if '"train_epoch"' in line]
    return [(line["epoch"], line["loss"], line["top1_err"]) for line in lines]


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
    for part in ("model_state", "ema_state"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, atol=2e-6, rtol=1e-5)
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


@pytest.mark.slow
def test_torchrun_starts_the_same_run(clips, tmp_path, alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    argv = words(clips, tmp_path / "run", **PLAIN)
    result = subprocess.run(
        [*command, str(ROOT / "tools" / "run_net.py"), *argv],
        capture_output=True, text=True, cwd=ROOT, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, two = weights(alone), weights(tmp_path / "run")
    for name, value in one["model_state"].items():
        torch.testing.assert_close(two["model_state"][name], value, atol=2e-6, rtol=1e-5)


def begun(clips, out, **more):
    """A long run of two processes that has saved its first epoch."""
    settings = {**PLAIN, "NUM_PROCS_PER_NODE": 2, "SOLVER__MAX_EPOCH": 500, "TRAIN__EVAL_PERIOD": 0, **more}
    process = start(words(clips, out, **settings), env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while not (out / "checkpoints" / "checkpoint_epoch_00001.pyth").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    return process


@pytest.mark.slow
def test_a_dead_process_ends_the_run_and_it_resumes(clips, tmp_path):
    process = begun(clips, tmp_path / "run", DATA_LOADER__NUM_WORKERS=0)
    ranks = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was ended by SIGKILL; the others stop" in error
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    done = len(list((tmp_path / "run" / "checkpoints").glob("checkpoint_epoch_*.pyth")))
    run(clips, tmp_path / "run", 1, SOLVER__MAX_EPOCH=done + 1, TRAIN__EVAL_PERIOD=0)
    log = (tmp_path / "run" / "stdout.log").read_text()
    assert "resumed from" in log and "written by 2 processes (1 batches per step), now there are 1 (1)" in log


@pytest.mark.slow
def test_term_saves_in_all_and_exits_143(clips, tmp_path):
    process = begun(clips, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "Traceback" not in error
    assert "stopped at epoch" in (tmp_path / "run" / "stdout.log").read_text()


@pytest.mark.slow
def test_an_error_of_all_is_said_once(clips, tmp_path):
    process = start(words(clips, tmp_path / "run", **{**PLAIN, "NUM_PROCS_PER_NODE": 2, "MODEL__NUM_CLASSES": 7}))
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
    assert place_from_environment({}) is None
    assert place_from_environment(TORCHRUN) == Place(5, 8, 1, 4, "env://")
    monkeypatch.setattr("dust.engine.place.first_host", lambda nodes: {"node[7-8]": "node7"}[nodes])
    assert place_from_environment(SLURM) == Place(3, 4, 1, 2, "tcp://node7:28246")
    assert place_from_environment({**SLURM, "MASTER_PORT": "9"}) == Place(3, 4, 1, 2, "tcp://node7:9")
    one_task = {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert place_from_environment(one_task) is None, "an sbatch script, or srun with one task"
