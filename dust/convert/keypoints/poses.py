"""People in the frames of a recording, and who of them is who: association over time, and which of them are kept.

Shapes: T frames, P joints of a person.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dust.datasets.manifest.table import SPLIT_NAMES
from dust.datasets.tracks.skeletons import SKELETONS
from dust.utils.errors import DataError

PATIENCE = 15  # frames for which a person may be away and still be the same one
NEAR = 0.5  # of a body's diagonal, per frame away: how far the joints may have moved on average
KEEP = ("largest", "visible")
PLANE = re.compile(r"(-?[xyz]),(-?[xyz])")
PLANE_SIDE, PLANE_SHARE = 1000, 0.9  # pixels of the square that positions in space are drawn in, and how much they fill
SPARSE = 20  # a recording with so many times more frames than were found is none


@dataclass(frozen=True, slots=True)
class Person:
    """``joints``: (P, 3) x, y, confidence. ``id``: by the file's own tracker, "" where it has none."""

    joints: np.ndarray
    id: str = ""


@dataclass
class Recording:
    """What one camera saw.

    Attributes:
        name: path below the source, without suffix; folders and cameras are read from it.
        names: of the joints, P.
        frames: people by frame's number.
        size: height and width in pixels; None where the file does not say.
        fps: 0 where the file does not say.
        shares: x and y are shares of the frame, not pixels.
        space: joints are (P, 4), x, y, z, confidence: positions in space, of any unit.
        label, split, sequence, sample: "" where the file does not say; ``view``: the camera's number, or None.
    """

    name: str
    names: tuple[str, ...]
    frames: dict[int, list[Person]] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    fps: float = 0.0
    shares: bool = False
    space: bool = False
    label: str = ""
    split: str = ""
    sequence: str = ""
    sample: str = ""
    view: int | None = None

    def split_name(self, view_pattern: re.Pattern[str]) -> None:
        """Read camera, split and label from the name, ``train/wave/0001_cam2``, as far as the file did not say them."""
        rest = self.name
        found = None
        for match in view_pattern.finditer(rest):
            found = match
        if found is not None:
            self.view = int(found[1]) if self.view is None else self.view
            rest = (rest[: found.start()] + rest[found.end() :]).strip("/_-. ")
        parts = [part for part in rest.split("/") if part]
        if len(parts) > 1 and parts[0].lower() in SPLIT_NAMES:
            self.split = self.split or SPLIT_NAMES[parts.pop(0).lower()]
        if len(parts) > 1 and not self.label:
            self.label = parts[0]
        self.sample = self.sample or "/".join(parts) or self.name
        self.sequence = self.sequence or self.sample

    def project(self, plane: str) -> None:
        """Draw positions in space on a plane, ``x,-z``: what goes to the right and what goes down; all of the recording
        at one scale, in the middle of a square.

        Raises:
            DataError: no plane is given.
        """
        if not self.space:
            return
        match = PLANE.fullmatch(plane)
        if match is None:
            raise DataError("positions in space: --plane x,-z says which axis goes to the right and which one down")
        axes = [("xyz".index(axis[-1]), -1.0 if axis[0] == "-" else 1.0) for axis in match.groups()]

        def flat(joints: np.ndarray) -> np.ndarray:
            return np.stack([sign * joints[:, axis] for axis, sign in axes], axis=1)

        there = [flat(one.joints[one.joints[:, 3] > 0]) for people in self.frames.values() for one in people]
        points = np.concatenate([*there, np.zeros((0, 2))])
        low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(2), np.ones(2))
        scale = PLANE_SHARE * PLANE_SIDE / max(float((high - low).max()), 1e-9)
        for people in self.frames.values():
            for place, one in enumerate(people):
                xy = PLANE_SIDE / 2 + (flat(one.joints) - (low + high) / 2) * scale
                people[place] = Person(np.column_stack([xy, one.joints[:, 3]]), one.id)
        self.size, self.space = (PLANE_SIDE, PLANE_SIDE), False

    def to_pixels(self, size: tuple[int, int] | None) -> None:
        """Take the frame size from the caller where the file has none, and make pixels of shares.

        Raises:
            DataError: no frame size.
        """
        self.size = self.size or size
        if self.size is None:
            raise DataError("no frame size in it: give --size HEIGHT,WIDTH")
        if self.shares:
            factor = np.array([self.size[1], self.size[0], 1.0])
            self.frames = {n: [Person(p.joints * factor, p.id) for p in people] for n, people in self.frames.items()}
            self.shares = False


def joint_names(count: int, skeletons: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the names of that one of the skeletons which has ``count`` joints. DataError where none has."""
    for name in skeletons:
        if len(SKELETONS[name]) == count:
            return SKELETONS[name]
    known = ", ".join(f"{name} ({len(SKELETONS[name])})" for name in skeletons)
    raise DataError(f"{source}: {count} joints, of no skeleton that is known here: {known}")


def check_frames(recording: Recording, source: str) -> None:
    """Raise DataError for frames' numbers that are no time: ids of pictures that lie anywhere."""
    numbers = recording.frames.keys()
    if numbers and min(numbers) < 0:
        raise DataError(f"{source}: frame {min(numbers)}: frames count from 0")
    if numbers and max(numbers) - min(numbers) > SPARSE * len(numbers) + 100:
        raise DataError(
            f"{source}: frames {min(numbers)} to {max(numbers)}, of which {len(numbers)} are there: these are no "
            "numbers of frames. Give the annotation file, whose images say their order"
        )


def in_order(recording: Recording, first: int, last: int) -> list[list[Person]]:
    """Return the people of frames ``first`` to ``last``, both included; a frame that is not there has nobody."""
    return [recording.frames.get(number, []) for number in range(first, last + 1)]


# --- who is who -------------------------------------------------------------------------------------------------

Track = dict[int, np.ndarray]  # frame -> joints (P, 3)


def link_people(frames: Sequence[Sequence[Person]], threshold: float) -> list[Track]:
    """Return one track for each person, in the order in which they appear.

    People with an id are who the file says. All others are assigned frame by frame, by the least sum of distances
    (scipy.optimize.linear_sum_assignment): the mean distance of the joints that both are seen to have, in diagonals of
    the body, from where the person would be at the speed that it had. Farther than NEAR for each frame that has passed
    is somebody else; who is away for more than PATIENCE frames comes back as somebody else.

    Args:
        threshold: a joint of a higher confidence is seen.
    """
    known: dict[str, Track] = {}
    tracks: list[Track] = []
    open_tracks: list[tuple[int, Track]] = []  # frame of the last sight
    for number, people in enumerate(frames):
        for person in people:
            if person.id:
                if person.id not in known:
                    known[person.id] = {}
                    tracks.append(known[person.id])
                known[person.id][number] = person.joints
        loose = [person.joints for person in people if not person.id]
        open_tracks = [(last, track) for last, track in open_tracks if number - last <= PATIENCE]
        pairs = _assign([(_ahead(track, number), number - last) for last, track in open_tracks], loose, threshold)
        for place, joints in enumerate(loose):
            if place in pairs:
                track = open_tracks[pairs[place]][1]
                open_tracks[pairs[place]] = (number, track)
            else:
                track = {}
                tracks.append(track)
                open_tracks.append((number, track))
            track[number] = joints
    return tracks


def _ahead(track: Track, number: int) -> np.ndarray:
    """Return the last joints, moved on to frame ``number`` by the mean speed of all joints between the last two
    sights."""
    frames = list(track)[-2:]
    last = track[frames[-1]].copy()
    if len(frames) == 2:
        before = track[frames[0]]
        both = (before[:, 2] > 0) & (last[:, 2] > 0)
        if both.any():
            step = (last[both, :2] - before[both, :2]).mean(axis=0) / (frames[1] - frames[0])
            last[:, :2] += step * (number - frames[1])
    return last


def _assign(last: Sequence[tuple[np.ndarray, int]], found: Sequence[np.ndarray], threshold: float) -> dict[int, int]:
    """Return {place in ``found``: place in ``last``} of those near enough. ``last``: joints, and frames since then."""
    from scipy.optimize import linear_sum_assignment

    if not last or not found:
        return {}
    far = 1e6
    costs = np.full((len(found), len(last)), far)
    for column, (before, away) in enumerate(last):
        size = np.hypot(*_extent(before, threshold))
        for row, joints in enumerate(found):
            both = (before[:, 2] > threshold) & (joints[:, 2] > threshold)
            if both.any() and size > 0:
                distance = np.linalg.norm(joints[both, :2] - before[both, :2], axis=1).mean() / size
                costs[row, column] = distance if distance <= NEAR * away else far
            elif len(found) == len(last) == 1:  # one joint alone has no size to measure by, and nobody else is there
                costs[row, column] = 0.0
    rows, columns = linear_sum_assignment(costs)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if costs[row, column] < far}


def _extent(joints: np.ndarray, threshold: float) -> np.ndarray:
    """Return the width and height of what is seen; zeros for nothing."""
    seen = joints[joints[:, 2] > threshold, :2]
    return seen.max(axis=0) - seen.min(axis=0) if len(seen) else np.zeros(2)


def choose_people(tracks: Sequence[Track], count: int, keep: str, threshold: float) -> list[Track]:
    """Return the ``count`` people that are ``largest`` (area of what is seen, summed over the frames) or most
    ``visible`` (joints seen, summed over the frames); the first of them first."""

    def score(track: Mapping[int, np.ndarray]) -> float:
        if keep == "largest":
            return float(sum(np.prod(_extent(joints, threshold)) for joints in track.values()))
        return float(sum((joints[:, 2] > threshold).sum() for joints in track.values()))

    return sorted(tracks, key=lambda track: -score(track))[:count]


def stacked(tracks: Sequence[Track], frames: int, joints: int, count: int) -> np.ndarray:
    """Return (frames, count * joints, 3): the people side by side; zeros where somebody is not there."""
    out = np.zeros((frames, count, joints, 3), np.float64)
    for place, track in enumerate(tracks):
        for number, values in track.items():
            out[number, place] = values
    return out.reshape(frames, count * joints, 3)
