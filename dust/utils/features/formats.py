"""The bytes of feature files: .npy headers and maps, .npz archives, counts, and writes that are whole or not there."""

import contextlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np

from dust.utils.errors import DataError
from dust.utils.files import replacing

FORMATS = ("memmap", "npz", "per_video")
DTYPES = ("float16", "float32")
SHOWN = 10  # how many ids an error writes out
PARTIAL = ".partial"
_CHUNK = 1 << 22  # bytes copied at a time
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip needs a date; always the same one, so that the same features are the same bytes
_AGAIN = "extract the features again"


def id_to_name(sample_id: str) -> str:
    """A sample's id as the name of a file, without a suffix: percent-encoded, so ``a/b`` is ``a%2Fb``."""
    return quote(sample_id, safe="", errors="surrogateescape")


def name_to_id(name: str) -> str:
    """The id that :func:`id_to_name` turned into ``name``."""
    return unquote(name, errors="surrogateescape")


def some_of(ids: Sequence[str]) -> str:
    """Name the first few ids for an error message."""
    return ", ".join(map(repr, ids[:SHOWN])) + (f", ... ({len(ids)} in all)" if len(ids) > SHOWN else "")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """An OSError (a full disk, no permission) within becomes a DataError that says the way out."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: features cannot be written: {error.strerror or error}. What is counted is "
            "safe: free space or choose another OUTPUT_DIR; the same command goes on where it was"
        ) from error


def sync(file: BinaryIO) -> None:
    """What was written is on disk when this returns."""
    file.flush()
    os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    """A json object. DataError if it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged, not readable as json ({error}): remove it and {_AGAIN}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged, no json object: remove it and {_AGAIN}")
    return value


def read_count(path: Path) -> tuple[int, list[str]]:
    """How many samples are done, as the writer counted, and the ids among them that have no feature."""
    try:
        done, missing = json.loads(path.read_bytes())
        return int(done), [str(one) for one in missing]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged, holds no count ({error}): remove the .partial files and {_AGAIN}") from error


def checked_identity(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The identity that a finished json records. DataError unless all of it is there and its count is right."""
    kinds: dict[str, type] = {"ids": list, "meta": dict, "format": str, "shape": list, "dtype": str, "count": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
    if wrong or record.get("complete") is not True:
        raise DataError(f"{path}: damaged, lacks {', '.join(wrong) or 'complete: true'}: remove it and {_AGAIN}")
    if record["count"] != len(record["ids"]):
        raise DataError(f"{path}: damaged, {len(record['ids'])} ids but a count of {record['count']}: {_AGAIN}")
    if record["format"] not in ("memmap", "per_video") or record["dtype"] not in ("float16", "float32"):
        raise DataError(f"{path}: format {record['format']!r} and dtype {record['dtype']!r} are unknown here: {_AGAIN}")
    identity = {key: record[key] for key in ("ids", "meta", "format", "shape", "dtype")}
    return {**identity, "missing": record.get("missing", [])}


# --- npy ----------------------------------------------------------------------------------------------------------


def npy_header(shape: Sequence[int], dtype: np.dtype) -> bytes:
    """The head of a .npy file (version 1.0) of a C-ordered array."""
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def map_npy(path: Path) -> np.ndarray:
    """A read-only memory map of a .npy file. DataError if it is missing, cut short or no such file."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not readable as features ({error}): {_AGAIN}") from error


def npy_names(folder: Path) -> list[str]:
    """The names of the .npy files of a folder. DataError if there is no such folder."""
    try:
        return [name for name in os.listdir(folder) if name.endswith(".npy")]
    except OSError as error:
        raise DataError(f"{folder}: features cannot be read: {error.strerror}: {_AGAIN}") from error


# --- npz ----------------------------------------------------------------------------------------------------------


def pack_npz(path: Path, rows: Path, ids: Sequence[str], missing: Sequence[str], meta: Mapping[str, Any]) -> None:
    """An uncompressed .npz of the rows of a .npy file, the ids (and the missing ones) and the meta data, copied in
    pieces."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with (
            archive.open(zipfile.ZipInfo("features.npy", _EPOCH), "w", force_zip64=True) as member,
            open(rows, "rb") as source,
        ):
            while chunk := source.read(_CHUNK):
                member.write(chunk)
        texts = {"ids": np.array(ids, dtype=np.str_), "meta": np.array(json.dumps(meta))}
        texts["missing"] = np.array(missing, dtype=np.str_)
        for name, array in texts.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), buffer.getvalue())


def npz_identity(path: Path) -> dict[str, Any]:
    """What an .npz of features says of itself. DataError if it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            lacking = {"features", "ids", "meta"} - set(archive.files)
            if lacking:
                raise DataError(f"{path}: no {', '.join(sorted(lacking))} in it: not a file of features; {_AGAIN}")
            ids, meta = archive["ids"].tolist(), json.loads(str(archive["meta"]))
            missing = archive["missing"].tolist() if "missing" in archive.files else []
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not readable as features ({error}): {_AGAIN}") from error
    features = map_npz(path)
    return {
        "ids": ids,
        "meta": meta,
        "format": "npz",
        "shape": list(features.shape[1:]),
        "dtype": features.dtype.name,
        "missing": missing,
    }


def map_npz(path: Path) -> np.ndarray:
    """The ``features`` of an .npz: a read-only memory map where they are stored uncompressed, else loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("features.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                with np.load(path, allow_pickle=False) as arrays:
                    return arrays["features"]
        with open(path, "rb") as file:
            file.seek(info.header_offset + 26)  # of the member's local header: lengths of its name and extra field
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0
            shape, fortran, dtype = (read_header if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
            if fortran:
                raise ValueError("its features are in Fortran order")
            return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not readable as features ({error}): {_AGAIN}") from error
