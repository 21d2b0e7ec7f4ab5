"""What one process hands to others arrives as it was: every type, layout and error."""

import contextlib
import multiprocessing

import pytest
import torch
import torch.distributed as dist

from dust.utils import distributed
from dust.utils.errors import CheckpointError, DataError


def tree():
    torch.manual_seed(0)
    shared = torch.randn(3, 4)
    return {
        "model_state": {
            "a.b": shared,
            "tied": shared,
            "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        },
        "types": [
            torch.tensor(3),
            torch.tensor([True, False]),
            torch.zeros(0, 2),
            torch.randn(5).bfloat16(),
            torch.arange(3.0).expand(2, 3),
        ],
        "whole": (torch.tensor([[1, 2]], dtype=torch.int16), torch.randn(2, dtype=torch.complex64), None, 0.1, "text"),
        7: {"step": torch.tensor(4.0, dtype=torch.float64), "transposed": torch.arange(6).reshape(2, 3).T},
    }


def same(one, two):
    assert type(one) is type(two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        kept = one.stride() == two.stride() or 0 in two.stride()  # a copy has all its numbers
        return one.dtype == two.dtype and kept and torch.equal(one, two)
    return one == two


def fail(error):
    raise error


def process(rank, folder, hosts, answers):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(hosts))
    distributed.socket.gethostname = lambda: hosts[rank]
    make = dist.distributed_c10d._new_process_group_helper

    def make_of_members(size, own_rank, ranks, *rest, **more):
        assert rank in ranks, "on GPUs, NCCL's communicator is split in a process that is no member, and waits for all"
        return make(size, own_rank, ranks, *rest, **more)

    dist.distributed_c10d._new_process_group_helper = make_of_members
    calls = []
    got = distributed.from_each_node(lambda: calls.append(1) or tree())
    found = {
        "calls": len(calls),
        "same": same(got, tree()),
        "tied": got["model_state"]["a.b"] is got["model_state"]["tied"],
    }
    found["main"] = distributed.from_main(lambda: f"by {rank}")
    found["gathered"] = distributed.gather_to_main(rank)
    for ask, by in ((distributed.from_main, 0), (distributed.from_each_node, 2)):
        try:
            ask(lambda by=by: fail(CheckpointError(f"process {rank} cannot")) if rank == by else None)
        except CheckpointError as error:
            found[ask.__name__] = str(error)
    answers.put((rank, found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_process_of_each_node_reads_and_errors_reach_all(tmp_path):
    """Three processes on two nodes."""
    context = multiprocessing.get_context("fork")
    answers, hosts = context.Queue(), ["one", "one", "two"]
    workers = [context.Process(target=process, args=(rank, tmp_path, hosts, answers)) for rank in range(3)]
    for worker in workers:
        worker.start()
    found = dict(answers.get(timeout=240) for _ in workers)
    for worker in workers:
        worker.join()
    assert [found[rank]["calls"] for rank in range(3)] == [1, 0, 1]
    for rank in range(3):
        assert found[rank]["same"] and found[rank]["tied"] and found[rank]["main"] == "by 0"
        assert found[rank]["from_main"] == "process 0 cannot" and found[rank]["from_each_node"] == "process 2 cannot"
    assert [found[rank]["gathered"] for rank in range(3)] == [[0, 1, 2], [], []]


def test_one_process_asks_itself():
    assert distributed.from_each_node(lambda: 3) == distributed.from_main(lambda: 3) == 3
    assert distributed.gather_to_main("own") == ["own"]
    with contextlib.suppress(DataError):
        distributed.from_main(lambda: fail(DataError("no")))
        raise AssertionError("its own errors are raised as they are")
