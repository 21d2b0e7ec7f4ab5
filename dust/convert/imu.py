"""Accelerometer and gyroscope beside each clip of a list: one series per clip, in a csv of several modalities."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dust.convert.splits import make_folder, written_path
from dust.datasets.manifest.manifest import SPLITS, Clip, Manifest
from dust.datasets.manifest.table import read_table
from dust.datasets.multimodal.series import GAP, Series, count_channels, read_series, resample
from dust.utils.errors import ConfigError, DataError, Problems, SampleError
from dust.utils.files import file_stems, replacing, write_csv

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DEFAULT = "{stem}_acc.csv,{stem}_gyro.csv"
FOLDER = "series"


def read_imu(manifests: Mapping[str, Manifest], files: str = DEFAULT, unit: str = "s") -> dict[str, Series]:
    """Return {path of a clip: its sensors' values, channels (C, L), those of the files one behind the other}.

    Sensors of other rates are brought to the times of the first file, as far as all of them reach, by linear
    interpolation; rows are put in the order of their times, and those of one time averaged. Without times the files
    must be of one length.

    Args:
        files: names of the files of one clip, relative to its folder, with commas between; {stem} is the clip's name
            without suffix, {folder} that of its folder.
        unit: of the files' times: s | ms | us | ns.

    Raises:
        ConfigError: a name with something else in braces, or an unknown unit.
        DataError: with every file that is missing or cannot be used.
    """
    patterns = [name.strip() for name in files.split(",") if name.strip()]
    try:
        wrong = [name for name in patterns if name.format(stem="a", folder="b") == name]
    except (KeyError, IndexError, ValueError):
        wrong = patterns
    if wrong or not patterns:
        raise ConfigError(
            f"--imu-files {files!r}: names with {{stem}} or {{folder}} in them, commas between: {DEFAULT}"
        )
    if unit not in UNITS:
        raise ConfigError(f"--imu-time {unit!r}: one of {', '.join(UNITS)}")
    problems, found, counts = Problems(), {}, [0] * len(patterns)
    for clip in _clips(manifests):
        paths = [_beside(clip.path, pattern) for pattern in patterns]
        missing = [path for path in paths if not os.path.isfile(path)]
        for path in missing:
            problems.add("sensors that are not there: say what their files are called with --imu-files", path)
        if missing:
            continue
        try:
            counts = [count or count_channels(path) for count, path in zip(counts, paths, strict=True)]
            parts = [read_series(path, count, mend=True) for path, count in zip(paths, counts, strict=True)]
            found[clip.path] = _joined(parts, paths, UNITS[unit])
        except SampleError as error:
            problems.add(error.reason, f"{error.path} ({error.detail})")
    problems.raise_if_any("the sensors")
    return found


def _clips(manifests: Mapping[str, Manifest]) -> Iterable[Clip]:
    return (clip for manifest in manifests.values() for clip in manifest.clips)


def _beside(clip: str, pattern: str) -> str:
    folder, name = os.path.split(clip)
    written = pattern.format(stem=os.path.splitext(name)[0], folder=os.path.basename(folder))
    return os.path.normpath(os.path.join(folder, written))


def _joined(parts: Sequence[Series], paths: Sequence[str], unit: float) -> Series:
    """Return all channels on the times of the first part. SampleError where they have none in common."""
    timed = [(part.values, part.times * unit) for part in parts if part.times is not None]
    if not timed:
        lengths = {part.values.shape[1] for part in parts}
        if len(lengths) > 1:
            reason = "sensors without times, of different lengths: nobody knows which values belong together"
            raise SampleError(paths[0], reason, " and ".join(map(str, sorted(lengths))))
        return Series(np.concatenate([part.values for part in parts]))
    if len(timed) < len(parts):
        raise SampleError(paths[0], "some of its sensors have times and others none", ", ".join(paths))
    first = max(times[0] for _, times in timed)
    last = min(times[-1] for _, times in timed)
    axis = timed[0][1][(timed[0][1] >= first) & (timed[0][1] <= last)]
    if len(axis) < 2 or any(len(times) < 2 for _, times in timed):
        ranges = ", ".join(f"{times[0]:g} to {times[-1]:g} s" for _, times in timed)
        raise SampleError(paths[0], "its sensors have no time in common: correct their times or --imu-time", ranges)
    values = []
    for part, times in timed:
        own = times is timed[0][1] and len(axis) == len(times)
        # across a gap nothing is invented: these values are missing, and a series that may lack none is refused later
        values.append(part if own else resample(part, times, axis, GAP * float(np.median(np.diff(times)))))
    return Series(np.concatenate(values), axis - axis[0])


def write_imu(
    out: str | os.PathLike, manifests: Mapping[str, Manifest], found: Mapping[str, Series], relative_to: str = ""
) -> int:
    """Make lists of several modalities (id, label, video, series, group) of those that :func:`write_splits` wrote in
    ``out``, and ``out/series/*.npz`` of what :func:`read_imu` found. Returns the number of channels.

    Raises:
        DataError: files that cannot be written.
    """
    out = Path(out)
    clips = {written_path(clip.path, out, relative_to): clip for clip in _clips(manifests)}
    stems = dict(zip(clips, file_stems([clip.id for clip in clips.values()]), strict=True))
    make_folder(out / FOLDER)
    for split in SPLITS:
        if not (out / f"{split}.csv").is_file():
            continue
        rows = []
        for _, _, cells in read_table(out / f"{split}.csv", Problems()).rows:
            clip, file = clips[cells["path"]], f"{FOLDER}/{stems[cells['path']]}.npz"
            series = found[clip.path]
            arrays = {"series": series.values} | ({} if series.times is None else {"time": series.times})
            try:
                with replacing(out / file, durable=False) as temporary, open(temporary, "wb") as stream:
                    np.savez(stream, **arrays)  # type: ignore[arg-type]
            except OSError as error:
                raise DataError(f"{out / file}: cannot be written: {error.strerror or error}") from error
            # the series lie beside the csv, whatever folder the videos are relative to
            place = file if not relative_to else os.path.abspath(out / file)
            rows.append([clip.id, cells["label"], cells["path"], place, clip.group])
        write_csv(out / f"{split}.csv", ["id", "label", "video", "series", "group"], rows)
    return len(next(iter(found.values())).values)
