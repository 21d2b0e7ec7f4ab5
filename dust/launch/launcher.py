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
from dust.launch.rendezvous import MEET, MEET_AFTER_ALONE, Meeting, Place, joined, place_from_environment
from dust.launch.requeue import SAVING, Departure
from dust.launch.signals import COME_BACK, SIGNALS, Interrupted, forwarded, guarded, most_urgent, settle, stop
from dust.utils.errors import ConfigError, DustError
from dust.utils.signals import held_back

logger = logging.getLogger(__name__)

#: Seconds that the other processes get to end by themselves once one has failed.
GRACE = 3.0
#: Seconds that a process waits before it says that another one has gone, so that this one's own words come first.
AFTER_YOU = 1.5


def launch(cfg, function: Callable[[Any], None], init_method: str | None = None) -> int:
    """Run ``function(cfg)`` in this process or in as many as the configuration says; see :meth:`Launcher.run`."""
    return Launcher(init_method).run(cfg, function)


class Launcher:
    """Runs the stages of one command, one after the other.

    Args:
        init_method: where the nodes meet (``tcp://host:port``), if neither torchrun nor Slurm says it.
        departure: how this process leaves after a signal; it is told who is first, and where they have met.
    """

    def __init__(self, init_method: str | None = None, departure: Departure | None = None) -> None:
        self.place = place_from_environment(os.environ)
        self.init_method = init_method
        self.departure = departure or Departure()
        self.patience = MEET
        if self.place is not None:
            self.departure.first = self.place.rank == 0

    def agree(self, question: Callable[[], bool]) -> bool:
        """An answer that all processes of the command share. It is the first one's, and theirs once it has come."""
        return question() if self.place is None else self._meet(self.place).agree(question)

    def run(self, cfg, function: Callable[[Any], None]) -> int:
        """Run ``function(cfg)`` in this process or in as many as the configuration says.

        Returns:
            The exit code. In a single process errors are raised instead, as if it was called directly.

        Raises:
            ConfigError: nodes that cannot meet, or more processes than the launcher started.
            Interrupted: after a signal.
        """
        place = self.place
        if place is None:
            self.departure.first = cfg.SHARD_ID == 0
        if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:  # features are extracted by one process
            self.patience = MEET_AFTER_ALONE
            if self.departure.first:
                function(_alone(cfg))
            return 0
        if place is None:
            return self._start(cfg, function)
        if place.local_size == 1 and processes_per_node(cfg) > 1 and place.init_method != "env://":
            self._meet(place)  # so that after a signal the other nodes' tasks see when the first has saved
            return self._start(_as_shard(cfg, place.rank, place.world_size), function, _next_port(place.init_method))
        return self._join(cfg, function, place)

    def _meet(self, place: Place) -> Meeting:
        if self.departure.meeting is None:
            self.departure.meeting = Meeting(place, self.patience)
        return self.departure.meeting

    def _join(self, cfg, function: Callable[[Any], None], place: Place) -> int:
        cfg = _as_started(cfg, place)
        meeting = self._meet(place)
        try:
            with joined(place, meeting):
                function(cfg)
        except DustError as error:
            settle()  # srun and torchrun end the others with TERM as soon as one has gone
            if meeting.all_failed(str(error), AFTER_YOU):
                return 2
            raise
        except RuntimeError as error:
            if not lost_another(error):
                raise
            settle()
            time.sleep(AFTER_YOU)
            if most_urgent() in COME_BACK:
                stop(most_urgent())
            sys.stderr.write(f"error: {_lost(place, error)}\n")
            return 1
        return 0

    def _start(self, cfg, function: Callable[[Any], None], meeting: str | None = None) -> int:
        """Start this node's processes here, unless it is one in all."""
        meeting = meeting or self.init_method
        count = processes_per_node(cfg)
        if count * cfg.NUM_SHARDS == 1:
            function(cfg)
            return 0
        if cfg.NUM_SHARDS > 1 and not meeting:
            raise ConfigError(
                f"NUM_SHARDS {cfg.NUM_SHARDS}: the nodes need a place to meet. Give all of them --init_method "
                f"tcp://{socket.gethostname()}:29500 (the first node's name) and each its --shard_id, or start them by "
                "torchrun or srun."
            )
        _check_devices(cfg)
        meeting = meeting or f"tcp://127.0.0.1:{free_port()}"
        first, world = cfg.SHARD_ID * count, count * cfg.NUM_SHARDS
        places = [Place(first + local, world, local, count, meeting) for local in range(count)]
        return _run_all(cfg, function, places, self.patience)


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


def _as_started(cfg, place: Place):
    """The configuration with the number of processes that a launcher really started."""
    shards = place.world_size // place.local_size
    if (processes_per_node(cfg), cfg.NUM_SHARDS) == (place.local_size, shards):
        return cfg
    if cfg.TRAIN.ENABLE and place.local_size > cfg.TRAIN.BATCH_SIZE:
        raise ConfigError(
            f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}: must be at least the {place.local_size} processes that "
            "were started on this node"
        )
    gpus, processes = (place.local_size, 0) if cfg.NUM_GPUS else (0, place.local_size)
    cfg = _as_shard(cfg, place.rank // place.local_size, shards)
    return with_values(cfg, {"NUM_GPUS": gpus, "NUM_PROCS_PER_NODE": processes})


def lost_another(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    return bool(re.search(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", str(error), re.I))


def _lost(place: Place, error: RuntimeError) -> str:
    why = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().splitlines()[0])
    return f"process {place.rank} of {place.world_size} stops: another one has ended, look for its own words ({why})"


# ------------------------------------------------------------------------------------------ processes of this machine


def _run_all(cfg, function: Callable[[Any], None], places: list[Place], patience: float = MEET) -> int:
    """Start the processes and wait. The first that fails says why; the others are ended within GRACE seconds.

    After a signal they end by themselves, each when it has saved; then this raises Interrupted.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_one, args=(cfg, function, place, sender, patience)) for place in places]
    grace = GRACE
    with forwarded(lambda signum: _send(signum, processes)):
        try:
            with held_back():  # they take signals after their imports; until then these wait instead of killing
                for process in processes:
                    process.start()
            sender.close()
            failed = _wait(processes)
            if failed is None:
                return 0
            signum = _stopped_by(failed.exitcode)
            if not signum:
                return _say_why(receiver, failed, places[processes.index(failed)])
            grace = SAVING
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


def _one(cfg, function: Callable[[Any], None], place: Place, sender: Any, patience: float) -> None:
    """The life of one process."""
    threading.Thread(target=_end_with_launcher, name="launcher", daemon=True).start()
    code, message = 0, ""
    tqdm.set_lock(threading.RLock())  # its own is for all processes, and this one leaves without handing it back
    try:
        with guarded(lambda signum: 128 + signum):
            try:
                with joined(place, Meeting(place, patience)):
                    function(cfg)
            except RuntimeError as error:
                if not lost_another(error):
                    raise
                code, message = 1, f"error: {_lost(place, error)}"
                time.sleep(AFTER_YOU)
    except DustError as error:
        code, message = 2, f"error: {error}"
    except Interrupted as stop:
        code, message = stop.exit_code, ""
    except BaseException:
        code, message = 1, f"process {place.rank} of {place.world_size}:\n{traceback.format_exc()}"
    if message:
        sender.send((place.rank, code, message))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a broken process group would keep it
