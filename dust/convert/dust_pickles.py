"""DUST's own files, from https://github.com/datadrivenwheels/DUST (MIT), as our csv lists and memory-mapped arrays.

DUST keeps a split, train or val, as bare NumPy arrays, pickled, which belong together by row number only:
``video_{split}.pkl`` (N, 3, T, H, W), ``kine_{split}.pkl`` (N, channels, time points), ``label_{split}.pkl`` (N,); its
stage 3 adds ``video_features/{split}_3d_features.pkl`` (N, 1024). All are read by ``safe_pickle``: nothing in them is
run, and a large array passes through memory a block, or one sample, at a time.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dust.convert.safe_pickle import PickledArray, read_pickled_array
from dust.convert.splits import refuse_overwriting
from dust.utils.errors import SHOWN, DataError, Problems
from dust.utils.features import FeatureWriter
from dust.utils.features.formats import npy_header
from dust.utils.files import replacing, sha256_of_file, write_csv

logger = logging.getLogger(__name__)

PICKLED = ("train", "val")
WRITTEN = {"train": "train", "val": "val", "test": "val"}  # a split of ours: the one of DUST's that it comes from
FILES = {"video": "video_{}.pkl", "series": "kine_{}.pkl", "label": "label_{}.pkl"}
AXES = {
    "video": ("samples", "3 channels", "frames", "height", "width"),
    "series": ("samples", "channels", "time points"),
    "label": ("samples",),
    "features": ("samples", "channels"),
}
FEATURES = "{}_3d_features.pkl"  # in video_features/
WEIGHTS = {
    "step_3d/final_3d.pth": "FEATURES.CHECKPOINT_FILE_PATH {0} extracts features with these weights, MODEL.PRETRAINED "
    "{0} trains on from them (the model of configs/DUST/stage1_video.yaml)",
    "step_1d/final_1d.pth": "FUSION.SERIES_FROM {0} starts the fusion from these weights (the 190 M model of "
    "configs/DUST_paper)",
}
DTYPES = ("float32", "float16", "uint8")
SHUFFLED = (
    "DUST's stage 3 wrote the rows of the training split in random order (its loader had shuffle=True), so that they "
    "belong to other samples than the labels and the series of the same row"
)
_UNUSABLE = "a pickle that cannot be used"
_ADVICE = {
    "NaN": "values that are NaN: repair them, or, in a series, give --allow-missing to keep them as missing values",
    "infinite": "values that are infinite: repair them",
    "changed": "values that {} cannot hold: choose another --dtype",
}


@dataclass
class DustConversion:
    """``counts``: samples per split. ``classes``: labels are 0 to classes - 1. ``shapes``: of one sample, by modality.
    ``notes``: what a person should know."""

    counts: dict[str, int]
    classes: int
    shapes: dict[str, tuple[int, ...]]
    notes: list[str]


@dataclass
class _Source:
    """What DUST's folder holds, by (kind, split) or by split, and all that is wrong with it."""

    data: Path
    weights: Path
    arrays: dict[tuple[str, str], PickledArray] = field(default_factory=dict)
    features: dict[str, PickledArray] = field(default_factory=dict)
    labels: dict[str, list[int]] = field(default_factory=dict)
    classes: int = 0
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)

    @property
    def modalities(self) -> list[str]:
        return [kind for kind in ("video", "series") if any((kind, split) in self.arrays for split in PICKLED)]


def convert_dust(
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    dtype: str = "float32",
    weights: str | os.PathLike = "",
    assume_order: bool = False,
    allow_missing: bool = False,
    force: bool = False,
) -> DustConversion:
    """Write ``out/{train,val,test}.csv`` and, for what there is, ``out/{video,series}_{train,val}.npy``.

    A csv has the columns id, label and, where there are such arrays, video and series: ``video_train.npy#0`` is row 0.
    DUST has no test split: test.csv is val.csv again.

    Args:
        root: DUST's folder, which holds ``data/*.pkl``, or the folder of the pickles.
        out: folder to write to.
        dtype: of the videos' numbers, one of DTYPES; uint8 only where it changes no value. Series are float32.
        weights: DUST's ``saved_models``; "" looks beside ``data``. Its files are mentioned in the notes, not copied.
        assume_order: also convert stage 3's features to ``out/features``, trusting that row i is sample i.
        allow_missing: keep NaN in a series, as a missing value.
        force: replace files of these names.

    Raises:
        DataError: with everything that is wrong. Nothing is written then.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise DataError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    source = _read_source(Path(root), weights, assume_order)
    names = [f"{kind}_{split}.npy" for kind in source.modalities for split in PICKLED]
    names += [f"{split}.csv" for split in WRITTEN]
    if source.features:
        names += [f"features/{split}.{ending}" for split in WRITTEN for ending in ("npy", "json")]
    refuse_overwriting(out, names, force)
    try:
        _write_arrays(source, out, dtype, allow_missing)
        if source.features:
            _write_features(source, out / "features", force)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from error
    for split, origin in WRITTEN.items():
        _write_csv(out / f"{split}.csv", source, origin)
    source.notes.append("test.csv is val.csv again: DUST has no test split")
    return DustConversion(
        counts={split: len(source.labels[origin]) for split, origin in WRITTEN.items()},
        classes=source.classes,
        shapes={kind: source.arrays[kind, "train"].shape[1:] for kind in source.modalities},
        notes=source.notes,
    )


# --- what is there ------------------------------------------------------------------------------------------------


def _read_source(root: Path, weights: str | os.PathLike, assume_order: bool) -> _Source:
    """Return everything but the numbers of videos, series and features."""
    home, data = _folders(root)
    source = _Source(data, Path(weights or home / "saved_models"))
    _open_arrays(source)
    _read_labels(source)
    _open_features(source, home / "video_features", assume_order)
    _note_weights(source, asked=bool(weights))
    if not source.modalities and not source.features and not source.problems.kinds:
        source.problems.add("neither video_*.pkl nor kine_*.pkl: there is nothing to learn from", str(data))
    return source


def _folders(root: Path) -> tuple[Path, Path]:
    """Return (DUST's folder, the folder of its pickles)."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder: --root is DUST's folder, which holds data/*.pkl")
    wanted = [pattern.format(split) for pattern in FILES.values() for split in PICKLED]
    beside = any((root / name).is_dir() for name in ("saved_models", "video_features"))
    for home, data in ((root, root / "data"), (root if beside else root.absolute().parent, root)):
        if any((data / name).exists() for name in wanted):
            return home, data
    raise DataError(f"{root}: neither it nor its folder data holds any of {', '.join(wanted)}")


def _open_arrays(source: _Source) -> None:
    """Find the arrays of each kind, which is there for both splits or, unless it is the labels, for none."""
    for kind, pattern in FILES.items():
        paths = {split: source.data / pattern.format(split) for split in PICKLED}
        if kind != "label" and not any(path.exists() for path in paths.values()):
            continue
        for split, path in paths.items():
            array = _open(path, kind, source.problems)
            if array:
                source.arrays[kind, split] = array
        _check_alike([source.arrays[kind, split] for split in PICKLED if (kind, split) in source.arrays], source)
    for split in PICKLED:
        arrays = [source.arrays[kind, split] for kind in FILES if (kind, split) in source.arrays]
        if len({array.shape[0] for array in arrays}) > 1:
            counts = "; ".join(f"{array.path}: {array.shape[0]}" for array in arrays)
            source.problems.add("arrays of one split differ in their number of samples", counts)


def _open(path: Path, kind: str, problems: Problems) -> PickledArray | None:
    axes = AXES[kind]
    if not path.exists():
        problems.add("a pickle is missing", f"{path} ({', '.join(axes)})")
        return None
    try:
        array = read_pickled_array(path)
    except DataError as error:
        problems.add(_UNUSABLE, str(error))
        return None
    if len(array.shape) != len(axes) or (kind == "video" and array.shape[1] != 3):
        problems.add(f"another shape than ({', '.join(axes)})", f"{path}: {array.shape}")
        return None
    return array


def _check_alike(arrays: list[PickledArray], source: _Source) -> None:
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = "; ".join(f"{array.path}: {array.shape[1:]}" for array in arrays)
        source.problems.add("samples of train and val differ in shape", shapes)


def _read_labels(source: _Source) -> None:
    for split in PICKLED:
        array = source.arrays.get(("label", split))
        if array is None:
            continue
        if array.dtype.kind not in "iu":
            source.problems.add("labels that are not integers 0, 1, 2, ...", f"{array.path}: {array.dtype}")
            continue
        try:
            labels = source.labels[split] = array.load().tolist()
        except DataError as error:
            source.problems.add(_UNUSABLE, str(error))
            continue
        if split == "train":
            source.classes = max(labels) + 1
        for row, label in enumerate(labels):
            if label < 0:
                source.problems.add("labels below 0: they count from 0", f"{array.path}: row {row}: {label}")
            elif "train" in source.labels and label >= source.classes:
                source.problems.add("labels above the largest of train", f"{array.path}: row {row}: {label}")
        used = set(labels)
        if absent := source.classes - len(used):
            first = [label for label in range(min(source.classes, len(used) + SHOWN)) if label not in used][:SHOWN]
            source.notes.append(f"{split} has no sample of {absent} of {source.classes} classes, such as {first}")


def _open_features(source: _Source, folder: Path, assume_order: bool) -> None:
    """Find stage 3's arrays, if they are wanted; else note why they are left aside."""
    paths = {split: folder / FEATURES.format(split) for split in PICKLED}
    if not assume_order:
        if any(path.exists() for path in paths.values()):
            source.notes.append(
                f"the features in {folder} are not used: they carry no ids, and {SHUFFLED}. Extract them again "
                "(stage 3), or give --assume-order if you wrote them in order"
            )
        return
    for split, path in paths.items():
        array = _open(path, "features", source.problems)
        if not array:
            continue
        source.features[split] = array
        if split in source.labels and array.shape[0] != len(source.labels[split]):
            counts = f"{path}: {array.shape[0]}; labels: {len(source.labels[split])}"
            source.problems.add("features of another number of samples", counts)
    _check_alike(list(source.features.values()), source)
    logger.warning("WARNING: row i of the features in %s is taken for sample i (--assume-order). %s", folder, SHUFFLED)


def _note_weights(source: _Source, asked: bool) -> None:
    paths = {source.weights / name: text for name, text in WEIGHTS.items() if (source.weights / name).is_file()}
    if asked and not paths:
        source.problems.add(f"--weights holds none of {', '.join(WEIGHTS)}", str(source.weights))
    source.notes += [f"{path} loads as it is: {text.format(path)}" for path, text in paths.items()]


# --- writing ------------------------------------------------------------------------------------------------------


def _write_arrays(source: _Source, out: Path, dtype: str, allow_missing: bool) -> None:
    """Check every number, and put the arrays in place if nothing at all is wrong."""
    with contextlib.ExitStack() as puts:
        for (kind, split), array in source.arrays.items():
            if kind == "label":
                continue
            kept = np.dtype(dtype if kind == "video" else np.float32)
            target = None
            if not source.problems.kinds:
                target = puts.enter_context(replacing(out / f"{kind}_{split}.npy"))
            _copy(source, array, target, kept, allow_missing and kind == "series")
        for array in source.features.values():
            _copy(source, array, None, np.dtype(np.float32), allow_missing=False)
        source.problems.raise_if_any(str(source.data))


def _copy(source: _Source, array: PickledArray, target: Path | None, dtype: np.dtype, allow_missing: bool) -> None:
    """Check every number and, with a target, write the array there as .npy of ``dtype``."""
    missing: list[int] = []  # values, of each sample that lacks any
    with contextlib.ExitStack() as stack:
        file = None
        if target:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(target, "wb"))
            file.write(npy_header(array.shape, dtype))
        try:
            for first, rows in array.blocks():
                with np.errstate(over="ignore", invalid="ignore"):
                    cast = rows.astype(dtype, order="C")
                for row, kind, count in _bad_values(rows, cast):
                    if kind == "NaN" and allow_missing:
                        missing.append(count)
                        continue
                    case = f"{array.path}: sample {first + row}: {count} values"
                    source.problems.add(_ADVICE[kind].format(dtype), case)
                if file:
                    file.write(cast.data)
        except DataError as error:
            source.problems.add(_UNUSABLE, str(error))
    if missing:
        listed = f"{sum(missing)} values are missing (NaN), in {len(missing)} samples"
        source.notes.append(f"{array.path}: {listed}: set SERIES.MISSING")


def _bad_values(rows: np.ndarray, cast: np.ndarray) -> Iterator[tuple[int, str, int]]:
    """Yield (row, what is wrong, how many values) of the rows whose values are NaN, infinite, or lost by the cast."""
    finite = np.isfinite(rows)
    if cast.dtype.kind == "f":
        lost = finite & ~np.isfinite(cast)
    else:
        lost = finite & (cast != rows)
    if finite.all() and not lost.any():
        return
    nan = np.isnan(rows)
    for kind, where in (("NaN", nan), ("infinite", ~finite & ~nan), ("changed", lost)):
        counts = where.reshape(len(rows), -1).sum(axis=1)
        for row in np.flatnonzero(counts):
            yield int(row), kind, int(counts[row])


def _ids(split: str, count: int) -> list[str]:
    return [f"{split}_{row:06d}" for row in range(count)]


def _write_csv(path: Path, source: _Source, origin: str) -> None:
    labels = source.labels[origin]
    rows = (
        (name, label, *(f"{kind}_{origin}.npy#{row}" for kind in source.modalities))
        for row, (name, label) in enumerate(zip(_ids(origin, len(labels)), labels, strict=True))
    )
    write_csv(path, ("id", "label", *source.modalities), rows)


def _write_features(source: _Source, folder: Path, force: bool) -> None:
    """Store the features as the stage that extracts them does."""
    checkpoint = source.weights / "step_3d/final_3d.pth"
    meta = {"checkpoint_sha256": sha256_of_file(checkpoint) if checkpoint.is_file() else "", "layer": "pooled"}
    meta["source"] = "DUST's feature pickle, in its order"
    for split, origin in WRITTEN.items():
        array = source.features[origin]
        told = meta | {"source_sha256": sha256_of_file(array.path)}
        ids = _ids(origin, array.shape[0])
        writer = FeatureWriter(folder, split, ids, array.shape[1:], "float32", told, overwrite=force)
        for first, rows in array.blocks():
            fresh = rows[max(0, writer.done - first) :]  # an interrupted conversion continues where it was
            if len(fresh):
                writer.write(writer.done, fresh.astype(np.float32))
        writer.finish()
