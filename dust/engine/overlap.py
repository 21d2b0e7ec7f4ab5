"""The host beside the device: what keeps one from waiting for the other in a training step.

A CUDA device works through a queue that the host fills. The host waits as soon as it asks for a number, copies from
memory that is not pinned, or stops to look for garbage; the device waits once its queue is empty. So numbers are asked
for a step late (:class:`Readback`, :class:`Figures`), batches come on a stream of their own (:class:`Feed`), and
garbage is looked for at set steps (:class:`Garbage`). On a CPU there is nothing to wait for, and all is done at once.
"""

import contextlib
import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

#: Optimizer steps between two looks for garbage.
GARBAGE_PERIOD = 50


class Readback:
    """A tensor's values on their way to the CPU, into pinned memory. Nothing waits for them before :meth:`read`.

    Of a tensor on the CPU it is that tensor: what it holds may not be changed afterwards.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._done = tensor, None
        if tensor.device.type != "cpu":
            self._host, self._done = sent_to_host(tensor)

    def read(self) -> Tensor:
        """Return the values, on the CPU. Waits for the device as far as it had work when this was made."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return self._host


def sent_to_host(tensor: Tensor) -> tuple[Tensor, Any]:
    """Return a copy of a device's tensor in pinned memory, and the event after which it holds. The memory is torch's to
    use again: of one small copy a step, two blocks go round."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))
    return host, done


class Figures(Mapping[str, float]):
    """Named figures of a batch, in order. The first look at any of them waits until the device has them all.

    Args:
        figures: numbers, or tensors of one; those on a device travel together.
        optional: names of figures that are left out where they are NaN: the batch had nothing to measure.
    """

    def __init__(self, figures: Mapping[str, Tensor | float], optional: Collection[str] = ()) -> None:
        self._optional, self._names = frozenset(optional), list(figures)
        away = {name: one for name, one in figures.items() if isinstance(one, Tensor) and one.device.type != "cpu"}
        self._here = {
            name: float(one.item() if isinstance(one, Tensor) else one)
            for name, one in figures.items()
            if name not in away
        }
        # in 64 bits, so that percentages are those that Python would have computed
        together = torch.stack([one.detach().double() for one in away.values()]) if away else None
        self._away, self._coming = list(away), None if together is None else Readback(together)
        self._known: dict[str, float] | None = None

    def _values(self) -> dict[str, float]:
        if self._known is None:
            if self._coming is not None:
                self._here |= dict(zip(self._away, self._coming.read().tolist(), strict=True))
            values = ((name, self._here[name]) for name in self._names)
            self._known = {name: one for name, one in values if one == one or name not in self._optional}
            self._coming = None
        return self._known

    def __getitem__(self, name: str) -> float:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


class Feed:
    """Brings batches to a device. On CUDA their copies have a stream of their own: they run beside what the device
    still has to do for the batch before, and the next work on this one waits for them on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with its tensors on the device, also those in dicts."""
        return self.make(lambda: _moved(batch, self.device))

    def make(self, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what ``build`` makes on the device, of copies ``non_blocking``. From pinned memory they do not
        wait."""
        if self.stream is None:
            return build()
        working = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            made = build()
        working.wait_stream(self.stream)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                tensor.record_stream(working)  # else its memory were free for the next batch while it is worked on
        return made


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value


def seed_step(seed: int, device: torch.device) -> None:
    """Seed what torch draws from on the CPU and on ``device``. As ``torch.manual_seed``, which looks for every kind of
    device that there is, a hundred times as long."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Garbage:
    """Python's collector in a training: at the same optimizer steps in all processes, since each waits for the slowest
    of them; and it does not look at what was there before the training, ten million clips say.

    Workers that are forked meanwhile share those pages; they collect as always (``dust.datasets.loader``).
    """

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Leave out, while this lasts, whatever is there now."""
        gc.collect(1)  # the oldest generation, all modules, would take 0.15 s, and is not looked at from here on
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()

    @contextlib.contextmanager
    def at_set_steps(self) -> Iterator[None]:
        """Collect only when asked by :meth:`step_done` while this lasts."""
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_on:
                gc.enable()

    def step_done(self, step: int) -> None:
        """Note that the optimizer has stepped ``step`` times in this epoch."""
        if step % GARBAGE_PERIOD == 0:
            gc.collect()
