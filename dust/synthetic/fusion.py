"""Generated video with a sensor series beside it, of which only both together tell the class.

The video carries one bit of the label, the direction in which a texture moves (see ``synthetic``). The series carries
the other: whether its first two channels swing together or against each other, in noise. Each channel has the same
distribution under both bits, so that none tells anything alone, nor does any channel's mean; the third is noise.

In every split each clip occurs twice, once with each bit of the series, and each series twice, once with each bit of
the video. So a model that gets one modality meets every input with two labels, and is right at most half the time.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dust.synthetic.motion import SPEED, claim_folder, finish_folder, moving_texture, write_video
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.rng import numpy_rng

SAMPLES = 320  # of train; val and test have a quarter of that each
VIDEO_BITS = {"left": -SPEED, "right": SPEED}  # pixels per frame to the right
SERIES_BITS = {"against": -1.0, "together": 1.0}  # sign of the second channel relative to the first
CYCLES = (2.0, 5.0)  # waves within a series, drawn for each
AMPLITUDE = (0.7, 1.3)  # of each channel's wave
NOISE = 0.4  # standard deviation of the noise on every channel
CHANNELS = 3


def paired_series(rng: np.random.RandomState, sign: float, length: int) -> np.ndarray:
    """Return a series, float32 (3, length): a wave, ``sign`` times the same wave, and nothing, each in noise.

    The wave's phase is uniform, so a channel and its negative are as likely.
    """
    time = np.arange(length) / length
    wave = np.sin(2 * np.pi * (rng.uniform(*CYCLES) * time + rng.uniform()))
    strength = rng.uniform(*AMPLITUDE, size=CHANNELS) * (1.0, sign, 0.0)
    return (strength[:, None] * wave + NOISE * rng.standard_normal((CHANNELS, length))).astype(np.float32)


def generate_dust(
    out: str | Path,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    size: int = 32,
    frames: int = 16,
    length: int = 51,
    force: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> dict[str, int]:
    """Write ``out/{train,val,test}.csv`` (id, label, video, series), ``out/videos/*.mp4`` and ``out/series/*.npy``.

    Args:
        samples: of train, a multiple of 4 (the classes); val and test have a quarter of that, and at least 4.
        seed: the same seed writes the same files.
        size: height and width in pixels, even, at least 16.
        frames: per clip, at least 2.
        length: time points per series, at least 8.
        force: replace what an earlier run wrote. Other files in the folder are never touched.
        progress: wraps the list of files to show how far it is.

    Returns:
        {split: number of samples}; half as many clips and half as many series.

    Raises:
        DataError: a number out of range, a folder that is not empty, a foreign file in the way.
    """
    if samples < 4 or samples % 4:
        raise DataError(f"{samples} samples: give a multiple of 4, as there are 4 classes of the same size")
    if size < 16 or size % 2 or frames < 2 or length < 8:
        raise DataError(
            f"size {size}, frames {frames}, length {length}: the size must be even and at least 16, the frames at "
            "least 2, the length at least 8"
        )
    held_out = max(1, round(samples / 16))
    per_class = {"train": samples // 4, "val": held_out, "test": held_out}
    work = [
        (split, kind, bit, number)
        for split, count in per_class.items()
        for kind, bits in (("videos", VIDEO_BITS), ("series", SERIES_BITS))
        for bit in bits
        for number in range(count)
    ]
    folder = Path(out)
    names = [_name(*item) for item in work]
    claim_folder(folder, [*names, *(f"{split}.csv" for split in per_class)], force=force)
    try:
        for kind in ("videos", "series"):
            (folder / kind).mkdir(exist_ok=True)
        for split, kind, bit, number in progress(work):
            rng = numpy_rng(seed, "dust", split, bit, number)
            path = folder / _name(split, kind, bit, number)
            if kind == "videos":
                write_video(path, moving_texture(rng, (VIDEO_BITS[bit], 0), frames, size))
            else:
                np.save(path, paired_series(rng, SERIES_BITS[bit], length))
    except OSError as error:
        raise DataError(f"{folder}: a file cannot be written: {error.strerror or error}") from error
    for split, count in per_class.items():
        write_csv(folder / f"{split}.csv", ("id", "label", "video", "series"), _rows(split, count, seed))
    finish_folder(folder)
    return {split: 4 * count for split, count in per_class.items()}


def _name(split: str, kind: str, bit: str, number: int) -> str:
    return f"{kind}/{split}_{bit}_{number:04d}.{'mp4' if kind == 'videos' else 'npy'}"


def _rows(split: str, count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """Return (id, label, video, series) of a split. In each class every clip with the video's bit meets one series with
    the series' bit, drawn again for each class."""
    partners = {
        (left, right): numpy_rng(seed, "dust", split, left, right).permutation(count)
        for left in VIDEO_BITS
        for right in SERIES_BITS
    }
    rows: list[tuple[str, str, str, str]] = []
    for number in range(count):
        for (left, right), partner in partners.items():
            video = _name(split, "videos", left, number)
            series = _name(split, "series", right, int(partner[number]))
            rows.append((f"{split}_{len(rows):06d}", f"{left}_{right}", video, series))
    return rows
