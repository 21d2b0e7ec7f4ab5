"""Features of one split as files that know whose they are: ids in their order, and what the features were made by.

Layouts, under one folder (``count`` samples, each of ``shape``):

* ``memmap``: ``<split>.npy`` (count, *shape), read through a memory map, and ``<split>.json``;
* ``npz``: ``<split>.npz`` with ``features``, ``ids`` and ``meta`` (json), uncompressed, so that it can be mapped too;
* ``per_video``: ``<split>/<id>.npy`` (windows, *shape), as OpenTAD and ActionFormer read it, and ``<split>.json``.

The json holds ids, meta, format, shape, dtype, count, complete and missing (ids whose clips could not be read; their
rows are NaN, and asking for one is an error). Until an extraction is finished all its files end in
``.partial``: what has its final name is whole.
"""

import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from dust.utils import feature_files as files
from dust.utils.errors import DataError

logger = logging.getLogger(__name__)

FORMATS = ("memmap", "npz", "per_video")
DTYPES = ("float16", "float32")
SHOWN = 10  # how many ids an error writes out
PARTIAL = ".partial"
_LONGEST_NAME = 240  # bytes; file systems allow 255, and a temporary name is longer than the final one


def id_to_name(sample_id: str) -> str:
    """A sample's id as the name of a file, without a suffix: percent-encoded, so ``a/b`` is ``a%2Fb``."""
    return quote(sample_id, safe="", errors="surrogateescape")


def name_to_id(name: str) -> str:
    """The id that :func:`id_to_name` turned into ``name``."""
    return unquote(name, errors="surrogateescape")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:SHOWN])) + (f", ... ({len(ids)} in all)" if len(ids) > SHOWN else "")


class FeatureWriter:
    """Writes the features of one split in the order of ``ids``; after an interruption it goes on where it was.

    What is on disk is one file of rows (or one per video) and a count that is only raised when the rows before it are
    safely written. The memory it takes is one batch's.

    Args:
        folder: is made if it is not there.
        ids: of all samples, each once, in the order in which they will be written.
        sample_shape: of one sample's feature, ``(C,)`` or ``(C, ...)``; with ``per_video`` of one window's.
        dtype: float16 | float32, of the file.
        meta: what the features were made by, as json can hold it: checkpoint_sha256, config, config_sha256, layer, ...
        format: one of FORMATS.
        overwrite: replace features of another identity (ids, meta, shape, dtype or format) instead of refusing.

    Raises:
        DataError: ids that are repeated or no file's name, another extraction in the same place, a disk that is full.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        ids: Sequence[str],
        sample_shape: Sequence[int],
        dtype: str,
        meta: Mapping[str, Any],
        format: str = "memmap",
        *,
        overwrite: bool = False,
    ) -> None:
        if format not in FORMATS or dtype not in DTYPES:
            raise ValueError(f"format {format!r} of {FORMATS}, dtype {dtype!r} of {DTYPES}")
        self.folder, self.split, self.format = Path(folder), split, format
        self.ids, self.shape, self.dtype = list(ids), tuple(map(int, sample_shape)), np.dtype(dtype)
        self._check_ids()
        self.identity: dict[str, Any] = json.loads(
            json.dumps({"ids": self.ids, "meta": meta, "format": format, "shape": self.shape, "dtype": dtype})
        )
        self.done = 0  #: samples whose features are safely written
        self.missing: list[str] = []  #: those among them that have none
        self.complete = False  #: whether the split has been finished, now or before
        with files.disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._find_complete(overwrite) and not self._find_partial(overwrite):
                self._start()

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.split}{suffix}"

    def _check_ids(self) -> None:
        repeated = [one for one, count in Counter(self.ids).items() if count > 1]
        if repeated:
            raise DataError(f"features of the {self.split} split: ids given twice: {_some(repeated)}")
        if self.format == "per_video":
            bad = [one for one in self.ids if not one or len(id_to_name(one)) > _LONGEST_NAME]
            if bad:
                raise DataError(
                    f"features of the {self.split} split: ids that cannot be names of files (empty, or longer than "
                    f"{_LONGEST_NAME} bytes): {_some(bad)}. Give the manifest an id column with shorter ids, or set "
                    "FEATURES.FORMAT memmap"
                )

    # ------------------------------------------------------------------------------------------ what is there before

    def _refuse(self, found: Mapping[str, Any], state: str) -> DataError:
        differ = [key for key in ("ids", "format", "shape", "dtype") if found.get(key) != self.identity[key]]
        old, new = found.get("meta") or {}, self.identity["meta"]
        differ += [f"meta.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        return DataError(
            f"{self.folder} holds {state} features of the {self.split} split of another extraction (another "
            f"{', '.join(differ)}): remove them, or choose another OUTPUT_DIR"
        )

    def _find_complete(self, overwrite: bool) -> bool:
        """Whether the same features are there already. Others are refused, or removed with ``overwrite``."""
        final = [self._path(".json"), self._path(".npz")]
        if not any(path.exists() for path in final):
            return False
        found = None
        try:
            store = FeatureStore.open(self.folder, self.split)
            found, self.missing = store.identity, store.missing
        except DataError as error:
            if not overwrite:
                raise
            logger.warning("damaged features are replaced: %s", error)
        if found == self.identity:
            self.done, self.complete = len(self.ids), True
            self._remove_partial()
            return True
        if found and not overwrite:
            raise self._refuse(found, "finished")
        for path in (*final, self._path(".npy")):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._path(""), ignore_errors=True)
        self.missing = []
        return False

    def _find_partial(self, overwrite: bool) -> bool:
        """Whether an extraction of the same identity was interrupted here; then ``done`` is how far it came."""
        record = self._path(".json" + PARTIAL)
        if not record.exists():
            return False
        found = files.read_json(record)
        if found != self.identity:
            if not overwrite:
                raise self._refuse(found, "unfinished")
            return False
        count, self.missing = files.read_count(self._path(".count" + PARTIAL))
        total = len(self.ids)
        there = self._rows.exists()
        if there and self.format != "per_video":
            there = self._rows.stat().st_size >= self._offset(count)
        # all counted and no rows: finish() renamed them before it was interrupted
        if count > total or not (there or count == total):
            raise DataError(
                f"{self._rows}: missing or shorter than the {count} of {total} features that were counted: remove "
                f"{self.folder / self.split}*{PARTIAL} and extract the features again"
            )
        self.done = count
        logger.info("%s features in %s: %d of %d are done", self.split, self.folder, count, total)
        return True

    def _start(self) -> None:
        self._remove_partial()
        if self.format == "per_video":
            self._rows.mkdir()
        else:
            files.write_atomically(self._rows, self._header)
        self._count(0, [])
        # last: an extraction exists from here on
        files.write_atomically(self._path(".json" + PARTIAL), json.dumps(self.identity).encode())

    def _remove_partial(self) -> None:
        for suffix in (".json", ".count", ".npy", ".npz"):
            self._path(suffix + PARTIAL).unlink(missing_ok=True)
        shutil.rmtree(self._path(PARTIAL), ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------- writing

    @property
    def _rows(self) -> Path:
        """The unfinished .npy, or the folder of them."""
        return self._path(PARTIAL if self.format == "per_video" else ".npy" + PARTIAL)

    @property
    def _header(self) -> bytes:
        return files.npy_header((len(self.ids), *self.shape), self.dtype)

    def _offset(self, row: int) -> int:
        """Where a row begins in the .npy, in bytes."""
        return len(self._header) + row * math.prod(self.shape) * self.dtype.itemsize

    def write(self, start: int, features: Any) -> None:
        """Add the features of samples ``start``, ``start + 1``, ... and count them when they are on disk.

        Args:
            start: must be ``done``: features come in order.
            features: (B, *sample_shape) array; with ``per_video`` a sequence of B arrays (windows, *sample_shape).
                None for a sample that has no feature (its clip cannot be read).

        Raises:
            DataError: values that are not finite (in the file's dtype), another shape, a full disk.
        """
        if start != self.done or self.complete:
            raise ValueError(f"features from sample {start} on, where sample {self.done} of {len(self.ids)} comes next")
        if start + len(features) > len(self.ids):
            raise ValueError(f"{len(features)} features from sample {start} on, where there are {len(self.ids)}")
        blocks = [self._absent() if one is None else self._checked(start + n, one) for n, one in enumerate(features)]
        missing = self.missing + [self.ids[start + n] for n, one in enumerate(features) if one is None]
        if not blocks:
            return
        with files.disk_errors(self.folder):
            if self.format == "per_video":
                for sample_id, block in zip(self.ids[start:], blocks, strict=False):
                    data = files.npy_header(block.shape, self.dtype) + block.tobytes()
                    files.write_atomically(self._rows / f"{id_to_name(sample_id)}.npy", data)
            else:
                with open(self._rows, "r+b") as file:
                    file.seek(self._offset(start))  # rows that were written and not counted are written again
                    file.write(b"".join(block.tobytes() for block in blocks))
                    files.sync(file)
            self._count(start + len(blocks), missing)
        self.done, self.missing = start + len(blocks), missing

    def _count(self, done: int, missing: list[str]) -> None:
        files.write_atomically(self._path(".count" + PARTIAL), json.dumps([done, missing]).encode())

    def _absent(self) -> np.ndarray:
        """What stands in the file for a sample without a feature: NaN, or no window."""
        return np.full((0, *self.shape) if self.format == "per_video" else self.shape, np.nan, self.dtype)

    def _checked(self, index: int, feature: Any) -> np.ndarray:
        """One sample's feature in the file's dtype; refused where that shape or dtype does not hold it."""
        given = np.asarray(feature)
        shape = given.shape[1:] if self.format == "per_video" else given.shape
        if shape != self.shape:
            raise DataError(
                f"the feature of {self.ids[index]} is {given.shape}, where {self.shape} is expected: do the clips "
                "differ in size? Features need one size: set FEATURES.LAYER pooled, or crop the clips alike"
            )
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(given, self.dtype)
        if not np.isfinite(block).all():
            finite = bool(np.isfinite(given).all())
            way_out = "set FEATURES.DTYPE float32" if finite else "the model's weights or the clip are at fault"
            raise DataError(f"the feature of {self.ids[index]} is not finite in {self.dtype}: {way_out}")
        return block

    def finish(self) -> None:
        """Give the files their final names. To be called when ``done`` is the number of ids."""
        if self.complete:
            return
        if self.done != len(self.ids):
            raise ValueError(f"{self.done} of {len(self.ids)} features are written")
        with files.disk_errors(self.folder):
            if self.format == "npz":
                files.pack_npz(self._path(".npz"), self._rows, self.ids, self.missing, self.identity["meta"])
            else:
                if self._rows.exists():  # else they were renamed before an interruption
                    os.replace(self._rows, self._path("" if self.format == "per_video" else ".npy"))
                record = {**self.identity, "count": len(self.ids), "complete": True, "missing": self.missing}
                files.write_atomically(self._path(".json"), json.dumps(record).encode())
            self._remove_partial()
        self.complete = True


class FeatureStore:
    """The finished features of one split. Mapped, not loaded: it is cheap to open, and to send to a worker.

    ``ids``, ``missing`` (ids without a feature), ``meta``, ``format``, ``shape`` (of one sample; of one window with
    per_video), ``dtype``.
    """

    def __init__(self, folder: Path, split: str, identity: dict[str, Any]) -> None:
        identity = dict(identity)
        self.missing: list[str] = identity.pop("missing", [])
        self.folder, self.split, self.identity = folder, split, identity
        self.ids: list[str] = identity["ids"]
        self.meta: dict[str, Any] = identity["meta"]
        self.format: str = identity["format"]
        self.shape = tuple(identity["shape"])
        self.dtype = np.dtype(identity["dtype"])
        self._features: np.ndarray | None = None
        self._table: dict[str, int] | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike, split: str) -> "FeatureStore":
        """The features of ``split`` in ``folder``.

        Raises:
            DataError: there are none, they are not finished, damaged, or their numbers do not agree.
        """
        folder = Path(folder)
        record, archive = folder / f"{split}.json", folder / f"{split}.npz"
        if record.exists():
            store = cls(folder, split, files.checked_identity(record, files.read_json(record)))
        elif archive.exists():
            store = cls(folder, split, files.npz_identity(archive))
        else:
            raise DataError(_not_there(folder, split))
        store._check_files()
        return store

    def _check_files(self) -> None:
        if self.format == "per_video":
            there = len(files.npy_names(self.folder / self.split))
        else:
            there = len(self.features)
            if self.features.shape[1:] != self.shape or self.features.dtype != self.dtype:
                raise DataError(
                    f"{self.path}: {self.features.dtype} {self.features.shape[1:]} per sample, but its record says "
                    f"{self.dtype} {self.shape}: extract the features again"
                )
        if there != len(self.ids):
            raise DataError(f"{self.path}: {there} features for {len(self.ids)} ids: extract the features again")

    @property
    def path(self) -> Path:
        """The file (or folder, with per_video) that holds the features."""
        return self.folder / (self.split + {"memmap": ".npy", "npz": ".npz", "per_video": ""}[self.format])

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_features": None, "_table": None}  # a map pickles as a copy of the whole array

    @property
    def features(self) -> np.ndarray:
        """(N, *shape), a read-only memory map in the order of ``ids``.

        Raises:
            DataError: per_video features, which differ in their number of windows.
        """
        if self.format == "per_video":
            raise DataError(f"{self.path}: one file per video: such features are read one by one, see get()")
        if self._features is None:
            self._features = files.map_npz(self.path) if self.format == "npz" else files.map_npy(self.path)
        return self._features

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids),) int64: which row each id has. DataError with the ids that have none."""
        if self._table is None:
            absent = set(self.missing)
            self._table = {sample_id: row for row, sample_id in enumerate(self.ids) if sample_id not in absent}
        missing = [sample_id for sample_id in ids if sample_id not in self._table]
        if missing:
            raise DataError(
                f"{self.path}: no features for {len(missing)} of {len(ids)} samples: {_some(missing)}. Extract the "
                f"{self.split} split's features from the same manifest; those there begin with {_some(self.ids[:3])}"
            )
        return np.fromiter((self._table[sample_id] for sample_id in ids), np.int64, len(ids))

    def get(self, sample_id: str) -> np.ndarray:
        """One sample's feature: (*shape), or (windows, *shape) with per_video. DataError for an id without one."""
        row = int(self.rows([sample_id])[0])
        if self.format != "per_video":
            return self.features[row]
        path = self.path / f"{id_to_name(sample_id)}.npy"
        feature = files.map_npy(path)
        if feature.shape[1:] != self.shape or feature.dtype != self.dtype:
            raise DataError(f"{path}: {feature.dtype} {feature.shape}, not {self.dtype} (windows, {self.shape})")
        return feature

    def check_checkpoint(self, sha256: str, named: str) -> None:
        """DataError unless these features were made by the checkpoint of this hash, which ``named`` tells of."""
        own = self.meta.get("checkpoint_sha256", "")
        if own != sha256:
            raise DataError(
                f"{self.path}: made by the checkpoint {own[:12] or 'unknown'}..., but {named} is {sha256[:12]}...: "
                "extract the features again with that checkpoint, or name the one that made them"
            )


def recorded_shape(folder: str | os.PathLike, split: str) -> tuple[int, ...] | None:
    """The shape of one feature of an extraction that is finished, or was begun, in ``folder``; None if none was."""
    for path in (Path(folder) / f"{split}.json", Path(folder) / f"{split}.json{PARTIAL}"):
        if path.exists():
            return tuple(files.read_json(path)["shape"])
    archive = Path(folder) / f"{split}.npz"
    return tuple(files.npz_identity(archive)["shape"]) if archive.exists() else None


def _not_there(folder: Path, split: str) -> str:
    way_out = (
        f"run the stage that extracts them first (FEATURES.ENABLE True, {split} among FEATURES.SPLITS; "
        "configs/DUST/stage3_features.yaml is one)"
    )
    record = folder / f"{split}.json{PARTIAL}"
    if record.exists():
        done, _ = files.read_count(folder / f"{split}.count{PARTIAL}")
        total = len(files.read_json(record).get("ids", ()))
        return f"{folder}: the {split} split's features are not finished, {done} of {total} are done: {way_out} to end"
    if not folder.is_dir():
        return f"{folder}: there is no such folder of features: {way_out}"
    found = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".npz")})
    return f"{folder}: no features of the {split} split (found: {', '.join(found) or 'none'}): {way_out}"
