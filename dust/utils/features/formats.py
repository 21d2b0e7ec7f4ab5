"""The bytes of feature files: .npy headers, .npz archives, counts, and writes that are whole or not there."""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np

from dust.utils.arrays import StoredArray, is_stored, open_npz
from dust.utils.errors import DataError, SampleError
from dust.utils.files import replacing
from dust.utils.structured import parse_json
from dust.utils.structured import read_json as parse_file

FORMATS = ("memmap", "npz", "per_video")
DTYPES = ("float16", "bfloat16", "float32")
#: NumPy has no bfloat16: its bits stand in the files as uint16, and the record says what they are.
STORED_AS = {"float16": "float16", "bfloat16": "uint16", "float32": "float32"}
SHOWN = 10  # how many ids an error writes out
PARTIAL = ".partial"
_CHUNK = 1 << 22  # bytes copied at a time
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip needs a date; always the same one, so that the same features are the same bytes
_AGAIN = "extract the features again"


def to_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Map float32 -> the bits of the nearest bfloat16 (of two the even one), as uint16."""
    floats = np.ascontiguousarray(numbers, np.float32)
    bits = floats.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(floats), 0x7FC0, rounded).astype(np.uint16)  # rounding would carry some NaN over to 0


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Turn the bits of bfloat16, as uint16, into float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class BFloat16Rows:
    """An array of bfloat16 bits in a file, whose rows are read as float32; otherwise as StoredArray."""

    def __init__(self, stored: StoredArray | np.ndarray) -> None:
        self.stored, self.shape, self.ndim = stored, stored.shape, stored.ndim
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, key: Any) -> np.ndarray:
        return from_bfloat16(np.asarray(self.stored[key]))

    def flattened(self) -> "BFloat16Rows":
        """Return the rows flattened, as StoredArray's."""
        flat = self.stored.reshape(-1, *self.shape[2:]) if isinstance(self.stored, np.ndarray) else None
        return BFloat16Rows(self.stored.flattened() if flat is None else flat)  # type: ignore[union-attr]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = from_bfloat16(np.asarray(self.stored))
        return whole if dtype is None else whole.astype(dtype, copy=False)


def id_to_name(sample_id: str) -> str:
    """Return a sample's id as the name of a file, without a suffix: percent-encoded, so ``a/b`` is ``a%2Fb``."""
    return quote(sample_id, safe="", errors="surrogateescape")


def name_to_id(name: str) -> str:
    """Return the id that :func:`id_to_name` turned into ``name``."""
    return unquote(name, errors="surrogateescape")


def some_of(ids: Sequence[str]) -> str:
    """Name the first few ids for an error message."""
    return ", ".join(map(repr, ids[:SHOWN])) + (f", ... ({len(ids)} in all)" if len(ids) > SHOWN else "")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError (a full disk, no permission) within into a DataError that says the way out."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: features cannot be written: {error.strerror or error}. What is counted is "
            "safe: free space or choose another OUTPUT_DIR; the same command continues where it was"
        ) from error


def sync(file: BinaryIO) -> None:
    """Wait until what was written is on disk."""
    file.flush()
    os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    """Return a json object. DataError if it is damaged."""
    try:
        value = parse_file(path)
    except DataError as error:
        what = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: damaged, not readable as json ({what}): remove it and {_AGAIN}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged, no json object: remove it and {_AGAIN}")
    return value


def read_count(path: Path) -> tuple[list[tuple[int, int]], list[str]]:
    """Return which samples are done, as the writer counted: ranges (start, stop), and the ids among them that have no
    feature.

    A file holds a number instead of ranges where so many are done from the first on.
    """
    try:
        done, missing = parse_file(path)
        ranges = [
            (int(start), int(stop))
            for start, stop in ([[0, int(done)]] if isinstance(done, int | float | str) else done)
        ]
        if not all(0 <= start <= stop for start, stop in ranges):
            raise ValueError("its ranges are none")
        return united(ranges), [str(one) for one in missing]
    except (DataError, ValueError, OverflowError, TypeError) as error:
        raise DataError(f"{path}: damaged, holds no count ({error}): remove the .partial files and {_AGAIN}") from error


def united(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same numbers as ranges in order that do not touch; empty ones are left out."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        elif start < stop:
            found.append((start, stop))
    return found


def checked_identity(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity that a finished json records. DataError unless all of it is there and its count is right."""
    kinds: dict[str, type] = {"ids": list, "meta": dict, "format": str, "shape": list, "dtype": str, "count": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
    if wrong or record.get("complete") is not True:
        raise DataError(f"{path}: damaged, lacks {', '.join(wrong) or 'complete: true'}: remove it and {_AGAIN}")
    if record["count"] != len(record["ids"]):
        raise DataError(f"{path}: damaged, {len(record['ids'])} ids but a count of {record['count']}: {_AGAIN}")
    if record["format"] not in ("memmap", "per_video") or record["dtype"] not in DTYPES:
        raise DataError(f"{path}: format {record['format']!r} and dtype {record['dtype']!r} are unknown here: {_AGAIN}")
    missing = record.get("missing", [])
    texts = isinstance(missing, list) and all(isinstance(one, str) for one in (*record["ids"], *missing))
    if not texts or not all(type(one) is int and one >= 0 for one in record["shape"]):
        raise DataError(f"{path}: damaged, ids that are no texts or a shape that is none: remove it and {_AGAIN}")
    identity = {key: record[key] for key in ("ids", "meta", "format", "shape", "dtype")}
    return {**identity, "missing": missing}


# --- npy ----------------------------------------------------------------------------------------------------------


def npy_header(shape: Sequence[int], dtype: np.dtype) -> bytes:
    """Return the head of a .npy file (version 1.0) of a C-ordered array."""
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _unreadable(path: Path, error: SampleError) -> DataError:
    what = str(error).removeprefix(f"{path}: ")
    return DataError(f"{path}: not readable as features ({what}): {_AGAIN}")


def stored(path: Path, name: str = "") -> StoredArray:
    """Return the array of a .npy file, or one that an .npz holds uncompressed, read in parts. DataError if it is
    damaged."""
    try:
        return StoredArray(path, name)
    except SampleError as error:
        raise _unreadable(path, error) from error


def npy_names(folder: Path) -> list[str]:
    """Return the names of the .npy files of a folder. DataError if there is no such folder."""
    try:
        return [name for name in os.listdir(folder) if name.endswith(".npy")]
    except OSError as error:
        raise DataError(f"{folder}: features cannot be read: {error.strerror}: {_AGAIN}") from error


# --- npz ----------------------------------------------------------------------------------------------------------


def pack_npz(path: Path, rows: Path, ids: Sequence[str], missing: Sequence[str], meta: Mapping[str, Any]) -> None:
    """Write an uncompressed .npz of the rows of a .npy file, the ids (and the missing ones) and the meta data, copied
    in pieces."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with (
            archive.open(zipfile.ZipInfo("features.npy", _EPOCH), "w", force_zip64=True) as member,
            open(rows, "rb") as source,
        ):
            while chunk := source.read(_CHUNK):
                member.write(chunk)
        texts = {"ids": np.array(ids, dtype=np.str_), "meta": np.array(json.dumps(meta))}
        texts["missing"] = np.array(missing, dtype=np.str_)
        if np.load(rows, mmap_mode="r", allow_pickle=False).dtype.name == STORED_AS["bfloat16"]:
            texts["dtype"] = np.array("bfloat16")  # else it is another tool's whole numbers
        for name, array in texts.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), buffer.getvalue())


def npz_identity(path: Path) -> dict[str, Any]:
    """Return what an .npz of features says of itself. DataError if it is no such file."""
    try:
        with open_npz(path) as archive:
            lacking = {"features", "ids", "meta"} - set(archive.names)
            if lacking:
                raise DataError(f"{path}: no {', '.join(sorted(lacking))} in it: not a file of features; {_AGAIN}")
            ids = archive.read("ids", text=True).reshape(-1).tolist()
            meta = parse_json(str(archive.read("meta", text=True)), path, _AGAIN)
            missing = archive.read("missing", text=True).tolist() if "missing" in archive.names else []
            said = str(archive.read("dtype", text=True)) if "dtype" in archive.names else ""
    except SampleError as error:
        raise _unreadable(path, error) from error
    if not isinstance(meta, dict):
        raise DataError(f"{path}: damaged, its meta is no json object: {_AGAIN}")
    features = npz_features(path)
    if features.dtype.name == STORED_AS["bfloat16"] and said != "bfloat16":
        raise DataError(f"{path}: features of whole numbers (uint16), quantised: store float16, bfloat16 or float32")
    return {
        "ids": ids,
        "meta": meta,
        "format": "npz",
        "shape": list(features.shape[1:]),
        "dtype": next(name for name, stored in STORED_AS.items() if stored == features.dtype.name),
        "missing": missing,
    }


def npz_features(path: Path) -> StoredArray | np.ndarray:
    """Return the ``features`` of an .npz: read in parts where they are stored uncompressed, else loaded."""
    try:
        if is_stored(path, "features"):
            found: StoredArray | np.ndarray = StoredArray(path, "features")
        else:
            with open_npz(path) as archive:
                found = archive.read("features")
    except SampleError as error:
        raise _unreadable(path, error) from error
    if found.dtype.name not in STORED_AS.values() or not found.ndim:
        raise DataError(f"{path}: {found.dtype} {found.shape} is no array of features: {_AGAIN}")
    return found
