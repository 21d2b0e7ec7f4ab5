"""Keypoints in tables and arrays: csv, MediaPipe's csv, NTU RGB+D's .skeleton, and .npz, .npy, .pkl of numbers."""

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dust.convert.keypoints.poses import Person, Recording, joint_names
from dust.convert.safe_pickle import read_pickled_array
from dust.datasets.manifest.columns import to_number
from dust.datasets.manifest.table import Table, read_lines, read_table
from dust.utils.arrays import open_npz, read_npy
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text
from dust.utils.text import whole_number

FRAME = ("frame", "frame_id", "frame_idx", "frame_index", "frame_number", "frame_no", "frame_num", "image_id")
PERSON = ("person", "person_id", "track", "track_id", "subject_id", "body", "body_id", "individual", "animal")
JOINT = ("joint", "landmark", "keypoint", "landmark_index", "landmark_id", "bodypart", "name")
CONFIDENCE = ("confidence", "conf", "score", "likelihood", "visibility", "c", "v")
_KINDS = {"x": 0, "y": 1, "z": -1, **dict.fromkeys(CONFIDENCE, 2)}
_WIDE = re.compile(rf"(?P<name>.+?)[_. ](?P<kind>{'|'.join(_KINDS)})")
_DEEPLABCUT = ("scorer", "individuals", "bodyparts", "coords")  # what its lines of the header begin with
#: Columns that may say of when, or whose, a row is.
_OF_WHEN = re.compile(r"(frame|image|img)([_. ]?\w*)")
_WHOSE = re.compile(r"(person|people|track|subject|individual|animal|instance|player)([_. ]?\w*)")
_NUMBERED = re.compile(r"(?P<kind>[xyzvc])[_. ]?(?P<name>\d+)")

# --- csv ----------------------------------------------------------------------------------------------------------


def read_csv(path: Path, name: str, *, shares: bool = False) -> list[Recording]:
    """Read a row per frame (and person) with columns ``JOINT_x``, ``JOINT_y``, ``JOINT_confidence`` (or ``x1, y1,
    v1``); or a row per frame and joint: ``frame, [person], joint, x, y, [confidence]``. Without a column ``frame`` rows
    are frames. An empty cell or NaN is a joint that was not seen. DeepLabCut's header of several lines is read as
    well."""
    table = _table(path)
    if not table.rows:
        raise DataError(f"{path}: no rows in it")
    frame, person, joint = (
        next((column for column in table.header if column.replace(" ", "_") in names), "")
        for names in (FRAME, PERSON, JOINT)
    )
    _refuse_hidden(path, table, frame, person)
    names, values = _long(path, table, frame, joint) if joint else _wide(path, table)
    recording = Recording(name, names, shares=shares)
    people: dict[tuple[int, str], np.ndarray] = {}
    for number, (row, joints) in enumerate(zip(table.rows, values, strict=True)):
        where, cells = f"{path}: {row[0]}", row[2]
        at = number if not frame else whole_number(cells[frame].removesuffix(".0"))  # as pandas writes it
        if at is None:
            raise DataError(f"{where}: frame {cells[frame]!r} is no number")
        key = (at, cells[person].strip() if person else "")
        if key in people and not joint:
            raise DataError(f"{where}: frame {at} a second time: a column person says whose keypoints these are")
        merged = people.setdefault(key, np.zeros((len(names), 3)))
        merged[joints[:, 2] > 0] = joints[joints[:, 2] > 0]
    for (at, who), joints in sorted(people.items(), key=lambda one: one[0][0]):
        recording.frames.setdefault(at, []).append(Person(joints, who))
    return [recording]


def _refuse_hidden(path: Path, table: Table, frame: str, person: str) -> None:
    """Raise DataError for columns that say what nobody read: rows would be of other frames, or of other people."""
    others = [name for name in table.header if not (_WIDE.fullmatch(name) or _NUMBERED.fullmatch(name))]
    for known, pattern, word in ((frame, _OF_WHEN, FRAME[0]), (person, _WHOSE, PERSON[0])):
        for name in others if not known else ():
            if pattern.fullmatch(name) and len({cells[name] for _, _, cells in table.rows}) > 1:
                raise DataError(f"{path}: does the column {name} say the {word}? Call it {word}, or leave it out")


def _table(path: Path) -> Table:
    problems = Problems()
    lines = read_lines(path, problems)
    heads = list(itertools.takewhile(lambda line: line.cells[0].lower() in _DEEPLABCUT, lines))
    table = read_table(path, problems) if len(heads) < 2 else None
    problems.raise_if_any(str(path))
    if table is not None:
        return table
    named = {line.cells[0].lower(): [cell.lower() for cell in line.cells[1:]] for line in heads}
    joints, kinds = named.get("bodyparts", []), named.get("coords", [])
    people = named.get("individuals", [""] * len(joints))
    if not joints or not len(joints) == len(kinds) == len(people):
        raise DataError(f"{path}: DeepLabCut's header needs lines bodyparts and coords of one length")
    rows = []
    for line in lines[len(heads) :]:
        if len(line.cells) != len(joints) + 1:
            problems.add(f"not the {len(joints) + 1} columns of the header", f"{line.where}: {len(line.cells)}")
            continue
        of: dict[str, dict[str, str]] = {}
        for person, joint, kind, cell in zip(people, joints, kinds, line.cells[1:], strict=True):
            of.setdefault(person, {})[f"{joint}_{kind}"] = cell
        for person, cells in of.items():
            if len(of) == 1 or any(cell.strip() for cell in cells.values()):  # other animals are not there
                rows.append((line.where, line.text, {"frame": line.cells[0], "person": person, **cells}))
    problems.raise_if_any(str(path))
    header = ["frame", "person", *dict.fromkeys(f"{joint}_{kind}" for joint, kind in zip(joints, kinds, strict=True))]
    empty = dict.fromkeys(header, "")
    return Table(header, [(where, text, empty | cells) for where, text, cells in rows])


def read_mediapipe_csv(path: Path, name: str) -> list[Recording]:
    """Read as :func:`read_csv` does, with x and y as shares of the frame."""
    return read_csv(path, name, shares=True)


def _values(where: str, cells: Sequence[str]) -> list[float]:
    try:
        return [to_number(cell) if cell.strip() else np.nan for cell in cells]
    except ValueError:
        raise DataError(f"{where}: not numbers: {', '.join(cells)[:120]}") from None


def _seen(joints: np.ndarray) -> np.ndarray:
    joints[~np.isfinite(joints).all(axis=1)] = 0.0
    return joints


def _long(path: Path, table: Table, frame: str, joint: str) -> tuple[tuple[str, ...], list[np.ndarray]]:
    confidence = next((column for column in CONFIDENCE if column in table.header), "")
    lacking = [column for column in ("x", "y") if column not in table.header] + ([] if frame else ["frame"])
    if lacking:
        raise DataError(f"{path}: no column {', '.join(lacking)} beside {joint}")
    written = list(dict.fromkeys(cells[joint].strip() for _, _, cells in table.rows))
    names = _named(written, str(path))
    order = {word: place for place, word in enumerate(_in_order(written))}
    rows = []
    for where, _, cells in table.rows:
        joints = np.zeros((len(names), 3))
        picked = [cells["x"], cells["y"], *([cells[confidence]] if confidence else [])]
        values = [*_values(f"{path}: {where}", picked), 1.0][:3]
        joints[order[cells[joint].strip()]] = values
        rows.append(_seen(joints))
    return names, rows


def _wide(path: Path, table: Table) -> tuple[tuple[str, ...], list[np.ndarray]]:
    places: dict[str, dict[int, str]] = {}
    for column in table.header:
        match = _NUMBERED.fullmatch(column) or _WIDE.fullmatch(column)
        if match and _KINDS[match["kind"]] >= 0:
            places.setdefault(match["name"], {})[_KINDS[match["kind"]]] = column
    joints = {name: columns for name, columns in places.items() if 0 in columns and 1 in columns}
    if not joints:
        raise DataError(f"{path}: no columns JOINT_x and JOINT_y, and no columns joint, x and y: {table.header[:8]}")
    written = _in_order(joints)
    names = _named(written, str(path))
    rows = []
    for where, _, cells in table.rows:
        triples = []
        for name in written:
            columns = joints[name]
            picked = [cells[columns[0]], cells[columns[1]], *([cells[columns[2]]] if 2 in columns else [])]
            triples.append([*_values(f"{path}: {where}", picked), 1.0][:3])
        rows.append(_seen(np.array(triples)))
    return names, rows


def _in_order(joints: Iterable[str]) -> list[str]:
    """Return joints that are numbers by these; names as they stand."""
    names = list(joints)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _named(written: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the joints' names; of numbers those of the skeleton with as many joints, in the order of the numbers."""
    if not all(word.isdecimal() for word in written):
        return tuple(written)
    return joint_names(len(written), ("coco", "mediapipe", "mediapipe_hand", "openpose25", "openpose18"), source)


# --- NTU RGB+D ------------------------------------------------------------------------------------------------------

NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
NTU_SIZE, NTU_FPS = (1080, 1920), 30.0
_TRACKED = (0.0, 0.5, 1.0)  # tracking states: not tracked, inferred, tracked


def read_ntu(path: Path, name: str) -> list[Recording]:
    """Read a .skeleton file, its joints in pixels of the colour camera. Action, camera and person are those of the name
    ``S001C002P003R002A013``; the sequence is the person, so that splits by sequence are by person."""
    words = iter(read_text(path).split())

    def take(count: int) -> list[float]:
        try:
            return [float(next(words)) for _ in range(count)]
        except (StopIteration, ValueError):
            raise DataError(f"{path}: cut off, or no .skeleton file: copy it again") from None

    recording = Recording(name, joint_names(25, ("ntu",), str(path)), size=NTU_SIZE, fps=NTU_FPS)
    for frame in range(_count(take(1), path)):
        recording.frames[frame] = []
        for _ in range(_count(take(1), path)):
            body = next(words, "")
            take(9)
            if _count(take(1), path) != 25:
                raise DataError(f"{path}: frame {frame}: a body that has not 25 joints")
            table = np.array([take(12) for _ in range(25)])
            states = np.clip(np.nan_to_num(table[:, 11]), 0, 2).astype(int)
            joints = np.column_stack([table[:, 5:7], np.take(_TRACKED, states)])
            recording.frames[frame].append(Person(_seen(joints), body))
    if next(words, None) is not None:
        raise DataError(f"{path}: more in it than the frames it announces: copy it again")
    if found := NTU_NAME.search(path.stem):
        setup, camera, person, repeat, action = found.groups()
        recording.label, recording.sequence, recording.view = f"A{action}", f"P{person}", int(camera)
        recording.sample = f"S{setup}P{person}R{repeat}A{action}"
    return [recording]


def _count(values: Sequence[float], path: Path) -> int:
    if not values[0].is_integer() or not 0 <= values[0] < 1e6:
        raise DataError(f"{path}: damaged: {values[0]:g} is no number of frames, bodies or joints: copy it again")
    return int(values[0])


# --- arrays -----------------------------------------------------------------------------------------------------------

POSITIONS = ("keypoint", "keypoints", "positions_2d", "joints_2d", "pose", "poses")
SCORES = ("keypoint_score", "keypoint_scores", "scores", "score", "confidence")


def read_h36m(path: Path, name: str) -> list[Recording]:
    """Read Human3.6M's 17 joints; see :func:`_read_arrays`."""
    return _read_arrays(path, name, ("h36m",))


def read_pyskl(path: Path, name: str) -> list[Recording]:
    """Read mmaction's and pyskl's ``keypoint`` (M, T, P, 2) and ``keypoint_score`` (M, T, P); see
    :func:`_read_arrays`."""
    return _read_arrays(path, name, ("coco", "ntu", "openpose18", "openpose25", "mediapipe"))


def _read_arrays(path: Path, name: str, skeletons: Sequence[str]) -> list[Recording]:
    """Read arrays (T, P, C) or (M people, T, P, C), C being x, y or x, y, confidence in pixels, or x, y, z in any unit.

    An .npz has one with a name of POSITIONS, with confidences (a name of SCORES), ``img_shape`` or ``size`` (height,
    width), ``fps`` and ``label`` beside it; or one such array for each recording, by its name. A .npy or .pkl is one
    array. A pickle that holds anything else (the dictionary that mmaction and pyskl write) is refused.
    """
    if path.suffix == ".npy":
        return [_recording(read_npy(path), None, name, skeletons, str(path))]
    if path.suffix == ".pkl":
        try:
            array = read_pickled_array(path).load()
        except DataError as error:
            raise DataError(
                f"{error}. Of mmaction's and pyskl's dictionary: numpy.savez(f\"{{one['frame_dir']}}.npz\", "
                "**{key: one[key] for key in ('keypoint', 'keypoint_score', 'img_shape', 'label')}) for each one of "
                "its annotations, and convert the folder"
            ) from None
        return [_recording(array, None, name, skeletons, str(path))]
    with open_npz(path) as archive:
        archive.refuse_objects()
        facts = {key: archive.read(key) for key in ("img_shape", "size", "fps") if key in archive.names}
        positions = next((key for key in POSITIONS if key in archive.names), "")
        scores = next((key for key in SCORES if key in archive.names), "")
        label = _text(archive, "label")
        if positions:
            found = {name: archive.read(positions)}
        else:
            others = [key for key in archive.names if key not in (*facts, scores, "label")]
            found = {f"{name}/{key}": archive.read(key) for key in others}
        confidences = archive.read(scores) if scores else None
    if confidences is not None and not positions:
        raise DataError(f"{path}: {scores} without one of {', '.join(POSITIONS)}")
    size = facts.get("img_shape", facts.get("size"))
    recordings = []
    for key, array in found.items():
        recording = _recording(array, confidences, key, skeletons, f"{path}: {positions or key}")
        if size is not None and size.size == 2:
            recording.size = (int(size.flat[0]), int(size.flat[1]))
        if "fps" in facts and facts["fps"].size == 1:
            recording.fps = float(facts["fps"].flat[0])
        recording.label = label
        recordings.append(recording)
    return recordings


def _text(archive, name: str) -> str:
    """Return a label: a number or a text; "" without one."""
    if name not in archive.names:
        return ""
    try:
        value = archive.read(name)
    except DataError:
        value = archive.read(name, text=True)
    return str(value.flat[0]) if value.size == 1 else ""


def _recording(
    array: np.ndarray, scores: np.ndarray | None, name: str, skeletons: Sequence[str], source: str
) -> Recording:
    if array.ndim == 3:
        array = array[None]
        scores = None if scores is None or scores.ndim != 2 else scores[None]
    if array.ndim != 4 or array.shape[-1] not in (2, 3) or 0 in array.shape:
        raise DataError(f"{source}: shape {array.shape}: (frames, joints, 2 or 3), or people before it, are needed")
    array = array.astype(np.float64)
    third = array[..., 2:]
    space = bool(third.size) and not ((third >= 0) & (third <= 1.5)).all()  # else a confidence
    if space or not third.size:
        if scores is not None and scores.shape != array.shape[:3]:
            raise DataError(f"{source}: shape {array.shape}, but its confidences {scores.shape}")
        seen = np.any(array != 0, axis=-1, keepdims=True)  # all zeros: padding
        array = np.concatenate([array, seen if scores is None else scores[..., None]], axis=-1)
    recording = Recording(name, joint_names(array.shape[2], skeletons, source), space=space)
    for frame in range(array.shape[1]):
        people = [Person(_seen(array[who, frame].copy()), str(who)) for who in range(len(array))]
        recording.frames[frame] = [person for person in people if person.joints.any()]
    return recording
