"""The only evaluation loop. Validation, test and extraction consume it."""

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dust.datasets.sample import BadClip
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.overlap import Feed, Readback
from dust.models.protocol import LeavesOutClasses
from dust.tasks.task import Outputs
from dust.utils.errors import DataError


class OutputError(DataError):
    """A model's output that holds NaN or infinite values."""


def refuse(bad: BadClip) -> None:
    """Raise OutputError: nobody has said what is to become of bad clips."""
    raise OutputError(f"{bad.path}: {bad.reason}")


@dataclass
class _Sample:
    """One sample on its way: its inputs (V, ...), how many of its views were ``taken`` to the device, and the outputs
    of those that are ``back``."""

    record: dict[str, Any]
    inputs: dict[str, Tensor]
    num_views: int
    taken: int = 0
    back: int = 0
    outputs: list[Outputs] = field(default_factory=list)


@dataclass
class _MicroBatch:
    """One that the device has to do: how many of its views are of each sample, in order, and what comes of them."""

    shares: list[tuple[_Sample, int]]
    outputs: Readback | dict[str, Readback]

    def land(self) -> None:
        """Wait for the outputs and give each sample its own."""
        parts = self.outputs
        outputs = {name: one.read() for name, one in parts.items()} if isinstance(parts, dict) else parts.read()
        start = 0
        for sample, views in self.shares:
            sample.outputs.append(_cut(outputs, start, start + views))
            sample.back += views
            start += views


@dataclass
class _Way:
    """The samples on their way, in order, and the micro-batches of them that the device has to do."""

    samples: deque[_Sample] = field(default_factory=deque)
    flying: deque[_MicroBatch] = field(default_factory=deque)
    left: int = 0  # views that were not taken to the device


@dataclass
class Inference:
    """Runs a model over evaluation items, all views of a sample in micro-batches that may span samples. While a device
    does one, the one before is looked at and the next one is brought to it.

    Args:
        model, forward: ``forward(model, inputs)`` gives the outputs, a tensor or a dict of tensors, (B, ...) each.
        transform: turns uint8 clips into what the model takes, on ``device``.
        micro_batch: views per forward pass.
        across_samples: a forward pass may hold views of several samples. False: what a sample gives does not depend on
            its neighbours, to the last bit.
        autocast: a context for the forward pass.
        in_flight: micro-batches that a device has to do while the next one is made; 0: an answer is not kept waiting
            for what comes next. On a CPU it is 0.
        on_bad: called with every :class:`BadClip`, and with one for every sample whose outputs are not all finite;
            it may raise, as it does by default.
        should_stop: asked before every forward pass; it may raise.
    """

    model: nn.Module
    forward: Callable[[nn.Module, dict[str, Any]], Outputs]
    transform: DeviceTransform
    device: torch.device
    micro_batch: int
    across_samples: bool = True
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    in_flight: int = 1
    on_bad: Callable[[BadClip], None] = refuse
    should_stop: Callable[[], None] = lambda: None

    def __call__(self, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Yield ``{"id", "path", "label", "outputs"}`` per sample in order. Outputs are (V, ...), finite, on the CPU.

        The model is in eval mode while this runs, and as it was before afterwards.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            yield from self._run(items)
        finally:
            self.model.train(was_training)

    def with_forward(
        self,
        forward: Callable[[nn.Module, dict[str, Any]], Outputs],
        *,
        micro_batch: int,
        across_samples: bool = True,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
    ) -> "Inference":
        """Return the same loop with another forward pass; ``autocast`` None is its own."""
        how: dict[str, Any] = {"micro_batch": micro_batch, "across_samples": across_samples}
        return replace(self, forward=forward, autocast=autocast or self.autocast, **how)

    def _run(self, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        way, feed = _Way(), Feed(self.device)
        for item in items:
            if isinstance(item, BadClip):
                self.on_bad(item)
                continue
            sample = _as_sample(item)
            if way.samples and not (self.across_samples and _stackable(way.samples[-1], sample)):
                yield from self._drain(way, feed, everything=True)
            way.samples.append(sample)
            way.left += sample.num_views
            yield from self._drain(way, feed, everything=False)
        yield from self._drain(way, feed, everything=True)
        yield from self._landed(way, flying=0)

    def _drain(self, way: _Way, feed: Feed, *, everything: bool) -> Iterator[dict[str, Any]]:
        """Run full micro-batches (with ``everything``, also a last short one) and hand out finished samples."""
        while way.left >= (1 if everything else self.micro_batch):
            way.flying.append(self._forward(way, feed))
            yield from self._landed(way, flying=0 if self.device.type == "cpu" else self.in_flight)

    def _landed(self, way: _Way, flying: int) -> Iterator[dict[str, Any]]:
        """Wait until only so many micro-batches are in flight, and hand out finished samples."""
        silent = self.model.silent_outputs if isinstance(self.model, LeavesOutClasses) else frozenset()
        while len(way.flying) > flying:
            way.flying.popleft().land()
        while way.samples and way.samples[0].back == way.samples[0].num_views:
            sample = way.samples.popleft()
            outputs = _join(sample.outputs)
            reason = why_not_finite(outputs, silent)
            if reason:
                self.on_bad(BadClip(sample.record["id"], sample.record["path"], reason))
            else:
                yield {**sample.record, "outputs": outputs}

    def _forward(self, way: _Way, feed: Feed) -> _MicroBatch:
        self.should_stop()
        room, parts, shares = self.micro_batch, [], []
        for sample in way.samples:
            take = min(room, sample.num_views - sample.taken)
            if take:
                views = slice(sample.taken, sample.taken + take)
                parts.append({name: value[views] for name, value in sample.inputs.items()})
                shares.append((sample, take))
                sample.taken += take
                room -= take
        way.left -= self.micro_batch - room
        # each part from the pinned memory that it is in; joined on the CPU, they would be in none
        inputs = feed.make(
            lambda: {
                name: torch.cat([part[name].to(self.device, non_blocking=True) for part in parts]) for name in parts[0]
            }
        )
        with torch.no_grad(), self.autocast():
            outputs = self.forward(self.model, self.transform({"inputs": inputs}, training=False)["inputs"])
        return _MicroBatch(shares, _sent_back(outputs))


def _as_sample(item: dict[str, Any]) -> _Sample:
    record = {key: value for key, value in item.items() if key != "inputs"}
    num_views = len(next(iter(item["inputs"].values())))
    return _Sample(record, item["inputs"], num_views)


def _stackable(a: _Sample, b: _Sample) -> bool:
    return all(a.inputs[name].shape[1:] == b.inputs[name].shape[1:] for name in a.inputs)


def _sent_back(outputs: Outputs) -> Readback | dict[str, Readback]:
    if isinstance(outputs, dict):
        return {name: Readback(value.float()) for name, value in outputs.items()}
    return Readback(outputs.float())


def _cut(outputs: Outputs, start: int, stop: int) -> Outputs:
    if isinstance(outputs, dict):
        return {name: value[start:stop] for name, value in outputs.items()}
    return outputs[start:stop]


def _join(parts: list[Outputs]) -> Outputs:
    first = parts[0]
    if isinstance(first, dict):
        return {name: torch.cat([part[name] for part in parts]) for name in first}  # type: ignore[index]
    return torch.cat(parts)  # type: ignore[arg-type]


def why_not_finite(outputs: Outputs, silent: Collection[str] = ()) -> str:
    """Say which values of one sample's outputs are NaN or infinite; "" where all are finite.

    Args:
        silent: names of outputs in which -inf means that the model says nothing.
    """
    named = outputs if isinstance(outputs, dict) else {"": outputs}
    for name, value in named.items():
        wrong = ~torch.isfinite(value)
        if name in silent:
            wrong &= ~torch.isneginf(value)
        if wrong.any():
            where = f" in {name}" if name else ""
            return (
                f"the model's output is not finite ({int(wrong.sum())} of {value.numel()} values{where} are NaN or "
                "infinite): its weights have diverged, or they overflow in float16 (TRAIN.AMP_DTYPE bfloat16, or "
                "TRAIN.MIXED_PRECISION False)"
            )
    return ""
