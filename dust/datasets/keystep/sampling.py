"""Which frames make a window of KeyStep, what its label is, and where training windows come from.

Key-clip aware sampling and labels of STORM-PSR (https://arxiv.org/abs/2510.12385). Pure functions: frames count from 0,
a window of N frames skips ``skip`` frames between two of them and so spans (N - 1) * (skip + 1) + 1 frames, and
its output belongs to its last frame.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dust.utils.errors import ConfigError, DataError

EXE_MODES = ("no_error", "errors")
STRATEGIES = ("bimodal", "gaussian", "poisson", "uniform")
SPELLINGS = {"poission": "poisson"}  # as in the published code
States = Sequence[tuple[int, Sequence[int]]]


def window_span(num_frames: int, skip: int) -> int:
    """Frames from a window's first to its last, both included."""
    if num_frames < 1 or skip < 0:
        raise ConfigError(f"a window of {num_frames} frames with skip {skip}: at least 1 frame, and a skip from 0 on")
    return (num_frames - 1) * (skip + 1) + 1


# ---------------------------------------------------------------------------------------------------------- labels


def state_changes(states: States, exe_mode: str = "no_error") -> dict[int, np.ndarray]:
    """Frame -> (K,) uint8, 1 for every component that changed there.

    Args:
        states: (frame, K states) in the order of frames, the first being the initial one; -1 installed wrongly, 0 not
            done, 1 done.
        exe_mode: ``no_error`` takes -1 for 0 first; ``errors`` counts any change, -1 <-> 1 included.

    Raises DataError that names every row that is out of order, of another length or of other values.
    """
    if exe_mode not in EXE_MODES:
        raise ConfigError(f"exe_mode {exe_mode!r}: choose one of {', '.join(EXE_MODES)}")
    problems = []
    for row, (frame, state) in enumerate(states):
        if row and frame <= states[row - 1][0]:
            problems.append(f"row {row}: frame {frame} follows frame {states[row - 1][0]}; frames must rise")
        if len(state) != len(states[0][1]):
            problems.append(f"row {row}: {len(state)} components where the first row has {len(states[0][1])}")
        if set(state) - {-1, 0, 1}:
            problems.append(f"row {row}: states {list(state)}; a state is -1, 0 or 1")
    if problems:
        raise DataError("component states cannot be used: " + "; ".join(problems))
    known = [(frame, np.array(state)) for frame, state in states]
    if exe_mode == "no_error":
        known = [(frame, np.maximum(state, 0)) for frame, state in known]
    return {frame: (state != before).astype(np.uint8) for (_, before), (frame, state) in itertools.pairwise(known)}


def window_labels(changes: Mapping[int, Any], first: np.ndarray, last: np.ndarray, num_components: int) -> np.ndarray:
    """(W, K) uint8 labels of windows from frame ``first[i]`` to ``last[i]``, both included: the XOR of the changes in
    them, so that an installation and its removal cancel out. ``changes`` from :func:`state_changes`."""
    frames = np.array(sorted(changes), dtype=np.int64)
    counts = np.zeros((len(frames) + 1, num_components), dtype=np.int64)
    for i, frame in enumerate(frames):
        counts[i + 1] = counts[i] + np.asarray(changes[int(frame)])
    before = np.searchsorted(frames, np.asarray(first), side="left")
    through = np.searchsorted(frames, np.asarray(last), side="right")
    return ((counts[through] - counts[before]) % 2).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------- windows


def clip_indices(last: int, num_frames: int, skip: int, video_len: int) -> tuple[np.ndarray, int]:
    """(N,) frames of the window that ends at ``last``, and how many of them are padding.

    A window that would leave the video is moved into it. Where the video is shorter than the window, its last frame is
    the window's last and its first frame is repeated on the left.
    """
    if video_len < 1:
        raise DataError(f"a recording of {video_len} frames has no window; leave it out")
    last = min(max(last, window_span(num_frames, skip) - 1), video_len - 1)
    indices = last - (skip + 1) * np.arange(num_frames - 1, -1, -1)
    return np.maximum(indices, 0), int((indices < 0).sum())


def window_ends(video_len: int, num_frames: int, skip: int = 0, *, phases: str = "first") -> np.ndarray:
    """Last frames of all windows of a recording, rising.

    ``first`` moves by skip + 1 frames, from the first window that fits (the published protocol); ``all`` by one, so
    that window i is of phase ``i % (skip + 1)``. A recording shorter than a window has one, which is padded.
    """
    if phases not in ("first", "all"):
        raise ConfigError(f"phases {phases!r}: choose first or all")
    span = window_span(num_frames, skip)
    if video_len < 1:
        raise DataError(f"a recording of {video_len} frames has no window; leave it out")
    if video_len < span:
        return np.array([video_len - 1])
    return np.arange(span - 1, video_len, skip + 1 if phases == "first" else 1)


# ------------------------------------------------------------------------------------- key-clip aware sampling (KCAS)


def kcas_problems(strategy: str, span: int, *, sigma: float, sep: float, eps: float) -> list[str]:
    """What cannot be about these settings for windows that span ``span`` frames; empty where all is well."""
    problems = []
    if SPELLINGS.get(strategy, strategy) not in STRATEGIES:
        problems.append(f"sampling strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if not sigma > 0:
        problems.append(f"sigma {sigma}: must be above 0 frames")
    if sep < 0:
        problems.append(f"separation {sep}: must not be negative")
    if not eps > 0:
        problems.append(f"eps {eps}: must be above 0")
    if strategy == "bimodal" and sep >= span:
        problems.append(
            f"separation {sep}: windows that span {span} frames and end so long after a step do not hold it; "
            f"it must be below {span}: lower it, or take more frames or a larger skip"
        )
    return problems


def kcas_density(
    changes: Mapping[int, Any],
    video_len: int,
    strategy: str = "bimodal",
    *,
    sigma: float = 15.0,
    sep: float = 80.0,
    eps: float = 1e-8,
) -> np.ndarray:
    """(video_len,) float64, sum 1: the probability of each frame to be a training window's last.

    Proportional to ``eps + sum_e w_e g_e(t)`` over the changes e, with w_e = 1 where a component changed and 0 where
    none did (``no_error`` leaves such):

    * ``gaussian``: normal(e, sigma);
    * ``bimodal``: normal(e - sep, sigma) + normal(e + sep, sigma): hard negatives just before a step's completion, and
      windows that hold it;
    * ``poisson``: Poisson(sigma), rounded to whole frames, that begins at e - sigma; all w_e are 1, as published;
    * ``uniform``: without regard to the changes.
    """
    strategy = SPELLINGS.get(strategy, strategy)
    problems = kcas_problems(strategy, span=2**62, sigma=sigma, sep=sep, eps=eps)
    if problems:
        raise ConfigError("; ".join(problems))
    if video_len < 1:
        raise DataError(f"a recording of {video_len} frames has no window; leave it out")
    late = [frame for frame in changes if not 0 <= frame < video_len]
    if late:
        raise DataError(f"a component changes in frame {late[0]}, but the recording has {video_len} frames")
    frames = np.arange(video_len, dtype=np.float64)
    density = np.full(video_len, eps)
    if strategy != "uniform":
        for event, change in changes.items():
            if strategy == "poisson":
                density += _poisson(frames - (event - round(sigma)), round(sigma))
            elif np.any(change):
                offsets = (0.0,) if strategy == "gaussian" else (-sep, sep)
                density += sum(_normal(frames - event - offset, sigma) for offset in offsets)
    return density / density.sum()


def sample_last_frame(density: np.ndarray, rng: np.random.RandomState) -> int:
    """One frame, drawn from ``density``."""
    return int(rng.choice(len(density), p=density))


def _normal(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * (x / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def _poisson(k: np.ndarray, mean: int) -> np.ndarray:
    """Poisson's probabilities of whole numbers k; 0 below 0."""
    top = int(k[-1])
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, max(top, 0) + 1)))])
    whole = np.clip(k, 0, None).astype(np.int64)
    return np.where(k >= 0, np.exp(whole * np.log(mean) - mean - log_factorial[whole]), 0.0)
