"""One process or many: started here, by torchrun or by Slurm, without the user editing code.

- ``torchrun ... tools/run_net.py``: its environment says who this process is.
- ``srun tools/run_net.py`` with several tasks: Slurm's environment does.
- otherwise NUM_GPUS (or NUM_PROCS_PER_NODE on a CPU) processes are started here, and NUM_SHARDS such nodes meet at
  ``--init_method tcp://host:port``.

CPU tensors travel by gloo, CUDA tensors by nccl.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

import torch
import torch.distributed as dist

from dust.config import processes_per_node
from dust.engine.interrupt import Interrupted
from dust.utils.errors import ConfigError, DustError

logger = logging.getLogger(__name__)

#: Seconds that the other processes get to end by themselves once one has failed.
GRACE = 3.0


@dataclass(frozen=True)
class Place:
    """Which of all processes this one is, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    init_method: str


def place_from_environment(environ: Mapping[str, str]) -> Place | None:
    """The place that torchrun or Slurm gives this process; None if neither started it among others.

    Raises:
        ConfigError: Slurm's host list cannot be read.
    """
    if "TORCHELASTIC_RUN_ID" in environ or {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= environ.keys():
        size = int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_WORLD_SIZE", size))
        return Place(int(environ["RANK"]), size, int(environ["LOCAL_RANK"]), local, "env://")
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1)))
    if "SLURM_PROCID" not in environ or "SLURM_STEP_ID" not in environ or tasks < 2:
        return None
    nodes = int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", 1)))
    host = first_host(environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", "")))
    port = environ.get("MASTER_PORT") or str(20000 + int(environ.get("SLURM_JOB_ID", 0)) % 40000)
    return Place(
        int(environ["SLURM_PROCID"]), tasks, int(environ["SLURM_LOCALID"]), tasks // nodes, f"tcp://{host}:{port}"
    )


def first_host(nodelist: str) -> str:
    """The first name of Slurm's compressed list of hosts (``node[3-5,9]``), expanded by scontrol."""
    try:
        result = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True, timeout=60
        )
        return result.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(f"SLURM_STEP_NODELIST {nodelist!r}: scontrol cannot expand it ({error})") from error


def launch(cfg, function: Callable[[Any], None], init_method: str | None = None) -> int:
    """Run ``function(cfg)`` in this process or in as many as the configuration says.

    Returns:
        The exit code. In a single process errors and interrupts are raised instead, as if it was called directly.

    Raises:
        ConfigError: nodes that cannot meet, or more processes than the launcher started.
    """
    place = place_from_environment(os.environ)
    if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:  # features are extracted by one process
        if cfg.SHARD_ID == 0 and (place is None or place.rank == 0):
            function(_alone(cfg))
        return 0
    if place is not None:
        with joined(place):
            function(_as_started(cfg, place))
        return 0
    count = processes_per_node(cfg)
    if count * cfg.NUM_SHARDS == 1:
        function(cfg)
        return 0
    if cfg.NUM_SHARDS > 1 and not init_method:
        raise ConfigError(
            f"NUM_SHARDS {cfg.NUM_SHARDS}: the nodes need a place to meet. Give all of them --init_method "
            f"tcp://{socket.gethostname()}:29500 (the first node's name) and each its --shard_id, or start them by "
            "torchrun or srun."
        )
    _check_devices(cfg)
    meeting = init_method or f"tcp://127.0.0.1:{free_port()}"
    places = [
        Place(cfg.SHARD_ID * count + local, count * cfg.NUM_SHARDS, local, count, meeting) for local in range(count)
    ]
    return _run_all(cfg, function, places)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _check_devices(cfg) -> None:
    present = torch.cuda.device_count()
    if present < cfg.NUM_GPUS:
        raise ConfigError(f"NUM_GPUS {cfg.NUM_GPUS}: this machine has {present}. Set NUM_GPUS {present}.")


def _alone(cfg):
    """The configuration for one process, on one GPU if it is on any."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.NUM_GPUS, cfg.NUM_PROCS_PER_NODE, cfg.NUM_SHARDS, cfg.SHARD_ID = min(cfg.NUM_GPUS, 1), 0, 1, 0
    cfg.freeze()
    return cfg


def _as_started(cfg, place: Place):
    """The configuration with the number of processes that a launcher really started."""
    shards = place.world_size // place.local_size
    if (processes_per_node(cfg), cfg.NUM_SHARDS) == (place.local_size, shards):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.NUM_SHARDS, cfg.SHARD_ID = shards, place.rank // place.local_size
    cfg.NUM_GPUS, cfg.NUM_PROCS_PER_NODE = (place.local_size, 0) if cfg.NUM_GPUS else (0, place.local_size)
    if cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE % place.local_size:
        raise ConfigError(
            f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}: must be a multiple of the {place.local_size} processes that "
            "were started on this node"
        )
    cfg.freeze()
    return cfg


@contextlib.contextmanager
def joined(place: Place) -> Iterator[None]:
    """Be one of the processes while this lasts."""
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=place.init_method,
        rank=place.rank,
        world_size=place.world_size,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


# ------------------------------------------------------------------------------------------ processes of this machine


def _run_all(cfg, function: Callable[[Any], None], places: list[Place]) -> int:
    """Start the processes and wait. The first that fails says why; the others are ended within GRACE seconds."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_one, args=(cfg, function, place, sender)) for place in places]
    for process in processes:
        process.start()
    sender.close()
    forwarded = {number: signal.signal(number, _forward(processes)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        failed = _wait(processes)
        code = 0 if failed is None else failed.exitcode or 1
        if failed is not None and code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            code = _say_why(receiver, failed, places[processes.index(failed)])
    finally:
        for number, handler in forwarded.items():
            signal.signal(number, handler)
        _end(processes)
    return code


def _wait(processes: list[Any]) -> Any:
    """The first process that ends with another code than 0; None if all end well."""
    waiting = list(processes)
    while waiting:
        ended = connection.wait([process.sentinel for process in waiting])
        for process in [one for one in waiting if one.sentinel in ended]:
            process.join()
            waiting.remove(process)
            if process.exitcode:
                return process
    return None


def _say_why(receiver: Any, failed: Any, place: Place) -> int:
    """Print what the first process that failed had to say; returns the exit code."""
    while receiver.poll(0.2):
        try:
            rank, code, message = receiver.recv()
        except EOFError:
            break
        if rank == place.rank:
            sys.stderr.write(f"{message}\n")
            return code
    how = signal.Signals(-failed.exitcode).name if failed.exitcode < 0 else f"exit code {failed.exitcode}"
    sys.stderr.write(f"error: process {place.rank} of {place.world_size} was ended by {how}; the others stop.\n")
    return 1


def _end(processes: list[Any]) -> None:
    deadline = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()  # it waits for one that is gone
        process.join()


def _forward(processes: list[Any]) -> Callable[[int, Any], None]:
    def handler(signum: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive() and signum == signal.SIGTERM:  # Ctrl-C reaches the whole group by itself
                os.kill(process.pid, signum)

    return handler


def _one(cfg, function: Callable[[Any], None], place: Place, sender: Any) -> None:
    """The life of one process."""
    code, message = 0, ""
    try:
        with joined(place):
            function(cfg)
    except DustError as error:
        code, message = 2, f"error: {error}"
    except Interrupted as stop:
        code = stop.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        code, message = 1, f"process {place.rank} of {place.world_size}:\n{traceback.format_exc()}"
    if message:
        sender.send((place.rank, code, message))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a broken process group would keep it
