"""Features of one split as files that know whose they are: ids in their order, and what the features were made by.

Layouts, under one folder (``count`` samples, each of ``shape``):

* ``memmap``: ``<split>.npy`` (count, *shape), read in parts, and ``<split>.json``;
* ``npz``: ``<split>.npz`` with ``features``, ``ids`` and ``meta`` (json), uncompressed, so that it can be read so too;
* ``per_video``: ``<split>/<id>.npy`` (windows, *shape), as OpenTAD and ActionFormer read it, and ``<split>.json``.

The json holds ids, meta, format, shape, dtype, count, complete and missing (ids whose clips could not be read; their
rows are NaN, and asking for one is an error). Until an extraction is finished all its files end in
``.partial``: what has its final name is whole.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.utils.arrays import StoredArray
from dust.utils.errors import DataError
from dust.utils.features import formats as files
from dust.utils.features.formats import PARTIAL, id_to_name, some_of


class FeatureStore:
    """The finished features of one split. Not loaded: it is cheap to open, and to send to a worker.

    ``ids``, ``missing`` (ids without a feature), ``meta``, ``format``, ``shape`` (of one sample; of one window with
    per_video), ``dtype`` (of what is read: float32 for stored bfloat16).
    """

    def __init__(self, folder: Path, split: str, identity: dict[str, Any]) -> None:
        identity = dict(identity)
        self.missing: list[str] = identity.pop("missing", [])
        self.folder, self.split, self.identity = folder, split, identity
        self.ids: list[str] = identity["ids"]
        self.meta: dict[str, Any] = identity["meta"]
        self.format: str = identity["format"]
        self.shape = tuple(identity["shape"])
        self.reduced = identity["dtype"] == "bfloat16"
        self.dtype = np.dtype("float32" if self.reduced else identity["dtype"])
        self._features: StoredArray | np.ndarray | files.BFloat16Rows | None = None
        self._table: dict[str, int] | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike, split: str) -> "FeatureStore":
        """Return the features of ``split`` in ``folder``.

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
        return {**self.__dict__, "_features": None, "_table": None}

    @property
    def features(self) -> StoredArray | np.ndarray | files.BFloat16Rows:
        """(N, *shape), in the order of ``ids``; rows are read from the file when they are asked for.

        Raises:
            DataError: per_video features, which differ in their number of windows.
        """
        if self.format == "per_video":
            raise DataError(f"{self.path}: one file per video: such features are read one by one, see get()")
        if self._features is None:
            found = files.npz_features(self.path) if self.format == "npz" else files.stored(self.path)
            if self.reduced and found.dtype != np.uint16:
                raise DataError(
                    f"{self.path}: holds {found.dtype}, its record says bfloat16: extract the features again"
                )
            self._features = files.BFloat16Rows(found) if self.reduced else found
        return self._features

    @property
    def views(self) -> StoredArray | np.ndarray | files.BFloat16Rows:
        """Features (V, ...) of N samples as (N * V, ...), so that a single view can be read."""
        found = self.features
        return found.reshape(-1, *found.shape[2:]) if isinstance(found, np.ndarray) else found.flattened()

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Return (len(ids),) int64: which row each id has. DataError with the ids that have none."""
        if self._table is None:
            absent = set(self.missing)
            self._table = {sample_id: row for row, sample_id in enumerate(self.ids) if sample_id not in absent}
        missing = [sample_id for sample_id in ids if sample_id not in self._table]
        if missing:
            raise DataError(
                f"{self.path}: no features for {len(missing)} of {len(ids)} samples: {some_of(missing)}. Extract the "
                f"{self.split} split's features from the same manifest; those there begin with {some_of(self.ids[:3])}"
            )
        return np.fromiter((self._table[sample_id] for sample_id in ids), np.int64, len(ids))

    def get(self, sample_id: str) -> StoredArray | np.ndarray:
        """Return one sample's feature: (*shape), or (windows, *shape) with per_video. DataError for an id without
        one."""
        row = int(self.rows([sample_id])[0])
        if self.format != "per_video":
            return self.features[row]
        path = self.path / f"{id_to_name(sample_id)}.npy"
        feature = files.stored(path)
        if feature.shape[1:] != self.shape or feature.dtype != self.dtype:
            raise DataError(f"{path}: {feature.dtype} {feature.shape}, not {self.dtype} (windows, {self.shape})")
        return feature

    def check_checkpoint(self, sha256: str, named: str) -> None:
        """Raise DataError unless these features were made by the checkpoint of this hash, which ``named`` tells of."""
        own = self.meta.get("checkpoint_sha256", "")
        if own != sha256:
            raise DataError(
                f"{self.path}: made by the checkpoint {own[:12] or 'unknown'}..., but {named} is {sha256[:12]}...: "
                "extract the features again with that checkpoint, or name the one that made them"
            )


def recorded_shape(folder: str | os.PathLike, split: str) -> tuple[int, ...] | None:
    """Return the shape of one feature of an extraction that is finished, or was begun, in ``folder``; None if none
    was."""
    for path in (Path(folder) / f"{split}.json", Path(folder) / f"{split}.json{PARTIAL}"):
        if path.exists():
            shape = files.read_json(path).get("shape")
            if not isinstance(shape, list) or not all(type(one) is int for one in shape):
                raise DataError(f"{path}: damaged, it tells no shape: remove it and extract the features again")
            return tuple(shape)
    archive = Path(folder) / f"{split}.npz"
    return tuple(files.npz_identity(archive)["shape"]) if archive.exists() else None


def _not_there(folder: Path, split: str) -> str:
    way_out = (
        f"run the stage that extracts them first (FEATURES.ENABLE True, {split} among FEATURES.SPLITS; "
        "configs/DUST/stage3_features.yaml is one)"
    )
    record = folder / f"{split}.json{PARTIAL}"
    if record.exists():
        counts = [folder / f"{split}.count{PARTIAL}", *folder.glob(f"{glob.escape(split)}.count-*{PARTIAL}")]
        ranges = files.united(one for path in counts for one in files.read_count(path)[0])
        done = sum(stop - start for start, stop in ranges)
        ids = files.read_json(record).get("ids")
        total = len(ids) if isinstance(ids, list) else "an unknown number"
        return f"{folder}: the {split} split's features are not finished, {done} of {total} are done: {way_out} to end"
    if not folder.is_dir():
        return f"{folder}: there is no such folder of features: {way_out}"
    found = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".npz")})
    return f"{folder}: no features of the {split} split (found: {', '.join(found) or 'none'}): {way_out}"
