"""What groups of classes are made from: lists of names, confusion matrices, a test's predictions."""

import csv
import io
import os
from pathlib import Path

import numpy as np

from dust.utils.arrays import read_npy
from dust.utils.errors import DataError
from dust.utils.files import read_text
from dust.utils.text import csv_value


def read_names(path: str | os.PathLike) -> list[str]:
    """Read one class name per line, each once, in the classes' order."""
    names = read_text(path).removesuffix("\n").split("\n")
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise DataError(f"{path}: must hold one class name per line, none of them empty or twice")
    return names


def read_confusion(path: str | os.PathLike) -> np.ndarray:
    """Return (K, K) of a .npy file, or of a csv of numbers without a header."""
    if Path(path).suffix == ".npy":
        return read_npy(path)
    lines = read_text(path).split("\n")
    try:
        return np.loadtxt(lines, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DataError(f"{path}: is no matrix of numbers: {error}") from error


def read_predictions(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Return the class names and the (K, K) confusion counts of a ``predictions.csv`` that a test wrote."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        names = [name.removeprefix("prob_") for name in reader.fieldnames or () if name.startswith("prob_")]
        pairs = [(csv_value(row["label"] or ""), csv_value(row["prediction"] or "")) for row in reader]
    except (KeyError, csv.Error) as error:
        raise DataError(f"{path}: is no predictions.csv of a test: {error!r}") from error
    place = {name: index for index, name in enumerate(names)}
    unknown = sorted({name for pair in pairs for name in pair if name not in place})
    if unknown or not pairs:
        what = f"labels or predictions that are no single class: {', '.join(unknown[:10])!r}" if unknown else "no rows"
        raise DataError(f"{path}: {what}; a single-label test with labels is needed")
    matrix = np.zeros((len(names), len(names)))
    for label, prediction in pairs:
        matrix[place[label], place[prediction]] += 1
    return names, matrix
