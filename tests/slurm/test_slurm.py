"""On a real Slurm: what is preempted, meets its time limit or is queued again ends as if nothing had happened."""

import json
import re
import sys

import pytest
import torch

from dust.utils.checkpoint import load_checkpoint
from tests.helpers import ROOT
from tests.slurm.conftest import HERE, PATIENCE, checkpoints, in_training, last, log, output, wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * PATIENCE)]

#: A first life of 20 minutes, which every test ends before; then as fast as it goes. Nothing here waits for an hour,
#: so that no job meets its limit but the one that is to.
SLOW = {"PYTHONPATH": str(HERE / "slow_steps"), "SECONDS_PER_STEP": "4"}
HOUR = 60
EPOCHS = 150


def assert_same(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def stops(config):
    """(epoch, iteration) of each moment at which the run has stopped and saved."""
    return [
        tuple(map(int, found)) for found in re.findall(r"stopped at epoch (\d+), iteration (\d+); saved", log(config))
    ]


def wrap(cluster, config, *options, **more):
    """A user's own sbatch line: two tasks by srun, no signal before the end."""
    command = f"srun {cluster.environ['DUST']} --cfg {config}"
    where = config.parent / "jobs" / f"own_{config.stem}"
    where.mkdir(parents=True)
    words = [
        "sbatch",
        "--parsable",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--requeue",
        f"--time={HOUR}",
        "--open-mode=append",
    ]
    return cluster.out(*words, *options, f"--output={where}/log.out", "--wrap", command, **{**SLOW, **more}).strip()


@pytest.fixture(scope="module")
def runs(cluster, config):
    """Jobs that go on at the same time; each test looks at one. {name: (configuration, job)}"""
    made = {name: config(name) for name in ("whole", "preempted", "limited", "requeued", "low", "cancelled")}
    jobs = {"preempted": cluster.submit(made["preempted"], "--timeout", HOUR, **SLOW)}
    jobs["low"] = wrap(cluster, made["low"], "--partition=low")
    for name in jobs:
        in_training(made[name])
    # whole nodes for a moment, in a partition that goes before
    cluster.out("srun", "-Q", "--partition=high", "--nodes=2", "--exclusive", "--time=1", "true")
    for name in ("limited", "requeued", "whole"):
        jobs[name] = cluster.submit(made[name], "--timeout", HOUR, **({} if name == "whole" else SLOW))
    in_training(made["requeued"])
    cluster.out("scontrol", "requeue", jobs["requeued"])
    in_training(made["limited"])
    cluster.meet_limit(made["limited"], jobs["limited"])
    return {name: (made[name], job) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def whole(cluster, runs):
    config, job = runs["whole"]
    cluster.ended(job)
    assert not stops(config) and cluster.field(job, "Restarts") == "0"
    saved = last(config)
    assert saved["epoch"] + 1 == EPOCHS and saved["world_size"] == 2
    return saved


def assert_went_on(cluster, config, job, whole):
    """Stopped in the midst, started again by Slurm, once, finished with the same bits."""
    cluster.ended(job)
    assert cluster.field(job, "Restarts") == "1"
    (stop,) = stops(config)
    assert (1, 0) < stop < (EPOCHS, 2)
    assert "resumed from" in log(config)
    saved = last(config)
    for part in ("model_state", "ema_state", "optimizer_state", "updates", "epoch", "world_size"):
        assert_same(saved[part], whole[part], part)


def test_preempted_and_finished(cluster, runs, whole):
    config, job = runs["preempted"]
    assert_went_on(cluster, config, job, whole)
    assert f"SIGUSR2: job {job} is queued again" in output(config, job)


def test_at_a_time_limit_it_goes_on(cluster, runs, whole):
    config, job = runs["limited"]
    assert_went_on(cluster, config, job, whole)
    assert f"SIGUSR2: job {job} is queued again" in output(config, job)


def test_queued_again_by_hand(cluster, runs, whole):
    config, job = runs["requeued"]
    assert_went_on(cluster, config, job, whole)
    assert "queued again" not in log(config), "TERM never does that by itself"


def test_preempted_at_once_by_term_alone(cluster, runs, whole):
    assert_went_on(cluster, *runs["low"], whole)


def test_a_kill_loses_no_more_than_the_period(cluster, config, whole):
    """A node that is gone, or a cluster that does not wait for the save: what was saved on the way is there."""
    killed = config("killed", TRAIN__CHECKPOINT_PERIOD_ITERS=1)
    job = wrap(cluster, killed)
    in_training(killed)
    wait(lambda: len(checkpoints(killed)) > 0, PATIENCE)
    cluster.out("scancel", "--signal=KILL", job)
    cluster.ended(job, "CANCELLED")
    before = last(killed)
    cluster.out("scontrol", "requeue", job)
    wait(lambda: "resumed from" in log(killed), PATIENCE, lambda: log(killed))
    cluster.ended(job)
    assert f"epoch {before['epoch'] + 1}, iteration {before['iteration']}" in log(killed).split("resumed from")[1]
    assert cluster.field(job, "Restarts") == "1"
    assert_same(last(killed)["model_state"], whole["model_state"])


def test_a_job_that_gets_nowhere_is_not_queued_for_ever(cluster, config):
    """Its start takes longer than its lives. The second one is the last, and says why."""
    nowhere = config("nowhere_near")
    job = cluster.submit(nowhere, "--timeout", HOUR, **SLOW, SECONDS_BEFORE_STEPS="3600")

    def stop(life):
        wait(lambda: log(nowhere).count("training from scratch") == life, PATIENCE, lambda: log(nowhere))
        cluster.out("scancel", "--signal=USR2", job)

    stop(1)
    cluster.queued_again(job)
    stop(2)
    cluster.ended(job, "FAILED")
    assert cluster.field(job, "ExitCode") == "1:0" and cluster.field(job, "Restarts") == "1"
    said = output(nowhere, job)
    assert said.count(f"SIGUSR2: job {job} is queued again") == 1
    assert f"job {job} made no step in 2 lives in a row and is not queued again" in said
    assert f"Its time limit is {HOUR} min" in said and not checkpoints(nowhere)


def test_cancelled_leaves_a_checkpoint_and_stays_away(cluster, config):
    cancelled = config("cancelled")
    job = cluster.submit(cancelled, "--timeout", HOUR, **SLOW)
    in_training(cancelled)
    cluster.out("scancel", job)
    cluster.ended(job, "CANCELLED")
    assert cluster.field(job, "Restarts") == "0"
    ((epoch, iteration),) = stops(cancelled)
    saved = last(cancelled)
    assert (saved["epoch"] + 1, saved["iteration"]) in {(epoch, iteration), (epoch - 1, 2)}
    assert "queued again" not in output(cancelled, job)


def test_a_failure_is_the_jobs_state(cluster, config):
    wrong = config("wrong", MODEL__NUM_CLASSES=7)
    job = cluster.submit(wrong, "--timeout", HOUR)
    cluster.ended(job, "FAILED")
    assert cluster.field(job, "ExitCode") == "2:0"
    assert "NUM_CLASSES 2" in output(wrong, job)


def test_an_array_has_a_job_for_each(cluster, config):
    short = {"SOLVER__MAX_EPOCH": 1}
    one, two = config("one", **short), config("two", **short, RNG_SEED=8)
    words = ["--num_gpus", 0, "--job_dir", one.parent / "jobs", "--timeout", HOUR, "--array"]
    said = cluster.out(sys.executable, "tools/submit.py", "--cfg", one, two, *words)
    first, second = re.findall(r"^job (\d+_\d+): (one|two)", said, re.M)
    assert (first[1], second[1]) == ("one", "two") and f"scancel {first[0].split('_')[0]}" in said
    for (job, _), made in zip((first, second), (one, two), strict=True):
        cluster.ended(job)
        assert last(made)["epoch"] == 0


def test_the_scripts_run_as_they_are(cluster, config, tmp_path):
    jobs = {}
    for script, world in (("run_single_node_job", 2), ("run_multi_node_job", 4)):
        made = config(script, SOLVER__MAX_EPOCH=2, TEST__ENABLE=True, MIXUP__ENABLE=False)
        words = ["sbatch", "--parsable", f"--output={tmp_path}/{script}", ROOT / "slurm_scripts" / f"{script}.sh"]
        variables = {"CFG": str(made), "NUM_GPUS": "0", "NUM_PROCS_PER_NODE": "2"}
        jobs[cluster.out(*words, "RNG_SEED", 11, **variables).strip()] = (made, world)
    for job, (made, world) in jobs.items():
        cluster.ended(job)
        saved = load_checkpoint(checkpoints(made)[-1])
        assert saved["world_size"] == world and saved["epoch"] == 1 and "RNG_SEED: 11" in saved["cfg"]
        assert (made.with_suffix("") / "results" / "test.json").exists()


def test_unknown_partitions_are_told(cluster, config):
    said = cluster.run(sys.executable, "tools/submit.py", "--cfg", config("nowhere"), "--partition", "gpus")
    assert said.returncode == 2 and said.stderr == "error: --partition gpus: this cluster has debug, high, low\n"


def test_what_would_never_start_is_refused(cluster, config):
    words = ["--cfg", config("many"), "--job_dir", config("many").parent / "jobs", "--num_gpus", 0]
    said = cluster.run(sys.executable, "tools/submit.py", *words, "--num_shards", 9)
    assert said.returncode == 2 and "partition debug has 2 nodes" in said.stderr
    said = cluster.run(sys.executable, "tools/submit.py", *words, "--num_shards", 1, "--num_gpus", 1)
    assert said.returncode == 2 and "error: Slurm refuses the job: " in said.stderr, said.stderr


def test_a_study_whose_jobs_are_queued_again_loses_nothing(cluster, config):
    """Two jobs for three trials; one is sent away in the midst of its trial."""
    short = {"SOLVER__MAX_EPOCH": 3, "TEST__ENABLE": True, "TEST__REPORT": False}
    space = [{"SOLVER.BASE_LR": [0.001, 0.01, 0.1]}]
    study = config("study", **short, TUNE__SPACE=space, TUNE__SAMPLER="grid", TUNE__JOBS=2)
    root = study.with_suffix("")
    words = ["--num_gpus", 0, "--job_dir", study.parent / "jobs", "--timeout", HOUR]
    slow = {**SLOW, "SECONDS_PER_STEP": "2"}
    said = cluster.out(sys.executable, "-m", "dust", "tune", "--slurm", *words, "--cfg", study, **slow)
    jobs = re.findall(r"^job (\d+_\d+): tune_study_", said, re.M)
    assert len(jobs) == 2
    trained = [root / f"trial_{number:03d}" / "stdout.log" for number in range(2)]
    wait(lambda: all(one.is_file() and '"train_epoch"' in one.read_text() for one in trained), PATIENCE)
    cluster.out("scancel", "--signal=USR2", jobs[0])
    wait(lambda: cluster.field(jobs[0], "Restarts") == "1", PATIENCE, lambda: output(study, jobs[0]))
    for job in jobs:
        cluster.ended(job)
    trials = json.loads((root / "trials.json").read_text())["trials"]
    assert [row["state"] for row in trials] == ["complete"] * 3
    assert any("resumed from" in one.read_text() for one in trained)
    assert all((root / f"trial_{number:03d}" / "results" / "test.json").is_file() for number in range(3))
