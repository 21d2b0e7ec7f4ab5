"""The few questions that the rest of dust asks about processes; all have an answer on one process."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def is_initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_initialised() else 0


def world_size() -> int:
    return dist.get_world_size() if is_initialised() else 1


def local_rank() -> int:
    """Which process of this machine this is; the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_initialised() else 0


def is_main() -> bool:
    return rank() == 0


def all_gather_objects(value: Any) -> list[Any]:
    """``[value of rank 0, value of rank 1, ...]`` on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def of_main(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank."""
    return all_gather_objects(make() if is_main() else None)[0]


def highest_begun(value: int) -> Callable[[], int]:
    """Begin to find the largest of all ranks' values; what is returned waits for it. Work in between costs nothing."""
    return _begun(torch.tensor(value), dist.ReduceOp.MAX)


def total_begun(value: float) -> Callable[[], float]:
    """The same for the sum."""
    return _begun(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.SUM)


def _begun(tensor: torch.Tensor, operation: Any) -> Callable[[], Any]:
    work = dist.all_reduce(tensor, operation, async_op=True) if world_size() > 1 else None

    def wait() -> Any:
        if work is not None:
            work.wait()
        return tensor.item()

    return wait


def total(value: float) -> float:
    """The sum of all ranks' values, on every rank."""
    return total_begun(value)()


def barrier() -> None:
    """Return once all ranks are here."""
    if world_size() > 1:
        total(0.0)
