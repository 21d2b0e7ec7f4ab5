"""Which of all processes this one is, as torchrun or Slurm say it, and where they meet."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlparse

import torch
import torch.distributed as dist

from dust.utils.errors import ConfigError, DustError

#: Seconds in which all processes must have come, when they were started together.
RENDEZVOUS_TIMEOUT_S = 600.0
#: Seconds that the first process stays, so that the others can read from its store how it ends.
HEARING_TIMEOUT_S = 2.0
#: Addresses that only this machine reaches.
LOOPBACK = ("127.0.0.1", "localhost")
#: Where ports of Slurm's jobs lie: below those that Linux gives to outgoing connections.
PORTS = range(20000, 32000)


@dataclass(frozen=True)
class DistEnv:
    """``rank`` of ``world_size`` processes, of which ``local_size`` are on this node."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    init_method: str


def read_dist_env(environ: Mapping[str, str]) -> DistEnv | None:
    """Return the place that torchrun or Slurm gives this process; None if neither started it among others.

    Raises:
        ConfigError: Slurm's host list cannot be read, or its nodes have different numbers of tasks.
    """
    if "TORCHELASTIC_RUN_ID" in environ or {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= environ.keys():
        size = int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_WORLD_SIZE", size))
        return DistEnv(int(environ["RANK"]), size, int(environ["LOCAL_RANK"]), local, "env://")
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1)))
    if "SLURM_PROCID" not in environ or "SLURM_STEP_ID" not in environ or tasks < 2:
        return None
    nodes = int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", 1)))
    if tasks % nodes:
        raise ConfigError(
            f"SLURM_STEP_NUM_TASKS {tasks}: not the same number on each of {nodes} nodes; give srun --ntasks-per-node"
        )
    host = environ.get("MASTER_ADDR") or first_host(
        environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
    )
    port = environ.get("MASTER_PORT") or _port(int(environ.get("SLURM_JOB_ID", 0)), environ["SLURM_STEP_ID"])
    return DistEnv(
        int(environ["SLURM_PROCID"]), tasks, int(environ["SLURM_LOCALID"]), tasks // nodes, f"tcp://{host}:{port}"
    )


def _port(job: int, step: str) -> int:
    """Return a port for each step of each job: those that share a node have different ones, and the one behind is free
    too."""
    number = int(step) if step.isdecimal() else 0
    return PORTS[(2 * job + 254 * number) % len(PORTS)]


def first_host(nodelist: str) -> str:
    """Return the first name of Slurm's compressed list of hosts (``node[3-5,9]``), expanded by scontrol where it must
    be."""
    first = nodelist.split(",")[0].strip()
    if first and "[" not in first:
        return first
    try:
        result = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True, timeout=60
        )
        return result.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(
            f"SLURM_STEP_NODELIST {nodelist!r}: scontrol cannot expand it ({error}). Put the first node's name into "
            "MASTER_ADDR (export MASTER_ADDR=..., in the job's script, before srun)"
        ) from error


class Rendezvous:
    """The store that all processes of a command share for as long as it runs; the first one (or torchrun) serves it.

    Raises:
        ConfigError: the port is in use. DustError: not all have come in ``timeout`` seconds.
    """

    def __init__(self, env: DistEnv, timeout: float = RENDEZVOUS_TIMEOUT_S) -> None:
        self.env = env
        self.count = 0
        try:
            self.store = self._open(timeout)
        except (RuntimeError, OSError) as error:
            raise _cannot_meet(env, error, timeout) from error

    def _open(self, timeout: float) -> dist.Store:
        env, url = self.env, urlparse(self.env.init_method)
        limit = timedelta(seconds=timeout)
        if url.hostname not in LOOPBACK or url.port is None or env.rank:
            meet: Any = dist.rendezvous(env.init_method, env.rank, env.world_size, timeout=limit)
            return next(meet)[0]
        # of its own accord torch listens at all addresses of the machine
        with socket.create_server((LOOPBACK[0], url.port), backlog=env.world_size + 128) as server:
            return dist.TCPStore(
                LOOPBACK[0],
                url.port,
                env.world_size,
                True,
                timeout=limit,
                multi_tenant=True,
                master_listen_fd=os.dup(server.fileno()),
            )

    def stage(self) -> dist.Store:
        """Return a part of the store for one process group: names of an earlier one are not met again."""
        self.count += 1
        return dist.PrefixStore(f"stage{self.count}", self.store)

    def broadcast_decision(self, question: Callable[[], bool]) -> bool:
        """Return the first process's answer to ``question``, on all. They wait for it, for days if it is busy alone.

        Raises:
            DustError: the first process has gone.
        """
        self.count += 1
        key = f"answer{self.count}"
        if self.env.rank == 0:
            try:
                answer = question()
            except Exception:  # a signal is no failure: the others hear of it too, and stay until this one has left
                self.store.set(key, "none")  # the others need not find out by losing this process
                raise
            self.store.set(key, str(int(answer)))
            return answer
        gone = DustError(
            f"process {self.env.rank} of {self.env.world_size}: the first process has gone; what ended it "
            "stands in its own output"
        )
        try:
            while not self.store.check([key]):
                time.sleep(0.2)
            answered = self.store.get(key)
        except RuntimeError as error:
            raise gone from error
        if answered == b"none":
            raise gone
        return answered == b"1"

    def report_failure(self, message: str, seconds: float) -> bool:
        """Wait up to ``seconds`` for the others to fail in the same way; whether another one tells the user.

        The first process does if it is among them: its output is the one that is looked at.
        """
        deadline, first = time.monotonic() + seconds, self.env.rank == 0
        told = False
        with contextlib.suppress(RuntimeError):  # the one that serves the store has gone
            told = self.store.add(message, 1) > 1
            if first:
                self.store.set(f"{message} by the first", "1")
            while self.store.add(message, 0) < self.env.world_size and time.monotonic() < deadline:
                time.sleep(0.05)
            told = told or self.store.check([f"{message} by the first"])
        return told and not first

    def announce_exit(self, code: int, seconds: float = HEARING_TIMEOUT_S) -> None:
        """Tell, as the first process, that all is saved and asked for, and that it ends with this exit code.

        Returns when all have heard it, after ``seconds`` at most: the store ends with this process.
        """
        self.store.set("left", str(code))
        deadline = time.monotonic() + seconds
        while self.store.add("heard", 0) < self.env.world_size - 1 and time.monotonic() < deadline:
            time.sleep(0.02)

    def wait_for_exit(self, seconds: float = HEARING_TIMEOUT_S) -> int | None:
        """Wait until the first process leaves. Returns its exit code; None if it is gone, or stays longer."""
        try:
            self.store.wait(["left"], timedelta(seconds=seconds))
            code = int(self.store.get("left"))
        except RuntimeError:
            return None
        with contextlib.suppress(RuntimeError):  # the first may have waited long enough
            self.store.add("heard", 1)
        return code


def _cannot_meet(env: DistEnv, error: Exception, timeout: float) -> DustError:
    if "EADDRINUSE" in str(error) or "already in use" in str(error).lower():
        port = urlparse(env.init_method).port or os.environ.get("MASTER_PORT")
        return ConfigError(
            f"port {port}, where the {env.world_size} processes meet, is in use on this node. Name a free one, the "
            "same for all: MASTER_PORT in the environment, or --init_method tcp://host:port."
        )
    first = str(error).strip().splitlines()[0]
    return DustError(
        f"process {env.rank} of {env.world_size}: not all have come to {env.init_method} in {timeout:.0f} s "
        f"({first}). Look in the output of the others; can this node reach the first one?"
    )


def own_gpu(num_gpus: int, local_rank: int, local_size: int) -> int:
    """Return which of the GPUs that this process sees is its own: that of its number on the node, or the only one where
    Slurm shows every task its own (``--gpus-per-task=1``, ``--gpu-bind=single:1``).

    Raises ConfigError: it sees fewer than ``num_gpus``, those of the node.
    """
    present = torch.cuda.device_count()
    if present == 1 and local_size > 1:
        return 0
    if present < num_gpus:
        raise ConfigError(
            f"NUM_GPUS {num_gpus}: this machine has {present}. Set NUM_GPUS {present}"
            + (" to run on the CPU." if present == 0 else ".")
        )
    return local_rank


@contextlib.contextmanager
def process_group(
    env: DistEnv, rendezvous: Rendezvous, *, num_gpus: int = 0, backend: str = "nccl", timeout_s: float = 1800.0
) -> Iterator[None]:
    """Be one of the processes while this lasts.

    Whoever fails leaves without the others: a group that is taken down properly waits for them, and they for this one.

    Args:
        num_gpus: of this node; 0: the processes are on the CPU, whatever GPUs there are.
        backend: nccl | gloo, of tensors on GPUs.
        timeout_s: seconds that a process waits for the others in a collective.

    Raises:
        ConfigError: there are too few GPUs, or several processes have the same one.
    """
    os.environ.setdefault("LOCAL_RANK", str(env.local_rank))
    if urlparse(env.init_method).hostname in LOOPBACK and "lo" in {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo listens where the host's name leads to
    options: dict[str, Any] = {"backend": "gloo", "timeout": timedelta(seconds=timeout_s)}
    store = rendezvous.stage()
    if num_gpus:
        device = torch.device("cuda", own_gpu(num_gpus, env.local_rank, env.local_size))
        torch.cuda.set_device(device)
        if torch.cuda.device_count() < env.local_size:
            _refuse_shared_gpus(env, store)  # before NCCL, which would speak of an invalid usage
        if backend == "nccl":
            os.environ.setdefault("RDMAV_FORK_SAFE", "1")  # loader workers are forked from a process that uses RDMA
            options |= {"backend": "cpu:gloo,cuda:nccl", "device_id": device}
    dist.init_process_group(store=store, rank=env.rank, world_size=env.world_size, **options)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # that leaving fails, too, is not why the run ends
            _leave_group(options["backend"])
        raise
    dist.destroy_process_group()


def _refuse_shared_gpus(env: DistEnv, store: dist.Store) -> None:
    """Raise ConfigError where processes of this node see one GPU each, and it is the same."""
    own = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    store.set(f"gpu of {env.rank}", own)
    first = env.rank - env.local_rank
    others = [store.get(f"gpu of {rank}").decode() for rank in range(first, first + env.local_size)]
    if others.count(own) > 1:
        raise ConfigError(
            f"{others.count(own)} processes of {socket.gethostname()} have the same GPU ({own}): start as many on a "
            "node as it has GPUs, and show each of them all (CUDA_VISIBLE_DEVICES) or one of its own (srun "
            "--gpus-per-task=1)"
        )


def _leave_group(backend: str) -> None:
    """Leave without waiting for anybody."""
    if not dist.is_initialized():
        return
    if "nccl" in backend:
        dist.distributed_c10d._abort_process_group()  # the proper end would wait for what is under way on the GPUs
    else:
        dist.destroy_process_group()
