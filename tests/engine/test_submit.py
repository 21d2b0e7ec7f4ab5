"""What tools/submit.py asks of a cluster, and what it refuses before it asks."""

import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dust.cli.submit import read
from dust.engine.submit import SubmittedCommand, job_specs, python_command, slurm_parameters
from dust.launch.lives import minutes_of
from dust.utils.errors import ConfigError, DustError
from tests.helpers import ROOT
from tests.runs import TINY


@pytest.fixture
def yamls(tmp_path, clips):
    def write(name, **overrides):
        tree = {}
        values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(tmp_path / name)}
        for key, value in {**values, **{key.replace("__", "."): value for key, value in overrides.items()}}.items():
            *sections, leaf = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[leaf] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return str(path)

    return write


def asked(*words):
    args = read(words)
    return slurm_parameters(args, job_specs(args))


def test_a_job_of_two_nodes(yamls):
    path = yamls("a", DATA_LOADER__NUM_WORKERS=7, TRAIN__BATCH_SIZE=16)
    words = [
        "--cfg",
        path,
        "--num_shards",
        "2",
        "--num_gpus=8",
        "--partition",
        "gpu,big",
        "--timeout",
        "600",
        "--use_volta32",
    ]
    found = asked(*words, "--constraint", "ib", "--comment", "deadline", "--account", "me", "SOLVER.MAX_EPOCH", "3")
    assert found == {
        "name": "a", "timeout_min": 600, "nodes": 2, "tasks_per_node": 8, "cpus_per_task": 8, "gpus_per_node": 8,
        "stderr_to_stdout": True, "slurm_partition": "gpu,big", "slurm_comment": "deadline",
        "slurm_constraint": "ib&volta32gb", "slurm_account": "me", "slurm_signal_delay_s": 120,
        "slurm_srun_args": ["--kill-on-bad-exit=1", "--cpus-per-task=8", "--open-mode=append"],
        "slurm_additional_parameters": {"requeue": True},
    }  # fmt: skip


def test_processes_of_a_cpu_node_and_short_limits(yamls):
    found = asked("--cfg", yamls("a"), "--timeout", "2", "--name", "n", "NUM_PROCS_PER_NODE", "3")
    assert (found["tasks_per_node"], found["cpus_per_task"], found["slurm_signal_delay_s"]) == (3, 1, 20)
    assert "gpus_per_node" not in found and found["name"] == "n"


def test_the_job_runs_the_same_words(yamls):
    first, second = yamls("a"), yamls("b")
    (work,) = job_specs(read(["--cfg", first, second, "--num_gpus", "0", "RNG_SEED", "4", "--opts", "LOG_PERIOD", "7"]))
    assert work.argv == ("--cfg", first, second, "--opts", "RNG_SEED", "4", "LOG_PERIOD", "7", "NUM_GPUS", "0")
    assert ["RNG_SEED: 4\n" in run.config for run in work.runs] == [True, True]
    assert pickle.loads(pickle.dumps(SubmittedCommand(work.argv))).argv == list(work.argv)


def test_a_value_may_begin_with_a_dash():
    assert read(["--cfg", "a.yaml", "A.B", "-4", "--num_gpus=0", "C", "-x"]).opts == [
        "A.B",
        "-4",
        "C",
        "-x",
        "NUM_GPUS",
        "0",
    ]


def test_an_array_is_a_job_for_each(yamls, tmp_path):
    first, second = yamls("a"), yamls("b")
    one, two = job_specs(read(["--cfg", first, second, "--array", "OUTPUT_DIR", str(tmp_path / "out")]))
    assert one.argv[:2] == ("--cfg", first) and two.argv[:2] == ("--cfg", second)
    assert [work.runs[0].output_dir for work in (one, two)] == [str(tmp_path / "out" / name) for name in "ab"]
    # what each task will read is what was planned
    for work in (one, two):
        (again,) = job_specs(read(work.argv))
        assert again.runs == work.runs


def test_an_array_is_a_job_for_each_group(tmp_path):
    (tmp_path / "groups.json").write_text(json.dumps({"head_to_classes": {"0": [0, 1], "1": [2, 3], "2": [4, 5]}}))
    words = ["--cfg", "configs/quickstart/tstl_experts.yaml", "TSTL.GROUPING", str(tmp_path / "groups.json")]
    works = job_specs(
        read([*words, "MODEL.NUM_CLASSES", "6", "OUTPUT_DIR", str(tmp_path), "TSTL.GROUPS", "all", "--array"])
    )
    assert [f"GROUP: {number}\n" in work.runs[0].config for number, work in enumerate(works)] == [True] * 3
    for number, work in enumerate(works):
        assert work.argv[-2:] == ("TSTL.GROUPS", f"[{number}]")
        (again,) = job_specs(read(work.argv))
        assert [run.output_dir for run in again.runs] == [str(tmp_path / "experts" / f"group_{number}")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--cfg"),
        (["--cfg", "a.yaml", "--timeout", "0"], "--timeout 0"),
        (["--cfg", "a.yaml", "--cpus_per_task", "-1"], "--cpus_per_task -1"),
        (["--cfg", "a.yaml", "--local", "--debug"], "choose one"),
        (["--cfg", "a.yaml", "--local", "--partition", "gpu"], "--partition"),
        (["--cfg", "a.yaml", "--debug", "--array"], "--array"),
        (["--cfg", "a.yaml", "--shard_id", "0"], "--shard_id"),
        (["--cfg", "a.yaml", "--partitoin", "gpu"], "--partitoin"),
    ],
)
def test_options_that_cannot_be_meant(words, said):
    with pytest.raises(ConfigError, match=said):
        read(words)


def test_runs_that_cannot_be_meant(yamls, tmp_path):
    a, b = yamls("a"), yamls("b", TRAIN__CHECKPOINT_FILE_PATH=str(tmp_path / "a" / "checkpoints" / "x.pyth"))
    for words, said in (
        (["--cfg", a, "SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LR"),
        (["--cfg", a, "--array"], "only one run"),
        (["--cfg", a, b, "--array"], "b starts from what a makes.*Leave --array out"),
        (["--cfg", a, yamls("c", OUTPUT_DIR=str(tmp_path / "a")), "--array"], "both write to"),
        (["--cfg", a, "--local", "--num_shards", "2"], "--num_shards 1"),
        (["--cfg", a, yamls("d", NUM_PROCS_PER_NODE=3)], "agree on its size"),
        (["--cfg", a, "--num_gpus", "8"], "BATCH_SIZE"),
    ):
        with pytest.raises(DustError, match=said):
            asked(*words)


def test_features_are_extracted_by_as_many_processes_as_there_are(yamls):
    alone = {"TRAIN__ENABLE": False, "TEST__ENABLE": False, "FEATURES__ENABLE": True}
    path = yamls("a", **alone, FEATURES__CHECKPOINT_FILE_PATH="x")
    found = asked("--cfg", path, "--num_shards", "4", "NUM_PROCS_PER_NODE", "3")
    assert (found["nodes"], found["tasks_per_node"]) == (4, 3)
    trained = yamls("b", NUM_PROCS_PER_NODE=2, TRAIN__BATCH_SIZE=4)
    assert asked("--cfg", trained, path)["tasks_per_node"] == 2, "they follow the others of their job"


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", float("inf")), ("30:00", 30), ("2:30:00", 150), ("1-00:00:30", 1440.5), ("3-01:00:00", 4380)],
)
def test_slurms_times(limit, minutes):
    assert minutes_of(limit) == minutes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_before_the_first_line_waits_for_it(yamls):
    command = [*shlex.split(python_command()), "tools/run_net.py", "--cfg", yamls("a")]
    if "--block-signal" not in command[1]:
        pytest.skip("env of coreutils 8.31 or newer holds signals back")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    bit = 1 << (signal.SIGUSR2 - 1)
    while not int(re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1], 16) & bit:
        assert process.poll() is None
    process.send_signal(signal.SIGUSR2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 140 and "start the same command again" in error


def submit(*words, **more):
    command = [sys.executable, "tools/submit.py", *map(str, words)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL)


def test_without_slurm_it_says_so(yamls, tmp_path):
    said = submit("--cfg", yamls("a"), "--job_dir", tmp_path / "jobs", PATH="/nowhere")
    assert said.returncode == 2 and said.stderr.startswith("error: sbatch is not on the PATH"), said.stderr


SHORT = {"SOLVER__MAX_EPOCH": 1, "TRAIN__EVAL_PERIOD": 0, "TEST__ENABLE": False}


@pytest.mark.slow
def test_local_runs_in_the_background(yamls, tmp_path):
    said = submit("--cfg", yamls("a", **SHORT), "--local", "--job_dir", tmp_path / "jobs", "--timeout", "9")
    assert said.returncode == 0 and "kill " in said.stdout, said.stderr
    job = said.stdout.split()[1].rstrip(":")
    deadline = time.monotonic() + 120
    while not (tmp_path / "jobs" / job / f"{job}_0_result.pkl").exists():
        assert time.monotonic() < deadline, (tmp_path / "jobs" / job / f"{job}_0_log.err").read_text()
        time.sleep(0.2)
    assert (tmp_path / "a" / "checkpoints" / "checkpoint_epoch_00001.pyth").exists()


@pytest.mark.slow
def test_debug_runs_here_and_its_code_is_ours(yamls, tmp_path):
    words = ["--debug", "--job_dir", tmp_path / "jobs"]
    said = submit("--cfg", yamls("a", **SHORT), *words)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "a" / "checkpoints" / "checkpoint_epoch_00001.pyth").exists()
    said = submit("--cfg", yamls("b", **SHORT), *words, "MODEL.NUM_CLASSES", "7")
    assert said.returncode == 2 and "NUM_CLASSES 2" in said.stderr
