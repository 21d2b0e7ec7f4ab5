"""Where training windows of KeyStep come from.

Key-clip aware sampling and labels of STORM-PSR (https://arxiv.org/abs/2510.12385). Pure functions: frames count from 0,
a window of N frames skips ``skip`` frames between two of them and so spans (N - 1) * (skip + 1) + 1 frames, and
its output belongs to its last frame.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dust.utils.errors import ConfigError, DataError

STRATEGIES = ("bimodal", "gaussian", "poisson", "uniform")
SPELLINGS = {"poission": "poisson"}  # as in the published code


# ------------------------------------------------------------------------------------- key-clip aware sampling (KCAS)


def kcas_problems(strategy: str, span: int, *, sigma: float, sep: float, eps: float) -> list[str]:
    """Return what is wrong with these settings for windows that span ``span`` frames; empty where all is well."""
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
    """Return (video_len,) float64, sum 1: the probability of each frame to be a training window's last.

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
    """Return one frame, drawn from ``density``."""
    return int(rng.choice(len(density), p=density))


def _normal(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * (x / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def _poisson(k: np.ndarray, mean: int) -> np.ndarray:
    """Return Poisson's probabilities of whole numbers k; 0 below 0."""
    top = int(k[-1])
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, max(top, 0) + 1)))])
    whole = np.clip(k, 0, None).astype(np.int64)
    return np.where(k >= 0, np.exp(whole * np.log(mean) - mean - log_factorial[whole]), 0.0)
