"""One process or many: started here, by torchrun or by Slurm, without the user editing code.

- ``torchrun ... tools/run_net.py``: its environment says who this process is.
- ``srun tools/run_net.py`` with several tasks: Slurm's environment does. A single task on each node starts that node's
  processes itself.
- otherwise NUM_GPUS (or NUM_PROCS_PER_NODE on a CPU) processes are started here, and NUM_SHARDS such nodes meet at
  ``--init_method tcp://host:port``.

CPU tensors travel by gloo, CUDA tensors by nccl.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from typing import Any
from urllib.parse import urlparse

import torch
from tqdm import tqdm

from dust.config import processes_per_node, with_values
from dust.launch.rendezvous import (
    RENDEZVOUS_TIMEOUT_AFTER_ALONE_S,
    RENDEZVOUS_TIMEOUT_S,
    DistEnv,
    Rendezvous,
    process_group,
    read_dist_env,
)
from dust.launch.requeue import SAVE_TIMEOUT_S, ExitHandler
from dust.launch.signals import (
    REQUEUE_SIGNALS,
    SIGNALS,
    Interrupted,
    forward_signals,
    handle_signals,
    ignore_further_signals,
    most_urgent,
    stop,
)
from dust.utils.errors import ConfigError, DustError
from dust.utils.signals import block_signals

logger = logging.getLogger(__name__)

#: Seconds that the other processes get to end by themselves once one has failed.
TERMINATION_GRACE_S = 3.0
#: Seconds that a process waits before it says that another one has gone, so that this one's own words come first.
FAILURE_MESSAGE_DELAY_S = 1.5


def launch(cfg, function: Callable[[Any], None], init_method: str | None = None) -> int:
    """Run ``function(cfg)`` in this process or in as many as the configuration says; see :meth:`Launcher.run`."""
    return Launcher(init_method).run(cfg, function)


class Launcher:
    """Runs the stages of one command, one after the other.

    Args:
        init_method: where the nodes meet (``tcp://host:port``), if neither torchrun nor Slurm says it.
        exit_handler: how this process leaves after a signal; it is told who is first, and where they have met.
    """

    def __init__(self, init_method: str | None = None, exit_handler: ExitHandler | None = None) -> None:
        self.env = read_dist_env(os.environ)
        self.init_method = init_method
        self.exit_handler = exit_handler or ExitHandler()
        self.patience = RENDEZVOUS_TIMEOUT_S
        if self.env is not None:
            self.exit_handler.first = self.env.rank == 0

    def broadcast_decision(self, question: Callable[[], bool]) -> bool:
        """An answer that all processes of the command share. It is the first one's, and theirs once it has come."""
        return question() if self.env is None else self._meet(self.env).broadcast_decision(question)

    def run(self, cfg, function: Callable[[Any], None]) -> int:
        """Run ``function(cfg)`` in this process or in as many as the configuration says.

        Returns:
            The exit code. In a single process errors are raised instead, as if it was called directly.

        Raises:
            ConfigError: nodes that cannot meet, or more processes than the launcher started.
            Interrupted: after a signal.
        """
        env = self.env
        if env is None:
            self.exit_handler.first = cfg.SHARD_ID == 0
        if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:  # features are extracted by one process
            self.patience = RENDEZVOUS_TIMEOUT_AFTER_ALONE_S
            if self.exit_handler.first:
                function(_alone(cfg))
            return 0
        if env is None:
            return self._start(cfg, function)
        if env.local_size == 1 and processes_per_node(cfg) > 1 and env.init_method != "env://":
            self._meet(env)  # so that after a signal the other nodes' tasks see when the first has saved
            return self._start(_as_shard(cfg, env.rank, env.world_size), function, _next_port(env.init_method))
        return self._join(cfg, function, env)

    def _meet(self, env: DistEnv) -> Rendezvous:
        if self.exit_handler.rendezvous is None:
            self.exit_handler.rendezvous = Rendezvous(env, self.patience)
        return self.exit_handler.rendezvous

    def _join(self, cfg, function: Callable[[Any], None], env: DistEnv) -> int:
        cfg = _as_started(cfg, env)
        rendezvous = self._meet(env)
        try:
            with process_group(env, rendezvous):
                function(cfg)
        except DustError as error:
            ignore_further_signals()  # srun and torchrun end the others with TERM as soon as one has gone
            if rendezvous.report_failure(str(error), FAILURE_MESSAGE_DELAY_S):
                return 2
            raise
        except RuntimeError as error:
            if not lost_another(error):
                raise
            ignore_further_signals()
            time.sleep(FAILURE_MESSAGE_DELAY_S)
            if most_urgent() in REQUEUE_SIGNALS:
                stop(most_urgent())
            sys.stderr.write(f"error: {_lost(env, error)}\n")
            return 1
        return 0

    def _start(self, cfg, function: Callable[[Any], None], rendezvous: str | None = None) -> int:
        """Start this node's processes here, unless it is one in all."""
        rendezvous = rendezvous or self.init_method
        count = processes_per_node(cfg)
        if count * cfg.NUM_SHARDS == 1:
            function(cfg)
            return 0
        if cfg.NUM_SHARDS > 1 and not rendezvous:
            raise ConfigError(
                f"NUM_SHARDS {cfg.NUM_SHARDS}: the nodes need a place to meet. Give all of them --init_method "
                f"tcp://{socket.gethostname()}:29500 (the first node's name) and each its --shard_id, or start them by "
                "torchrun or srun."
            )
        _check_devices(cfg)
        rendezvous = rendezvous or f"tcp://127.0.0.1:{free_port()}"
        first, world = cfg.SHARD_ID * count, count * cfg.NUM_SHARDS
        envs = [DistEnv(first + local, world, local, count, rendezvous) for local in range(count)]
        return _run_all(cfg, function, envs, self.patience)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _next_port(url: str) -> str:
    """Where a node's own processes meet: its launchers keep the port itself."""
    parsed = urlparse(url)
    return f"tcp://{parsed.hostname}:{(parsed.port or 0) + 1}"


def _check_devices(cfg) -> None:
    present = torch.cuda.device_count()
    if present < cfg.NUM_GPUS:
        raise ConfigError(f"NUM_GPUS {cfg.NUM_GPUS}: this machine has {present}. Set NUM_GPUS {present}.")


def _alone(cfg):
    """The configuration for one process, on one GPU if it is on any."""
    one = {"NUM_GPUS": min(cfg.NUM_GPUS, 1), "NUM_PROCS_PER_NODE": 0, "NUM_SHARDS": 1, "SHARD_ID": 0}
    return with_values(cfg, one)


def _as_shard(cfg, shard: int, shards: int):
    return with_values(cfg, {"NUM_SHARDS": shards, "SHARD_ID": shard})


def _as_started(cfg, env: DistEnv):
    """The configuration with the number of processes that a launcher really started."""
    shards = env.world_size // env.local_size
    if (processes_per_node(cfg), cfg.NUM_SHARDS) == (env.local_size, shards):
        return cfg
    if cfg.TRAIN.ENABLE and env.local_size > cfg.TRAIN.BATCH_SIZE:
        raise ConfigError(
            f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}: must be at least the {env.local_size} processes that "
            "were started on this node"
        )
    gpus, processes = (env.local_size, 0) if cfg.NUM_GPUS else (0, env.local_size)
    cfg = _as_shard(cfg, env.rank // env.local_size, shards)
    return with_values(cfg, {"NUM_GPUS": gpus, "NUM_PROCS_PER_NODE": processes})


def lost_another(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    return bool(re.search(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", str(error), re.I))


def _lost(env: DistEnv, error: RuntimeError) -> str:
    why = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().splitlines()[0])
    return f"process {env.rank} of {env.world_size} stops: another one has ended, look for its own words ({why})"


# ------------------------------------------------------------------------------------------ processes of this machine


def _run_all(cfg, function: Callable[[Any], None], envs: list[DistEnv], patience: float = RENDEZVOUS_TIMEOUT_S) -> int:
    """Start the processes and wait. The first that fails says why; the others are ended within TERMINATION_GRACE_S
    seconds.

    After a signal they end by themselves, each when it has saved; then this raises Interrupted.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_one, args=(cfg, function, env, sender, patience)) for env in envs]
    grace = TERMINATION_GRACE_S
    with forward_signals(lambda signum: _send(signum, processes)):
        try:
            with block_signals():  # they take signals after their imports; until then these wait instead of killing
                for process in processes:
                    process.start()
            sender.close()
            failed = _wait(processes)
            if failed is None:
                return 0
            signum = _stopped_by(failed.exitcode)
            if not signum:
                return _say_why(receiver, failed, envs[processes.index(failed)])
            grace = SAVE_TIMEOUT_S
            _send(signum, processes)  # where only one of them got it
        finally:
            _end(processes, grace)
        stop(signum)
    return 1


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


def _stopped_by(code: int) -> int:
    """The signal by which a process has left with this exit code; 0 if it failed, or was killed by one of its own."""
    if code - 128 in SIGNALS:
        return code - 128
    return -code if -code in SIGNALS and most_urgent() else 0


def _say_why(receiver: Any, failed: Any, env: DistEnv) -> int:
    """Print what the first process that failed had to say; returns the exit code."""
    while receiver.poll(0.2):
        try:
            rank, code, message = receiver.recv()
        except EOFError:
            break
        if rank == env.rank:
            sys.stderr.write(f"{message}\n")
            return code
    how = signal.Signals(-failed.exitcode).name if failed.exitcode < 0 else f"exit code {failed.exitcode}"
    sys.stderr.write(f"error: process {env.rank} of {env.world_size} was ended by {how}; the others stop.\n")
    return 1


def _end(processes: list[Any], grace: float) -> None:
    started = [process for process in processes if process.pid is not None]
    deadline = time.monotonic() + grace
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in started:
        if process.is_alive():
            process.kill()  # it waits for one that is gone
        process.join()


def _send(signum: int, processes: list[Any]) -> None:
    for process in processes:
        if process.pid is not None and process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)


def _end_with_launcher() -> None:
    """A launcher that was killed ends nobody, and what it left would hold OUTPUT_DIR against the next run."""
    launcher = parent_process()
    if launcher is not None:
        connection.wait([launcher.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _one(cfg, function: Callable[[Any], None], env: DistEnv, sender: Any, patience: float) -> None:
    """The life of one process."""
    threading.Thread(target=_end_with_launcher, name="launcher", daemon=True).start()
    code, message = 0, ""
    tqdm.set_lock(threading.RLock())  # its own is for all processes, and this one leaves without handing it back
    try:
        with handle_signals(lambda signum: 128 + signum):
            try:
                with process_group(env, Rendezvous(env, patience)):
                    function(cfg)
            except RuntimeError as error:
                if not lost_another(error):
                    raise
                code, message = 1, f"error: {_lost(env, error)}"
                time.sleep(FAILURE_MESSAGE_DELAY_S)
    except DustError as error:
        code, message = 2, f"error: {error}"
    except Interrupted as stop:
        code, message = stop.exit_code, ""
    except BaseException:
        code, message = 1, f"process {env.rank} of {env.world_size}:\n{traceback.format_exc()}"
    if message:
        sender.send((env.rank, code, message))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a broken process group would keep it
