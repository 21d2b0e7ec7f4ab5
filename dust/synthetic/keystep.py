"""Generated recordings of a small assembly: a hand puts coloured parts on a board, step by step.

Which parts are on the board can be seen in every frame in which no hand is in the way. What makes it a procedure rather
than a picture: hands pass over the board, parts are held over their places and taken away again, the board moves, and
some recordings have a part put on wrongly, removed again, or left out. So a single frame misleads, and several in order
do not.

The first part comes first; the others come in any order. The orders of the test split do not occur in train and val.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dust.datasets.keystep.files import (
    PROCEDURE,
    RECORDINGS,
    STATES,
    STEPS,
    ProcedureData,
    Recording,
    steps_of_states,
    write_own,
)
from dust.procedure.table import State
from dust.synthetic.motion import claim_folder, finish_folder, write_video
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.rng import numpy_rng

FPS = 10
SHARES = {"val": 0.15, "test": 0.2}
PALETTE = {
    "red": (215, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220),
    "yellow": (235, 215, 50), "magenta": (200, 50, 200), "cyan": (50, 205, 215),
}  # fmt: skip
TABLE, BOARD, PLACE, SKIN = (96, 100, 108), (176, 150, 112), (120, 100, 76), (226, 178, 150)
APPROACH, HOLD, LEAVE, TAIL = 8, 4, 6, 40  # frames: hand comes, waits over the place, goes; and the end of a recording
PASSING = 0.7  # probability that a hand comes between two steps and does nothing
MISHAPS = ("wrong", "missing", "removed")


@dataclass(frozen=True)
class Action:
    """A hand at ``place`` around ``frame``: the part's state there is ``state`` from that frame on (None: as before).
    ``brings``, ``takes``: it carries the part on its way there, or away."""

    frame: int
    place: int
    state: int | None
    brings: bool
    takes: bool


@dataclass(frozen=True)
class Plan:
    """What happens in a recording. ``states`` as in :class:`dust.datasets.keystep.files.Recording`."""

    actions: list[Action]
    states: tuple[tuple[int, State], ...]
    num_frames: int


def orders(parts: int, seed: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the orders of train and val, so sorted that the first ones show as many states as they can; and those of
    test, a third of all."""
    every = list(itertools.permutations(range(1, parts)))
    every = [every[i] for i in numpy_rng(seed, "orders").permutation(len(every))]
    held = max(1, len(every) // 3)
    left, test, seen, chosen = every[held:], every[:held], set[frozenset[int]](), []
    while left:
        best = max(left, key=lambda order: len(_subsets(order) - seen))
        left.remove(best)
        chosen.append(best)
        seen |= _subsets(best)
    return chosen, test


def _subsets(order: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(order[:n]) for n in range(len(order) + 1)}


def plan(order: Sequence[int], mishap: str, pace: int, rng: np.random.RandomState) -> Plan:
    """Plan when which part gets which state. ``order`` is of the parts after the first; ``pace`` is the mean number of
    frames between two steps; ``mishap`` is "" or one of MISHAPS."""
    steps = [(0, 1), *((part, 1) for part in order)]  # (part, its new state)
    at = int(rng.randint(1, len(steps)))
    part = steps[at][0]
    if mishap == "missing":
        del steps[at]
    elif mishap == "wrong":
        steps[at:at] = [(part, -1), (part, 0)]
    elif mishap == "removed":
        steps[at + 1 : at + 1] = [(part, 0), (part, 1)]
    state, frame = [0] * (1 + len(order)), 0
    states, actions = [(0, tuple(state))], []
    for part, new in steps:
        before, frame = frame, frame + int(rng.randint(round(0.8 * pace), round(1.2 * pace) + 1))
        actions += _passing(before, frame, state, rng)
        actions.append(Action(frame, part, new, brings=new != 0, takes=new == 0))
        state[part] = new
        states.append((frame, tuple(state)))
    return Plan(actions, tuple(states), frame + TAIL)


def _passing(before: int, frame: int, state: Sequence[int], rng: np.random.RandomState) -> list[Action]:
    """Return now and then a hand that comes between two steps and changes nothing; half of them hold a part that is
    missing."""
    first, last = before + LEAVE + APPROACH + HOLD, frame - APPROACH - HOLD - LEAVE - 1
    if rng.uniform() >= PASSING or first >= last:
        return []
    place = int(rng.randint(len(state)))
    carries = state[place] == 0 and bool(rng.uniform() < 0.5)
    return [Action(int(rng.randint(first, last)), place, None, brings=carries, takes=carries)]


# ---------------------------------------------------------------------------------------------------------- pictures


def render(scene: Plan, size: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (T, size, size, 3), and bools (T,): a hand is over the board."""
    count = len(scene.states[0][1])
    gain, drift = rng.uniform(0.85, 1.1), rng.uniform(0, 2 * np.pi, size=2)
    corners = rng.uniform(0.2, 0.8, size=len(scene.actions))  # where along the lower edge a hand comes from
    grain = rng.normal(0, 3, (8, size, size, 1)).astype(np.float32)
    known = dict(scene.states)
    frames, busy = np.empty((scene.num_frames, size, size, 3), np.uint8), np.zeros(scene.num_frames, bool)
    state = scene.states[0][1]
    for t in range(scene.num_frames):
        state = known.get(t, state)
        shift = 0.03 * np.sin(2 * np.pi * t / np.array([97.0, 71.0]) + drift)  # y, x, in sizes
        picture = np.empty((size, size, 3), np.float32)
        picture[:] = TABLE
        _box(picture, 0.5 + shift, (0.34, 0.42), BOARD)
        for part in range(count):
            _part(picture, place_of(part, count) + shift, part, state[part])
        for action, corner in zip(scene.actions, corners, strict=True):
            busy[t] |= _hand(picture, action, t, place_of(action.place, count) + shift, corner)
        frames[t] = np.clip(gain * picture + grain[t % len(grain)], 0, 255)
    return frames, busy


def place_of(part: int, parts: int) -> np.ndarray:
    """Return where a part belongs, (y, x) in 0..1: two rows."""
    columns = -(-parts // 2)
    row, column = divmod(part, columns)
    return np.array([0.34 + 0.32 * row, 0.5 + 0.68 * ((column + 0.5) / columns - 0.5)])


def _hand(picture: np.ndarray, action: Action, t: int, place: np.ndarray, corner: float) -> bool:
    """Draw the hand of an action, and what it carries, if it is in the picture."""
    since = t - action.frame
    if not -(APPROACH + HOLD) <= since <= LEAVE:
        return False
    away = max(0.0, -(since + HOLD) / APPROACH) if since < 0 else since / LEAVE  # 0 at the place, 1 outside
    centre = place + away * (np.array([1.15, corner]) - place)
    if (action.brings and since < 0) or (action.takes and since >= 0):
        _part(picture, centre, action.place, 1)
    _disc(picture, centre + np.array([0.1, 0.04]), 0.14, SKIN)
    return True


def _part(picture: np.ndarray, centre: np.ndarray, part: int, state: int) -> None:
    """Draw a square in its place (1), a small diamond beside it (-1), or the empty place (0)."""
    colour = list(PALETTE.values())[part]
    if state == -1:
        _disc(picture, centre + np.array([0.05, -0.05]), 0.09, colour, order=1)
    else:
        _box(picture, centre, (0.09, 0.09) if state else (0.07, 0.07), colour if state else PLACE)


def _box(picture: np.ndarray, centre: np.ndarray, half: tuple[float, float], colour: Sequence[int]) -> None:
    size = len(picture)
    low, high = (np.round(size * (centre + sign * np.array(half))).astype(int).clip(0, size) for sign in (-1, 1))
    picture[low[0] : high[0], low[1] : high[1]] = colour


def _disc(picture: np.ndarray, centre: np.ndarray, radius: float, colour: Sequence[int], order: int = 2) -> None:
    y, x = np.ogrid[: len(picture), : len(picture)]
    dy, dx = (abs((axis + 0.5) / len(picture) - c) for axis, c in zip((y, x), centre, strict=True))
    picture[(dy**order + dx**order) < radius**order] = colour


# --------------------------------------------------------------------------------------------------- object detector


def state_names(parts: int) -> list[str]:
    """Return classes of the object detector: background, every state of correct parts that can occur, error_state."""
    with_first = ["1" + "".join(digits) for digits in itertools.product("01", repeat=parts - 1)]
    return ["background", "0" * parts, *with_first, "error_state"]


def detections(scene: Plan, busy: np.ndarray, names: Sequence[str], rng: np.random.RandomState) -> list[tuple]:
    """Return what a detector might see, as (row, frame, class, confidence, x, y, w, h): often right; under a hand and
    now and then elsewhere it sees nothing, or, less surely, a state that differs in one part."""
    rows: list[tuple] = []
    known, state = dict(scene.states), scene.states[0][1]
    for t in range(scene.num_frames):
        state = known.get(t, state)
        seen, confidence, luck = list(state), rng.uniform(0.6, 0.95), rng.uniform()
        nothing, wrong = (0.5, 0.8) if busy[t] else (0.04, 0.08)
        flipped = int(rng.randint(1, len(state)))
        if luck < nothing:
            continue
        if luck < wrong and state[0] == 1:
            seen[flipped], confidence = int(seen[flipped] != 1), rng.uniform(0.3, 0.7)
        name = "error_state" if -1 in seen else "".join(map(str, seen))
        rows.append((len(rows), t, names.index(name), f"{confidence:.3f}", 0.5, 0.5, 0.84, 0.68))
    return rows


# ------------------------------------------------------------------------------------------------------------- files


def generate_procedure(
    out: str | Path,
    *,
    recordings: int = 30,
    parts: int = 5,
    seed: int = 0,
    size: int = 64,
    pace: int = 45,
    mishaps: float = 0.25,
    force: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> dict[str, int]:
    """Write recordings (mp4, 10 frames per second) with labels in our format, and a detector's csv for each.

    Args:
        recordings: in all, at least 3; 15 % are val and 20 % test, at least one each.
        parts: 3..6 on the board.
        seed: the same seed writes the same files.
        size: height and width in pixels, even, at least 32.
        pace: mean number of frames between two steps, at least 40.
        mishaps: share of recordings with a mishap, 0..1, one kind after the other.
        force: replace what an earlier run wrote. Other files in the folder are never touched.
        progress: wraps the list of recordings to show how far it is.

    Returns:
        {split: number of recordings}.

    Raises:
        DataError: a number out of range, a folder that is not empty, a foreign file in the way.
    """
    least = {"recordings": 3, "parts": 3, "size": 32, "pace": 40, "mishaps": 0}
    given = {"recordings": recordings, "parts": parts, "size": size, "pace": pace, "mishaps": mishaps}
    wrong = [f"{name} {given[name]}: at least {low}" for name, low in least.items() if given[name] < low]
    wrong += [f"parts {parts}: at most {len(PALETTE)}"] if parts > len(PALETTE) else []
    wrong += [f"size {size}: must be even"] if size % 2 else []
    wrong += [f"mishaps {mishaps}: at most 1"] if mishaps > 1 else []
    if wrong:
        raise DataError("these recordings cannot be generated: " + "; ".join(wrong))
    folder, work = Path(out), _work(recordings, parts, seed, mishaps)
    files = [f"videos/{name}.mp4" for name, _, _, _ in work] + [f"object_states/{_objects(name)}" for name, *_ in work]
    claim_folder(folder, [*files, RECORDINGS, STATES, STEPS, PROCEDURE], force=force)
    data = _facts(parts)
    splits = {split: replace(data, recordings=[]) for split in ("train", "val", "test")}
    try:
        for kind in ("videos", "object_states"):
            (folder / kind).mkdir(exist_ok=True)
        for name, split, order, mishap in progress(work):
            rng = numpy_rng(seed, "assembly", name)
            scene = plan(order, mishap, pace, rng)
            frames, busy = render(scene, size, rng)
            video, objects = folder / "videos" / f"{name}.mp4", folder / "object_states" / _objects(name)
            write_video(video, frames, fps=FPS)
            header = ("", "frame", "class", "conf", "x", "y", "w", "h")
            write_csv(objects, header, detections(scene, busy, data.state_names, rng))
            steps = tuple(step for step in steps_of_states(scene.states) if step[1] % 3 != 1)
            splits[split].recordings.append(
                Recording(name, str(video), FPS, states=scene.states, steps=steps, object_states=str(objects))
            )
    except OSError as error:
        raise DataError(f"{folder}: a recording cannot be written: {error.strerror or error}") from error
    write_own(folder, splits)
    finish_folder(folder)
    return {split: len(one.recordings) for split, one in splits.items()}


def _objects(name: str) -> str:
    return f"{name}_results_pred.csv"


def _work(recordings: int, parts: int, seed: int, mishaps: float) -> list[tuple[str, str, tuple[int, ...], str]]:
    """Return (name, split, order, mishap) of every recording."""
    seen, unseen = orders(parts, seed)
    held = {split: max(1, round(share * recordings)) for split, share in SHARES.items()}
    counts = {"train": recordings - sum(held.values()), **held}
    work = []
    for split, count in counts.items():
        choice = unseen if split == "test" else seen
        for number in range(count):
            # evenly spread, so that every split has its share
            happens = int((number + 1) * mishaps) > int(number * mishaps)
            mishap = MISHAPS[int(number * mishaps) % len(MISHAPS)] if happens else ""
            work.append((f"{split}_{number:03d}", split, choice[number % len(choice)], mishap))
    return work


def _facts(parts: int) -> ProcedureData:
    names = list(PALETTE)[:parts]
    verbs = ("Install", "Incorrectly installed", "Remove")
    table = [
        {
            "id": step,
            "description": f"{verbs[step % 3]} {names[step // 3]} part",
            "install": step % 3 != 2,
            "state_idx": step // 3,
            "expected_in_assy": step % 3 == 0 or (step % 3 == 2 and step > 2),
        }
        for step in range(3 * parts)
    ]
    return ProcedureData([], names, table, {"assy": "0" * parts}, "", state_names(parts))
