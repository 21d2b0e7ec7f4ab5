"""What the decoders are given, frame by frame: checked, as plain numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dust.procedure.table import State
from dust.utils.errors import DataError
from dust.utils.numbers import as_numbers, length_of, whole


def check_detections(frame: int, detections: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return (class, confidence) of one frame. DataError for a frame that is no whole number, and what is NaN or no
    pair."""
    whole("frame", frame, low=0)
    table = as_numbers(f"detections of frame {frame}", detections, ndim=2)
    if len(table) and (table.shape[1] != 2 or not np.isfinite(table).all() or (table[:, 0] % 1).any()):
        raise DataError(f"detections of frame {frame} are {table.tolist()}: they are pairs (class, confidence 0..1)")
    return [(int(number), float(confidence)) for number, confidence in table]


def check_window(frame: int, digits: Sequence[int], confidences: Sequence[float], components: int) -> list[np.ndarray]:
    """Return digits and confidences of the window that ends in ``frame``. DataError for other lengths, digits that are
    neither 0 nor 1, confidences that are not finite, and a frame that is no whole number."""
    whole("frame", frame, low=0)
    arrays = [as_numbers(f"window that ends in frame {frame}", values, ndim=1) for values in (digits, confidences)]
    if not len(arrays[0]) == len(arrays[1]) == components:
        raise DataError(
            f"the window that ends in frame {frame} has {len(arrays[0])} digits and {len(arrays[1])} confidences; "
            f"the procedure has {components} components"
        )
    if not np.isin(arrays[0], (0, 1)).all() or not np.isfinite(arrays[1]).all():
        raise DataError(
            f"the window that ends in frame {frame} has digits {arrays[0].tolist()} and confidences "
            f"{arrays[1].tolist()}: digits are 0 or 1, confidences numbers from 0 to 1"
        )
    return arrays


def check_windows(windows: Sequence[Any]) -> None:
    """Raise DataError unless each is (its last frame, digits, confidences)."""
    wrong = [one for one in windows if length_of(one) != 3]
    if wrong:
        raise DataError(f"a window is {wrong[0]!r}; it must be (its last frame, digits, confidences)")


def check_states(states: Mapping[int, State]) -> int:
    """Return how many components the states have. DataError for none, or for different ones."""
    lengths = sorted({len(state) for state in states.values()})
    if len(lengths) != 1 or lengths[0] == 0:
        raise DataError(f"the object detector's states have {lengths or 'no'} components: all have the same number")
    return lengths[0]
