"""Whether two clips show the same recording, told from their pictures: re-encoded, cut out, beginning later.

What a network makes of two clips says that they are alike, which two takes of one scene are as well. A copy shows the
same movement: where one clip is laid over the other at the right place and moment, what changes in one changes in the
other. So each clip is kept as small grey pictures; pairs whose mean pictures fit are laid over each other in time and
space, and two correlations are asked: of the pictures, and of what is left of them without their mean over time.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from dust.decode.clip import ClipReader
from dust.decode.pixels import FrameRequest
from dust.utils.logging import progress

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

RATE = 12.0  # pictures a second, about: whole steps of a clip's frames
MOST = 48  # pictures of a clip, around its middle
PIXELS_AT_ONCE = 16_000_000  # that are read: 48 MB. All pictures of a clip of 1080 lines would be 300
SIDE, SMALL, COARSE = 48, 16, 12  # pixels of a picture; of one laid over another; of a mean that is searched for
#: Shares of a side that a copy may show.
SCALES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
CANDIDATES, FITS = 20, 0.5  # partners of a clip that are looked at, and how well its mean picture fits theirs
SHARED = 0.6  # of the shorter clip, which both must show
PICTURE, MOVEMENT = 0.9, 0.8  # correlations from which on a pair is one recording
#: Where fewer grey levels move, as by a slow camera, one moment is much like the next: more is asked of the movement,
#: unless the pictures are as equal as two moments are not.
SLOW, SLOWLY, EQUAL = 2.5, 0.92, 0.995
NOISE = 0.5  # grey levels that coding changes in small pictures: it takes its share of what little movement there is
#: Where no more grey levels than these move, the mean pictures decide, laid over each other as well as can be: what one
#: does not say of the other, whatever was done to its brightness and contrast, is at most this share of what it shows.
#: Of two takes of a camera that stands still, light, shadows and what was put down leave more.
STILL, LEFT = 1.0, 0.075
FINE = 24  # pixels of a side of such a mean picture
TIMED = 32  # of the clips and pairs, by which it is said how long all take
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Window = tuple[float, float, float]  # share of both sides, and where it begins: down, right; of the whole side
WHOLE: Window = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Sketch:
    """A clip as grey pictures (T, SIDE, SIDE) uint8, ``step`` seconds apart; their mean is (2 SIDE, 2 SIDE) float32."""

    pictures: np.ndarray
    step: float
    mean: np.ndarray


def sketch(reader: ClipReader) -> Sketch:
    """Draw a clip. VideoError where it cannot be read."""
    every = max(1, round((reader.fps or RATE) / RATE))
    count = min(MOST, -(-len(reader) // every))
    first = (len(reader) - (count - 1) * every - 1) // 2
    numbers = [first + number * every for number in range(count)]
    at_once = max(1, PIXELS_AT_ONCE // (reader.height * reader.width))
    pieces = (FrameRequest(numbers[begin : begin + at_once]) for begin in range(0, count, at_once))
    pictures = (picture for piece in pieces for picture in reader.read([piece])[0])
    fine = np.stack([_fit(picture.astype(np.float32) @ LUMA, WHOLE, 2 * SIDE) for picture in pictures])
    small = fine.reshape(count, SIDE, 2, SIDE, 2).mean(axis=(2, 4)).round().clip(0, 255).astype(np.uint8)
    return Sketch(small, every / (reader.fps or RATE), fine.mean(axis=0))


@functools.lru_cache(maxsize=4096)
def _weights(size: int, side: int, begin: float, share: float) -> np.ndarray:
    """Return (size, side): the mean over each of ``size`` equal pieces of a part of a line of ``side`` pixels."""
    edges = (begin + share * np.arange(size + 1) / size) * side
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.clip(covered, 0, None)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def _fit(pictures: np.ndarray, window: Window, size: int) -> np.ndarray:
    """Return a window of pictures (..., H, W) as (..., size, size), by areas."""
    share, down, right = window
    rows = _weights(size, pictures.shape[-2], down, share)
    columns = _weights(size, pictures.shape[-1], right, share)
    return rows @ pictures @ columns.T


def windows(scales: Sequence[float], places: int) -> list[Window]:
    """Return the whole, and windows of these scales at ``places`` x ``places`` places each."""
    found: list[Window] = [WHOLE]
    for scale in scales:
        at = np.linspace(0, 1 - scale, places)
        found += [(scale, float(down), float(right)) for down in at for right in at]
    return found


WINDOWS = windows(SCALES, 5)
FEW = windows(SCALES[2::3], 3)


def _rows(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (..., H, W) as rows (..., H W) of mean 0 and length 1."""
    rows = pictures.reshape(*pictures.shape[:-2], -1)
    rows = rows - rows.mean(axis=-1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6)


def candidates(means: np.ndarray, *, count: int = CANDIDATES) -> Iterator[tuple[int, int]]:
    """Yield pairs (i, j), i < j, where the mean picture (N, SIDE, SIDE) of one fits the other's or a window of it; of
    each clip the ``count`` best."""
    views = np.stack([_rows(_fit(means, window, COARSE)) for window in FEW], axis=1)  # (N, windows, pixels)
    near: dict[int, set[int]] = {}
    chunk = max(1, (1 << 25) // max(1, len(means)))
    for begin in range(0, len(means), chunk):
        part = slice(begin, begin + chunk)
        best = np.full((len(means[part]), len(means)), -1.0, np.float32)
        for window in range(len(FEW)):
            best = np.maximum(best, views[part, window] @ views[:, 0].T)
            best = np.maximum(best, views[part, 0] @ views[:, window].T)
        kept = min(count + 1, len(means))
        for row, order in enumerate(np.argpartition(-best, kept - 1, axis=1)[:, :kept]):
            here = begin + row
            near[here] = {int(other) for other in order if other != here and best[row, other] >= FITS}
    yield from sorted({(min(i, j), max(i, j)) for i, others in near.items() for j in others})


@dataclass(frozen=True)
class Match:
    """How well one clip lies over another: correlations of pictures and of movement, and grey levels that move; where
    little does, what is ``left`` of one mean picture that the other does not say (0..1)."""

    picture: float = -1.0
    movement: float = -1.0
    moves: float = 0.0
    left: float = 1.0

    @property
    def both(self) -> float:
        """What a better place or moment makes larger."""
        return self.picture + self.movement

    @property
    def same(self) -> bool:
        """Whether both are one recording."""
        if self.moves < STILL:
            return self.left <= LEFT or (self.picture >= PICTURE and self.movement >= SLOWLY)
        visible = self.moves**2 / (self.moves**2 + NOISE**2)
        asked = SLOWLY if self.moves < SLOW and self.picture < EQUAL else MOVEMENT
        return self.picture >= PICTURE and self.movement >= asked * visible


def compare(one: Sketch, other: Sketch) -> Match:
    """Lay two clips over each other, each in windows of the other, at every moment; the best that was found."""
    step = max(one.step, other.step)
    pair = [_paced(sketch_, step) for sketch_ in (one, other)]
    begun: list[tuple[Match, int, np.ndarray, np.ndarray, Window]] = []
    for outer, inner in (pair, pair[::-1]):
        inside = _fit(inner, WHOLE, SMALL)
        for window in dict.fromkeys([WHOLE, *_likely_windows(outer, inside)]):
            for match, shift in _in_time(_fit(outer, window, SMALL), inside):
                begun.append((match, shift, outer, inside, window))
    best = Match()
    for match, shift, outer, inside, window in sorted(begun, key=lambda one_: -one_[0].both)[:2]:
        if match.picture >= PICTURE - 0.2 and (match.movement >= MOVEMENT - 0.4 or match.moves < SLOW):
            match = _in_space(outer, inside, shift, window, match)
        best = max(best, match, key=lambda one_: one_.both)
    if best.moves < STILL and best.picture >= PICTURE:
        best = replace(best, left=_left_of_means(one.mean, other.mean))
    return best


def _likely_windows(outer: np.ndarray, inside: np.ndarray) -> list[Window]:
    """Return the windows of ``outer`` whose mean picture is most like the other's: the two best of the whole clips and,
    as a clip that begins later may show other scenes, the best of the end of one and the beginning of the other."""
    ends = [(slice(None), slice(None), 2)]
    a, b = (round(len(one) * (1 - SHARED)) for one in (outer, inside))
    if a and b:
        ends += [(slice(a, None), slice(None, -b), 1), (slice(None, -a), slice(b, None), 1)]
    found: list[Window] = []
    for first, second, count in ends:
        fits = _all_windows(outer[first].mean(axis=0)) @ _rows(inside[second].mean(axis=0))
        found += [WINDOWS[one] for one in np.argsort(-fits)[:count] if count > 1 or fits[one] >= FITS]
    return found


def _left_of_means(one: np.ndarray, other: np.ndarray) -> float:
    """Lay two mean pictures over each other, each in windows of the other; what is left at the best."""
    best = 1.0
    for outer, inner in ((one, other), (other, one)):
        inside = _fit(inner, WHOLE, FINE)
        likely = int((_all_windows(_fit(outer, WHOLE, SIDE)) @ _rows(_fit(inner, WHOLE, SMALL))).argmax())
        for number in {0, likely}:
            fits = functools.partial(_explained, outer, inside)
            best = min(best, 1 - _climb(WINDOWS[number], fits(WINDOWS[number]), fits)[1])
    return best


def _explained(outer: np.ndarray, inside: np.ndarray, window: Window) -> float:
    """Return the share of a window's deviation that some curve of grey levels (a cubic) makes of the other picture."""
    picture, levels = _fit(outer, window, FINE), (inside.ravel() - 128.0) / 64.0
    curve = np.stack([levels**power for power in range(4)], axis=1)
    rest = picture.ravel() - curve @ np.linalg.lstsq(curve, picture.ravel(), rcond=None)[0]
    return 1 - float(rest.std() / max(picture.std(), 1e-6))


def _paced(one: Sketch, step: float) -> np.ndarray:
    """Return a sketch's pictures (T, SIDE, SIDE) float32 at another pace."""
    count = max(1, int((len(one.pictures) - 1) * one.step / step + 1e-6) + 1)
    numbers = np.minimum((np.arange(count) * step / one.step).round().astype(int), len(one.pictures) - 1)
    return one.pictures[numbers].astype(np.float32)


@functools.cache
def _operators() -> tuple[np.ndarray, np.ndarray]:
    shares = [
        (_weights(SMALL, SIDE, down, share), _weights(SMALL, SIDE, right, share)) for share, down, right in WINDOWS
    ]
    return np.stack([one for one, _ in shares]), np.stack([one.T for _, one in shares])


def _all_windows(picture: np.ndarray) -> np.ndarray:
    """Return (windows, pixels) of one picture."""
    rows, columns = _operators()
    return _rows(rows @ picture @ columns)


def _centred(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (T, H, W) as (T, H W) without each one's brightness."""
    rows = pictures.reshape(len(pictures), -1)
    return rows - rows.mean(axis=1, keepdims=True)


def _in_time(outer: np.ndarray, inner: np.ndarray) -> list[tuple[Match, int]]:
    """Return the best match over all moments, and how many pictures later ``inner`` begins; [] where none shares
    enough."""
    a, b = _centred(outer), _centred(inner)
    lag = (np.arange(len(a))[:, None] - np.arange(len(b)) + len(b) - 1).ravel()
    allowed = np.bincount(lag) >= max(1, SHARED * min(len(a), len(b)))
    together = _along(a, b, lag) + np.maximum(_along(a - a.mean(axis=0), b - b.mean(axis=0), lag), 0)
    places = [int(one) for one in np.argsort(-np.where(allowed, together, -np.inf))[:3] if allowed[one]]
    found = [(_at(a, b, place - len(b) + 1), place - len(b) + 1) for place in places]
    return sorted(found, key=lambda one: -one[0].both)[:1]


def _along(a: np.ndarray, b: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """Return for each shift the correlation of all that is shared."""
    products = np.bincount(lag, (a @ b.T).ravel())
    squares = [
        np.bincount(lag, np.repeat((a * a).sum(axis=1), len(b))),
        np.bincount(lag, np.tile((b * b).sum(axis=1), len(a))),
    ]
    return products / np.maximum(np.sqrt(squares[0] * squares[1]), 1e-6)


def _at(a: np.ndarray, b: np.ndarray, shift: int) -> Match:
    """Return the match of rows that are shared where ``b`` begins ``shift`` later than ``a``."""
    a, b = a[max(shift, 0) :], b[max(-shift, 0) :]
    a, b = a[: len(b)], b[: len(a)]
    moved = [part - part.mean(axis=0) for part in (a, b)]
    levels = [float(np.sqrt((part**2).mean())) for part in moved]
    return Match(_cosine(a, b), _cosine(*moved), min(levels))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


_STEPS = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def _in_space(outer: np.ndarray, inner: np.ndarray, shift: int, window: Window, match: Match) -> Match:
    """Move and scale the window while the match gets better."""
    first, last = max(shift, 0), min(len(outer), shift + len(inner))
    outer, b = outer[first:last], _centred(inner[first - shift : last - shift])

    def at(there: Window) -> Match:
        return _at(_centred(_fit(outer, there, SMALL)), b, 0)

    window, both = _climb(window, match.both, lambda there: at(there).both)
    return at(window) if both > match.both else match


def _climb(window: Window, value: float, fits: Callable[[Window], float]) -> tuple[Window, float]:
    """Move and scale a window in ever smaller steps while it fits better; that window, and how well it fits."""
    for step in (0.04, 0.02, 0.01, 0.005, 0.0025):
        better = True
        while better:
            better = False
            for grows, falls, goes in _STEPS:
                share = window[0] + grows * step
                # around the same middle, where there is room
                down, right = window[1] + (falls - grows / 2) * step, window[2] + (goes - grows / 2) * step
                there = (share, min(max(down, 0.0), 1 - share), min(max(right, 0.0), 1 - share))
                if not 0.5 < share <= 1 or there == window:
                    continue
                found = fits(there)
                if found > value:
                    window, value, better = there, found, True
    return window, value


def same_recordings(sketches: Sequence[Sketch]) -> list[tuple[int, int, float]]:
    """Find pairs (i, j, correlation of the pictures), i < j, of clips that show one recording, the surest first."""
    if len(sketches) < 2:
        return []
    means = np.array([one.pictures.mean(axis=0) for one in sketches], np.float32)
    pairs = list(candidates(means))

    def match(pair: tuple[int, int]) -> Match:
        return compare(*(sketches[index] for index in pair))

    say_how_long("pairs of clips are compared", pairs, match)
    matches = ((*pair, match(pair)) for pair in progress(pairs, desc="comparing", unit="pair"))
    return sorted(((i, j, one.picture) for i, j, one in matches if one.same), key=lambda pair: -pair[2])


def say_how_long(what: str, items: Sequence[Item], work: Callable[[Item], object], *, at_once: int = 1) -> None:
    """Log how long work will take, ``at_once`` of the items at a time, by some of them; nothing where they are few."""
    if len(items) < 20 * TIMED:
        return
    some = items[:: -(-len(items) // TIMED)]
    begun = time.perf_counter()
    for item in some:
        work(item)
    minutes = (time.perf_counter() - begun) / len(some) * len(items) / at_once / 60
    logger.info("%d %s: about %s", len(items), what, f"{minutes:.0f} minutes" if minutes >= 1 else "a minute or less")
