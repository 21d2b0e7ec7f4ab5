"""What groups of classes are made from: lists of names, confusion matrices, a test's predictions."""

import csv
import os
from pathlib import Path

import numpy as np

from dust.utils.errors import DataError


def read_names(path: str | os.PathLike) -> list[str]:
    """One class name per line, each once, in the classes' order."""
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise DataError(f"{path}: must hold one class name per line, none of them empty or twice")
    return names


def read_confusion(path: str | os.PathLike) -> np.ndarray:
    """(K, K) of a .npy file, or of a csv of numbers without a header."""
    try:
        if Path(path).suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is no matrix of numbers: {error}") from error


def read_predictions(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """The class names and the (K, K) confusion counts of a ``predictions.csv`` that a test wrote."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = [name.removeprefix("prob_") for name in reader.fieldnames or () if name.startswith("prob_")]
            pairs = [(row["label"], row["prediction"]) for row in reader]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
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
