"""Generated data with a known answer, for the quickstart and the tests.

Moving textures: the class of a clip is the direction in which a random texture moves. The texture is random waves of
about one length in all directions, periodic, so it wraps round and is alike everywhere; every clip has its own. One
frame therefore has the same distribution in every class, and only a model that sees several frames in order can tell
the classes apart.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dust.utils.errors import DataError
from dust.utils.files import write_csv, write_text
from dust.utils.rng import numpy_rng
from dust.utils.structured import read_json

RECORD = ".generated.json"  # names every file that a generator writes into a folder, before the first one is written
SPEED = 2  # pixels per frame, about: a shift is a whole number of pixels
WAVELENGTHS = (12.0, 22.0)  # pixels: two frames' motion is about a quarter of a wave, where its direction shows best
CONTRAST = 50.0  # standard deviation of the pixel values around 128
TOUR = "tour.mp4"  # a long video of all directions, which is on no list
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}

_COMPASS = {0: "right", 45: "down_right", 90: "down", 135: "down_left", 180: "left", 225: "up_left", 270: "up"}
_COMPASS[315] = "up_right"


@dataclass(frozen=True, slots=True)
class Direction:
    """``shift``: pixels (right, down) per frame."""

    name: str
    shift: tuple[int, int]


def directions(classes: int) -> list[Direction]:
    """Return ``classes`` directions, evenly spaced as far as whole pixels allow; named by their side, or by degrees
    clockwise from the right.

    Raises:
        DataError: unless 2 <= classes <= 8.
    """
    if not 2 <= classes <= 8:
        raise DataError(f"{classes} classes of motion: choose 2 to 8")
    found = []
    for index in range(classes):
        degrees = 360 * index / classes
        angle = math.radians(degrees)
        shift = (round(SPEED * math.cos(angle)), round(SPEED * math.sin(angle)))
        found.append(Direction(_COMPASS.get(round(degrees), f"deg{round(degrees):03d}"), shift))
    return found


def texture(rng: np.random.RandomState, size: int) -> np.ndarray:
    """Return a grey periodic random texture, uint8 (size, size, 3), stationary: every shift of it is as likely."""
    frequency = np.fft.fftfreq(size)  # waves per pixel
    radius = np.hypot(frequency[:, None], frequency[None, :])
    short, long = WAVELENGTHS
    band = (radius >= 1 / long) & (radius <= 1 / short)
    waves = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * band).real
    waves /= waves.std()
    grey = np.clip(np.rint(128.0 + CONTRAST * waves), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def moving_texture(rng: np.random.RandomState, shift: tuple[int, int], frames: int, size: int) -> np.ndarray:
    """Return a clip, uint8 (frames, size, size, 3): a texture that moves by ``shift`` (right, down) each frame, and
    wraps."""
    start = texture(rng, size)
    right, down = shift
    return np.stack([np.roll(start, (down * time, right * time), axis=(0, 1)) for time in range(frames)])


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: int = 30) -> None:
    """Write uint8 (T, H, W, 3) RGB as H.264 in mp4: little loss, a keyframe every 16 frames, always the same bytes.

    H and W must be even.
    """
    with av.open(os.path.abspath(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 16
        stream.options = {"crf": "14", "preset": "veryfast", "bf": "0", "threads": "1", "flags": "+bitexact"}
        # with its macroblock tree, x264 writes other bytes for the same frames now and then, even on one thread
        stream.options |= {"x264-params": "mbtree=0"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def generate_motion(
    out: str | os.PathLike,
    *,
    classes: int = 4,
    clips: int = 40,
    seed: int = 0,
    size: int = 64,
    frames: int = 32,
    force: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> dict[str, int]:
    """Write ``out/videos/*.mp4`` and ``out/{train,val,test}.csv``: 70, 15 and 15 % of each class, at least one each;
    and ``out/tour.mp4``, which is on no list: each direction for two clips' time, one after the other.

    Args:
        classes: 2..8 directions.
        clips: per class, at least 3.
        seed: the same seed writes the same clips.
        size: height and width in pixels, even, at least 16.
        frames: per clip.
        force: replace what an earlier run wrote. Other files in the folder are never touched.
        progress: wraps the list of clips to show how far it is.

    Returns:
        {split: number of clips}.

    Raises:
        DataError: a number out of range, a folder that is not empty, a foreign file in the way.
    """
    table = directions(classes)
    if clips < len(SHARES):
        raise DataError(f"{clips} clips per class: at least {len(SHARES)} are needed, one for each split")
    if size < 16 or size % 2 or frames < 2:
        raise DataError(f"size {size}, frames {frames}: the size must be even and at least 16, the frames at least 2")
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in SHARES}
    work = []
    held_out = max(1, round(SHARES["val"] * clips))
    for direction in table:
        for number in range(clips):
            name = f"videos/{direction.name}_{number:04d}.mp4"
            split = "train" if number < clips - 2 * held_out else "val" if number < clips - held_out else "test"
            rows[split].append((name, direction.name))
            work.append((name, direction, number))
    folder = Path(out)
    claim_folder(folder, [*(name for name, _, _ in work), TOUR, *(f"{split}.csv" for split in rows)], force=force)
    try:
        (folder / "videos").mkdir(exist_ok=True)
        for name, direction, number in progress(work):
            rng = numpy_rng(seed, "motion", direction.name, number)
            write_video(folder / name, moving_texture(rng, direction.shift, frames, size))
        streams = ((direction, numpy_rng(seed, "tour", direction.name)) for direction in table)
        parts = [moving_texture(rng, direction.shift, 2 * frames, size) for direction, rng in streams]
        write_video(folder / TOUR, np.concatenate(parts))
    except OSError as error:
        raise DataError(f"{folder}: a clip cannot be written: {error.strerror or error}") from error
    for split, lines in rows.items():
        write_csv(folder / f"{split}.csv", ("path", "label"), lines)
    finish_folder(folder)
    return {split: len(lines) for split, lines in rows.items()}


# --- folders that a generator fills -----------------------------------------------------------------------------


def claim_folder(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """Make ``folder`` ready for the files ``names`` and record them in it.

    A folder that holds anything is refused, save what an interrupted run left. With ``force`` the files of an earlier
    run are removed; files that no run wrote stay, and one of them in the way is an error before anything is removed.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give a folder")
    record = _record(folder)
    ours = set(record.get("files", ()))
    present = sorted(str(path.relative_to(folder)).replace(os.sep, "/") for path in folder.rglob("*") if path.is_file())
    foreign = [name for name in present if name not in ours and name != RECORD]
    unfinished = bool(record) and not record["finished"] and not foreign
    if present and not force and not unfinished:
        raise DataError(
            f"{folder} is not empty ({len(present)} files, e.g. {present[0]}): give another folder, or --force to "
            "replace what was generated there (other files are left alone)"
        )
    blocked = sorted(set(foreign) & set(names))
    if blocked:
        raise DataError(
            f"{folder}: {len(blocked)} files that were not generated here stand in the way, e.g. {blocked[0]}: "
            "move them, or give another folder"
        )
    try:
        for name in sorted(ours & set(present)):
            (folder / name).unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ready: {error.strerror or error}") from error
    write_text(folder / RECORD, json.dumps({"finished": False, "files": list(names)}, indent=0))


def finish_folder(folder: Path) -> None:
    """Record that everything claimed is written."""
    write_text(folder / RECORD, json.dumps(_record(folder) | {"finished": True}, indent=0))


def _record(folder: Path) -> dict:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = read_json(path)
        files = record["files"]
        inside = all(
            isinstance(name, str) and ".." not in Path(name).parts and not os.path.isabs(name) for name in files
        )
    except (DataError, KeyError, TypeError):
        inside = False
    if not inside:
        raise DataError(f"{path} is damaged: remove the folder {folder} yourself, or give another one")
    return {"finished": bool(record.get("finished")), "files": files}
