"""Generated clips of which half of the classes differ in motion alone and the other half in appearance alone.

Every clip is a random texture that moves (see ``synthetic``) in one of six directions. Of six classes the texture is
grey, and the class is the direction: one frame tells that a clip is of these, but nothing of which. Of the other six
the texture is tinted, the class is the tint, and the direction is random: motion tells nothing of them.

So who sees single frames only is right in at most 6/12 + 1/12 = 58 % of the clips, and who sees motion only in at most
50 %: a clip's direction is that of one motion class and, as often, of any appearance class.

The classes form four groups of three: directions to the right and to the left, warm and cold tints.
"""

import colorsys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dust.datasets.manifest.labels import CLASS_LIST, write_class_list
from dust.synthetic.motion import SHARES, claim_folder, directions, finish_folder, moving_texture, write_video
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.rng import numpy_rng
from dust.utils.tstl_grouping import Grouping, write_grouping

GROUPING = "class_grouping.json"
SHIFTS = {direction.name: direction.shift for direction in directions(6)}  # pixels (right, down) per frame
HUES = {"red": 0.0, "orange": 30.0, "yellow": 60.0, "green": 135.0, "cyan": 180.0, "blue": 225.0}  # degrees
SATURATION = (0.5, 0.9)  # of a tint, drawn for each clip
_GROUPS = (
    [name for name, (right, _) in SHIFTS.items() if right > 0],
    [name for name, (right, _) in SHIFTS.items() if right < 0],
    ["red", "orange", "yellow"],
    ["green", "cyan", "blue"],
)
CLASSES = [*SHIFTS, *HUES]


def tint(clip: np.ndarray, hue: float, saturation: float) -> np.ndarray:
    """Return a grey clip, uint8 (T, H, W, 3), in shades of one colour: ``hue`` in degrees, ``saturation`` 0..1."""
    colour = np.array(colorsys.hsv_to_rgb(hue / 360.0, saturation, 1.0))
    return np.rint(clip * colour).astype(np.uint8)


def class_clip(name: str, rng: np.random.RandomState, frames: int, size: int) -> np.ndarray:
    """Return a clip of a class, uint8 (frames, size, size, 3)."""
    if name in SHIFTS:
        return moving_texture(rng, SHIFTS[name], frames, size)
    shift = list(SHIFTS.values())[rng.randint(len(SHIFTS))]
    clip = moving_texture(rng, shift, frames, size)
    return tint(clip, HUES[name], rng.uniform(*SATURATION))


def generate_motion_appearance(
    out: str | Path,
    *,
    clips: int = 40,
    seed: int = 0,
    size: int = 32,
    frames: int = 16,
    force: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> dict[str, int]:
    """Write ``out/videos/*.mp4``, ``out/{train,val,test}.csv`` (70, 15 and 15 % of each class), ``out/classes.txt``
    and ``out/class_grouping.json``.

    Args:
        clips: per class, at least 3.
        seed: the same seed writes the same clips.
        size: height and width in pixels, even, at least 16.
        frames: per clip, at least 2, 30 per second.
        force: replace what an earlier run wrote. Other files in the folder are never touched.
        progress: wraps the list of clips to show how far it is.

    Returns:
        {split: number of clips}.

    Raises:
        DataError: a number out of range, a folder that is not empty, a foreign file in the way.
    """
    if clips < len(SHARES) or size < 16 or size % 2 or frames < 2:
        raise DataError(
            f"clips {clips}, size {size}, frames {frames}: the clips per class must be at least {len(SHARES)}, the "
            "size even and at least 16, the frames at least 2"
        )
    held_out = max(1, round(SHARES["val"] * clips))
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in SHARES}
    work = [(f"videos/{name}_{number:04d}.mp4", name, number) for name in CLASSES for number in range(clips)]
    for path, name, number in work:
        split = "train" if number < clips - 2 * held_out else "val" if number < clips - held_out else "test"
        rows[split].append((path, name))
    folder = Path(out)
    lists = [*(f"{split}.csv" for split in rows), CLASS_LIST, GROUPING]
    claim_folder(folder, [*(path for path, _, _ in work), *lists], force=force)
    try:
        (folder / "videos").mkdir(exist_ok=True)
        for path, name, number in progress(work):
            rng = numpy_rng(seed, "motion_appearance", name, number)
            write_video(folder / path, class_clip(name, rng, frames, size))
    except OSError as error:
        raise DataError(f"{folder}: a clip cannot be written: {error.strerror or error}") from error
    for split, lines in rows.items():
        write_csv(folder / f"{split}.csv", ("path", "label"), lines)
    write_class_list(folder / CLASS_LIST, CLASSES)
    groups = tuple(tuple(CLASSES.index(name) for name in group) for group in _GROUPS)
    write_grouping(folder / GROUPING, Grouping(groups, tuple(CLASSES)))
    finish_folder(folder)
    return {split: len(lines) for split, lines in rows.items()}
