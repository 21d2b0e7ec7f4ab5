"""Reading weight files that others wrote, and putting them into a model with a full account of what fitted.

Nothing in a file is ever executed: ``torch.load`` always has ``weights_only=True``, and what it refuses is not opened
another way.
"""

import argparse
import logging
import os
import pathlib
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn as nn

from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

CONTAINERS = ("state_dict", "model_state", "model", "module")  # where the tensors lie in a file, in order of trust
PREFIXES = ("module.", "model.", "_orig_mod.")  # what wrappers put before every name
HEADS = ("head", "classifier", "fc")  # the classifier, which another set of classes may leave fresh
MIN_FIT = 0.5  # share of the model's parameters (head aside, counted in numbers) below which a file does not fit
# what a damaged file can make torch's and safetensors' readers raise
_READ_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, ArithmeticError,
    AttributeError, AssertionError, MemoryError, ImportError, struct.error, safetensors.SafetensorError,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ reading


def _plain_dict(*_: Any) -> dict:
    """What stands for a ``defaultdict`` that a file holds."""
    return {}


def _harmless_globals() -> list[Any]:
    """Beyond torch's own list: classes that hold values and do nothing. Paths are read as pure ones."""
    harmless: list[Any] = [argparse.Namespace, list, dict, int, float, (_plain_dict, "collections.defaultdict")]
    scalar = np.float64(0).__reduce__()[0]
    harmless += [np.dtype, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    harmless += [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    for flavour, stand_in in {"Posix": pathlib.PurePosixPath, "Windows": pathlib.PureWindowsPath}.items():
        for module in ("pathlib", "pathlib._local"):
            harmless += [(stand_in, f"{module}.{flavour}Path"), (stand_in, f"{module}.Pure{flavour}Path")]
    return harmless


def read_checkpoint(path: str | os.PathLike, *, mmap: bool = True) -> dict[Any, Any]:
    """What a ``.pyth``/``.pth``/``.bin``/``.pt`` or ``.safetensors`` file holds, on the CPU, with nothing executed.

    With ``mmap`` the tensors stay on disk until they are read (zip files only). Raises CheckpointError that names the
    cause: missing, a folder, empty, truncated, a web page, a TorchScript program, or a pickle that wants to call
    something, with what it wants to call.
    """
    path = Path(path)
    if path.suffix == ".dcp" and path.is_dir():
        from dust.utils.sharded_checkpoint import read_sharded

        return read_sharded(path)
    try:
        kind = _kind(path)
        if kind == "safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with torch.serialization.safe_globals(_harmless_globals()):
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and kind == "zip")
    except _READ_ERRORS as error:
        raise CheckpointError(_why_not(path, error)) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, not a dictionary of tensors")
    return data


def _kind(path: Path) -> str:
    """ "zip", "safetensors" or "pickle" (torch's old format), by content. Raises CheckpointError for all else."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in {".safetensors", ".bin", ".pth", ".pyth", ".pt"})
        hint = f"; it holds {', '.join(inside[:5])}: name one of them" if inside else ""
        raise CheckpointError(f"{path}: is a folder, not a weight file{hint}")
    with path.open("rb") as file:
        start = file.read(512)
    if not start.strip(b"\0"):
        raise CheckpointError(f"{path}: is empty ({path.stat().st_size} bytes of nothing): copy or download it again")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(f"{path}: is a web page, not weights: the download got a page; fetch the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: is a git-lfs pointer, not the weights: run `git lfs pull` in its repository")
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if not start.startswith(b"PK\x03\x04"):
        return "pickle"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: is truncated or damaged ({error}): copy or download it again") from error
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path}: is a TorchScript program, not weights, and programs are not run. If it is a published one "
            f"(OpenAI's CLIP), verify and convert it: python tools/zoo.py convert {path} --out NAME.safetensors"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path}: is a zip file without torch's data.pkl (it holds {', '.join(names[:4])})")
    return "zip"


def _why_not(path: Path, error: Exception) -> str:
    """One message for a file that the safe reader did not take; tells damage from things that it must not call."""
    foreign = sorted(set(pickle_globals(path)) - _known_globals()) if path.suffix != ".safetensors" else []
    if foreign:
        shown = ", ".join(foreign[:12]) + (f" and {len(foreign) - 12} more" if len(foreign) > 12 else "")
        return (
            f"{path}: refused, and nothing in it was executed. Opening it would call or build: {shown}. "
            f"Only tensors and plain values are read. If you trust its author, convert it in a throw-away environment: "
            f"state = torch.load(file, weights_only=False), then safetensors.torch.save_file of its dictionary of "
            f"tensors to weights.safetensors, and give that file"
        )
    first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{path}: cannot be read ({first_line}): it is truncated, damaged or no weight file; copy or download it again"
    )


def _known_globals() -> set[str]:
    names = set(torch._weights_only_unpickler._get_allowed_globals())
    for item in _harmless_globals():
        names.add(item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}")
    return names


def pickle_globals(path: str | os.PathLike) -> list[str]:
    """The dotted names that a file's pickles refer to, read from their opcodes; nothing is loaded or executed."""
    found: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as stream:
                            found += _globals_of(stream)
        else:
            with open(path, "rb") as stream:
                while stream.read(1):  # the old format is several pickles, one behind the other
                    stream.seek(-1, os.SEEK_CUR)
                    found += _globals_of(stream)
    except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError, struct.error, IndexError, MemoryError):
        logger.debug("%s: its pickle ends early", path)
    return list(dict.fromkeys(found))


def _globals_of(stream: IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    memo: dict[int, str | None] = {}
    last: str | None = None
    for opcode, argument, _ in pickletools.genops(stream):
        arg: Any = argument
        name = opcode.name
        if name == "MEMOIZE":
            memo[len(memo)] = last
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[arg] = last
        elif name in ("GLOBAL", "INST"):
            yield arg.replace(" ", ".")
            last = None
        elif name == "STACK_GLOBAL":
            yield ".".join(strings[-2:]) or "?"
            last = None
        else:
            last = memo.get(arg) if name in ("GET", "BINGET", "LONG_BINGET") else arg if isinstance(arg, str) else None
            if last is not None:
                strings = [*strings[-1:], last]


# ------------------------------------------------------------------------------------------------------ loading


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
    adapt = getattr(model, "adapt_state_dict", None)
    if adapt is not None:
        state = adapt(dict(state), report.notes, pos_embed_resize)
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
    level = logging.INFO if report.complete and not report.unexpected else logging.WARNING
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
