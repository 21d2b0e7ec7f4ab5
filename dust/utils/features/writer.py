"""Writing the features of a split: resumable, and under its final name only when all of it is there."""

import glob
import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.utils.errors import DataError
from dust.utils.features import formats as files
from dust.utils.features.formats import DTYPES, FORMATS, PARTIAL, STORED_AS, id_to_name, some_of
from dust.utils.features.store import FeatureStore
from dust.utils.files import refuse_in_place, write_atomically

logger = logging.getLogger(__name__)

_LONGEST_NAME = 240  # bytes; file systems allow 255, and a temporary name is longer than the final one


class FeatureWriter:
    """Writes the features of one split in the order of ``ids``; after an interruption it continues where it was.

    What is on disk is one file of rows (or one per video) and a count of rows, which is only raised when they are
    safely written. The memory it takes is one batch's. Several processes may write at once, each its own rows: each
    counts in a file of its own, and whoever opens the split next, in whatever number, joins what they have counted.

    Args:
        folder: is made if it is not there.
        ids: of all samples, each once, in the order in which they will be written.
        sample_shape: of one sample's feature, ``(C,)`` or ``(C, ...)``; with ``per_video`` of one window's.
        dtype: float16 | bfloat16 | float32, of the file.
        meta: what the features were made by, as json can hold it: checkpoint_sha256, config, config_sha256, layer, ...
        format: one of FORMATS.
        overwrite: replace features of another identity (ids, meta, shape, dtype or format) instead of refusing.
        share: the number of this process, where several write. Number 0 looks what is there; the others are told by
            :meth:`take_over`, before any writes. None: it is the only one, and writes in order.

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
        share: int | None = None,
    ) -> None:
        if format not in FORMATS or dtype not in DTYPES:
            raise ValueError(f"format {format!r} of {FORMATS}, dtype {dtype!r} of {DTYPES}")
        self.folder, self.split, self.format = Path(folder), split, format
        self.ids, self.shape, self.dtype = list(ids), tuple(map(int, sample_shape)), np.dtype(STORED_AS[dtype])
        self._check_ids()
        self.identity: dict[str, Any] = json.loads(
            json.dumps({"ids": self.ids, "meta": meta, "format": format, "shape": self.shape, "dtype": dtype})
        )
        self.share = share
        self.counted: list[tuple[int, int]] = []  #: ranges of samples whose features are safely written
        self._own: list[tuple[int, int]] = []  # of them those that are counted in this process's file
        self.missing: list[str] = []  #: those among them that have none
        self._own_missing: list[str] = []
        self.complete = False  #: whether the split has been finished, now or before
        with files.disk_errors(self.folder):
            if share:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_temporary()
            if not self._find_complete(overwrite) and not self._find_partial(overwrite):
                self._start()

    def take_over(self, counted: Sequence[tuple[int, int]], complete: bool) -> None:
        """Take what the first process has found: its ``counted`` and ``complete``."""
        self.counted, self.complete = list(counted), complete

    @property
    def done(self) -> int:
        """How many samples' features are safely written."""
        return sum(stop - start for start, stop in self.counted)

    def to_do(self) -> np.ndarray:
        """Return (n,) the numbers of the samples that are not counted, in order."""
        left = np.ones(len(self.ids), bool)
        for start, stop in self.counted:
            left[start:stop] = False
        return np.flatnonzero(left)

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.split}{suffix}"

    def _check_ids(self) -> None:
        repeated = [one for one, count in Counter(self.ids).items() if count > 1]
        if repeated:
            raise DataError(f"features of the {self.split} split: ids given twice: {some_of(repeated)}")
        if self.format == "per_video":
            bad = [one for one in self.ids if not one or len(id_to_name(one)) > _LONGEST_NAME]
            if bad:
                raise DataError(
                    f"features of the {self.split} split: ids that cannot be names of files (empty, or longer than "
                    f"{_LONGEST_NAME} bytes): {some_of(bad)}. Give the manifest an id column with shorter ids, or set "
                    "FEATURES.FORMAT memmap"
                )

    # ------------------------------------------------------------------------------------------ what is there before

    def _refuse(self, found: Mapping[str, Any], state: str) -> DataError:
        differ = [key for key in ("ids", "format", "shape", "dtype") if found.get(key) != self.identity[key]]
        old, new = found.get("meta"), self.identity["meta"]
        old = old if isinstance(old, dict) else {}
        differ += [f"meta.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        return DataError(
            f"{self.folder} holds {state} features of the {self.split} split of another extraction (another "
            f"{', '.join(differ)}): remove them, or choose another OUTPUT_DIR"
        )

    def _find_complete(self, overwrite: bool) -> bool:
        """Tell whether the same features are there already. Others are refused, or removed with ``overwrite``."""
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
            self.counted, self.complete = files.united([(0, len(self.ids))]), True
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
        """Tell whether an extraction of the same identity was interrupted here; then ``done`` is how far it came."""
        record = self._path(".json" + PARTIAL)
        if not record.exists():
            return False
        found = files.read_json(record)
        if found != self.identity:
            if not overwrite:
                raise self._refuse(found, "unfinished")
            return False
        self._read_counts()
        count, total = self.done, len(self.ids)
        last = self.counted[-1][1] if self.counted else 0
        there = self._rows.exists()
        if there and self.format != "per_video":
            there = self._rows.stat().st_size >= self._offset(last)
        # all counted and no rows: finish() renamed them before it was interrupted
        if last > total or not (there or count == total):
            raise DataError(
                f"{self._rows}: missing or shorter than the {count} of {total} features that were counted: remove "
                f"{self.folder / self.split}*{PARTIAL} and extract the features again"
            )
        self._join_counts()
        logger.info("%s features in %s: %d of %d are done", self.split, self.folder, count, total)
        return True

    def _shares(self) -> list[Path]:
        """Return the counts of other processes than the first."""
        return sorted(self.folder.glob(f"{glob.escape(self.split)}.count-*{PARTIAL}"))

    def _read_counts(self) -> None:
        """Take in what all processes have counted."""
        found = [files.read_count(path) for path in (self._path(".count" + PARTIAL), *self._shares())]
        self.counted = files.united(one for ranges, _ in found for one in ranges)
        absent = {sample_id for _, missing in found for sample_id in missing}
        self.missing = [sample_id for sample_id in self.ids if sample_id in absent] if absent else []
        self._own, self._own_missing = self.counted, self.missing

    def _join_counts(self) -> None:
        """Make one count of all processes' own."""
        shares = self._shares()
        if shares:
            self._count(self._own, self._own_missing)
            for path in shares:
                path.unlink()

    def try_missing_again(self) -> None:
        """Count the samples without a feature as still to be done. For the first process, before the others open."""
        if self.complete or not self.missing:
            return
        absent, left = set(self.missing), []
        for start, stop in self.counted:
            begin = start
            for row in range(start, stop):
                if self.ids[row] in absent:
                    left.append((begin, row))
                    begin = row + 1
            left.append((begin, stop))
        with files.disk_errors(self.folder):
            self._count(files.united(left), [])
        self.counted = self._own = files.united(left)
        self.missing = self._own_missing = []

    def join(self) -> None:
        """Take in what the other processes have written, once they have: for the first one, before :meth:`finish`."""
        if not self.complete:
            with files.disk_errors(self.folder):
                self._read_counts()
                self._join_counts()

    def _start(self) -> None:
        self._remove_partial()
        if self.format == "per_video":
            self._rows.mkdir()
        else:
            write_atomically(self._rows, self._header)
        self._count([], [])
        # last: an extraction exists from here on
        write_atomically(self._path(".json" + PARTIAL), json.dumps(self.identity).encode())

    def _remove_partial(self) -> None:
        for suffix in (".json", ".count", ".npy", ".npz"):
            self._path(suffix + PARTIAL).unlink(missing_ok=True)
        for path in self._shares():
            path.unlink(missing_ok=True)
        shutil.rmtree(self._path(PARTIAL), ignore_errors=True)

    def _remove_temporary(self) -> None:
        """Delete what a killed process was writing."""
        for left in (*self.folder.glob(f".{self._path('').name[:50]}*.tmp"), *self._path(PARTIAL).glob(".*.tmp")):
            left.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------- writing

    @property
    def _rows(self) -> Path:
        """The unfinished .npy, or the folder of them."""
        return self._path(PARTIAL if self.format == "per_video" else ".npy" + PARTIAL)

    @property
    def _header(self) -> bytes:
        return files.npy_header((len(self.ids), *self.shape), self.dtype)

    def _offset(self, row: int) -> int:
        """Return where a row begins in the .npy, in bytes."""
        return len(self._header) + row * math.prod(self.shape) * self.dtype.itemsize

    def write(self, start: int, features: Any) -> None:
        """Add the features of samples ``start``, ``start + 1``, ... and count them when they are on disk.

        Args:
            start: must be ``done``: features come in order; with a ``share``, whatever is not counted yet.
            features: (B, *sample_shape) array; with ``per_video`` a sequence of B arrays (windows, *sample_shape).
                None for a sample that has no feature (its clip cannot be read).

        Raises:
            DataError: values that are not finite (in the file's dtype), another shape, a full disk.
        """
        overlaps = any(start < stop and begin < start + len(features) for begin, stop in self.counted)
        if self.complete or (start != self.done if self.share is None else overlaps):
            raise ValueError(f"features from sample {start} on, where sample {self.done} of {len(self.ids)} comes next")
        if start + len(features) > len(self.ids):
            raise ValueError(f"{len(features)} features from sample {start} on, where there are {len(self.ids)}")
        blocks = [self._absent() if one is None else self._checked(start + n, one) for n, one in enumerate(features)]
        absent = [self.ids[start + n] for n, one in enumerate(features) if one is None]
        if not blocks:
            return
        span = (start, start + len(blocks))
        own, own_missing = files.united([*self._own, span]), self._own_missing + absent
        with files.disk_errors(self.folder):
            self._put(start, blocks)
            self._count(own, own_missing)
        self._own, self._own_missing = own, own_missing
        self.counted, self.missing = files.united([*self.counted, span]), self.missing + absent

    def _put(self, start: int, blocks: Sequence[np.ndarray]) -> None:
        """Write samples' rows, or their files."""
        if self.format == "per_video":
            for sample_id, block in zip(self.ids[start:], blocks, strict=False):
                data = files.npy_header(block.shape, self.dtype) + block.tobytes()
                write_atomically(self._rows / f"{id_to_name(sample_id)}.npy", data)
            return
        refuse_in_place(self._rows)
        with open(self._rows, "r+b") as file:
            file.seek(self._offset(start))  # rows that were written and not counted are written again
            file.write(b"".join(block.tobytes() for block in blocks))
            files.sync(file)

    def _count(self, ranges: list[tuple[int, int]], missing: list[str]) -> None:
        prefix = not ranges or (len(ranges) == 1 and ranges[0][0] == 0)
        done = (ranges[-1][1] if ranges else 0) if prefix else ranges
        name = f".count-{self.share:05d}" if self.share else ".count"
        write_atomically(self._path(name + PARTIAL), json.dumps([done, missing]).encode())

    def _absent(self) -> np.ndarray:
        """Return what stands in the file for a sample without a feature: NaN, or no window."""
        return self._as_stored(np.full((0, *self.shape) if self.format == "per_video" else self.shape, np.nan))

    def _as_stored(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers in the file's form."""
        if self.identity["dtype"] == "bfloat16":
            return files.to_bfloat16(numbers)
        return np.ascontiguousarray(numbers, self.dtype)

    def _checked(self, index: int, feature: Any) -> np.ndarray:
        """Return one sample's feature in the file's dtype; refused where that shape or dtype does not hold it."""
        given = _as_array(self.ids[index], feature)
        shape = given.shape[1:] if self.format == "per_video" else given.shape
        if shape != self.shape:
            raise DataError(
                f"the feature of {self.ids[index]} is {given.shape}, where {self.shape} is expected: do the clips "
                "differ in size? Features need one size: set FEATURES.LAYER pooled, or crop the clips alike"
            )
        with np.errstate(over="ignore"):
            block = self._as_stored(given)
            back = files.from_bfloat16(block) if self.identity["dtype"] == "bfloat16" else block
        if not np.isfinite(back).all():
            finite = bool(np.isfinite(given).all())
            way_out = "set FEATURES.DTYPE float32" if finite else "the model's weights or the clip are at fault"
            raise DataError(f"the feature of {self.ids[index]} is not finite in {self.identity['dtype']}: {way_out}")
        return block

    def check_space(self) -> str:
        """Say what all features take and how much the disk has left.

        Raises DataError where what is still to be written is more than that.
        """
        total = self._offset(len(self.ids)) if self.format != "per_video" else 0
        left = total - self._offset(self.done)
        if self.format == "npz":
            left += total  # rows are packed once all are there
        with files.disk_errors(self.folder):
            free = shutil.disk_usage(self.folder).free
        if left > free and not self.complete:
            raise DataError(
                f"{self.folder}: features of the {self.split} split are {total / 1e9:.2f} GB, {left / 1e9:.2f} GB "
                f"are to be written, {free / 1e9:.2f} GB are free: free some, choose another OUTPUT_DIR, or store less "
                "(FEATURES.DTYPE float16, FEATURES.TOKENS grid, fewer FEATURES.AUGMENTED_VIEWS)"
            )
        return f"{total / 1e9:.3g} GB, {free / 1e9:.3g} GB are free"

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
                write_atomically(self._path(".json"), json.dumps(record).encode())
            self._remove_partial()
        self.complete = True


def _as_array(sample_id: str, feature: Any) -> np.ndarray:
    """Return a feature's numbers; tensors without their gradients, those of a type that NumPy has not as float32,
    exactly."""
    if hasattr(feature, "detach"):  # a tensor, whose library is not imported for arrays
        feature = feature.detach().cpu()
        feature = feature.float() if feature.is_floating_point() and feature.element_size() < 4 else feature
        feature = feature.numpy()
    given = np.asarray(feature)
    if given.dtype.kind not in "fiub":
        raise DataError(f"the feature of {sample_id} is {given.dtype}: features are real numbers")
    return given
