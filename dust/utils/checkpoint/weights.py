"""Putting a file's weights into a model, with a full account of what fitted."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn as nn

from dust.utils.checkpoint.store import read_checkpoint
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

CONTAINERS = ("state_dict", "model_state", "model", "module")  # where the tensors lie in a file, in order of trust
PREFIXES = ("module.", "model.", "_orig_mod.")  # what wrappers put before every name
HEADS = ("head", "classifier", "fc")  # the classifier, which another set of classes may leave fresh
MIN_FIT = 0.5  # share of the model's parameters (head aside, counted in numbers) below which a file does not fit


@runtime_checkable
class AdaptsStateDict(Protocol):
    """A model that reads files of other layouts. Default: names and shapes must be its own."""

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """A file's tensors -> the model's names and shapes, a new dict.

        Args:
            notes: sentences about what was renamed, resized or dropped are appended.
            pos_embed_resize: ``official`` | ``bicubic``, the rule for positions of another image size; None: its own.
        """
        ...


@dataclass
class LoadReport:
    """What became of every tensor of a file and of a model. ``str(report)`` is for people."""

    path: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the model, not in the file: they keep the model's values
    unexpected: list[str] = field(default_factory=list)  # in the file, not in the model: not used
    misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # file's, model's shape
    notes: list[str] = field(default_factory=list)  # what was resized, copied, renamed or dropped, and by which rule

    @property
    def complete(self) -> bool:
        """True if every tensor of the model came from the file."""
        return not self.missing and not self.misshapen

    @property
    def absent(self) -> list[str]:
        """The model's tensors that the file did not give."""
        return [*self.missing, *(key for key, _, _ in self.misshapen)]

    @property
    def absent_from_body(self) -> list[str]:
        """Those of them that are not the classifier's."""
        return [key for key in self.absent if not _is_head(key)]

    @property
    def fresh_head(self) -> bool:
        """True if (part of) the classifier did not come from the file."""
        return any(_is_head(key) for key in [*self.missing, *(key for key, _, _ in self.misshapen)])

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.misshapen)
        lines = [f"{self.path}: {len(self.loaded)} of the model's {total} tensors fit"]
        lines += [f"  {note}" for note in self.notes]
        for key, theirs, ours in self.misshapen:
            lines.append(f"  misshapen, not loaded: {key} is {theirs} in the file and {ours} in the model")
        for word, keys in {"missing in the file": self.missing, "unexpected, not used": self.unexpected}.items():
            if keys:
                lines.append(f"  {word} ({len(keys)}): {_shorten(keys, 20)}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    path_or_state_dict: str | os.PathLike | Mapping[str, Any],
    *,
    pos_embed_resize: str | None = None,
    strict: bool = False,
) -> LoadReport:
    """Put a file's (or a dictionary's) weights into ``model`` and say what became of each tensor.

    Takes dust's and SlowFast's checkpoints (``model_state``), ``state_dict``/``model``/``module`` containers, bare
    dictionaries, safetensors files, and every foreign layout that the model's own ``adapt_state_dict`` knows.
    ``pos_embed_resize`` ("official" or "bicubic") overrides the model's rule for position embeddings of another image
    size. Tensors of another shape are left out and reported; so is a head for other classes.

    Raises CheckpointError, with the model untouched, if less than half of the model's parameters (head aside, counted
    in numbers) would come from the file, if a tensor to be loaded holds NaN or infinity, or with ``strict`` if
    anything is missing, unexpected or misshapen.
    """
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    own = model.state_dict()
    if isinstance(path_or_state_dict, Mapping):
        source, data = "state dict", path_or_state_dict
    else:
        source, data = str(path_or_state_dict), read_checkpoint(path_or_state_dict)
    report = LoadReport(source)
    state = _strip_prefixes(_find_tensors(source, data, report.notes), own)
    in_file = list(state)
    if isinstance(model, AdaptsStateDict):
        state = model.adapt_state_dict(dict(state), report.notes, pos_embed_resize)
    for key, tensor in own.items():
        if key not in state:
            report.missing.append(key)
        elif state[key].shape != tensor.shape:
            report.misshapen.append((key, tuple(state[key].shape), tuple(tensor.shape)))
        else:
            report.loaded.append(key)
    report.unexpected = [key for key in state if key not in own]
    if report.fresh_head:
        report.notes.append("the head keeps the model's own values: the file has none for these classes")

    _check_fit(report, model, own, in_file)
    bad = [key for key in report.loaded if not _finite(state[key])]
    if bad:
        raise CheckpointError(f"{source}: NaN or infinity in {_shorten(bad, 8)}: the run that wrote it had diverged")
    if strict and (not report.complete or report.unexpected):
        raise CheckpointError(f"strict loading needs an exact fit, so nothing was loaded. {report}")
    model.load_state_dict({key: state[key] for key in report.loaded}, strict=False)
    surplus = [key for key in report.unexpected if not _is_head(key)]  # a part needs no head of its own
    level = logging.INFO if report.complete and not surplus else logging.WARNING
    logger.log(level, "%s", report)
    return report


def _find_tensors(source: str, data: Mapping[Any, Any], notes: list[str]) -> dict[str, torch.Tensor]:
    for name in CONTAINERS:
        inner = data.get(name)
        if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
            notes.append(f"read from {name!r}")
            data = inner
            break
    tensors = {str(key): value.detach() for key, value in data.items() if isinstance(value, torch.Tensor)}
    if not tensors:  # a model that was saved in parts, each under its own name
        parts = {str(name): part for name, part in data.items() if isinstance(part, Mapping) and part}
        parts = {n: p for n, p in parts.items() if all(isinstance(value, torch.Tensor) for value in p.values())}
        tensors = {f"{name}.{key}": value.detach() for name, part in parts.items() for key, value in part.items()}
        if parts:
            notes.append(f"read from the parts {', '.join(parts)}")
    if not tensors:
        raise CheckpointError(
            f"{source}: holds no tensors, neither itself nor under {', '.join(CONTAINERS)}; its keys: "
            f"{_shorten([str(key) for key in data], 8) or 'none'}"
        )
    return tensors


def _strip_prefixes(state: dict[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Wrappers' prefixes, however deep, go where most names have them and the model's own names do not."""
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            having = sum(key.startswith(prefix) for key in state)
            if 2 * having > len(state) and not any(key.startswith(prefix) for key in own):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                again = True
    return state


def _check_fit(report: LoadReport, model: nn.Module, own: Mapping[str, torch.Tensor], in_file: list[str]) -> None:
    body = {name: own[name].numel() for name, _ in model.named_parameters() if name in own and not _is_head(name)}
    loaded = set(report.loaded)
    fit = sum(size for name, size in body.items() if name in loaded) / max(1, sum(body.values()))
    if body and fit < MIN_FIT:
        shapes = "; ".join(
            f"{key} {theirs} in the file, {ours} in the model" for key, theirs, ours in report.misshapen[:4]
        )
        raise CheckpointError(
            f"{report.path}: does not fit {type(model).__name__}: only {100 * fit:.0f} % of the model's parameters "
            f"would come from it. The file's first tensors: {_shorten(in_file, 5)}. "
            f"The model's: {_shorten(list(own), 5)}."
            + (f" Of another shape: {shapes}." if shapes else "")
            + " Is it from another architecture or size?"
        )


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _is_head(key: str) -> bool:
    return re.split(r"\.", key, maxsplit=1)[0] in HEADS


def _shorten(keys: list[str], count: int) -> str:
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")
