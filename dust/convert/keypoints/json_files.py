"""Keypoints in JSON: of COCO, MMPose, AlphaPose and MediaPipe, and OpenPose's folders."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.convert.keypoints.poses import Person, Recording, joint_names
from dust.datasets.manifest.annotation import mapping, sequence
from dust.utils.errors import DataError
from dust.utils.files import natural_order
from dust.utils.structured import read_json
from dust.utils.text import whole_number

_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")
_OPENPOSE = re.compile(r"(?P<stem>.*?)_?(?P<frame>\d+)_keypoints$")


def to_joints(values: Any, where: str, scores: Any = None) -> np.ndarray:
    """Return (P, 3) of ``x, y, confidence`` in turn, of pairs or triples, or of pairs beside ``scores``; DataError
    else."""
    try:
        array = np.array(values, np.float64)
        array = array.reshape(-1, 3 if scores is None and array.ndim == 1 else array.shape[-1])
        if array.shape[1] == 2:
            shares = np.ones(len(array)) if scores is None else np.array(scores, np.float64).reshape(-1)
            array = np.column_stack([array, shares])
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"{where}: keypoints that are no numbers x, y, confidence ({error})") from None
    if array.shape[1] != 3 or not len(array):
        raise DataError(f"{where}: keypoints of shape {array.shape}: x, y, confidence for each joint are needed")
    broken = ~np.isfinite(array).all(axis=1)
    array[broken] = 0.0  # not seen
    return array


def _id(value: Any) -> str:
    """Return a tracker's id; "" for none (-1, [-1], null, "")."""
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or isinstance(value, bool) or str(value) in ("", "-1") else str(value)


def _size(facts: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width, where they are there."""
    height, width = facts.get("height"), facts.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


# --- COCO and what looks like it ----------------------------------------------------------------------------------


def read_coco(path: Path, name: str) -> list[Recording]:
    """Read one file: COCO's keypoint results (a list), an annotation file (images, annotations), or frames in turn,
    as MMPose (instances), OpenPose (people) or Kinetics-Skeleton (``data``, shares of the frame) write them.

    ``image_id`` counts frames in results; with ``images`` their order in each folder (or ``video_id``) is the time,
    and each folder is a recording.
    """
    document = read_json(path)
    if isinstance(document, dict) and "annotations" in document:
        return _annotations(document, path, name)
    facts = mapping(document)
    frames = sequence(facts.get("instance_info", facts.get("data", facts.get("frames", document))))
    for key, (keypoints, scores) in _FRAMES.items():
        if frames and all(isinstance(frame, dict) and key in frame for frame in frames):
            return [_frames(facts, frames, (key, keypoints, scores), path, name)]
    recording = Recording(name, ())
    for place, result in enumerate(frames):
        where = f"{path}: result {place}"
        if not isinstance(result, dict) or "keypoints" not in result or "image_id" not in result:
            raise DataError(f"{where}: no image_id and keypoints: this is no list of COCO keypoint results")
        person = Person(to_joints(result["keypoints"], where), _id(result.get("track_id", result.get("idx"))))
        _add(recording, _frame_number(result["image_id"], where), person, where)
    return [recording]


def _frame_number(written: Any, where: str) -> int:
    """Return the number itself, or the last one in a picture's name."""
    if isinstance(written, int) and not isinstance(written, bool):
        return written
    found = _LAST_NUMBER.search(os.path.splitext(str(written))[0])
    number = whole_number(found[1]) if found else None
    if number is None:
        raise DataError(f"{where}: image_id {str(written)[:80]!r} has no number of a frame in it")
    return number


def _add(recording: Recording, frame: int, person: Person, where: str) -> None:
    count = len(person.joints)
    recording.names = recording.names or joint_names(count, ("coco", "openpose18", "openpose25", "mediapipe"), where)
    if count != len(recording.names):
        raise DataError(f"{where}: {count} joints, where the first person has {len(recording.names)}")
    recording.frames.setdefault(frame, []).append(person)


def _annotations(document: dict[str, Any], path: Path, name: str) -> list[Recording]:
    """Read COCO's annotations. Its own visibility is 0 (not labelled), 1 (hidden) or 2: half of it is taken for the
    confidence."""
    images = [one for one in sequence(document.get("images")) if isinstance(one, dict)]
    categories = sequence(document.get("categories"))
    listed = next((found for one in categories if (found := sequence(mapping(one).get("keypoints")))), ())
    names = tuple(map(str, listed))
    recordings: dict[str, Recording] = {}
    place: dict[str, tuple[Recording, int]] = {}

    def order(image: dict[str, Any]) -> tuple:
        numbered = image.get("frame_id", image.get("frame_index"))
        return (0, numbered, []) if isinstance(numbered, int) else (1, 0, natural_order(str(image.get("file_name"))))

    for image in sorted(images, key=order):
        video = image.get("video_id", image.get("vid_id"))
        key = str(video) if video is not None else os.path.dirname(str(image.get("file_name", "")).replace("\\", "/"))
        if key not in recordings:
            recordings[key] = Recording(f"{name}/{key}" if key else name, names, size=_size(image))
        recording = recordings[key]
        place[str(image.get("id"))] = (recording, len(recording.frames))
        recording.frames[len(recording.frames)] = []
    for number, one in enumerate(sequence(document["annotations"])):
        where = f"{path}: annotation {number}"
        if not isinstance(one, dict) or not one.get("keypoints"):
            continue
        if str(one.get("image_id")) not in place:
            raise DataError(f"{where}: image_id {one.get('image_id')!r} is none of the images")
        recording, frame = place[str(one["image_id"])]
        joints = to_joints(one["keypoints"], where)
        joints[:, 2] = np.minimum(joints[:, 2] / 2, 1.0)
        _add(recording, frame, Person(joints, _id(one.get("track_id"))), where)
    return [recording for recording in recordings.values() if any(recording.frames.values())]


#: Lists of frames: the key of a frame's people, and those of a person's keypoints and confidences.
_FRAMES = {
    "instances": ("keypoints", "keypoint_scores"),
    "people": ("pose_keypoints_2d", ""),
    "skeleton": ("pose", "score"),
}


def _frames(
    facts: dict[str, Any], frames: Sequence[dict[str, Any]], keys: tuple[str, str, str], path: Path, name: str
) -> Recording:
    """Return frames with their people, numbered by ``frame_id`` or ``frame_index``, else in turn."""
    names, label = mapping(facts.get("meta_info")).get("keypoint_id2name"), facts.get("label")
    recording = Recording(name, tuple(map(str, names.values())) if isinstance(names, dict) else (), size=_size(facts))
    recording.shares = keys[0] == "skeleton"
    recording.label = label if isinstance(label, str) else ""
    for place, frame in enumerate(frames):
        where = f"{path}: frame {place}"
        number = _frame_number(frame.get("frame_id", frame.get("frame_index", place)), where)
        recording.frames.setdefault(number, [])
        for one in map(mapping, sequence(frame[keys[0]])):
            values, scores = one.get(keys[1]), one.get(keys[2])
            if values == []:  # OpenPose found a hand or a face alone
                continue
            if scores is not None and isinstance(values, list) and values and not isinstance(values[0], list):
                values = [values[start : start + 2] for start in range(0, len(values), 2)]
            joints = to_joints(values, where, scores)
            _add(recording, number, Person(joints, _id(one.get("track_id", one.get("person_id")))), where)
    return recording


# --- OpenPose ---------------------------------------------------------------------------------------------------


def openpose_stem(path: Path) -> str | None:
    """Return what the files of one recording have in common; None for another file."""
    found = _OPENPOSE.match(path.stem)
    return found["stem"] if found else None


def read_openpose(files: Iterable[Path], name: str) -> list[Recording]:
    """Read a frame per file: ``{"people": [{"pose_keypoints_2d": [x, y, c, ...], "person_id": [-1]}]}``."""
    recording = Recording(name, ())
    for path in files:
        found = _OPENPOSE.match(path.stem)
        assert found is not None, path
        frame, people = int(found["frame"]), mapping(read_json(path)).get("people")
        if not isinstance(people, list):
            raise DataError(f"{path}: no list of people: this is no file of OpenPose's")
        recording.frames[frame] = []
        for one in map(mapping, people):
            values = one.get("pose_keypoints_2d", one.get("pose_keypoints"))
            if values:
                joints = to_joints(values, str(path))
                recording.names = recording.names or joint_names(len(joints), ("openpose25", "openpose18"), str(path))
                _add(recording, frame, Person(joints, _id(one.get("person_id"))), str(path))
    return [recording]


# --- MediaPipe --------------------------------------------------------------------------------------------------

_LANDMARKS = ("pose_landmarks", "poseLandmarks", "hand_landmarks", "landmarks", "landmark", "keypoints")


def read_mediapipe_json(path: Path, name: str) -> list[Recording]:
    """Read a list of frames, or ``{"frames": [...], "width", "height", "fps"}``. A frame is a list of landmarks
    ``{"x", "y", "visibility"}``, a list of such lists (a person each), ``{"pose_landmarks": ...}`` of either, or null
    where nobody was found. x and y are shares of the frame."""
    document = read_json(path)
    facts = mapping(document)
    frames = facts.get("frames", document)
    if not isinstance(frames, list):
        raise DataError(f"{path}: no list of frames: a list of landmarks for each is needed")
    fps = facts.get("fps", 0.0)
    recording = Recording(
        name, (), size=_size(facts), fps=float(fps) if isinstance(fps, int | float) else 0.0, shares=True
    )
    for place, frame in enumerate(frames):
        where = f"{path}: frame {place}"
        number = mapping(frame).get("frame", mapping(frame).get("frame_index", place))
        recording.frames[_frame_number(number, where)] = people = []
        for landmarks in _people_of(frame):
            joints = np.array([_landmark(one, where) for one in landmarks], np.float64)
            names = joint_names(len(joints), ("mediapipe", "mediapipe_hand"), where)
            if recording.names and names != recording.names:
                raise DataError(f"{where}: {len(joints)} landmarks, where others have {len(recording.names)}")
            recording.names = names
            people.append(Person(joints))
    return [recording]


def _people_of(frame: Any) -> list[list[Any]]:
    if isinstance(frame, dict):
        frame = next((frame[name] for name in _LANDMARKS if frame.get(name)), None)
        if isinstance(frame, dict):
            return _people_of(frame)
    if not isinstance(frame, list) or not frame:
        return []
    is_landmark = isinstance(frame[0], dict) and "x" in frame[0]
    numbers = isinstance(frame[0], list) and all(isinstance(value, int | float) for value in frame[0])
    if is_landmark or numbers:
        return [frame]
    return [people for one in frame for people in _people_of(one)]


def _landmark(one: Any, where: str) -> tuple[float, float, float]:
    """Return x, y and visibility of a landmark, which is a mapping or [x, y, z, visibility]."""
    if isinstance(one, list) and len(one) in (2, 3, 4) and all(isinstance(value, int | float) for value in one):
        return float(one[0]), float(one[1]), float(one[3]) if len(one) == 4 else 1.0
    facts = mapping(one)
    x, y, seen = (facts.get("x"), facts.get("y"), facts.get("visibility", 1.0))
    if not all(isinstance(value, int | float) for value in (x, y, seen)):
        raise DataError(f"{where}: a landmark without numbers x and y: {str(one)[:80]}")
    return float(x), float(y), float(seen)  # type: ignore[arg-type]
