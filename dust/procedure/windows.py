"""The one rule of windows over a recording: which frames make a window, which windows there are, and their labels.

Key-clip aware labels of STORM-PSR (https://arxiv.org/abs/2510.12385). Pure functions: frames count from 0, a window of
N frames skips ``skip`` frames between two of them and so spans (N - 1) * (skip + 1) + 1 frames, and its output belongs
to its last frame.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dust.utils.errors import ConfigError, DataError
from dust.utils.numbers import as_numbers, length_of, whole

EXE_MODES = ("no_error", "errors", "mistakes")
PHASES = ("first", "all")
States = Sequence[tuple[int, Sequence[int]]]
WRONGLY = " put on wrongly"


def components_of(outputs: Sequence[str]) -> list[str]:
    """Return the components of :func:`output_names` in ``mistakes``."""
    return list(outputs[: len(outputs) // 2])


def output_names(components: Sequence[str], exe_mode: str) -> list[str]:
    """Return what a model says of a window, one probability each: that a component changed, and in ``mistakes`` behind
    all of these that one was put on wrongly."""
    return [*components, *(f"{name}{WRONGLY}" for name in components)] if exe_mode == "mistakes" else list(components)


def window_span(num_frames: int, skip: int) -> int:
    """Return the frames from a window's first to its last, both included."""
    num_frames, skip = whole("num_frames", num_frames), whole("skip", skip)
    if num_frames < 1 or skip < 0:
        raise ConfigError(f"a window of {num_frames} frames with skip {skip}: at least 1 frame, and a skip from 0 on")
    return (num_frames - 1) * (skip + 1) + 1


def window_padding(video_len: int, num_frames: int, skip: int) -> int:
    """Count the frames that the window of a recording of ``video_len`` frames repeats, because it is shorter."""
    return clip_indices(video_len - 1, num_frames, skip, video_len)[1]


def clip_indices(last: int, num_frames: int, skip: int, video_len: int) -> tuple[np.ndarray, int]:
    """Return (N,) frames of the window that ends at ``last``, and how many of them are padding.

    A window that would leave the video is moved into it. Where the video is shorter than the window, its last frame is
    the window's last and its first frame is repeated on the left.
    """
    video_len, last = _length(video_len), whole("last", last)
    last = min(max(last, window_span(num_frames, skip) - 1), video_len - 1)
    indices = last - (skip + 1) * np.arange(num_frames - 1, -1, -1)
    return np.maximum(indices, 0), int((indices < 0).sum())


def window_ends(video_len: int, num_frames: int, skip: int = 0, *, phases: str = "first") -> np.ndarray:
    """Return the last frames of all windows of a recording, rising.

    ``first`` moves by skip + 1 frames, from the first window that fits (the published protocol); ``all`` by one, so
    that window i is of phase ``i % (skip + 1)``. A recording shorter than a window has one, which is padded.
    """
    check_phases(phases)
    span = window_span(num_frames, skip)
    video_len = _length(video_len)
    if video_len < span:
        return np.array([video_len - 1])
    return np.arange(span - 1, video_len, skip + 1 if phases == "first" else 1)


def _length(video_len: int) -> int:
    video_len = whole("video_len", video_len)
    if video_len < 1:
        raise DataError(f"a recording of {video_len} frames has no window; leave it out")
    return video_len


def check_phases(phases: str) -> None:
    """Raise ConfigError unless ``phases`` is one of PHASES."""
    if phases not in PHASES:
        raise ConfigError(f"KEYSTEP.INFER.PHASES {phases!r}: choose {' or '.join(PHASES)}")


def state_changes(states: States, exe_mode: str = "no_error") -> dict[int, np.ndarray]:
    """Map frame -> (K,) uint8, 1 for every component that changed there; in ``mistakes`` (2 K,), see
    :func:`output_names`.

    Args:
        states: (frame, K states) in the order of frames, the first being the initial one; -1 installed wrongly, 0 not
            done, 1 done.
        exe_mode: ``no_error`` takes -1 for 0 first; ``errors`` counts any change, -1 <-> 1 included; ``mistakes`` is
            ``no_error``, followed by a 1 for every component that became -1.

    Raises DataError that names every row that is out of order, of another length or of other values.
    """
    if exe_mode not in EXE_MODES:
        raise ConfigError(f"exe_mode {exe_mode!r}: choose one of {', '.join(EXE_MODES)}")
    problems = []
    if any(length_of(row) != 2 or length_of(row[1]) < 0 for row in states):
        raise DataError("component states cannot be used: each is a pair of a frame and the list of all components")
    states = [(frame, state.tolist() if hasattr(state, "tolist") else list(state)) for frame, state in states]
    for row, (frame, state) in enumerate(states):
        if not isinstance(frame, int | np.integer):
            problems.append(f"row {row}: frame {frame!r}; frames are whole numbers")
        elif row and frame <= states[row - 1][0]:
            problems.append(f"row {row}: frame {frame} follows frame {states[row - 1][0]}; frames must rise")
        if len(state) != len(states[0][1]):
            problems.append(f"row {row}: {len(state)} components where the first row has {len(states[0][1])}")
        if set(state) - {-1, 0, 1}:
            problems.append(f"row {row}: states {list(state)}; a state is -1, 0 or 1")
    if problems:
        raise DataError("component states cannot be used: " + "; ".join(problems))
    known = [(frame, np.array(state)) for frame, state in states]
    pairs = [(frame, before, state) for (_, before), (frame, state) in itertools.pairwise(known)]
    if exe_mode == "errors":
        return {frame: (state != before).astype(np.uint8) for frame, before, state in pairs}
    done = {frame: (np.maximum(state, 0) != np.maximum(before, 0)) for frame, before, state in pairs}
    if exe_mode == "mistakes":
        wrong = {frame: (state == -1) & (before != -1) for frame, before, state in pairs}
        done = {frame: np.concatenate([done[frame], wrong[frame]]) for frame in done}
    return {frame: change.astype(np.uint8) for frame, change in done.items()}


def window_labels(
    changes: Mapping[int, Any],
    first: np.ndarray,
    last: np.ndarray,
    num_components: int,
    *,
    toggles: int | None = None,
) -> np.ndarray:
    """Return (W, K) uint8 labels of windows from frame ``first[i]`` to ``last[i]``, both included: the XOR of the
    changes in them, so that an installation and its removal cancel out. ``changes`` from :func:`state_changes`; those
    behind the first ``toggles`` (None: all toggle) do not cancel out, a window holds a mistake however often it was
    made.

    Raises DataError for windows or changes of other shapes, and for fractions of frames."""
    first, last = (as_numbers(name, values, ndim=1) for name, values in (("first", first), ("last", last)))
    both = np.concatenate([first, last])
    if len(first) != len(last) or not np.isfinite(both).all() or (both != np.floor(both)).any():
        raise DataError(f"{len(first)} first and {len(last)} last frames: whole numbers, and as many of each")
    for frame in changes:
        whole("frame", frame)
    for frame, digits in changes.items():
        if np.shape(digits) != (num_components,) or not np.isin(digits, (0, 1)).all():
            raise DataError(f"the change in frame {frame} is {digits!r}: it takes {num_components} zeros and ones")
    frames = np.array(sorted(changes), dtype=np.int64)
    counts = np.zeros((len(frames) + 1, num_components), dtype=np.int64)
    for i, frame in enumerate(frames):
        counts[i + 1] = counts[i] + np.asarray(changes[int(frame)])
    before = np.searchsorted(frames, np.asarray(first), side="left")
    through = np.searchsorted(frames, np.asarray(last), side="right")
    found = counts[through] - counts[before]
    toggles = num_components if toggles is None else toggles
    return np.concatenate([found[:, :toggles] % 2, np.minimum(found[:, toggles:], 1)], axis=1).astype(np.uint8)
