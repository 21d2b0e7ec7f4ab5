"""A Slurm of two nodes on this machine, and jobs on it."""

import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from dust.launch.lives import minutes_of
from dust.utils.checkpoint import load_checkpoint
from tests.helpers import ROOT
from tests.runs import TINY

HERE = Path(__file__).parent
#: Seconds in which anything here happens on a slow machine too; they end what hangs, and nothing else waits for them.
PATIENCE = 900
#: A run of 300 steps.
LONG = {
    "TRAIN.BATCH_SIZE": 2,
    "TRAIN.EVAL_PERIOD": 0,
    "TRAIN.CHECKPOINT_PERIOD": 0,
    "TEST.ENABLE": False,
    "SOLVER.MAX_EPOCH": 150,
    "MIXUP.ENABLE": True,
    "EMA.ENABLED": True,
    "LOG_PERIOD": 1000,
}


def free_ports(count):
    """The first of ``count`` ports in a row that nobody uses now."""
    for first in range(17800, 19800, count):
        probes = [socket.socket() for _ in range(count)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + number))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise RuntimeError("no free ports")


def as_root():
    """The words before a command that needs root; None where that is not possible."""
    if os.getuid() == 0:
        return []
    sudo = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return ["sudo", "-n"] if sudo else None


class Cluster:
    """Slurm's commands, with the environment that they and the jobs need."""

    def __init__(self, environ):
        self.environ = environ

    def run(self, *words, **more):
        environ = {**self.environ, **more}
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=ROOT, env=environ)

    def out(self, *words, **more):
        result = self.run(*words, **more)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def submit(self, config, *words, **more):
        """tools/submit.py for two nodes of one process; returns the number of the job."""
        command = [sys.executable, "tools/submit.py", "--cfg", config, "--num_shards", 2, "--num_gpus", 0]
        said = self.out(*command, "--job_dir", config.parent / "jobs", *words, **more)
        return said.split()[1].rstrip(":")

    def field(self, job, name):
        said = self.out("scontrol", "-o", "show", "job", job)
        return dict(word.partition("=")[::2] for word in said.split() if "=" in word)[name]

    def ended(self, job, state="COMPLETED", seconds=PATIENCE):
        """Wait for the end of a job, which must be this one."""
        end = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait(lambda: self.field(job, "JobState") in end, seconds, lambda: self.out("squeue"))
        assert self.field(job, "JobState") == state

    def queued_again(self, job):
        """Wait until a job has been, for the first time."""
        wait(lambda: self.field(job, "Restarts") == "1", PATIENCE, lambda: self.out("scontrol", "show", "job", job))

    def meet_limit(self, config, job):
        """Let a job in training meet its time limit once, and not again: Slurm's own warning queues it again.

        The limit is set when training goes on, so that it never comes before the first step, and put up again while
        the job leaves. It is 90 to 150 s away: Slurm looks twice a minute for jobs to warn, two minutes before the
        limit as they ask for it, so the warning comes at its next look and leaves a minute at least to save.
        """
        before = self.field(job, "TimeLimit")
        limit = math.ceil(minutes_of(self.field(job, "RunTime")) + 1.5)
        self.out("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        wait(lambda: "stopped at epoch" in log(config), PATIENCE, lambda: log(config))
        again = ("scontrol", "update", f"JobId={job}", f"TimeLimit={before}")
        wait(lambda: self.run(*again).returncode == 0, PATIENCE, lambda: self.run(*again).stderr)
        self.queued_again(job)


def wait(done, seconds, why=lambda: ""):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, why()
        time.sleep(0.3)


@pytest.fixture(scope="session")
def cluster():
    before = as_root()
    if before is None:
        pytest.skip("a Slurm for tests needs root, or sudo without a password")
    folder = tempfile.mkdtemp(prefix="dust-slurm-", dir="/tmp")  # short: munge's socket is in it
    prefix = f"dust{os.getpid()}n"
    variables = {"DIR": folder, "PORT": str(free_ports(3)), "PREFIX": prefix}
    words = [*before, "env", *(f"{name}={value}" for name, value in variables.items())]
    stop = [*words, str(HERE / "stop_slurm.sh")]
    try:
        started = subprocess.run([*words, str(HERE / "start_slurm.sh")], stderr=subprocess.PIPE, text=True)
        if started.returncode == 3:
            pytest.skip(f"no Slurm here: {started.stderr.strip().splitlines()[-1]}")
        assert started.returncode == 0, started.stderr
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        environ |= {"SLURM_CONF": f"{folder}/etc/slurm.conf", "OMP_NUM_THREADS": "1"}
        environ["DUST"] = f"{sys.executable} {ROOT / 'tools' / 'run_net.py'}"
        yield Cluster(environ)
    finally:
        subprocess.run(stop, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def config(clips, tmp_path_factory):
    """``config(name, KEY=value)`` -> a file whose run writes beside it; dots of keys are double underscores."""
    root = tmp_path_factory.mktemp("slurm")

    def write(name, **overrides):
        overrides = {key.replace("__", "."): value for key, value in overrides.items()}
        values = {**TINY, **LONG, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(root / name), **overrides}
        tree = {}
        for key, value in values.items():
            *sections, leaf = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[leaf] = value
        path = root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def log(config):
    path = config.with_suffix("") / "stdout.log"
    return path.read_text() if path.exists() else ""


def output(config, job):
    """Everything that the processes of a job have said."""
    return "".join(path.read_text() for path in sorted((config.parent / "jobs" / job).glob("*.out")))


def in_training(config):
    wait(lambda: '"train_epoch"' in log(config), PATIENCE, lambda: log(config))


def checkpoints(config):
    return sorted((config.with_suffix("") / "checkpoints").glob("*.pyth"))


def last(config):
    return load_checkpoint(checkpoints(config)[-1])
