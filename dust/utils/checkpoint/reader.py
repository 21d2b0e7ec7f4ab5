"""Reading weight files that others wrote: nothing in a file is ever executed.

``torch.load`` always has ``weights_only=True``, and what it refuses is not opened another way.
"""

import argparse
import logging
import os
import pathlib
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from dust.utils.errors import CheckpointError
from dust.utils.files import open_file

logger = logging.getLogger(__name__)

# what a damaged file can make torch's and safetensors' readers raise
_READ_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, ArithmeticError,
    AttributeError, AssertionError, MemoryError, ImportError, struct.error, safetensors.SafetensorError,
)  # fmt: skip


def _plain_dict(*_: Any) -> dict:
    """Return what stands for a ``defaultdict`` that a file holds."""
    return {}


def _harmless_globals() -> list[Any]:
    """Return, beyond torch's own list, classes that hold values and do nothing. Paths are read as pure ones."""
    harmless: list[Any] = [argparse.Namespace, list, dict, int, float, (_plain_dict, "collections.defaultdict")]
    scalar = np.float64(0).__reduce__()[0]
    harmless += [np.dtype, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    harmless += [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    for flavour, stand_in in {"Posix": pathlib.PurePosixPath, "Windows": pathlib.PureWindowsPath}.items():
        for module in ("pathlib", "pathlib._local"):
            harmless += [(stand_in, f"{module}.{flavour}Path"), (stand_in, f"{module}.Pure{flavour}Path")]
    return harmless


def read_file(path: str | os.PathLike, *, mmap: bool = True) -> dict[Any, Any]:
    """Return the dictionary in a file of weights, see :func:`read_plain`. CheckpointError if that is something else."""
    data = read_plain(path, mmap=mmap)
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, not a dictionary of tensors")
    return data


def read_plain(path: str | os.PathLike, *, mmap: bool = False) -> Any:
    """Return what a ``.pyth``/``.pth``/``.bin``/``.pt``/``.safetensors`` file or a Caffe2 ``.pkl`` (its blobs as
    ``model_state``) holds, on the CPU, with nothing executed.

    With ``mmap`` the tensors stay on disk until they are read (zip files only). Raises CheckpointError that names the
    cause: missing, a folder, empty, truncated, a web page, a TorchScript program, or a pickle that wants to call
    something, with what it wants to call.
    """
    path = Path(path)
    try:
        kind = _kind(path)
        named = _is_utf8(path)
        if kind == "safetensors":
            return (
                safetensors.torch.load_file(path, device="cpu") if named else safetensors.torch.load(path.read_bytes())
            )
        blobs = _caffe2_blobs(path) if kind == "pickle" else None
        if blobs is not None:
            return {"model_state": blobs}
        with torch.serialization.safe_globals(_harmless_globals()):
            if not named:
                with open_file(path) as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and kind == "zip")
    except _READ_ERRORS as error:
        raise CheckpointError(_why_not(path, error)) from error


def _is_utf8(path: Path) -> bool:
    """Tell whether torch's and safetensors' own readers can open a file of this name."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


#: How torch's old format begins, behind the pickle's protocol.
_TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ARRAYS: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{f"numpy.{core}.multiarray._reconstruct": np.ndarray(0).__reduce__()[0] for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": np.float64(0).__reduce__()[0] for core in ("core", "_core")},
}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Return what stands for ``_codecs.encode``, by which old pickles write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"{encoding} is no encoding of an array's bytes")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain values and NumPy arrays of numbers; every other name is an error before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        found = _ARRAYS.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found


def _caffe2_blobs(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the tensors of a Caffe2 file, ``{"blobs": {name: array}}``; None where the file is no such pickle."""
    with open_file(path) as file:
        if _TORCH_MAGIC in file.read(32):
            return None
        file.seek(0)
        try:
            data = _ArrayUnpickler(file, encoding="latin1").load()
        except (pickle.UnpicklingError, UnicodeError):
            return None  # torch's reader says what is wrong
    blobs = data.get("blobs") if isinstance(data, dict) else None
    if not isinstance(blobs, dict):
        return None
    numbers = {
        str(name): array for name, array in blobs.items() if isinstance(array, np.ndarray) and array.dtype.kind in "fiu"
    }
    return {
        name: torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="))) for name, array in numbers.items()
    }


def _kind(path: Path) -> str:
    """Return "zip", "safetensors" or "pickle" (torch's old format), by content. Raises CheckpointError for all
    else."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in {".safetensors", ".bin", ".pth", ".pyth", ".pt"})
        hint = f"; it holds {', '.join(inside[:5])}: name one of them" if inside else ""
        raise CheckpointError(f"{path}: is a folder, not a weight file{hint}")
    if not path.is_file():
        raise CheckpointError(f"{path}: is a pipe or a device, not a weight file")
    with open_file(path) as file:
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
            refuse_bomb(archive, path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: is truncated or damaged ({error}): copy or download it again") from error
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path}: is a TorchScript program, not weights, and programs are not run. If it is a published one "
            f"(OpenAI's CLIP), verify and convert it: dust zoo convert {path} --out NAME.safetensors"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path}: is a zip file without torch's data.pkl (it holds {', '.join(names[:4])})")
    return "zip"


def refuse_bomb(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError where an archive holds more than its own size: torch packs tensors uncompressed, each
    once."""
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path}: is {path.stat().st_size:,} bytes and would unpack to {unpacked:,}: torch.save packs nothing, so "
            f"this is not what it wrote"
        )


def _why_not(path: Path, error: Exception) -> str:
    """Return one message for a file that the safe reader did not take; tells damage from things that it must not
    call."""
    foreign = sorted(set(pickle_globals(path)) - _known_globals()) if path.suffix != ".safetensors" else []
    if foreign:
        shown = ", ".join(foreign[:12]) + (f" and {len(foreign) - 12} more" if len(foreign) > 12 else "")
        return (
            f"{path}: refused, and nothing in it was executed. Opening it would call or build: {shown}. "
            f"Only tensors and plain values are read. If you trust its author, convert it in a throw-away environment: "
            f"state = torch.load(file, weights_only=False), then safetensors.torch.save_file of its dictionary of "
            f"tensors to weights.safetensors, and give that file"
        )
    text = _beginning_of_text(path)
    if text:
        return f"{path}: is a text file ({text!r}), not weights: name the file that a run or a download has left"
    # torch's first line is advice to read the file without its guard, which is nobody's way out here
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    cause = next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)
    return f"{path}: cannot be read ({cause}): it is truncated, damaged or no weight file; copy or download it again"


def _beginning_of_text(path: Path, length: int = 40) -> str:
    """Return the first characters of a file of text; "" for any other."""
    with path.open("rb") as file:
        start = file.read(512)
    text = start.decode("utf-8", "ignore")
    plain = len(text.encode()) >= len(start) - 3 and all(sign.isprintable() or sign in "\t\r\n\f" for sign in text)
    return text[:length] if plain else ""


def _known_globals() -> set[str]:
    names = set(torch._weights_only_unpickler._get_allowed_globals())
    for item in _harmless_globals():
        names.add(item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}")
    return names


def pickle_globals(path: str | os.PathLike) -> list[str]:
    """Return the dotted names that a file's pickles refer to, read from their opcodes; nothing is loaded or
    executed."""
    found: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as stream:
                            found += _globals_of(stream)
        else:
            with open_file(path) as stream:
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
