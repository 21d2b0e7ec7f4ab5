"""Files of point tracks: ours, CoTracker's, and those of the published light weight model."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.tracks.skeletons import exchanged, find_pairs
from dust.decode import folders
from dust.utils.arrays import open_npz, read_npy
from dust.utils.errors import CheckpointError, DataError
from dust.utils.files import natural_order

TRACK_NAMES = ("tracks", "pred_tracks", "arr_0")
VISIBILITY_NAMES = ("visibility", "visible", "vis", "pred_visibility", "visibles")
CONFIDENCE_NAMES = ("confidence", "conf", "pred_confidence")
SIZE_NAMES = ("size", "frame_size")
SUFFIXES = (".npz", ".npy", ".pt", ".pth")
EDGE = 0.05  # points may stand this share of the frame outside of it and count as inside when axes are checked


@dataclass(frozen=True, slots=True)
class Tracks:
    """``xy``: (T, P, 2) float32 pixels. ``visible``: (T, P) bool. ``size``: height and width in pixels, None if the
    file does not say. ``fps``: frames per second, 0 if the file does not say. ``names``: of the points, () without any.
    ``pairs``: (K, 2) points that are left and right of each other."""

    xy: np.ndarray
    visible: np.ndarray
    size: tuple[int, int] | None
    fps: float
    names: tuple[str, ...] = ()
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))


def mirrored(tracks: Tracks) -> Tracks:
    """Return what a mirror shows: x from the other edge of the frame, and a point that has a side is that of the other
    side.

    Mirrored twice it is what it was, up to the rounding of the pixels.
    """
    assert tracks.size is not None
    order = exchanged(tracks.pairs, tracks.xy.shape[1])
    xy = np.stack([tracks.size[1] - tracks.xy[:, order, 0], tracks.xy[:, order, 1]], axis=-1)
    return replace(tracks, xy=xy.astype(np.float32), visible=tracks.visible[:, order])


def read_tracks(path: str | os.PathLike, *, threshold: float = 0.9, size: tuple[int, int] | None = None) -> Tracks:
    """Read and check the tracks of one camera.

    Args:
        path: .npz, .npy, .pt or .pth, or a folder of them that are one sequence in the order of their numbers.
        threshold: a visibility that is a share, times the confidence if there is one, must be above it.
        size: height and width for a file that does not say them.

    Raises:
        DataError: names the file and everything that is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        tracks = _read_folder(path, threshold)
    else:
        tracks = _read_file(path, threshold)
    tracks = replace(tracks, size=tracks.size or size)
    problems = find_problems(tracks)
    if problems:
        raise DataError(f"{path}: " + "; ".join(problems))
    return tracks


def find_problems(tracks: Tracks) -> list[str]:
    """Return what is wrong with the numbers of a file, each with the way out."""
    problems = []
    bad = ~np.isfinite(tracks.xy).all(axis=-1)
    if bad.any():
        frame, point = np.argwhere(bad)[0]
        problems.append(
            f"{bad.sum()} points are NaN or infinite, the first in frame {frame}, point {point}: write any number and "
            "visibility False where a point is not seen"
        )
    if tracks.size is None:
        problems.append("no frame size in it: store size = (height, width), or set TRACKS.FRAME_SIZE")
    elif min(tracks.size) < 1:
        problems.append(f"frame size {tracks.size}: height and width must be above 0")
    elif not bad.any() and tracks.visible.any():
        problems += _find_wrong_axes(tracks.xy[tracks.visible], tracks.size)
    if not np.isfinite(tracks.fps) or tracks.fps < 0:
        problems.append(f"fps is {tracks.fps}, it must be 0 (not known) or more")
    return problems


def _find_wrong_axes(points: np.ndarray, size: tuple[int, int]) -> list[str]:
    height, width = size
    outside = _share_outside(points, height, width)
    swapped = _share_outside(points, width, height)
    seen = (
        f"visible x up to {points[:, 0].max():.0f} and y up to {points[:, 1].max():.0f} in a frame of {width}x{height}"
    )
    if outside > 0.02 and swapped < 0.2 * outside:
        return [f"x and y seem swapped, or height and width: {seen}. Tracks are (x, y), size is (height, width)"]
    if outside > 0.5:
        return [f"{100 * outside:.0f} % of the visible points are outside of the frame: {seen}. Are these pixels?"]
    if min(size) > 16 and np.abs(points).max() <= 1.5 and len(points) > 1:
        return [f"all coordinates lie in {points.min():.2f} to {points.max():.2f}: pixels are needed, not shares"]
    return []


def _share_outside(points: np.ndarray, height: int, width: int) -> float:
    limit = np.array([width, height])
    return float(((points < -EDGE * limit) | (points > (1 + EDGE) * limit)).any(axis=1).mean())


# --- one file ---------------------------------------------------------------------------------------------------


def _read_file(path: Path, threshold: float) -> Tracks:
    arrays = _arrays(path)
    name, xy = _pick(arrays, TRACK_NAMES)
    if xy is None:
        if path.suffix.lower() == ".npz":
            with open_npz(path) as archive:
                archive.refuse_objects()
        raise DataError(f"{path}: no tracks in it: looked for {', '.join(TRACK_NAMES)}, found {_listed(arrays)}")
    xy = _tracks(path, xy)
    _, visible = _pick(arrays, VISIBILITY_NAMES)
    if visible is not None:
        shown = _visibility(path, visible, _pick(arrays, CONFIDENCE_NAMES)[1], xy.shape[:2], threshold)
    elif name == "arr_0":
        shown = _without_copies(xy)
    else:
        raise DataError(f"{path}: no visibility beside {name}: looked for {', '.join(VISIBILITY_NAMES)}")
    _, size = _pick(arrays, SIZE_NAMES)
    if size is not None and (size.size != 2 or size.dtype.kind not in "fiu" or not np.isfinite(size).all()):
        raise DataError(f"{path}: size is {size.reshape(-1)[:10].tolist()}, it must be height and width")
    _, fps = _pick(arrays, ("fps",))
    if fps is not None and (fps.size != 1 or fps.dtype.kind not in "fiu"):
        raise DataError(f"{path}: fps is {fps.reshape(-1)[:10].tolist()}, it must be one number")
    rate = 0.0 if fps is None else float(fps.reshape(-1)[0])
    names, pairs = _names_and_pairs(path, arrays, xy.shape[1])
    return Tracks(xy, shown, None if size is None else (int(size.flat[0]), int(size.flat[1])), rate, names, pairs)


def _names_and_pairs(
    path: Path, arrays: Mapping[str, Callable[[], np.ndarray]], points: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the points' names, and which are left and right of each other: as the file says, else by the names."""
    names: tuple[str, ...] = ()
    if path.suffix == ".npz" and "names" in arrays:
        with open_npz(path) as archive:
            found = archive.read("names", text=True)
        names = tuple(map(str, found.reshape(-1)))
        if len(names) != points or len(set(names)) < points:
            raise DataError(f"{path}: {len(names)} names, {len(set(names))} different ones, of {points} points")
    if "pairs" not in arrays:
        return names, find_pairs(names)
    pairs = arrays["pairs"]()
    if not pairs.size:
        return names, np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise DataError(f"{path}: pairs are {pairs.dtype} {pairs.shape}: (pairs, 2) numbers of points are needed")
    if pairs.min() < 0 or pairs.max() >= points or len(np.unique(pairs)) < pairs.size:
        raise DataError(f"{path}: pairs must be points from 0 to {points - 1}, each once: {pairs[:10].tolist()}")
    return names, pairs.astype(np.int64)


def _arrays(path: Path) -> Mapping[str, Callable[[], np.ndarray]]:
    """Return what reads each array of a file; what is not asked for is not read."""
    suffix = path.suffix.lower()
    if suffix in (".pt", ".pth"):
        return _torch_arrays(path)
    if suffix == ".npy":
        return {"arr_0": lambda: read_npy(path)}
    with open_npz(path) as archive:
        return {name: partial(_read_member, path, name) for name in archive.names}


def _read_member(path: Path, name: str) -> np.ndarray:
    with open_npz(path) as archive:
        return archive.read(name)


def _torch_arrays(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    from dust.utils.checkpoint.reader import read_plain  # imports torch

    try:
        loaded: Any = read_plain(path)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    if isinstance(loaded, (tuple, list)) and len(loaded) >= 2:  # what CoTracker's predictor returns
        loaded = dict(zip(("tracks", "visibility", "confidence"), loaded, strict=False))
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: holds a {type(loaded).__name__}, not a dictionary with tracks and visibility")
    names = (name for name, value in loaded.items() if not isinstance(value, (str, dict)))
    return {str(name): partial(_numbers, path, str(name), loaded[name]) for name in names}


def _numbers(path: Path, name: str, value: Any) -> np.ndarray:
    """Return an array of a tensor of any kind, exactly: of the kinds that NumPy lacks (bfloat16, float8) float32."""
    import torch

    try:
        if not isinstance(value, torch.Tensor):
            return np.asarray(value)
        value = value.detach().cpu()
        if value.is_quantized or value.is_sparse:
            raise TypeError(f"a {value.dtype} tensor of layout {value.layout}; store a dense one of real numbers")
        known = value.dtype in (torch.float16, torch.float32, torch.float64) or not value.is_floating_point()
        return (value if known else value.float()).resolve_conj().resolve_neg().numpy()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"{path}: {name} is no array of numbers: {error}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)[:300] or "nothing"


def _pick(arrays: Mapping[str, Callable[[], np.ndarray]], names: tuple[str, ...]) -> tuple[str, np.ndarray | None]:
    return next(((name, arrays[name]()) for name in names if name in arrays), ("", None))


def _tracks(path: Path, xy: np.ndarray) -> np.ndarray:
    """Return (T, P, 2), also with a batch of one before it."""
    if xy.ndim == 4 and xy.shape[0] == 1:
        xy = xy[0]
    if xy.ndim != 3 or xy.shape[-1] != 2 or 0 in xy.shape or xy.dtype.kind not in "fiu":
        raise DataError(f"{path}: tracks are {xy.dtype} {xy.shape}: numbers (frames, points, 2) are needed")
    return xy.astype(np.float32)


def _visibility(
    path: Path, visible: np.ndarray, confidence: np.ndarray | None, shape: tuple[int, ...], threshold: float
) -> np.ndarray:
    """Return (T, P) bool from booleans or shares, times the confidences if there are any."""
    shares = _shares(path, "visibility", visible, shape)
    if confidence is not None:
        shares = shares * _shares(path, "confidence", confidence, shape)
    return shares if shares.dtype == bool else shares > threshold


def _shares(path: Path, name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (T, P) booleans or numbers from 0 to 1, also given with a batch of one before it or a last axis of one."""
    given = values.shape
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3:
        values = values[0] if values.shape[0] == 1 else values[..., 0] if values.shape[-1] == 1 else values
    if values.shape != shape:
        swapped = "; frames and points are swapped in one of them" if values.shape == shape[::-1] else ""
        raise DataError(f"{path}: {name} is {given}, tracks have {shape[0]} frames of {shape[1]} points{swapped}")
    if values.dtype != bool and (values.dtype.kind not in "fiu" or not ((values >= 0) & (values <= 1)).all()):
        raise DataError(f"{path}: {name} must be True and False, or shares from 0 to 1")
    return values


def _without_copies(xy: np.ndarray) -> np.ndarray:
    """Return every point as visible, save a list's last ones that only repeat its first: the published code's
    padding."""
    copies = (xy == xy[:, :1]).all(axis=(0, 2))
    last = int(np.flatnonzero(~copies)[-1]) if not copies.all() else 0
    visible = np.ones(xy.shape[:2], dtype=bool)
    visible[:, last + 1 :] = False
    return visible


# --- a folder of parts ------------------------------------------------------------------------------------------


def _read_folder(folder: Path, threshold: float) -> Tracks:
    """Read files of one frame or several, joined. Parts with fewer points than others get invisible ones."""
    files = sorted(
        (Path(entry.path) for entry in folders.visible(folder) if os.path.splitext(entry.name)[1].lower() in SUFFIXES),
        key=lambda path: natural_order(path.name),
    )
    if not files:
        raise DataError(f"{folder}: no tracks in this folder: {', '.join(SUFFIXES)} are looked for")
    parts = [_read_file(path, threshold) for path in files]
    sizes = {part.size for part in parts}
    if len({part.names for part in parts}) > 1:
        raise DataError(f"{folder}: its files have different names of points: store the same ones in each, or none")
    if len(sizes) > 1:
        raise DataError(f"{folder}: its files have different frame sizes: {', '.join(map(str, sizes))}")
    most = max(part.xy.shape[1] for part in parts)
    xy = [np.pad(part.xy, ((0, 0), (0, most - part.xy.shape[1]), (0, 0))) for part in parts]
    visible = [np.pad(part.visible, ((0, 0), (0, most - part.visible.shape[1]))) for part in parts]
    return replace(parts[0], xy=np.concatenate(xy), visible=np.concatenate(visible), size=sizes.pop())
