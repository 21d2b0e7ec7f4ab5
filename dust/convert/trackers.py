"""Trackers: frames of a clip -> where its points go.

Lucas-Kanade: B. Lucas, T. Kanade, IJCAI 1981; the forward-backward check: Z. Kalal et al., ICPR 2010. Corners:
J. Shi, C. Tomasi, CVPR 1994. All three as OpenCV (Apache-2.0) has them. CoTracker (https://github.com/facebookresearch/co-tracker)
is not part of dust and not under its licence.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dust.decode.folders import scan_pictures
from dust.utils.errors import DataError
from dust.utils.package import import_extra

logger = logging.getLogger(__name__)

REFILL = 10  # frames from one search for new points to the next
MAX_DIFFERENCE = 15.0  # grey levels, mean over a point's surroundings in two frames; beyond, it is another thing
COTRACKER = "facebookresearch/co-tracker"
COTRACKER_LICENCE = "CC-BY-NC 4.0 (most of its code, and its weights): not for commercial use"


@dataclass(frozen=True)
class Settings:
    """How tracks are made.

    Attributes:
        tracker: lk (Lucas-Kanade) | cotracker.
        points: that a file holds; where fewer are found the rest is invisible.
        short_side: pixels that a video's short side is brought down to; 0 as it is.
        fps: frames per second that are looked at; 0 all.
        max_error: lk: pixels that a point may be off after going forth and back.
        hub: cotracker: a repository for torch.hub, or a local checkout of it.
        device: cotracker: cpu | cuda.
    """

    tracker: str = "lk"
    points: int = 512
    short_side: int = 360
    fps: float = 0.0
    max_error: float = 1.0
    hub: str = COTRACKER
    device: str = "cpu"

    def check(self) -> None:
        """Raise DataError for values that cannot be."""
        wrong = []
        if self.tracker not in TRACKERS:
            wrong.append(f"tracker {self.tracker!r}: one of {', '.join(TRACKERS)}")
        if self.points < 2:
            wrong.append(f"points {self.points}: at least 2")
        if self.short_side != 0 and self.short_side < 32:
            wrong.append(f"short_side {self.short_side}: at least 32 pixels, or 0")
        if not self.fps >= 0:
            wrong.append(f"fps {self.fps}: 0 or more")
        if not self.max_error > 0:
            wrong.append(f"max_error {self.max_error}: above 0")
        if wrong:
            raise DataError("tracks cannot be made like this: " + "; ".join(wrong))


#: frames (H, W, 3) uint8 RGB, the mask of a frame's number or None -> tracks (T, P, 2) pixels, visible (T, P) bool
Masks = Callable[[int], np.ndarray]
Tracker = Callable[[Iterable[np.ndarray], "Masks | None", Settings], tuple[np.ndarray, np.ndarray]]


def need_opencv() -> Any:
    """Return the module cv2, or an error that says how to get it."""
    return import_extra("cv2", "tracks", "making tracks by OpenCV")


def read_mask(path: Path, numbers: Sequence[int], size: tuple[int, int]) -> Masks:
    """Return masks by the place of a frame in ``numbers``: (H, W) bool, where points may begin.

    Args:
        path: an image (white: here), for all frames; or a folder with one for each frame of the video.
        numbers: which frames of the video are tracked.
        size: height and width that the masks are brought to, by the nearest pixel.
    """
    cv2 = need_opencv()

    def read(file: Path) -> np.ndarray:
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise DataError(f"{file}: is not an image, as a mask must be")
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST) > 127

    if not path.is_dir():
        mask = read(path)
        return lambda place: mask
    files = [path / name for name in scan_pictures(path).found]
    if len(files) <= max(numbers):
        raise DataError(f"{path}: {len(files)} masks, but frame {max(numbers)} of the video is tracked: one for each")
    return lambda place: read(files[numbers[place]])


# ---------------------------------------------------------------------------------------------------- Lucas-Kanade


def lucas_kanade(
    frames: Iterable[np.ndarray], masks: Masks | None, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Follow corners from frame to frame. One that is lost stays lost; every few frames new ones take their place.

    At most half of ``points`` are followed at a time, so that there is room for their successors. Of more, those that
    were seen longest are kept.
    """
    cv2 = need_opencv()
    ids, at = np.zeros(0, int), np.zeros((0, 2), np.float32)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    born, before = 0, None
    for number, frame in enumerate(frames):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if before is not None and len(ids):
            at, found = _step(cv2, before, grey, at, settings.max_error)
            ids, at = ids[found], at[found]
        if number % REFILL == 0:
            allowed = None if masks is None else masks(number)
            fresh = _corners(cv2, grey, at, max(1, settings.points // 2), allowed)
            ids = np.concatenate([ids, born + np.arange(len(fresh))])
            at = np.concatenate([at, fresh])
            born += len(fresh)
        history.append((ids, at))
        before = grey
    return _collect(history, born, settings.points)


def _step(cv2: Any, before: np.ndarray, now: np.ndarray, at: np.ndarray, max_error: float) -> tuple[Any, np.ndarray]:
    """Follow (N, 2) places in ``before`` -> places in ``now``, and which of them can be trusted."""
    options = {"winSize": (15, 15), "maxLevel": 3}
    there, ahead, difference = cv2.calcOpticalFlowPyrLK(before, now, at[:, None], None, **options)
    back, behind, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **options)
    there, back = there[:, 0], back[:, 0]
    height, width = now.shape
    inside = ((there >= 0) & (there <= (width - 1, height - 1))).all(axis=1)
    returned = np.linalg.norm(back - at, axis=1) <= max_error
    alike = difference[:, 0] <= MAX_DIFFERENCE  # behind a cut some points go forth and back by chance
    return there, (ahead[:, 0] == 1) & (behind[:, 0] == 1) & inside & returned & alike


def _corners(cv2: Any, grey: np.ndarray, at: np.ndarray, alive: int, allowed: np.ndarray | None) -> np.ndarray:
    """Return new corners (N, 2), apart from each other and from the points ``at``, until ``alive`` are there."""
    missing = alive - len(at)
    if missing <= 0:
        return np.zeros((0, 2), np.float32)
    free = np.full(grey.shape, 255, np.uint8) if allowed is None else allowed.astype(np.uint8) * 255
    apart = max(2.0, float(np.sqrt((free > 0).sum() / alive) / 2))
    for x, y in at:
        cv2.circle(free, (round(float(x)), round(float(y))), round(apart), 0, -1)
    found = cv2.goodFeaturesToTrack(grey, missing, 0.005, apart, mask=free)
    return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)


def _collect(history: list[tuple[np.ndarray, np.ndarray]], born: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the history of all points as tracks (T, points, 2) and visibility. An unseen point stays where it was
    seen."""
    seen = np.zeros((len(history), born), bool)
    for frame, (ids, _) in enumerate(history):
        seen[frame, ids] = True
    kept = np.sort(np.argsort(-seen.sum(axis=0), kind="stable")[:points])
    column = np.full(born, -1)
    column[kept] = np.arange(len(kept))
    xy, visible = np.zeros((len(history), points, 2), np.float32), np.zeros((len(history), points), bool)
    for frame, (ids, at) in enumerate(history):
        wanted = column[ids] >= 0
        if frame:
            xy[frame] = xy[frame - 1]
        xy[frame, column[ids][wanted]] = at[wanted]
        visible[frame, column[ids][wanted]] = True
    return xy, visible


# ------------------------------------------------------------------------------------------------------- CoTracker


def cotracker(frames: Iterable[np.ndarray], masks: Masks | None, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Run CoTracker 3 (offline) by torch.hub, with a grid of about ``points`` points in the first frame, within its
    mask.

    The whole clip is in memory. The repository is downloaded and run; its licence is not dust's.
    """
    import torch

    logger.warning("CoTracker's licence is %s", COTRACKER_LICENCE)
    source = "local" if Path(settings.hub).is_dir() else "github"
    try:
        model: Any = torch.hub.load(settings.hub, "cotracker3_offline", source=source, trust_repo=True)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        raise DataError(f"torch.hub cannot load cotracker3_offline from {settings.hub}: {error}") from error
    clip = np.stack(list(frames))  # (T, H, W, 3)
    video = torch.from_numpy(clip).permute(0, 3, 1, 2)[None].float().to(settings.device)
    options: dict[str, Any] = {"grid_size": max(1, int(np.sqrt(settings.points)))}
    if masks is not None:
        options["segm_mask"] = torch.from_numpy(masks(0).astype(np.float32))[None, None].to(settings.device)
    with torch.inference_mode():
        tracks, seen = model.to(settings.device)(video, **options)[:2]
    found = tracks[0].float().cpu().numpy()  # (T, N, 2)
    count = min(found.shape[1], settings.points)
    xy, visible = np.zeros((len(clip), settings.points, 2), np.float32), np.zeros((len(clip), settings.points), bool)
    xy[:, :count] = found[:, :count]
    seen = seen[0].cpu().numpy().reshape(len(clip), -1)[:, :count]
    visible[:, :count] = seen if seen.dtype == bool else seen > 0.9
    return xy, visible


TRACKERS: dict[str, Tracker] = {"lk": lucas_kanade, "cotracker": cotracker}
