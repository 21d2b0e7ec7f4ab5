"""Which tensors of a file are the weights: raw or averaged, and of types that fill a model exactly."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dust.utils.errors import CheckpointError, ConfigError

CONTAINERS = ("state_dict", "model_state", "model", "module")  # where the tensors lie in a file, in order of trust
#: Where they lie if a file has nothing else: beside others, these are names of a model's parts.
LONE = ("net", "network", "weights", "checkpoint")
#: Where files keep a moving average of the weights: dust's own name, then timm's, VideoMAE's, V-JEPA's and others'.
AVERAGES = (
    "ema_state", "state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema",
    "averaged_state_dict", "ema_encoder", "target_encoder", "shadow",
)  # fmt: skip
_COUNT = "n_averaged"  # of torch.optim.swa_utils.AveragedModel: how many states its weights are the mean of
#: Where files keep a list of classifiers that were trained side by side (V-JEPA's evaluations).
CLASSIFIERS = "classifiers"
#: Values of MODEL.WEIGHTS: which of them are taken.
WEIGHTS = ("auto", "raw", "averaged")


def shorten(keys: list[str], count: int) -> str:
    """Return the first ``count`` of ``keys``, and how many more there are."""
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")


def find_tensors(
    source: str, data: Mapping[Any, Any], notes: list[str], weights: str = "auto"
) -> dict[str, torch.Tensor]:
    """Return the weights that ``data`` holds, by name, without gradients and as types that fill a model.

    Args:
        source: the file's name, for errors.
        data: what the file holds: the tensors themselves, or containers of them.
        notes: gets a sentence about what was taken, and about averaged weights that were not.
        weights: ``raw``; ``averaged`` (a moving average, EMA); ``auto``: raw where the file has both. V-JEPA's
            encoders are published beside their averages, and the averages are what its authors evaluate: ``auto``
            takes those.

    Raises:
        CheckpointError: no tensors, none of the kind that is asked for, or of types that cannot be converted.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"weights is {weights!r}: choose {', '.join(WEIGHTS)} (MODEL.WEIGHTS)")
    raw = [name for name in CONTAINERS if _inner(data, name)]
    averaged = [name for name in AVERAGES if _inner(data, name)]
    parts = _parts(data)
    if weights == "averaged" and not averaged:
        raise CheckpointError(
            f"{source}: holds no averaged weights, under none of {', '.join(AVERAGES)}; its keys: {_keys(data)}. Set "
            "MODEL.WEIGHTS raw"
        )
    if averaged and (weights == "averaged" or (weights == "auto" and not has_raw(data))):
        others = raw[:1] or list(parts)
        instead = f", not those of {', '.join(map(repr, others))}" if others else ""
        notes.append(f"read from {averaged[0]!r}: averaged weights{instead}")
        return _plain(source, _inner(data, averaged[0]), notes)
    if averaged and not (has_raw(data) or parts):
        raise CheckpointError(
            f"{source}: holds averaged weights alone, under {', '.join(averaged)}. Set MODEL.WEIGHTS averaged, or auto"
        )
    if averaged:
        notes.append(
            f"the averaged weights that the file also holds ({averaged[0]!r}) are not used: MODEL.WEIGHTS averaged "
            "takes them"
        )
    if raw:
        notes.append(f"read from {raw[0]!r}")
        return _plain(source, _inner(data, raw[0]), notes)
    tensors = {str(key): value for key, value in data.items() if isinstance(value, torch.Tensor)}
    lone = [name for name in LONE if _inner(data, name)] if not tensors and len(parts) < 2 else []
    if len(lone) == 1:
        notes.append(f"read from {lone[0]!r}")
        return _plain(source, _inner(data, lone[0]), notes)
    if not tensors:
        tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
        if parts:
            notes.append(f"read from the parts {', '.join(parts)}")
    return _plain(source, tensors or _first_classifier(source, data, notes), notes)


def _keys(data: Mapping[Any, Any]) -> str:
    return shorten([str(key) for key in data], 8) or "none"


def _parts(data: Mapping[Any, Any]) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return the parts of a model that was saved in parts, each under its own name; averages are none of them."""
    inner = {str(name): part for name, part in data.items() if isinstance(part, Mapping) and part}
    return {
        name: part
        for name, part in inner.items()
        if name not in AVERAGES and all(isinstance(value, torch.Tensor) for value in part.values())
    }


def _first_classifier(source: str, data: Mapping[Any, Any], notes: list[str]) -> Mapping[str, torch.Tensor]:
    """Return the tensors of the first of a list of classifiers, which is all that is left to look for."""
    found = data.get(CLASSIFIERS)
    if not isinstance(found, Sequence) or not found or not _inner({"first": found[0]}, "first"):
        raise CheckpointError(
            f"{source}: holds no tensors, neither itself nor under {', '.join((*CONTAINERS, CLASSIFIERS))}; its keys: "
            f"{_keys(data)}"
        )
    others = f", the first of {len(found)}: the others are not used" if len(found) > 1 else ""
    notes.append(f"read from {CLASSIFIERS!r}{others}")
    return _inner({"first": found[0]}, "first")


def numbered_classifier(source: str, data: Mapping[Any, Any], number: int) -> Mapping[str, torch.Tensor]:
    """Return the tensors of one of a list of classifiers, counted from 0. CheckpointError where the file has no such
    list, or none of that number."""
    found = data.get(CLASSIFIERS)
    count = len(found) if isinstance(found, Sequence) and not isinstance(found, str | bytes) else 0
    if not 0 <= number < count:
        held = f"lists {count}, 0 to {count - 1}" if count else f"has no list of them ({CLASSIFIERS!r})"
        raise CheckpointError(f"{source}: holds no classifier {number}: it {held}")
    tensors = _inner({"one": found[number]}, "one")  # type: ignore[index]
    if not tensors:
        raise CheckpointError(f"{source}: its classifier {number} holds no tensors")
    return tensors


def has_averages(data: Mapping[Any, Any]) -> bool:
    """Tell whether a file's contents hold averaged weights."""
    return any(_inner(data, name) for name in AVERAGES)


def has_raw(data: Mapping[Any, Any]) -> bool:
    """Tell whether a file's contents hold raw weights that stand for themselves: in a container, or without one."""
    bare = any(isinstance(value, torch.Tensor) for value in data.values())
    return bare or any(_inner(data, name) for name in CONTAINERS)


def _inner(data: Mapping[Any, Any], name: str) -> Mapping[str, torch.Tensor]:
    """Return the tensors under ``name``, or one container deeper; empty where there are none."""
    inner = data.get(name)
    if not isinstance(inner, Mapping):
        return {}
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    deeper = [key for key in CONTAINERS if isinstance(inner.get(key), Mapping)]
    return tensors or (_inner(inner, deeper[0]) if deeper else {})


def _plain(source: str, tensors: Mapping[str, torch.Tensor], notes: list[str]) -> dict[str, torch.Tensor]:
    """Return the tensors without gradients, those of 8 bits as float32, which holds each of their values."""
    plain: dict[str, torch.Tensor] = {}
    problems: list[str] = []
    widened: list[str] = []
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if name == _COUNT and not tensor.ndim:
            notes.append("averaged weights, of torch's AveragedModel")
        elif tensor.is_quantized:
            problems.append(f"{name} is quantised ({tensor.dtype})")
        elif tensor.layout != torch.strided:
            problems.append(f"{name} is sparse ({tensor.layout})")
        elif tensor.is_meta:
            problems.append(f"{name} has a shape but no values (device meta)")
        elif tensor.is_complex():
            problems.append(f"{name} is complex ({tensor.dtype})")
        elif tensor.is_floating_point() and tensor.element_size() == 1:
            try:
                plain[name] = tensor.float()
                widened.append(f"{name} ({tensor.dtype})")
            except (RuntimeError, NotImplementedError):
                problems.append(f"{name} is {tensor.dtype}, which torch cannot convert")
        else:
            plain[name] = tensor
    if problems:
        raise CheckpointError(
            f"{source}: tensors that fill no model exactly: {shorten(problems, 8)}. Convert the file to dense float32, "
            "float16 or bfloat16 with the program that wrote it"
        )
    if widened:
        notes.append(f"8-bit floating point converted to float32, exactly: {shorten(widened, 4)}")
    return plain


def check_values(source: str, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError unless each tensor of ``state`` can be copied into that of ``own``: numbers that are
    finite there, and no integers (quantised weights without their scales) where the model has fractions."""
    kinds = [
        f"{name} is {tensor.dtype} in the file and {own[name].dtype} in the model"
        for name, tensor in state.items()
        if not _converts(tensor, own[name])
    ]
    if kinds:
        raise CheckpointError(
            f"{source}: {shorten(kinds, 8)}: integers stand for weights only together with scales, which are not read "
            "here. Take the file that was not quantised"
        )
    bad = [name for name, tensor in state.items() if not _finite(tensor)]
    if bad:
        raise CheckpointError(f"{source}: NaN or infinity in {shorten(bad, 8)}: the run that wrote it had diverged")
    large = [name for name, tensor in state.items() if not _finite(tensor.to(own[name].dtype))]
    if large:
        raise CheckpointError(
            f"{source}: values of {shorten(large, 8)} are beyond what the model's {own[large[0]].dtype} holds"
        )


def _converts(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Tell whether numbers of one kind come to be of the same, or fractions without a fractional part integers."""
    if own.is_floating_point():
        return tensor.is_floating_point()
    if tensor.is_floating_point():
        return bool((tensor == tensor.round()).all())
    return (own.dtype == torch.bool) == (tensor.dtype == torch.bool)


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
