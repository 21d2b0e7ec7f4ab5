"""One process or many: started here, by torchrun or by Slurm, without the user editing code.

- ``torchrun ... tools/run_net.py``: its environment says who this process is.
- ``srun tools/run_net.py`` with several tasks: Slurm's environment does. A single task on each node starts that node's
  processes itself.
- otherwise NUM_GPUS (or NUM_PROCS_PER_NODE on a CPU) processes are started here, and NUM_SHARDS such nodes meet at
  ``--init_method tcp://host:port``.

CPU tensors travel by gloo, CUDA tensors by nccl (DIST_BACKEND).
"""

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from typing import Any
from urllib.parse import urlparse

from tqdm import tqdm

from dust.config import CfgNode, processes_per_node, with_values
from dust.launch.rendezvous import (
    RENDEZVOUS_TIMEOUT_S,
    DistEnv,
    Rendezvous,
    own_gpu,
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

#: Seconds that the other processes get to end by themselves once one has failed.
TERMINATION_GRACE_S = 3.0
#: Seconds that a process waits before it says that another one has gone, so that this one's own words come first.
FAILURE_MESSAGE_DELAY_S = 3.0


@dataclass(frozen=True)
class LaunchSettings:
    """How many processes a stage needs, and where.

    Attributes:
        processes: on each node, one per GPU where ``num_gpus`` are used; ``num_shards`` nodes, of which this is
            ``shard_id`` (from 0).
        batch_size: clips of a training batch on one node, which its processes share; None without training.
        backend, timeout_s: see :func:`dust.launch.rendezvous.process_group`.
    """

    processes: int
    num_gpus: int = 0
    num_shards: int = 1
    shard_id: int = 0
    batch_size: int | None = None
    backend: str = "nccl"
    timeout_s: float = 1800.0

    def group(self, env: DistEnv, rendezvous: Rendezvous) -> contextlib.AbstractContextManager[None]:
        """Be one of the stage's processes while this lasts."""
        options: dict[str, Any] = {"num_gpus": self.num_gpus, "backend": self.backend, "timeout_s": self.timeout_s}
        return process_group(env, rendezvous, **options)

    def as_shard(self, shard: int, shards: int) -> "LaunchSettings":
        """Return the settings of node number ``shard`` of so many."""
        return replace(self, num_shards=shards, shard_id=shard)

    def as_started(self, env: DistEnv) -> "LaunchSettings":
        """Return the number of processes that a launcher really started.

        Raises:
            ConfigError: more than the clips of a batch.
        """
        shards = env.world_size // env.local_size
        if (self.processes, self.num_shards) == (env.local_size, shards):
            return self
        if self.batch_size is not None and env.local_size > self.batch_size:
            raise ConfigError(
                f"TRAIN.BATCH_SIZE {self.batch_size}: must be at least the {env.local_size} processes that "
                "were started on this node"
            )
        gpus = env.local_size if self.num_gpus else 0
        started = replace(self, processes=env.local_size, num_gpus=gpus)
        return started.as_shard(env.rank // env.local_size, shards)


def build_settings(cfg: CfgNode) -> LaunchSettings:
    """Return what cfg says of processes."""
    return LaunchSettings(
        processes_per_node(cfg),
        cfg.NUM_GPUS,
        cfg.NUM_SHARDS,
        cfg.SHARD_ID,
        batch_size=cfg.TRAIN.BATCH_SIZE if cfg.TRAIN.ENABLE else None,
        backend=cfg.DIST_BACKEND,
        timeout_s=cfg.DIST_TIMEOUT,
    )


def build_launched(cfg: CfgNode, settings: LaunchSettings) -> Any:
    """Return the configuration that the processes of a stage get: with the numbers of ``settings``, where these are
    others."""
    if settings == build_settings(cfg):
        return cfg
    return with_values(
        cfg,
        {
            "NUM_GPUS": settings.num_gpus,
            "NUM_PROCS_PER_NODE": 0 if settings.num_gpus else settings.processes,
            "NUM_SHARDS": settings.num_shards,
            "SHARD_ID": settings.shard_id,
        },
    )


def launch(payload: Any, function: Callable[[Any], None], init_method: str | None = None) -> int:
    """Run ``function(payload)`` in this process or in as many as the payload says; see :meth:`Launcher.run`."""
    return Launcher(init_method).run(payload, function)


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
        if self.env is not None:
            self.exit_handler.first = self.env.rank == 0

    def broadcast_decision(self, question: Callable[[], bool]) -> bool:
        """Return an answer that all processes of the command share. It is the first one's, and theirs once it has
        come."""
        return question() if self.env is None else self._meet(self.env).broadcast_decision(question)

    def run(self, payload: Any, function: Callable[[Any], None]) -> int:
        """Run ``function(payload)`` in this process or in as many as the payload, a configuration, says.

        Returns:
            The exit code. In a single process errors are raised instead, as if it was called directly.

        Raises:
            ConfigError: nodes that cannot meet, or more processes than the launcher started.
            Interrupted: after a signal.
        """
        env, settings = self.env, build_settings(payload)
        if env is None:
            self.exit_handler.first = settings.shard_id == 0
        if env is None:
            return self._start(payload, settings, function)
        if env.local_size == 1 and settings.processes > 1 and env.init_method != "env://":
            self._meet(env)  # so that after a signal the other nodes' tasks see when the first has saved
            shard = settings.as_shard(env.rank, env.world_size)
            return self._start(payload, shard, function, _next_port(env.init_method))
        return self._join(build_launched(payload, settings.as_started(env)), function, env)

    def _meet(self, env: DistEnv) -> Rendezvous:
        if self.exit_handler.rendezvous is None:
            self.exit_handler.rendezvous = Rendezvous(env, RENDEZVOUS_TIMEOUT_S)
        return self.exit_handler.rendezvous

    def _join(self, payload: Any, function: Callable[[Any], None], env: DistEnv) -> int:
        rendezvous = self._meet(env)
        try:
            with build_settings(payload).group(env, rendezvous):
                function(payload)
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

    def _start(
        self,
        payload: Any,
        settings: LaunchSettings,
        function: Callable[[Any], None],
        rendezvous: str | None = None,
    ) -> int:
        """Start this node's processes here, unless it is one in all."""
        rendezvous = rendezvous or self.init_method
        count, shards = settings.processes, settings.num_shards
        payload = build_launched(payload, settings)
        if count * shards == 1:
            function(payload)
            return 0
        if shards > 1 and not rendezvous:
            raise ConfigError(
                f"NUM_SHARDS {shards}: the nodes need a place to meet. Give all of them --init_method "
                f"tcp://{socket.gethostname()}:29500 (the first node's name) and each its --shard_id, or start them by "
                "torchrun or srun."
            )
        if settings.num_gpus:
            own_gpu(settings.num_gpus, 0, 1)
        rendezvous = rendezvous or f"tcp://127.0.0.1:{free_port()}"
        first, world = settings.shard_id * count, count * shards
        envs = [DistEnv(first + local, world, local, count, rendezvous) for local in range(count)]
        return _run_all(payload, function, envs)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _next_port(url: str) -> str:
    """Return where a node's own processes meet: its launchers keep the port itself."""
    parsed = urlparse(url)
    return f"tcp://{parsed.hostname}:{(parsed.port or 0) + 1}"


def lost_another(error: RuntimeError) -> bool:
    """Tell whether a collective failed because another process has ended, or does not come."""
    return bool(re.search(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|wait timeout", str(error), re.I))


def _lost(env: DistEnv, error: RuntimeError) -> str:
    why = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().splitlines()[0])
    cause = "another one has ended, look for its own words"
    if re.search(r"timed out|timeout", why, re.I):
        cause = "another one has not come in DIST_TIMEOUT: it hangs, or takes longer; its output ends where it is"
    return f"process {env.rank} of {env.world_size} stops: {cause} ({why})"


# ------------------------------------------------------------------------------------------ processes of this machine


def _run_all(payload: Any, function: Callable[[Any], None], envs: list[DistEnv]) -> int:
    """Start the processes and wait. The first that fails says why; the others are ended within TERMINATION_GRACE_S
    seconds.

    After a signal they end by themselves, each when it has saved; then this raises Interrupted.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_run_process, args=(payload, function, env, sender)) for env in envs]
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
    """Return the first process that ends with another code than 0; None if all end well."""
    waiting = list(processes)
    while waiting:
        ended = connection.wait([process.sentinel for process in waiting])
        for process in [candidate for candidate in waiting if candidate.sentinel in ended]:
            process.join()
            waiting.remove(process)
            if process.exitcode:
                return process
    return None


def _stopped_by(code: int) -> int:
    """Return the signal by which a process has left with this exit code; 0 if it failed, or was killed by one of its
    own."""
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
    end = signal.Signals(-failed.exitcode).name if failed.exitcode < 0 else f"exit code {failed.exitcode}"
    sys.stderr.write(f"error: process {env.rank} of {env.world_size} was ended by {end}; the others stop.\n")
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
    """End with the launcher: one that was killed ends nobody, and what it left would hold OUTPUT_DIR against the next
    run."""
    launcher = parent_process()
    if launcher is not None:
        connection.wait([launcher.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _run_process(payload: Any, function: Callable[[Any], None], env: DistEnv, sender: Any) -> None:
    """Run one process from its start to its end."""
    threading.Thread(target=_end_with_launcher, name="launcher", daemon=True).start()
    code, message = 0, ""
    tqdm.set_lock(threading.RLock())  # its own is for all processes, and this one leaves without handing it back
    try:
        with handle_signals(lambda signum: 128 + signum):
            try:
                with build_settings(payload).group(env, Rendezvous(env, RENDEZVOUS_TIMEOUT_S)):
                    function(payload)
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
