"""Names of joints: how many, and which are left and right of each other."""

import logging

import numpy as np
import pytest

from dust.datasets.tracks.skeletons import SKELETONS, exchanged, find_pairs, mirrored_labels, other_side


def test_skeletons_have_the_joints_that_their_formats_have():
    counts = {"coco": 17, "openpose18": 18, "openpose25": 25, "mediapipe": 33, "mediapipe_hand": 21}
    assert {name: len(joints) for name, joints in SKELETONS.items()} == counts | {"ntu": 25, "h36m": 17}
    assert all(len(set(joints)) == len(joints) for joints in SKELETONS.values())
    # places as the formats' own pages number them
    assert SKELETONS["coco"][9] == "left_wrist" and SKELETONS["coco"][16] == "right_ankle"
    assert SKELETONS["openpose25"][4] == "right_wrist" and SKELETONS["openpose25"][19] == "left_big_toe"
    assert SKELETONS["openpose18"][13] == "left_ankle" and SKELETONS["openpose18"][17] == "left_ear"
    assert SKELETONS["mediapipe"][10] == "mouth_right" and SKELETONS["mediapipe"][16] == "right_wrist"
    assert SKELETONS["ntu"][20] == "spine" and SKELETONS["ntu"][24] == "right_thumb"
    assert SKELETONS["h36m"][1] == "right_hip" and SKELETONS["h36m"][11] == "left_shoulder"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("left_wrist", "right_wrist"), ("RWrist", "LWrist"), ("LBigToe", "RBigToe"), ("mouth_left", "mouth_right"),
        ("LeftHand", "RightHand"), ("hand_r", "hand_l"), ("2:left_eye", "2:right_eye"), ("LEFT_EYE", "RIGHT_EYE"),
        ("turn left", "turn right"), ("upright", "upright"), ("bright", "bright"), ("nose", "nose"), ("Lower", "Lower"),
    ],
)  # fmt: skip
def test_a_name_says_its_side(name, other):
    assert other_side(name) == other and other_side(other) == name


@pytest.mark.parametrize("name", SKELETONS)
def test_every_side_has_another_one_and_exchanged_twice_all_is_as_before(name):
    joints = SKELETONS[name]
    pairs = find_pairs(joints)
    assert 2 * len(pairs) == sum(other_side(joint) != joint for joint in joints)
    order = exchanged(pairs, len(joints))
    np.testing.assert_array_equal(order[order], np.arange(len(joints)))
    assert [joints[place] for place in order] == [other_side(joint) for joint in joints]


def test_classes_change_places_by_their_names(caplog):
    with caplog.at_level(logging.INFO):
        assert mirrored_labels(["jump", "turn_left", "wave_left", "wave_right"], "KEY") == [0, None, 3, 2]
    assert "wave_left are wave_right" in caplog.text and "never of turn_left" in caplog.text
