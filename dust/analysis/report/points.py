"""Point tracks of a sample as a film of the page: what each camera's points do, beside each other."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dust.analysis.report.charts import COLOURS
from dust.analysis.report.film import FRAMES, encoded
from dust.config import flatten
from dust.datasets.tracks.files import SUFFIXES, Tracks, read_tracks
from dust.utils.errors import DataError

#: Of one camera's picture: its longer side in pixels; and the frames that a point's trail reaches back.
SIDE, TRAIL = 200, 12


def is_tracks(path: str) -> bool:
    """Return whether a file may be one of point tracks, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Asked:
    """What a run's test asked of point tracks: which cameras, how sure a point must be, and the size of a frame where
    a file does not say it."""

    views: tuple[int, ...]
    threshold: float
    size: tuple[int, int] | None


def asked_of(config: Mapping[str, Any]) -> Asked:
    """Read TRACKS of a run's configuration, which may be anybody's.

    Raises:
        DataError: a value is none that a run of ours has.
    """
    keys: dict[str, Any] = flatten(config)

    def numbers(name: str) -> tuple[int, ...]:
        value = keys.get(name) or ()
        if not isinstance(value, list | tuple) or not all(type(one) is int for one in value):
            raise DataError(f"{name} of the run is {value!r:.60}: it must be a list of whole numbers")
        return tuple(value)

    size, threshold = numbers("TRACKS.FRAME_SIZE"), keys.get("TRACKS.VISIBILITY_THRESHOLD", 0.9)
    if len(size) not in (0, 2):
        raise DataError(f"TRACKS.FRAME_SIZE of the run is {list(size)!r:.60}: it must be height and width")
    if type(threshold) not in (int, float) or not abs(threshold) < 1e300:
        raise DataError(f"TRACKS.VISIBILITY_THRESHOLD of the run is {threshold!r:.60}: it must be a number")
    views = numbers("TRACKS.TEST_VIEWS") or numbers("TRACKS.VIEWS")
    return Asked(views, float(threshold), (size[0], size[1]) if size else None)


def tracks_film(path: str, asked: Asked) -> str:
    """Give the tracks of a sample as a film: all cameras that the run's test saw, found beside the file by their names.

    Raises:
        DataError: they cannot be read.
    """
    from dust.deploy.reading_tracks import sample_of  # what a page of videos does not need

    with tempfile.TemporaryDirectory(prefix="dust-") as folder:
        files = sample_of(path, Path(folder)).files
    views = [one for one in asked.views if one in files] or files
    cameras = {view: read_tracks(files[view], threshold=asked.threshold, size=asked.size) for view in views}
    return encoded(draw(cameras), path, side=2 * SIDE)


def draw(cameras: Mapping[int, Tracks]) -> np.ndarray:
    """Draw cameras side by side, two in a row: (frames, H, W, 3) uint8, up to 32 frames over the whole length."""
    longest = max(len(one.xy) for one in cameras.values())
    times = np.unique(np.linspace(0, longest - 1, min(longest, FRAMES)).round().astype(int))
    panels = [[_panel(view, one, int(time)) for time in times] for view, one in cameras.items()]
    height, width = (max(one[0].shape[axis] for one in panels) for axis in (0, 1))
    columns = min(2, len(panels))
    sheet = np.zeros((len(times), -(-len(panels) // columns) * height, columns * width, 3), np.uint8)
    for place, panel in enumerate(panels):
        top, left = place // columns * height, place % columns * width
        for number, one in enumerate(panel):
            sheet[number, top : top + one.shape[0], left : left + one.shape[1]] = one
    return sheet


def _panel(view: int, tracks: Tracks, time: int) -> np.ndarray:
    """Draw one camera at one time: visible points, each in its colour with the way that it came."""
    from PIL import Image, ImageDraw, ImageFont

    assert tracks.size is not None
    scale = SIDE / max(tracks.size)
    height, width = (max(2, round(side * scale)) for side in tracks.size)
    image = Image.new("RGB", (width, height), (24, 24, 27))
    pen = ImageDraw.Draw(image)
    now = min(time, len(tracks.xy) - 1)
    begin = max(0, now - TRAIL)
    for point in range(tracks.xy.shape[1]):
        seen = [
            tuple(map(float, tracks.xy[t, point] * scale)) for t in range(begin, now + 1) if tracks.visible[t, point]
        ]
        colour = _BRIGHT[point % len(_BRIGHT)]
        if len(seen) > 1:
            pen.line(seen, fill=tuple(part // 2 for part in colour), width=1)
        if tracks.visible[now, point]:
            x, y = seen[-1]
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    pen.text((4, 2), f"camera {view}", fill="white", font=ImageFont.load_default(11))
    pen.rectangle((0, 0, width - 1, height - 1), outline=(70, 70, 75))
    return np.asarray(image)


def _bright(colour: str) -> tuple[int, ...]:
    """Return a colour of the charts, light enough for a dark ground."""
    return tuple((int(colour[i : i + 2], 16) + 255) // 2 for i in (1, 3, 5))


_BRIGHT: Sequence[tuple[int, ...]] = [_bright(one) for one in COLOURS]
