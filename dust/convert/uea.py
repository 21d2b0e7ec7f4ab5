"""Data sets of the UEA and UCR archives (https://www.timeseriesclassification.com) in their .ts form, for series."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dust.convert.splits import make_folder, refuse_overwriting
from dust.datasets.manifest.labels import CLASS_LIST
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text, replacing, write_csv, write_text

#: Split -> how the archive ends a file's name. Its test list is all that there is beside training.
SPLITS = {"train": "_TRAIN.ts", "test": "_TEST.ts"}


@dataclass
class Converted:
    """What was written: samples by split, and what all series have."""

    counts: dict[str, int] = field(default_factory=dict)
    channels: int = 0
    lengths: tuple[int, int] = (0, 0)
    classes: int = 0


def convert_uea(root: str, out: str, *, force: bool = False) -> Converted:
    """Write train.csv and test.csv of ``id,label,series``, classes.txt, and a .npy (channels, length) for each series.

    Args:
        root: the folder of one data set, with ``NAME_TRAIN.ts`` and ``NAME_TEST.ts``.
        out: where they go.
        force: replace lists that are there.

    Raises:
        DataError: files that are missing or no such data; with all that is wrong in them.
    """
    target, done = Path(out).expanduser(), Converted()
    refuse_overwriting(target, ("train.csv", "test.csv", CLASS_LIST), force)
    read = {split: read_ts(_file_of(root, ending)) for split, ending in SPLITS.items()}
    names = sorted({label for samples in read.values() for _, label in samples})
    widths = {series.shape[0] for samples in read.values() for series, _ in samples}
    if len(widths) > 1:
        raise DataError(f"{root}: series of {', '.join(map(str, sorted(widths)))} channels: they must be alike")
    points = [series.shape[1] for samples in read.values() for series, _ in samples]
    make_folder(target / "series")
    for split, samples in read.items():
        rows = []
        for number, (series, label) in enumerate(samples):
            name = f"{split}_{number:05d}"
            with replacing(target / "series" / f"{name}.npy", durable=False, suffix=".npy") as temporary:
                np.save(temporary, series)
            rows.append([name, label, f"series/{name}.npy"])
        write_csv(target / f"{split}.csv", ["id", "label", "series"], rows)
        done.counts[split] = len(rows)
    write_text(target / "classes.txt", "".join(f"{name}\n" for name in names))
    done.channels, done.lengths, done.classes = widths.pop(), (min(points), max(points)), len(names)
    return done


def _file_of(root: str, ending: str) -> Path:
    folder = Path(root).expanduser()
    found = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{root}: needs one file *{ending} of the archive, and there is: {names}")
    return found[0]


def read_ts(path: Path) -> list[tuple[np.ndarray, str]]:
    """Return the series (C, L) float32 and their labels; NaN where a value is ``?``.

    Raises:
        DataError: with all lines that are no series of as many channels as the others, with a label.
    """
    lines = read_text(path).splitlines()
    start = next((number for number, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise DataError(f"{path}: no line @data, so it is no .ts file")
    facts = dict(re.findall(r"^@(\w+)\s+(\S+)", "\n".join(lines[:start]).lower(), re.MULTILINE))
    if facts.get("timestamps") == "true" or facts.get("classlabel", "true") != "true":
        raise DataError(f"{path}: only series without time stamps and with @classLabel true are read")
    samples, problems = [], Problems()
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line.strip() or line.startswith("#"):
            continue
        *channels, label = line.strip().split(":")
        try:
            rows = [[float("nan" if cell.strip() == "?" else cell) for cell in row.split(",")] for row in channels]
            samples.append((np.array(rows, np.float32), label.strip()))
        except ValueError as error:
            problems.add("a line that is not channels of numbers, as many in each, and a label", f"{number}: {error}")
            continue
        if not channels or not label.strip():
            problems.add("a line without a series or without a label", str(number))
    problems.raise_if_any(str(path))
    if not samples:
        raise DataError(f"{path}: no series behind @data")
    return samples
