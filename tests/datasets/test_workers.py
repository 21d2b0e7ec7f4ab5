"""Every wait for a loader worker ends, with the cause and the way out. (Whole runs: tests/faults/test_workers.py.)"""

import multiprocessing
import multiprocessing.util
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from multiprocessing import connection

import pytest
import torch

from dust.datasets.loader import Loader, _start_worker, collate_training
from dust.datasets.sample import BadClip
from dust.datasets.workers import ReportingContext, WorkerError, WorkersIterator
from dust.launch.signals import StopEarly


def send_half(then):
    """In this process, of a message to a pipe only the first half is written."""
    whole = connection.Connection._send

    def send(self, buffer, write=os.write):
        if stat.S_ISFIFO(os.fstat(self.fileno()).st_mode):
            os.write(self.fileno(), bytes(buffer[: max(1, len(buffer) // 2)]))
            then()
        whole(self, buffer, write)

    connection.Connection._send = send


class Failing(torch.utils.data.Dataset):
    """Sample 5 fails in its worker in this way."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            getattr(self, self.fault)()
        return torch.zeros(10)

    def nothing(self):
        pass

    def kill(self):
        os.kill(os.getpid(), 9)

    def bus(self):
        os.kill(os.getpid(), 7)

    def leave(self):
        os._exit(3)

    def kill_in_the_midst_of_sending(self):
        send_half(lambda: os.kill(os.getpid(), 9))

    def hang_in_the_midst_of_sending(self):
        send_half(lambda: time.sleep(1000))

    def hang(self):
        time.sleep(1000)

    def ask_too_much(self):
        torch.empty(1 << 50)

    def fill_shared_memory(self):
        def refuse(storage):
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
            )

        multiprocessing.reduction.ForkingPickler.register(torch.UntypedStorage, refuse)

    def lose_the_folder(self):
        shutil.rmtree(multiprocessing.util.get_temp_dir())

    def open_too_much(self):
        def refuse(storage):
            raise OSError(24, "Too many open files")

        multiprocessing.reduction.ForkingPickler.register(torch.UntypedStorage, refuse)


def loader(fault: str, **more) -> Loader:
    options = {"num_workers": 2, "multiprocessing_context": ReportingContext(), "worker_init_fn": _start_worker}
    return Loader(Failing(fault), **{**options, **more})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("kill", r"SIGKILL.*memory was full\. Lower DATA_LOADER\.NUM_WORKERS"),
        ("kill_in_the_midst_of_sending", r"SIGKILL.*memory was full"),
        ("hang_in_the_midst_of_sending", r"no batch has come from 2 loader workers"),
        ("bus", r"SIGBUS.*/dev/shm is full .* of .* MB.*--shm-size"),
        ("leave", "exit code 3"),
        ("hang", r"no batch has come from 2 loader workers in 0\.5 s \(DATA_LOADER\.TIMEOUT\)"),
        ("fill_shared_memory", r"/dev/shm is full .*--shm-size.*DATA_LOADER\.PREFETCH_FACTOR"),
        ("open_too_much", r"Too many open files.*ulimit -n"),
        ("lose_the_folder", r"No such file or directory.*pymp-.*set TMPDIR"),
        ("ask_too_much", r"can't allocate memory.*or ask for more memory"),
    ],
)
def test_it_is_said(fault, said):
    batches = loader(fault, limit_s=0.5 if fault.startswith("hang") else 60.0, persistent_workers=True)
    workers = []
    with pytest.raises(WorkerError, match=said):
        for _ in batches:
            workers = batches._iterator._workers
    batches.close()
    os.makedirs(multiprocessing.util.get_temp_dir(), exist_ok=True)
    assert workers and not any(worker.is_alive() for worker in workers)


def test_a_cleaner_of_temporary_files_does_not_end_the_next_epoch():
    batches = loader("nothing")
    assert len(list(batches)) == 12
    shutil.rmtree(multiprocessing.util.get_temp_dir())
    assert len(list(batches)) == 12


def test_nor_does_it_spoil_the_end_of_the_program():
    program = (
        "import shutil, dust.datasets.workers\n"
        "from multiprocessing import util\n"
        "folder = util.get_temp_dir(); shutil.rmtree(folder); print(folder)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "" and not os.path.exists(done.stdout.strip())


def test_where_no_temporary_folder_can_be_made_it_is_said(monkeypatch):
    def full():
        raise OSError(28, os.strerror(28), "/tmp")

    monkeypatch.setattr(multiprocessing.util, "get_temp_dir", full)
    with pytest.raises(WorkerError, match=r"NUM_WORKERS 2: the workers cannot be started \(No space left"):
        iter(loader("nothing"))


def test_who_waits_may_be_called_away():
    batches = loader("hang")

    def leave():
        raise StopEarly

    with batches.asking(leave), pytest.raises(StopEarly):
        list(batches)
    assert len(list(loader("nothing"))) == 12


def test_workers_that_cannot_be_started(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    batches = loader("nothing", num_workers=6)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 6, hard))
    try:
        with pytest.raises(WorkerError, match=r"NUM_WORKERS 6: .*Too many open files.*ulimit -n"):
            iter(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_machine_without_descriptors_makes_no_clip_bad():
    clip = BadClip("a", "a.mp4", f"cannot be opened: {os.strerror(24)}")
    with pytest.raises(WorkerError, match=r"a\.mp4.*ulimit -n"):
        collate_training([clip])
    assert collate_training([BadClip("a", "a.mp4", "no frames")])["bad"]


def test_a_death_is_found_where_a_batch_is_waited_for_not_in_a_signal_handler():
    batches = iter(loader("nothing"))
    assert isinstance(batches, WorkersIterator) and not batches._worker_pids_set
    next(batches)
    batches._workers[0].kill()
    batches._workers[0].join()
    time.sleep(0.2)  # torch's handler would raise here
    with pytest.raises(WorkerError, match="SIGKILL"):
        list(batches)
