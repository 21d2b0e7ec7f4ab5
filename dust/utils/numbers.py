"""Arguments of public functions as numbers: lists, arrays and tensors alike, with an error that names what is none."""

from typing import Any

import numpy as np

from dust.utils.errors import ArgumentError, DataError


def as_numbers(name: str, values: Any, *, ndim: int | None = None) -> np.ndarray:
    """Return an array of real numbers from a list, an array or a tensor (whatever its device, type and gradients).

    Raises:
        DataError: something else, or other than ``ndim`` axes.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(f"{name}: a masked array; every number is needed")
    try:
        if hasattr(values, "detach"):  # a tensor; NumPy has no bfloat16
            values = values.detach().cpu()
            values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name}: rows of different lengths, or no numbers ({error})") from error
    if array.size == 0 and array.dtype == float and ndim is not None:
        array = array.reshape((0,) * ndim) if array.ndim < ndim else array
    if array.dtype.kind not in "fiub" or (ndim is not None and array.ndim != ndim):
        axes = "" if ndim is None else f" with {ndim} axes"
        raise DataError(f"{name}: {array.dtype} of shape {array.shape}; real numbers{axes} are needed")
    return array


def as_classes(name: str, values: Any, num_classes: int | None = None) -> np.ndarray:
    """Return class numbers (N,) int64 from a list, an array or a tensor.

    Args:
        num_classes: they must be below it; None: any from 0 on.

    Raises:
        DataError: fractions, NaN, or numbers that are none of the classes.
    """
    array = as_numbers(name, values, ndim=1)
    wrong = array[~(np.isfinite(array) & (array == np.round(array)))] if array.dtype.kind == "f" else array[:0]
    if len(wrong):
        raise DataError(f"{name}: {wrong[0]} is no class number")
    wrong = array[(array < 0) | (array >= (np.inf if num_classes is None else num_classes))]
    if len(wrong):
        known = "classes, which count from 0" if num_classes is None else f"{num_classes} classes that have scores"
        raise DataError(f"{name} {int(wrong[0])} is none of the {known}")
    return array.astype(np.int64)


def as_samples(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (N, K) and labels as arrays: (N,) class numbers, or (N, K) numbers of several classes.

    Raises:
        DataError: what :func:`as_numbers` and :func:`as_classes` refuse, or other shapes.
    """
    scores, labels = as_numbers("scores", scores, ndim=2), as_numbers("labels", labels)
    if labels.shape not in (scores.shape, scores.shape[:1]):
        raise DataError(f"scores of shape {scores.shape} and labels of shape {labels.shape}: both are of N samples")
    return scores, as_classes("label", labels, scores.shape[1]) if labels.ndim == 1 else labels


def as_figures(name: str, values: Any) -> np.ndarray:
    """Return numbers (N,), all of them finite. DataError for others."""
    array = as_numbers(name, values, ndim=1)
    if not np.isfinite(array).all():
        raise DataError(f"{name}: {int((~np.isfinite(array)).sum())} of {len(array)} are not finite")
    return array


def length_of(value: Any) -> int:
    """Return how many it holds; -1 for what holds nothing, such as a number."""
    try:
        return len(value)
    except TypeError:
        return -1


def whole(name: str, value: Any, *, low: int | None = None) -> int:
    """Return a whole number, also given as a float without a fraction.

    Raises:
        ArgumentError: a fraction, NaN, no number, or one below ``low``.
    """
    try:
        number = int(value)
        exact = number == value
    except (TypeError, ValueError, OverflowError):
        number, exact = 0, False
    if not exact or isinstance(value, str):
        raise ArgumentError(f"{name} is {value!r}: it must be a whole number")
    if low is not None and number < low:
        raise ArgumentError(f"{name} is {number}: it must be at least {low}")
    return number


def finite(name: str, value: Any, *, above: float | None = None) -> float:
    """Return a finite number.

    Raises:
        ArgumentError: NaN, infinity, no number, or one that is not more than ``above``.
    """
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} is {value!r}: it must be a number") from error
    if not np.isfinite(number) or (above is not None and number <= above):
        raise ArgumentError(f"{name} is {value}: it must be finite" + ("" if above is None else f" and above {above}"))
    return number
