"""The generated assembly: its labels are what one sees, test orders are new, and a single frame misleads."""

import hashlib

import numpy as np
import pytest

from dust.datasets.keystep.layouts import read_object_states, read_procedures
from dust.decode.reader import open_clip
from dust.procedure.decoders import decode_b1
from dust.synthetic import keystep as made
from dust.synthetic.keystep import PALETTE, generate_procedure, orders, plan, render
from dust.utils.errors import DataError

SMALL = {"recordings": 5, "parts": 3, "size": 32, "mishaps": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("assembly")
    assert generate_procedure(root, **SMALL) == {"train": 3, "val": 1, "test": 1}
    return root


def shares_of_colour(picture, parts, shift):
    """How much of each place shows its part's colour."""
    size, shares = len(picture), []
    for part in range(parts):
        y, x = np.round(size * (made.place_of(part, parts) + shift)).astype(int)
        spot = picture[y - 2 : y + 3, x - 2 : x + 3].astype(float)
        colour = np.array(list(PALETTE.values())[part], float)
        cosine = (spot @ colour) / np.linalg.norm(spot, axis=2) / np.linalg.norm(colour)
        shares.append((cosine > 0.97).mean())
    return shares


@pytest.mark.parametrize("mishap", ["", *made.MISHAPS])
def test_what_the_labels_say_is_what_one_sees(mishap):
    scene = plan((2, 1, 3), mishap, 45, np.random.RandomState(4))
    frames, busy = render(scene, 64, np.random.RandomState(1))
    assert len(frames) == len(busy) == scene.num_frames == scene.states[-1][0] + made.TAIL
    known, state, checked = dict(scene.states), None, 0
    for t, picture in enumerate(frames):
        state = known.get(t, state)
        if not busy[t] and -1 not in state:
            # the board moves by at most 0.03: the middle of a place is always the part's
            assert [share > 0.5 for share in shares_of_colour(picture, 4, 0)] == [one == 1 for one in state], t
            checked += 1
    assert checked > 60 and busy.sum() > 40


def test_a_step_is_under_a_hand_and_steps_are_apart():
    scene = plan((1, 2, 3, 4), "", 40, np.random.RandomState(0))
    _, busy = render(scene, 32, np.random.RandomState(0))
    at = [frame for frame, _ in scene.states]
    assert all(busy[frame] for frame in at[1:]) and (np.diff(at) >= 32).all()


def test_mishaps():
    def states(mishap):
        return [state for _, state in plan((1, 2), mishap, 40, np.random.RandomState(3)).states]

    assert len(states("")) == 4 and len(states("missing")) == 3
    assert any(-1 in state for state in states("wrong")) and states("wrong")[-1] == (1, 1, 1)
    removed = np.diff(np.array(states("removed")), axis=0)
    assert (removed == -1).sum() == 1 and states("removed")[-1] == (1, 1, 1)


@pytest.mark.parametrize("parts", [3, 4, 5])
def test_orders_of_test_are_new_and_training_shows_every_state_early(parts):
    train, test = orders(parts, 0)
    assert not set(train) & set(test) and len(train) + len(test) == np.prod(range(1, parts))
    if parts == 5:
        states = set().union(*(made._subsets(order) for order in train[:8]))
        assert len(states) == 2 ** (parts - 1)


def test_our_format_is_written(folder):
    data = {split: read_procedures(folder, split) for split in ("train", "val", "test")}
    assert data["train"].components == ["red", "green", "blue"]
    assert data["train"].state_names == ["background", "000", "100", "101", "110", "111", "error_state"]
    assert data["train"].procedure("assy").expected == {0, 3, 6, 5, 8}
    for one in (one for split in data.values() for one in split.recordings):
        assert one.fps == 10 and one.num_frames == one.states[-1][0] + made.TAIL
        assert one.steps[0][1] == 0, "the first part comes first"
    done = {split: {tuple(step for _, step in one.steps) for one in found.recordings} for split, found in data.items()}
    assert not done["test"] & (done["train"] | done["val"])
    wrong = [one for one in data["train"].recordings if any(-1 in state for _, state in one.states)]
    assert wrong and not any(step % 3 == 1 for one in wrong for _, step in one.steps)


def test_a_detector_frame_by_frame_sees_steps_that_were_none(folder):
    data = read_procedures(folder, "train")
    states = {
        i: tuple(map(int, name)) for i, name in enumerate(data.state_names) if name not in ("background", "error_state")
    }
    (one, *_) = data.recordings
    seen = read_object_states(one.object_states, one.num_frames, len(data.state_names))
    true = dict(one.states)
    state, right = one.states[0][1], 0
    for frame, boxes in enumerate(seen):
        state = true.get(frame, state)
        right += any(states.get(label) == state for label, _ in boxes)
    assert 0.5 < right / one.num_frames < 0.9
    assert len(decode_b1(seen, states)) > 2 * len(one.steps)


def test_the_same_seed_writes_the_same_bytes(folder, tmp_path):
    generate_procedure(tmp_path / "again", **SMALL)
    generate_procedure(tmp_path / "other", seed=1, **SMALL)

    def digest(root):
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in (".mp4", ".csv"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    assert digest(tmp_path / "again") == digest(folder) != digest(tmp_path / "other")
    with open_clip(tmp_path / "again" / "videos" / "train_000.mp4") as reader:
        assert (reader.height, reader.width, reader.fps) == (32, 32, 10.0)


def test_wrong_numbers_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match=r"recordings 2: at least 3; pace 10: at least 40; parts 9: at most 6"):
        generate_procedure(tmp_path, recordings=2, parts=9, pace=10)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        generate_procedure(tmp_path, **SMALL)
