"""The few questions that the rest of dust asks about processes; all have an answer on one process."""

import io
import os
import pickle
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from dust.utils.errors import DustError

if TYPE_CHECKING:  # what only reads or writes data asks these questions without torch
    import torch

T = TypeVar("T")


def is_initialised() -> bool:
    """Tell whether this process has joined a group. One that has not imported torch cannot have done so."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def rank() -> int:
    if not is_initialised():
        return 0
    import torch.distributed as dist

    return dist.get_rank()


def world_size() -> int:
    if not is_initialised():
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def local_rank() -> int:
    """Return which process of this machine this is; the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_initialised() else 0


def is_main() -> bool:
    return rank() == 0


def all_gather_objects(value: Any) -> list[Any]:
    """Return ``[value of rank 0, value of rank 1, ...]`` on every rank."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_to_main(value: Any) -> list[Any]:
    """Return ``[value of rank 0, value of rank 1, ...]`` on rank 0; nothing on the others."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.gather_object(value, values if is_main() else None)
    return values if is_main() else []


def from_main(make: Callable[[], T]) -> T:
    """Return what ``make`` returns on rank 0, on every rank. A DustError or an OSError there is raised on every
    rank."""
    if world_size() == 1:
        return make()
    import torch.distributed as dist

    told: list[Any] = [None, None]
    if is_main():
        try:
            told[0] = make()
        except (DustError, OSError) as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


def from_each_node(make: Callable[[], T]) -> T:
    """Return what ``make`` returns, called by one process of each machine, in all of its processes: plain values and
    tensors on the CPU, which are copies. A DustError or an OSError of any of them is raised on every rank."""
    if world_size() == 1:
        return make()
    import torch.distributed as dist

    hosts = all_gather_objects(socket.gethostname())
    groups = {host: [number for number, one in enumerate(hosts) if one == host] for host in dict.fromkeys(hosts)}
    made: Any = None
    error: Exception | None = None
    if groups[hosts[rank()]][0] == rank():
        try:
            made = make()
        except (DustError, OSError) as met:
            error = met
    problems = [one for one in all_gather_objects(error) if one is not None]
    if problems:
        raise problems[0]
    ranks = groups[hosts[rank()]]
    # each machine its own: else torch splits NCCL's communicator in all processes that are no members
    group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    return _broadcast(made, ranks[0], group)  # the group stays: before 2.14 torch gives its name to the next one


class _Skeleton(pickle.Pickler):
    """Pickles all but the tensors, which it puts into ``tensors``."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[torch.Tensor] = []
        self.known: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        import torch

        if not isinstance(value, torch.Tensor) or value.is_quantized or value.layout is not torch.strided:
            return None
        if id(value) not in self.known:
            self.known[id(value)] = len(self.tensors)
            self.tensors.append(value.detach())
        return self.known[id(value)]


class _Filled(pickle.Unpickler):
    """Puts ``tensors`` back."""

    def __init__(self, file: io.BytesIO, tensors: "list[torch.Tensor]") -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, number: Any) -> "torch.Tensor":
        return self.tensors[number]


def _broadcast(value: Any, source: int, group: Any) -> Any:
    """Return ``value`` of ``source`` in all processes of a group: tensor by tensor, so that nothing is held twice."""
    import torch
    import torch.distributed as dist

    mine = rank() == source
    told: list[Any] = [None, None]
    tensors: list[torch.Tensor] = []
    if mine:
        buffer = io.BytesIO()
        pickler = _Skeleton(buffer)
        pickler.dump(value)
        tensors = pickler.tensors
        # those of a copy: the strides of what was expanded let nothing be written
        strides = [torch.empty_like(one, device="meta").stride() for one in tensors]
        told = [
            buffer.getvalue(),
            [(one.dtype, one.shape, stride) for one, stride in zip(tensors, strides, strict=True)],
        ]
    dist.broadcast_object_list(told, source, group)
    for number, (dtype, shape, stride) in enumerate(told[1]):
        flat = tensors[number].contiguous() if mine else torch.empty(shape, dtype=dtype)
        if flat.numel():
            dist.broadcast(flat.reshape(-1).view(torch.uint8), source, group)  # bytes: gloo does not know all types
        if not mine:
            tensors.append(
                flat if flat.stride() == stride else torch.empty_strided(shape, stride, dtype=dtype).copy_(flat)
            )
    return value if mine else _Filled(io.BytesIO(told[0]), tensors).load()


#: What :func:`highest` and :func:`sum_and_highest_begun` count up to.
HIGHEST = 7


def highest(number: int) -> int:
    """Return the largest of all ranks' numbers, each of 0 to HIGHEST, on every rank."""
    return sum_and_highest_begun(0.0, number)()[1]


def sum_and_highest_begun(value: float, number: int) -> Callable[[], tuple[float, int]]:
    """Begin to find the sum of all ranks' values and the largest of their numbers, each of 0 to HIGHEST, in one
    message; what is returned waits for it. Work in between costs nothing."""
    if world_size() == 1:
        return lambda: (value, number)
    import torch
    import torch.distributed as dist

    said = torch.zeros(1 + HIGHEST, dtype=torch.float64)  # a sum alone: of each number, how many say it
    said[0] = value
    if number:
        said[number] = 1.0
    work: Any = dist.all_reduce(said, dist.ReduceOp.SUM, async_op=True)

    def wait() -> tuple[float, int]:
        work.wait()
        total, *counts = said.tolist()
        return total, max((index for index, count in enumerate(counts, start=1) if count), default=0)

    return wait


def total(value: float) -> float:
    """Return the sum of all ranks' values, on every rank."""
    return sum_and_highest_begun(value, 0)()[0]


def barrier() -> None:
    """Return once all ranks are here."""
    if world_size() > 1:
        total(0.0)
