"""Checkpoints that survive a power cut: written beside, synced, hashed, renamed; verified before they are read.

``checkpoint_epoch_00001.pyth`` (SlowFast's naming: 1-based in the name, 0-based ``epoch`` inside) has a file
``checkpoint_epoch_00001.pyth.sha256`` beside it, in the format of the ``sha256sum`` tool. No such file means a foreign
checkpoint; one that does not match means damage. While a file is being replaced, its sidecar names the new and the old
hash, so that at every instant what stands under the name can be verified.
"""

import errno
import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
import torch.nn as nn

from dust.utils.checkpoint.reader import read_file, refuse_bomb
from dust.utils.errors import CheckpointError
from dust.utils.files import read_bytes, replacing, sha256_of_file, write_atomically

_LONGEST_SIDECAR = 10_000  # bytes; ours have two lines at most
_HASH_LINE = re.compile(r"([0-9a-f]{64})(?:  .*)?")


class _HashingFile:
    """A file that knows the SHA-256 of all that was written to it, and the error that a write ran into (torch's zip
    writer reports every failure as a RuntimeError without a cause)."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:  # the zip writer tries to finish after a failure
            raise self.error
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(path: str | os.PathLike, state: Mapping[str, Any]) -> str:
    """Write ``state`` to ``path`` and its SHA-256 to ``path``.sha256, both atomically; returns the hash (hex).

    ``state`` may hold tensors, strings, numbers, booleans, None, and dicts, lists and tuples of these: what
    ``weights_only=True`` can read back. NumPy scalars are turned into Python's. After a crash at any instant ``path``
    is either the old file or the new one, and verifies.

    Raises CheckpointError for values of other kinds (naming where they are) and when the disk is full or cannot be
    written; what stood under ``path`` before is then untouched and no temporary file is left.
    """
    path = Path(path)
    plain = _plain(state, "state")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            digest = _write_hashed(temporary, plain)
            replaces = path.exists()
            old = _hashes_to_keep(path) if replaces else []
            _write_sidecar(path, list(dict.fromkeys([digest, *old])))
        if replaces:
            _write_sidecar(path, [digest])
    except OSError as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written: {error.strerror or error} (errno {error.errno}). "
            f"{'The file of that name and earlier' if path.exists() else 'Earlier'} checkpoints are intact. "
            f"Free space, or point OUTPUT_DIR at a disk that can be written, and start again: the run resumes"
        ) from error
    return digest


def _plain(value: Any, where: str) -> Any:
    """Return a copy of the containers of ``value`` that holds only what ``weights_only`` reads."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, nn.Parameter) or type(value) is torch.Tensor:
        return value.detach()
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
        return {_plain_key(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        items = [_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    raise CheckpointError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which could not be read back safely: "
        f"a checkpoint holds tensors, strings, numbers, and dicts and lists of these"
    )


def _plain_key(key: Any, where: str) -> str | int | float | bool | None:
    if isinstance(key, np.generic):
        key = key.item()
    if key is None or type(key) in (bool, int, float, str):
        return key
    raise CheckpointError(f"{where} has the key {key!r} of type {type(key).__qualname__}: use strings or numbers")


def _write_hashed(path: Path, state: dict[str, Any]) -> str:
    with open(path, "wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(state, cast(IO[bytes], hashing))
        except RuntimeError as error:
            raise hashing.error or error from error
    return hashing.sha256.hexdigest()


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_sidecar(path: Path, hashes: list[str]) -> None:
    write_atomically(sidecar_of(path), "".join(f"{digest}  {path.name}\n" for digest in hashes))


def _sidecar_hashes(path: Path) -> list[str]:
    """Return the hashes that the sidecar names; [] if there is no sidecar or it is not one."""
    sidecar = sidecar_of(path)
    try:
        lines = read_bytes(sidecar, longest=_LONGEST_SIDECAR).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.EFBIG):  # a pipe, a device, a file of another kind
            return []
        raise
    matches = [_HASH_LINE.fullmatch(line) for line in lines]
    return [match.group(1) for match in matches if match] if all(matches) else []


def _hashes_to_keep(path: Path) -> list[str]:
    """Return what the file that is about to be replaced may verify by until then; a foreign one gets its own hash."""
    return _sidecar_hashes(path) if sidecar_of(path).exists() else [sha256_of_file(path)]


def verify_file(path: str | os.PathLike) -> Literal["ok", "foreign", "damaged"]:
    """Return "ok": the file is what its sidecar says; "foreign": it has no sidecar; "damaged": it is something else.

    Raises CheckpointError if there is no such file or it cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such checkpoint file")
        if not sidecar_of(path).exists():
            return "foreign"
        return "ok" if sha256_of_file(path) in _sidecar_hashes(path) else "damaged"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error} (errno {error.errno})") from error


def load_file(path: str | os.PathLike) -> dict[str, Any]:
    """Return the dictionary that a checkpoint holds, on the CPU, verified against its sidecar where it has one.

    Raises CheckpointError if it is damaged, missing, or holds anything but plain values.
    """
    refuse_damaged(path)
    # not memory-mapped: the run that gets these tensors continues to delete and replace checkpoints
    return read_file(path, mmap=False)


def refuse_damaged(path: str | os.PathLike) -> None:
    """Raise CheckpointError if a file is not what its sidecar says, or, without one, not what its zip archive says."""
    verdict = verify_file(path)
    if verdict == "damaged":
        raise CheckpointError(
            f"{path}: is damaged: its SHA-256 is not the one in {sidecar_of(Path(path)).name}. "
            f"Use an earlier checkpoint, or copy it again together with that file"
        )
    if verdict == "foreign":
        _check_unsigned(Path(path))


def _check_unsigned(path: Path) -> None:
    """Check a file whose sidecar got lost: it still has the checksums that torch's archives carry. CheckpointError if
    one of them is wrong."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive, path)
            wrong = archive.testzip()
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        wrong = str(error)
    if wrong:
        raise CheckpointError(f"{path}: is damaged: {wrong} in it does not match its checksum")
