"""Checkpoints by name, one file or a folder of parts: listed, verified, read, found and removed alike.

This is the one place that knows of both forms.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, TypeVar

from dust.utils import distributed
from dust.utils.checkpoint.hub import is_weights_folder, read_folder, weights_files
from dust.utils.checkpoint.reader import read_file
from dust.utils.checkpoint.sharded import STATE, Layout, read_sharded, refuse_damaged_folder, verify_sharded
from dust.utils.checkpoint.single import refuse_damaged, sidecar_of, verify_file
from dust.utils.errors import CheckpointError
from dust.utils.files import sha256_of_file, sha256_of_text

logger = logging.getLogger(__name__)

T = TypeVar("T")
_TOGETHER: ContextVar[bool] = ContextVar("all processes read the same files", default=False)

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_iter_(\d+))?\.(?:pyth|dcp)")


def checkpoint_name(epoch: int, step: int | None = None, suffix: str = ".pyth") -> str:
    """Return the file name for the 0-based ``epoch``; with ``step`` (optimizer steps done in that epoch) for one saved
    within it. A sharded one has the ``suffix`` .dcp."""
    middle = "" if step is None else f"_iter_{step:07d}"
    return f"checkpoint_epoch_{epoch + 1:05d}{middle}{suffix}"


def is_sharded(path: str | os.PathLike) -> bool:
    """Tell whether it is a folder of parts (dust/utils/checkpoint/sharded.py) instead of one file."""
    return Path(path).suffix == ".dcp"


def list_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Return the checkpoints in a folder, oldest first by (epoch, iteration); a complete epoch follows those within
    it."""
    folder = Path(folder)
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            epoch, iteration = match.groups()
            found.append((int(epoch), float("inf") if iteration is None else int(iteration), path))
    return [path for _, _, path in sorted(found)]


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 (hex) of a file's bytes; of a sharded checkpoint that of the file which holds the others'
    hashes; of a folder of Hugging Face's that of the names and hashes of its files of weights.

    Raises OSError."""
    if is_weights_folder(path):
        return sha256_of_text("".join(f"{sha256_of_file(file)}  {file.name}\n" for file in weights_files(path)))
    return sha256_of_file(Path(path) / STATE if is_sharded(path) else path)


def verify_checkpoint(path: str | os.PathLike) -> Literal["ok", "foreign", "damaged"]:
    """Return "ok": the file is what its sidecar says; "foreign": it has no sidecar; "damaged": it is something else.

    Raises CheckpointError if there is no such file or it cannot be read.
    """
    if _is_folder(path):
        return "damaged" if verify_sharded(path) else "ok"
    if is_weights_folder(path):
        verdicts = {verify_file(file) for file in weights_files(path)}
        return "damaged" if "damaged" in verdicts else "foreign" if "foreign" in verdicts else "ok"
    return verify_file(path)


def refuse_unverified(path: str | os.PathLike) -> None:
    """Read a checkpoint once to see that it is what was written, as far as it tells. Raises CheckpointError if not."""
    if _is_folder(path):
        refuse_damaged_folder(path)
    else:
        for file in weights_files(path) if is_weights_folder(path) else [path]:
            refuse_damaged(file)


def load_verified(path: str | os.PathLike, layout: Layout | None = None) -> dict[str, Any]:
    """Return :func:`load_checkpoint` of one that somebody has just verified."""
    if _is_folder(path):
        return read_sharded(path, layout, verified=True)
    # not memory-mapped: the run that gets these tensors continues to delete and replace checkpoints
    return read_folder(path) if is_weights_folder(path) else read_file(path, mmap=False)


def load_checkpoint(path: str | os.PathLike, layout: Layout | None = None) -> dict[str, Any]:
    """Return the dictionary that a checkpoint holds, on the CPU, verified against its sidecar where it has one.

    ``layout`` says of which tensors of a sharded checkpoint this process only wants its part. Raises CheckpointError
    if it is damaged, missing, or holds anything but plain values.
    """
    if _is_folder(path):
        return read_sharded(path, layout)
    refuse_unverified(path)
    return load_verified(path)


def load_for_all(path: str | os.PathLike, layout: Layout | None = None, *, optimizer: bool = True) -> dict[str, Any]:
    """Call :func:`load_checkpoint` for all processes of the run together: the same contents or error for all.

    The first one verifies. One of each node then reads the file and hands it to the node's others; of a folder of parts
    each one reads what ``layout`` says is its own.

    Args:
        optimizer: whether its state is wanted.
    """
    distributed.from_main(lambda: refuse_unverified(path))
    if layout is not None and is_sharded(path):
        return load_verified(path, layout)

    def read() -> dict[str, Any]:
        return {name: value for name, value in load_verified(path).items() if optimizer or name != "optimizer_state"}

    return distributed.from_each_node(read)


@contextlib.contextmanager
def reading_together() -> Iterator[None]:
    """Let :func:`read_checkpoint` be :func:`load_for_all`: all processes of the run read the same files in here, one
    after the other, and none of them wants an optimizer's state."""
    token = _TOGETHER.set(distributed.world_size() > 1)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def read_checkpoint(path: str | os.PathLike, *, mmap: bool = True) -> dict[Any, Any]:
    """Return what a weight file, a sharded checkpoint or a folder of Hugging Face's holds, verified where it can be.

    A file with a sidecar must be what that says, one without must have the checksums of its own zip archive, where it
    is one. See :func:`dust.utils.checkpoint.reader.read_file`. Raises CheckpointError.
    """
    if _TOGETHER.get():
        return load_for_all(path, optimizer=False)
    if _is_folder(path):
        return read_sharded(path)
    if Path(path).is_file() or is_weights_folder(path):
        refuse_unverified(path)
    return read_folder(path) if is_weights_folder(path) else read_file(path, mmap=mmap)


def learnt_of(saved: Mapping[str, Any], path: str | os.PathLike) -> tuple[list[str] | None, dict[str, Any] | None]:
    """Return (the names of the classes, what the training split taught its dataset) that a checkpoint holds; None where
    it does not say.

    Raises CheckpointError for anything else under these names: the file may be somebody's.
    """
    names, fitted = saved.get("class_names"), saved.get("fitted")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{path}: its class_names are no list of texts: take another file, or mend them in it")
    if fitted is not None and not (isinstance(fitted, dict) and all(isinstance(name, str) for name in fitted)):
        raise CheckpointError(f"{path}: its fitted is no dict: take another file, or mend it there")
    return names, fitted


def _is_folder(path: str | os.PathLike) -> bool:
    return is_sharded(path) and Path(path).is_dir()


def find_latest(folder: str | os.PathLike, layout: Layout | None = None) -> tuple[Path, dict[str, Any]] | None:
    """Return (path, contents) of the newest checkpoint in ``folder`` that is whole; None if it holds no checkpoint. See
    :func:`load_checkpoint` for ``layout``.

    A damaged one is logged with its name and the one before it is taken. If all are damaged: CheckpointError, so that
    a run never silently starts from the beginning.
    """
    return newest_of(folder, list_checkpoints(folder), lambda path: load_checkpoint(path, layout))


def newest_of(folder: str | os.PathLike, paths: Sequence[Path], read: Callable[[Path], T]) -> tuple[Path, T] | None:
    """Return :func:`find_latest` among these, the oldest first: the newest of which ``read`` raises no CheckpointError,
    and what it gave."""
    problems = []
    for path in reversed(paths):
        try:
            state = read(path)
        except CheckpointError as error:
            logger.error("%s. Trying the checkpoint before it.", error)
            problems.append(str(error))
            continue
        if problems:
            logger.warning("resuming from %s, as %d newer ones cannot be used", path, len(problems))
        return path, state
    if problems:
        raise CheckpointError(
            f"{folder}: none of its {len(problems)} checkpoints can be used. To start from the beginning, "
            f"choose another OUTPUT_DIR, set TRAIN.AUTO_RESUME False or remove them. " + "; ".join(problems)
        )
    return None


def remove_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Delete what killed processes left in ``folder``: temporary files, and the sidecars of checkpoints that never got
    their names. Call it only while no one writes there."""
    folder = Path(folder)
    found = sorted(folder.glob(".checkpoint_*.tmp")) if folder.is_dir() else []
    for sidecar in folder.glob("checkpoint_epoch_*.pyth.sha256"):
        if _NAME.fullmatch(sidecar.stem) and not os.path.lexists(sidecar.with_suffix("")):
            sidecar.unlink(missing_ok=True)
    for path in found:
        replaced = path.with_name(path.name.removeprefix(".").removesuffix(".old.tmp"))
        if path.name.endswith(".old.tmp") and not replaced.exists():
            path.rename(replaced)  # the new one had not got its name yet
            continue
        _remove(path)
        logger.info("removed %s, which an interrupted save left", path)
    return found


def is_checkpoint_name(name: Any) -> bool:
    """Tell whether it is a file name as :func:`checkpoint_name` makes it, and nothing that leads elsewhere."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def remove_checkpoint(folder: str | os.PathLike, name: str) -> None:
    """Delete a checkpoint of ``folder``, file or folder of parts, and its sidecar; it may be gone already.

    Raises:
        CheckpointError: ``name`` is no name of ours. Names come from files that somebody else may have written, and
            nothing but checkpoints of this folder is ever removed.
    """
    if not is_checkpoint_name(name):
        raise CheckpointError(f"{name!r} is no checkpoint of {folder}: it is not removed")
    _remove(Path(folder) / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        sidecar_of(path).unlink(missing_ok=True)
