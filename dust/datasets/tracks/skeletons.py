"""Skeletons: the names of their joints in the order of the files, and which of them are left and right of one body.

The orders are those of the formats' own documentation: COCO keypoints, OpenPose's BODY_25 and COCO models, MediaPipe's
pose and hand landmarkers, NTU RGB+D (Kinect v2), and the 17 joints of Human3.6M that most work on it uses.
"""

import logging
import re
from collections.abc import Sequence

import numpy as np

logger = logging.getLogger(__name__)

_ARMS = ("shoulder", "elbow", "wrist")
_LEGS = ("hip", "knee", "ankle")


def _side(side: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts)


def _both(*parts: str) -> tuple[str, ...]:
    """Return left_a, right_a, left_b, right_b, ..."""
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


def _finger(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for part in ("mcp", "pip", "dip", "tip"))


SKELETONS: dict[str, tuple[str, ...]] = {
    "coco": ("nose", *_both("eye", "ear", *_ARMS, *_LEGS)),
    "openpose18": (
        *("nose", "neck", *_side("right", *_ARMS), *_side("left", *_ARMS)),
        *(*_side("right", *_LEGS), *_side("left", *_LEGS)),
        *("right_eye", "left_eye", "right_ear", "left_ear"),
    ),
    "openpose25": (
        *("nose", "neck", *_side("right", *_ARMS), *_side("left", *_ARMS)),
        *("mid_hip", *_side("right", *_LEGS), *_side("left", *_LEGS)),
        *("right_eye", "left_eye", "right_ear", "left_ear"),
        *(*_side("left", "big_toe", "small_toe", "heel"), *_side("right", "big_toe", "small_toe", "heel")),
    ),
    "mediapipe": (
        *("nose", *_side("left", "eye_inner", "eye", "eye_outer"), *_side("right", "eye_inner", "eye", "eye_outer")),
        *(*_both("ear"), "mouth_left", "mouth_right", *_both(*_ARMS, "pinky", "index", "thumb")),
        *_both(*_LEGS, "heel", "foot_index"),
    ),
    "mediapipe_hand": (
        *("wrist", "thumb_cmc", "thumb_mcp", "thumb_ip", "thumb_tip"),
        *(name for finger in ("index_finger", "middle_finger", "ring_finger", "pinky") for name in _finger(finger)),
    ),
    "ntu": (
        *("spine_base", "spine_mid", "neck", "head", *_side("left", *_ARMS, "hand"), *_side("right", *_ARMS, "hand")),
        *(*_side("left", *_LEGS, "foot"), *_side("right", *_LEGS, "foot"), "spine"),
        *("left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb"),
    ),
    "h36m": (
        *("pelvis", *_side("right", *_LEGS), *_side("left", *_LEGS), "spine", "thorax", "neck", "head"),
        *(*_side("left", *_ARMS), *_side("right", *_ARMS)),
    ),
}

_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
#: a side in a name: left_wrist, LeftWrist, wrist-left, LEFT; l_wrist, LWrist, wrist_l
_SIDE = re.compile(
    r"(?<![A-Za-z])(?:left|right)(?![a-z])|(?:Left|Right)(?![a-z])|(?<![A-Za-z])(?:LEFT|RIGHT)(?![A-Z])"
    r"|(?<![A-Za-z])[lrLR](?=[_\-. ]|[A-Z][a-z])|(?<=[_\-. ])[lrLR](?![A-Za-z])"
)


def other_side(name: str) -> str:
    """Return the name with left and right exchanged; the name itself where it has no side."""

    def exchange(match: re.Match[str]) -> str:
        found = match[0]
        other = _OTHER[found.lower()]
        return other.upper() if found.isupper() else other.capitalize() if found[0].isupper() else other

    return _SIDE.sub(exchange, name)


def find_pairs(names: Sequence[str]) -> np.ndarray:
    """Return (K, 2) int64: the places of left and right of each pair, the smaller first; (0, 2) where there is none."""
    place = {name: index for index, name in enumerate(names)}
    found = [(index, place.get(other_side(name), index)) for index, name in enumerate(names)]
    return np.array([pair for pair in found if pair[0] < pair[1]], np.int64).reshape(-1, 2)


def exchanged(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return (count,): for each point the one that takes its place in a mirror."""
    order = np.arange(count)
    order[pairs[:, 0]], order[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    return order


def mirrored_labels(class_names: Sequence[str], key: str) -> list[int | None]:
    """Return for each class the number of the one that its mirror image is of: by the names, wave_left and wave_right;
    None for a side whose other one is no class. What is exchanged is logged under the name ``key``."""
    place = {name: number for number, name in enumerate(class_names)}
    others = [other_side(name) for name in class_names]
    found = [place.get(other) for other in others]
    told = [f"{a} are {b}" for a, b in zip(class_names, others, strict=True) if a != b and b in place]
    alone = [name for name, other in zip(class_names, found, strict=True) if other is None]
    logger.info("%s: mirror images of %s; never of %s", key, ", ".join(told) or "no side", ", ".join(alone) or "none")
    return found
