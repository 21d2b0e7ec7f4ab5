"""Checkpoints of which every process writes its own part: ``checkpoint_epoch_00001.dcp/``.

The folder holds ``state.pyth``, the dictionary of a whole checkpoint with a :class:`str` in the place of each tensor,
and the tensors in the format of torch.distributed.checkpoint, which reads them back on any number of processes.
``state.pyth`` names the SHA-256 of every other file, and ``state.pyth.sha256`` its own. The folder gets its name once
all of it is on the disk.
"""

import collections
import os
import pathlib
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dust.utils.checkpoint.single import load_file, save_checkpoint, verify_file
from dust.utils.errors import CheckpointError
from dust.utils.files import open_file, sha256_of_file, sync_folder

_METADATA = ".metadata"  # torch's description of the parts
#: Records of torch.distributed.checkpoint.metadata.
_RECORDS = (
    "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
    "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
)  # fmt: skip
# what a damaged pickle can raise
_DAMAGE = (
    pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, ImportError,
    MemoryError, RecursionError, ArithmeticError, AssertionError, RuntimeError, UnicodeError,
)  # fmt: skip
#: The file that names the hashes of all others.
STATE = "state.pyth"
Layout = Callable[[tuple[Any, ...], torch.Size], torch.Tensor | None]
_MARK = "\x00tensor "  # begins what stands in the place of a tensor; no other string of ours begins so


def save_sharded(path: str | os.PathLike, state: Mapping[str, Any], group: Any = None) -> None:
    """Write ``state`` as the folder ``path``; all processes of ``group`` together, or the only one there is.

    Tensors may be DTensors, of which each process writes what it has. What stood under ``path`` is replaced.

    Raises:
        CheckpointError: on every process, if it could not be written on any; what stood there before is untouched.
    """
    path = Path(path)
    assert "files" not in state, "the folder has a list of that name: its own files"
    several = dist.is_available() and dist.is_initialized()
    rank = dist.get_rank(group) if several else 0
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write(path, temporary, state, rank, several, group)
    finally:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, temporary: Path, state: Mapping[str, Any], rank: int, several: bool, group: Any) -> None:
    import torch.distributed.checkpoint as dcp  # half a second, which runs that write one file do without
    from torch.distributed.checkpoint.api import CheckpointException

    tensors: dict[str, torch.Tensor] = {}
    skeleton = _take_out(dict(state), (), tensors)
    problem, sums = "", {}
    try:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    except OSError as error:
        problem = f"{error.strerror} (errno {error.errno})"
    _agree(path, problem, group)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
            dcp.save(tensors, checkpoint_id=temporary, process_group=group, no_dist=not several)
        names = [file for file in temporary.iterdir() if file.name.startswith(f"__{rank}_")]
        names += [temporary / _METADATA] if rank == 0 else []
        sums = {file.name: sha256_of_file(file) for file in names}
    except (Exception, CheckpointException) as error:  # of whatever kind: the others must hear of it
        problem = _cause(error)
    parts = _agree(path, problem, group, sums)
    problem = ""
    if rank == 0:
        try:
            files = {name: digest for part in parts for name, digest in part.items()}
            save_checkpoint(temporary / STATE, {**skeleton, "files": files})
            _replace(path, temporary)
        except (OSError, CheckpointError) as error:
            problem = str(error)
    _agree(path, problem, group)


def _cause(error: BaseException) -> str:
    """Return what went wrong first, without the stack of every process that torch's own exception (no ``Exception``)
    tells."""
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.errno:
        return f"{error.strerror} (errno {error.errno})"
    return str(error) or type(error).__name__


def _agree(path: Path, problem: str, group: Any, value: Any = None) -> list[Any]:
    """Return ``value`` of every process; CheckpointError on all if one has a problem."""
    answers = [(problem, value)]
    if dist.is_available() and dist.is_initialized():
        answers = _of_all((problem, value), group)
    problems = [text for text, _ in answers if text]
    if problems:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written: {problems[0]}. Earlier checkpoints are intact. Free space, "
            "or point OUTPUT_DIR at a disk that can be written, and start again: the run resumes"
        )
    return [value for _, value in answers]


def _of_all(value: Any, group: Any = None) -> list[Any]:
    """Return ``value`` of every process, on every process."""
    values = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _replace(path: Path, temporary: Path) -> None:
    old = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _take_out(value: Any, path: tuple[Any, ...], tensors: dict[str, torch.Tensor]) -> Any:
    """Return ``value`` with a mark for each tensor, which goes into ``tensors`` under the name in the mark."""
    if isinstance(value, torch.Tensor):
        name = ".".join(map(str, path))
        tensors[name] = value.detach()
        return _MARK + name
    if isinstance(value, Mapping):
        return {key: _take_out(item, (*path, key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_take_out(item, (*path, index), tensors) for index, item in enumerate(value))
    return value


def _put_back(value: Any, path: tuple[Any, ...], tensor: Callable[[tuple[Any, ...], str], torch.Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_MARK):
        return tensor(path, value.removeprefix(_MARK))
    if isinstance(value, dict):
        return {key: _put_back(item, (*path, key), tensor) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_put_back(item, (*path, index), tensor) for index, item in enumerate(value))
    return value


def verify_sharded(path: str | os.PathLike) -> list[str]:
    """Return what is wrong with the folder, file by file; [] if it is as it was written."""
    path = Path(path)
    if not (path / STATE).is_file():
        return [f"{STATE} is missing"]
    if verify_file(path / STATE) != "ok":
        return [f"{STATE} is damaged"]
    files = load_file(path / STATE).get("files")
    if not isinstance(files, dict) or not all(_is_part(name) for name in files) or _METADATA not in files:
        return [f"{STATE} does not name the other files, so it is none of ours"]
    problems = []
    for name, digest in files.items():
        if not (path / name).is_file():
            problems.append(f"{name} is missing")
        elif sha256_of_file(path / name) != digest:
            problems.append(f"{name} is damaged")
    return problems


def _is_part(name: Any) -> bool:
    """Tell whether it is the name of a file that save_sharded writes: nothing that leads out of the folder."""
    return isinstance(name, str) and (name == _METADATA or re.fullmatch(r"__\d+_\d+\.distcp", name) is not None)


def _reader(path: Path) -> Any:
    """Return torch's reader of a folder, whose ``.metadata``, a pickle, is read by an allow-list instead of
    pickle.load."""
    import torch.distributed.checkpoint as dcp

    metadata = _read_metadata(path / _METADATA)

    class Reader(dcp.FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(path)


def _read_metadata(path: Path) -> Any:
    """Return what torch's ``.metadata`` holds, with nothing in it executed but the constructors of torch's own records.

    Raises:
        CheckpointError: it wants anything else, is damaged, or names files outside its folder.
    """
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

    try:
        with open_file(path) as file:
            found = _MetadataUnpickler(file).load()
    except _Forbidden as error:
        raise CheckpointError(
            f"{path}: refused, and nothing in it was executed. Reading it would call {error}"
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: is damaged ({type(error).__name__}: {error})") from error
    storage = getattr(found, "storage_data", None)
    if not isinstance(found, Metadata) or not isinstance(storage, dict):
        raise CheckpointError(f"{path}: is damaged: it holds no metadata of torch.distributed.checkpoint")
    for info in storage.values():
        if not _is_part(str(getattr(info, "relative_path", ""))):
            raise CheckpointError(
                f"{path}: refused: it names {getattr(info, 'relative_path', None)!r}, outside its folder"
            )
    if getattr(found, "storage_meta", None) is None:
        found.storage_meta = StorageMeta()
    return found


class _Forbidden(Exception):
    """A pickle wants something that is not in the allow-list."""


class _MetadataUnpickler(pickle.Unpickler):
    """Finds the records of torch.distributed.checkpoint, and types that hold values and do nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what ``module.name`` is, if it is harmless."""
        from torch.distributed.checkpoint import metadata

        if module == metadata.__name__ and name in _RECORDS:
            return getattr(metadata, name)
        if (module, name) == ("torch.distributed.checkpoint.filesystem", "_StorageInfo"):
            from torch.distributed.checkpoint.filesystem import _StorageInfo

            return _StorageInfo
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout  # looks a name up in a dict
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath", "PurePosixPath"):
            return pathlib.PurePosixPath
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise _Forbidden(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: torch writes none here."""
        raise _Forbidden("a persistent object")


def refuse_damaged_folder(path: str | os.PathLike) -> None:
    """Raise CheckpointError unless the folder is as it was written."""
    problems = verify_sharded(path)
    if problems:
        raise CheckpointError(
            f"{path}: is damaged: {'; '.join(problems)}. Use an earlier checkpoint, or copy the whole folder again "
            "(.metadata is part of it)"
        )


def read_sharded(path: str | os.PathLike, layout: Layout | None = None, *, verified: bool = False) -> dict[str, Any]:
    """Return the dictionary that :func:`save_sharded` was given, verified, on any number of processes.

    Args:
        verified: another process has just verified it.
        layout: ``layout(path in the dictionary, shape)`` gives a DTensor like which this process reads its own part, or
            None for the whole tensor, on the CPU.

    Raises:
        CheckpointError: something in the folder is missing or damaged.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    path = Path(path)
    together = layout is not None and dist.is_available() and dist.is_initialized()
    prepared, problem = None, ""
    try:
        if not verified:
            refuse_damaged_folder(path)
        prepared = _prepare(path, layout)
    except CheckpointError as error:
        if not together:
            raise
        problem = str(error)
    # torch's reader begins with a message: who did not come so far would be waited for
    problem = next((text for text in _of_all(problem) if text), "") if together else ""
    if prepared is None or problem:
        raise CheckpointError(problem)
    state, tensors, reader = prepared
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            dcp.load(tensors, storage_reader=reader, no_dist=not together)
        except CheckpointException as error:
            raise CheckpointError(f"{path}: cannot be read: {_cause(error)}") from error
    return state


def _prepare(path: Path, layout: Layout | None) -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    """Return what a folder holds, with empty tensors; these by the names of their parts, and the reader that fills
    them.

    Raises:
        CheckpointError: the folder's two descriptions do not fit each other, or there is no memory.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    saved = load_file(path / STATE)
    del saved["files"]
    reader = _reader(path)
    stored = reader.read_metadata().state_dict_metadata
    tensors: dict[str, torch.Tensor] = {}

    def place(where: tuple[Any, ...], name: str) -> torch.Tensor:
        about = stored[name]
        assert isinstance(about, TensorStorageMetadata)
        like = layout(where, about.size) if layout is not None else None
        empty = torch.empty(about.size, dtype=about.properties.dtype) if like is None else torch.empty_like(like)
        tensors[name] = empty
        return empty

    try:
        return _put_back(saved, (), place), tensors, reader
    except (LookupError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: is damaged: {STATE} and .metadata do not tell of the same tensors "
            f"({type(error).__name__}: {error})"
        ) from error
