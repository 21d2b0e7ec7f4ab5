"""Loader workers that cannot deliver: every wait for them ends, with the cause and the way out.

torch leaves four gaps. A batch that a worker cannot send (shared memory is full, no descriptor is left) is dropped in
a thread of the worker, and waited for without end. The death of a worker is raised by a signal handler, in the midst
of whatever the training does. A worker that hangs is waited for without end, and so is the rest of a message in whose
midst its worker was killed. Here the first is sent as an error in the batch's place, the second is found where a batch
is waited for, and the third and the fourth have a bound.
"""

import atexit
import contextlib
import errno
import io
import os
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import connection, context, process, queues, util
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import _utils
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from dust.datasets.sample import BadClip
from dust.decode.remote import RemoteError
from dust.utils.errors import DataError

#: Seconds between two looks at the workers while a batch is waited for.
LOOK_S = 1.0
#: Where tensors travel from the workers.
SHARED_MEMORY = "/dev/shm"
#: Errors of the machine, whatever file they were met at.
EXHAUSTED = tuple(os.strerror(code) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_WAYS_OUT = {
    "shared memory": "make it larger (docker run --shm-size=8g, or --ipc=host), or lower DATA_LOADER.NUM_WORKERS, "
    "DATA_LOADER.PREFETCH_FACTOR or TRAIN.BATCH_SIZE, or set DATA_LOADER.NUM_WORKERS 0",
    "memory": "lower DATA_LOADER.NUM_WORKERS, DATA_LOADER.PREFETCH_FACTOR or TRAIN.BATCH_SIZE, or ask for more memory "
    "(sbatch --mem)",
    "descriptors": "raise the limit (ulimit -n 65536), or lower DATA_LOADER.NUM_WORKERS or DATA_LOADER.PREFETCH_FACTOR",
    "folder": "it is named pymp-*, lies below TMPDIR, and workers hand their batches over in it: set TMPDIR to a "
    "folder that nothing cleans, and start the same command again, which continues where it was",
}


class WorkerError(DataError):
    """A loader worker cannot deliver. The clips are not at fault: started again, the run continues."""


@dataclass
class Waiting:
    """How batches are waited for.

    Attributes:
        limit_s: seconds for one batch; 0 = no bound.
        on_wait: called about once a second meanwhile; it may raise.
    """

    limit_s: float = 0.0
    on_wait: Callable[[], None] = lambda: None


def refuse_exhaustion(items: Iterable[Any]) -> None:
    """Raise WorkerError where a clip is bad only because this machine has no descriptors or memory left."""
    for item in items:
        if isinstance(item, BadClip) and any(text in item.reason for text in EXHAUSTED):
            raise WorkerError(f"{item.path}: {item.reason}. {_way_out(item.reason)}")


class _Undelivered(ExceptionWrapper):
    """Stands in the place of a batch that a worker could not send."""

    def __init__(self, text: str) -> None:
        self.text = text

    def reraise(self) -> None:
        raise WorkerError(self.text)


class _PatientReader(connection.Connection):
    """The receiving end of a pipe. While the rest of a message is waited for, ``on_stall`` is called about once a
    second; it may raise."""

    on_stall: Callable[[], None] = staticmethod(lambda: None)

    def _recv(self, size: int, read: Any = os.read) -> io.BytesIO:  # type: ignore[override]
        found = io.BytesIO()
        while (left := size - found.tell()) > 0:
            while not connection.wait([self], LOOK_S):
                self.on_stall()
            part = read(self.fileno(), min(left, 1 << 20))
            if not part:
                raise EOFError("the pipe ended within a message" if found.tell() else "the pipe has ended")
            found.write(part)
        return found


class _ReportingQueue(queues.Queue):
    """A queue that sends an error in the place of what it cannot send, and reads by a :class:`_PatientReader`."""

    _reader: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made_by = os.getpid()
        plain = self._reader
        self._reader = _PatientReader(os.dup(plain.fileno()), writable=False)
        plain.close()
        self._reset()  # type: ignore[attr-defined] # takes the reader's methods

    def watch(self, on_stall: Callable[[], None]) -> None:
        """Call ``on_stall`` while the rest of a message does not come."""
        self._reader.on_stall = on_stall

    def _on_queue_feeder_error(self, error: BaseException, item: Any) -> None:  # type: ignore[override]
        if os.getpid() == self.made_by:  # the trainer's own, to the workers
            super()._on_queue_feeder_error(error, item)  # type: ignore[misc]
        else:
            self.put((item[0], _Undelivered(_why_not_sent(error))))


class ReportingContext(context.ForkContext):
    """Forks workers whose results come through a :class:`_ReportingQueue`."""

    def Queue(self, maxsize: int = 0) -> Any:
        return _ReportingQueue(maxsize, ctx=self.get_context())


class WorkersIterator(_MultiProcessingDataLoaderIter):
    """torch's iterator over batches made by workers, with an end to every wait.

    Raises:
        WorkerError: a worker could not be started, has died, could not send its batch, or no batch has come in
            ``loader.waiting.limit_s`` seconds.
    """

    def __init__(self, loader: Any) -> None:
        self._waiting: Waiting = loader.waiting
        self._given_up = False
        try:
            # cleaners of /tmp remove it in runs of weeks, and every later worker would fail to send
            os.makedirs(util.get_temp_dir(), 0o700, exist_ok=True)
            super().__init__(loader)
        except OSError as error:
            end_workers(getattr(self, "_workers", []))
            self._shutdown = True
            raise WorkerError(
                f"DATA_LOADER.NUM_WORKERS {loader.num_workers}: the workers cannot be started ({error.strerror}). "
                + _way_out(str(error))
            ) from error
        _workers.update(self._workers)
        result: Any = self._worker_result_queue
        if isinstance(result, _ReportingQueue):  # a loader may have been given another context
            result.watch(self._stalled)
        if self._worker_pids_set:  # else torch raises from a signal handler, in the midst of an optimizer step, say
            _utils.signal_handling._remove_worker_pids(id(self))
            self._worker_pids_set = False

    def _get_data(self) -> Any:
        self._given_up = True  # until the batch is there
        self._began = time.monotonic()
        while True:
            try:
                came, data = self._try_get_data(LOOK_S)
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                raise WorkerError(self._why(error)) from error
            if came:
                self._given_up = False
                return data
            if self._pin_memory and not self._pin_memory_thread.is_alive():
                raise WorkerError("the thread that pins memory has ended: set DATA_LOADER.PIN_MEMORY False")
            self._look()

    def _look(self) -> None:
        """Do what is due about once a second while a batch is waited for."""
        limit = self._waiting.limit_s
        self._waiting.on_wait()
        if limit and time.monotonic() - self._began > limit:
            raise WorkerError(
                f"no batch has come from {len(self._workers)} loader workers in {limit:g} s (DATA_LOADER.TIMEOUT): "
                "the storage of the clips hangs, or is too slow. Look whether its files can be read; raise "
                "DATA_LOADER.TIMEOUT if a batch may take longer"
            )

    def _stalled(self) -> None:
        """Look after a batch whose rest does not come: whoever sent it may be dead, and what it began to write is
        lost."""
        if not all(worker.is_alive() for worker in self._workers):
            raise EOFError("its worker ended while it sent the batch")
        if not self._pin_memory:  # else this is the thread that pins, and who waits looks by itself
            self._look()

    def _process_data(self, data: Any, worker_idx: int) -> Any:
        if isinstance(data, ExceptionWrapper) and not isinstance(data, _Undelivered):
            text = str(data.exc_msg).strip().rsplit("\n", 1)[-1]
            if issubclass(data.exc_type, RemoteError):
                data = _Undelivered(text.partition(f"{RemoteError.__name__}: ")[2])
            elif data.exc_type is WorkerError or issubclass(data.exc_type, MemoryError) or _exhausted(text):
                text = text.partition(f"{WorkerError.__name__}: ")[2] or f"a loader worker: {text}. {_way_out(text)}"
                data = _Undelivered(text)
        return super()._process_data(data, worker_idx)

    def _why(self, error: BaseException) -> str:
        """Tell why nothing comes: how a worker has ended, or what reading its batch has met."""
        # a connection breaks a moment before its worker is known to be dead
        for ended in connection.wait([worker.sentinel for worker in self._workers], LOOK_S):
            next(worker for worker in self._workers if worker.sentinel == ended).join()
        dead = [(worker.pid, worker.exitcode) for worker in self._workers if worker.exitcode]
        if not dead:
            text = str(error) or "its worker could not open what it sends: Too many open files"
            return f"a batch of a loader worker cannot be received ({text}). {_way_out(text)}"
        pid, code = dead[0]
        who = f"a loader worker (pid {pid}) has ended"
        if code >= 0:
            return f"{who} with exit code {code}; what it said stands above. DATA_LOADER.NUM_WORKERS 0 shows more"
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return f"{who} by {name}: most likely the system's memory was full. {_say('memory')}"
        if -code == signal.SIGBUS:
            return f"{who} by {name}: {_shared_memory()}, or a file was cut while it was read. {_say('shared memory')}"
        return f"{who} by {name}. With DATA_LOADER.NUM_WORKERS 0 the same happens where it can be seen"

    def close(self) -> None:
        """End the workers."""
        self._shutdown_workers()

    def _shutdown_workers(self) -> None:
        if self._given_up:  # one that hangs would be waited for, 5 seconds each
            end_workers(self._workers)
        super()._shutdown_workers()
        end_workers(getattr(self, "_workers", []))  # without any where none could be started


_workers: weakref.WeakSet[Any] = weakref.WeakSet()
os.register_at_fork(after_in_child=_workers.clear)


def end_workers(workers: Iterable[Any]) -> None:
    """Kill what is left of these processes: one that hangs as it starts takes no other signal."""
    for worker in list(workers):
        with contextlib.suppress(ValueError, AssertionError):  # it was closed, or is another process's child
            if worker.is_alive():
                worker.kill()
                worker.join()


@atexit.register
def _before_multiprocessing_ends() -> None:
    """End workers first, as multiprocessing's own handler waits for workers without end, and fails where the folder is
    gone that it removes."""
    end_workers(_workers)
    folder = process.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    if folder:
        with contextlib.suppress(OSError):
            os.makedirs(folder, 0o700, exist_ok=True)


def _why_not_sent(error: BaseException) -> str:
    return f"a loader worker cannot send its batch ({error}): {_cause(str(error))}. {_way_out(str(error))}"


def _exhausted(text: str) -> bool:
    return any(known in text for known in (*EXHAUSTED, "can't allocate memory", "shared memory"))


def _kind(text: str) -> str:
    if "Too many open files" in text or "ancdata" in text:
        return "descriptors"
    if os.strerror(errno.ENOENT) in text:  # a socket, below TMPDIR, by which tensors are handed over
        return "folder"
    return "shared memory" if "shm" in text or "shared memory" in text or "No space" in text else "memory"


def _cause(text: str) -> str:
    causes = {
        "descriptors": "too many files are open",
        "memory": "the memory is full",
        "folder": "a temporary folder was removed",
    }
    return causes.get(_kind(text)) or _shared_memory()


def _way_out(text: str) -> str:
    return _say(_kind(text))


def _say(kind: str) -> str:
    ways = _WAYS_OUT[kind]
    return ways[0].upper() + ways[1:]


def _shared_memory() -> str:
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return f"the shared memory {SHARED_MEMORY} is full or missing"
    size, free = (room.f_frsize * blocks / 2**20 for blocks in (room.f_blocks, room.f_bavail))
    return f"the shared memory {SHARED_MEMORY} is full ({free:.0f} of {size:.0f} MB are free)"
