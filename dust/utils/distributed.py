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


#: What :func:`highest` and :func:`sum_and_highest_begun` count up to.
HIGHEST = 7


def highest(number: int) -> int:
    """The largest of all ranks' numbers, each of 0 to HIGHEST, on every rank."""
    return sum_and_highest_begun(0.0, number)()[1]


def sum_and_highest_begun(value: float, number: int) -> Callable[[], tuple[float, int]]:
    """Begin to find the sum of all ranks' values and the largest of their numbers, each of 0 to HIGHEST, in one
    message; what is returned waits for it. Work in between costs nothing."""
    if world_size() == 1:
        return lambda: (value, number)
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
    """The sum of all ranks' values, on every rank."""
    return sum_and_highest_begun(value, 0)()[0]


def barrier() -> None:
    """Return once all ranks are here."""
    if world_size() > 1:
        total(0.0)
