"""Which GPU a process takes, and how the processes meet on GPUs: by a torch that says that it has some."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from dust.config import load_config
from dust.datasets.loader import _common
from dust.engine.setup import build_device
from dust.launch import rendezvous
from dust.launch.launcher import build_settings
from dust.launch.rendezvous import DistEnv, own_gpu
from dust.utils import distributed
from dust.utils.errors import ConfigError

TASK = {
    "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1",
    "SLURM_LOCALID": "3", "SLURM_STEP_NODELIST": "node7", "SLURM_JOB_ID": "1",
}  # fmt: skip


@pytest.fixture
def gpus(monkeypatch):
    """A machine that shows this process so many GPUs."""

    def show(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return show


@pytest.mark.parametrize(("seen", "number"), [(8, 3), (4, 3), (1, 0)])
def test_a_task_takes_the_gpu_of_its_number_or_the_only_one_that_it_sees(gpus, seen, number):
    gpus(seen)
    assert own_gpu(4, local_rank=3, local_size=4) == number


@pytest.mark.parametrize("seen", [0, 2, 3])
def test_gpus_that_are_not_there_are_missed(gpus, seen):
    gpus(seen)
    with pytest.raises(ConfigError, match=f"NUM_GPUS 4: this machine has {seen}. Set NUM_GPUS {seen}"):
        own_gpu(4, local_rank=3, local_size=4)


def test_one_gpu_for_each_of_slurms_tasks(gpus, monkeypatch):
    """srun --gpus-per-task=1: before the stage begins, and in it; one process alone still wants all it asks for."""
    gpus(1)
    cfg = load_config(None, ["NUM_GPUS", "4"])
    with pytest.raises(ConfigError, match="NUM_GPUS 4: this machine has 1"):
        build_device(cfg)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    assert build_device(cfg) == torch.device("cuda", 0)
    monkeypatch.setattr(distributed, "local_rank", lambda: 3)
    assert build_device(cfg) == torch.device("cuda", 0)
    gpus(4)
    assert build_device(cfg) == torch.device("cuda", 3)


@pytest.fixture
def group(gpus, monkeypatch):
    """What is done with the process group, and the store in which the other process has said what its GPU is."""
    done, store = [], dist.HashStore()
    store.set("gpu of 0", "GPU-0")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(("device", device)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="GPU-1"))
    monkeypatch.setattr(dist, "init_process_group", lambda **options: done.append(("begun", options)))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append(("ended", None)))
    monkeypatch.setattr(dist.distributed_c10d, "_abort_process_group", lambda: done.append(("aborted", None)))

    def member(**keys):
        settings = build_settings(load_config(None, keys))
        return settings.group(DistEnv(1, 2, 1, 2, "env://"), SimpleNamespace(stage=lambda: store))

    return SimpleNamespace(done=done, store=store, member=member)


def test_gpus_meet_by_nccl_each_with_its_own(gpus, group, monkeypatch):
    gpus(2)
    monkeypatch.delenv("RDMAV_FORK_SAFE", raising=False)
    with group.member(NUM_GPUS=2, DIST_TIMEOUT=90):
        pass
    own = torch.device("cuda", 1)
    options = {"store": group.store, "rank": 1, "world_size": 2, "timeout": timedelta(seconds=90)}
    options |= {"backend": "cpu:gloo,cuda:nccl", "device_id": own}
    assert group.done == [("device", own), ("begun", options), ("ended", None)]
    assert rendezvous.os.environ["RDMAV_FORK_SAFE"] == "1"


def test_a_run_on_the_cpu_touches_no_gpu(gpus, group):
    gpus(2)
    with group.member(NUM_GPUS=0):
        pass
    assert [what for what, _ in group.done] == ["begun", "ended"] and group.done[0][1]["backend"] == "gloo"
    assert not _common(load_config(None, ["NUM_GPUS", "0"]))["pin_memory"]
    assert _common(load_config(None, ["NUM_GPUS", "2"]))["pin_memory"]


def test_the_backend_that_is_asked_for_is_taken(gpus, group):
    gpus(2)
    with group.member(NUM_GPUS=2, DIST_BACKEND="gloo"):
        pass
    assert group.done[1][1]["backend"] == "gloo" and "device_id" not in group.done[1][1]


@pytest.mark.parametrize(("backend", "end"), [("nccl", "aborted"), ("gloo", "ended")])
def test_who_fails_waits_for_nobody(gpus, group, backend, end):
    """The proper end of a group on GPUs waits for what the others have begun, and they wait for this one."""
    gpus(2)
    with pytest.raises(KeyError), group.member(NUM_GPUS=2, DIST_BACKEND=backend):
        raise KeyError
    assert [what for what, _ in group.done] == ["device", "begun", end]


def test_each_may_have_one_of_its_own(gpus, group):
    gpus(1)
    with group.member(NUM_GPUS=2):
        group.done.append(("inside", None))
    assert [what for what, _ in group.done] == ["device", "begun", "inside", "ended"]
    assert group.done[0][1] == torch.device("cuda", 0)


def test_two_processes_with_the_same_gpu_are_refused(gpus, group):
    """Before NCCL begins, which would speak of an invalid usage."""
    gpus(1)
    group.store.set("gpu of 0", "GPU-1")
    said = "2 processes of .* have the same GPU .GPU-1.*--gpus-per-task=1"
    with pytest.raises(ConfigError, match=said), group.member(NUM_GPUS=2):
        pytest.fail("it has begun")
    assert [what for what, _ in group.done] == ["device"]
