"""What training and test say of lists that contradict themselves."""

import hashlib
import json

import numpy as np
import pytest

from dust.datasets.manifest.clips import Clip, ClipList, Clips
from dust.datasets.multimodal.fusion_manifest import FusedClip
from dust.datasets.tracks.manifest import TrackClip
from dust.decode.segment import Segment
from dust.engine import data_lists
from dust.engine.data_lists import (
    TRAIN_COLUMNS,
    TRAIN_LIST,
    fingerprint,
    record_training_list,
    shared_clips,
    warnings_of_test,
)


class Listed:
    """A dataset of these clips."""

    def __init__(self, *clips):
        self.clips, self.class_names = list(clips), ["x", "y"]

    def class_counts(self):
        return []

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, key):
        raise KeyError(key)


def clip(name, label=0, group=""):
    return Clip(f"{name}.mp4", f"/data/{name}.mp4", label, group)


def test_training_warns_and_a_test_repeats_it(tmp_path, caplog):
    train = [clip("a", group="p"), clip("b"), Clip("b again", "/data/b.mp4", 1)]
    warnings = record_training_list(tmp_path, train, Listed(clip("a"), clip("v", group="p")))
    assert warnings == [
        "1 clip of train is in another split too (the same file): a.mp4 (train) = a.mp4 (val)",
        "1 group of train is in another split too: a.mp4 (train) = v.mp4 (val)",
        "1 clip has several labels (the same file): b.mp4 (train) = b again (train)",
    ]
    assert all(text in caplog.text for text in warnings)
    tested = Listed(clip("t"), clip("b"), Clip("t too", "/data/t.mp4", 0))
    found = warnings_of_test(tmp_path, tested)
    assert found[:3] == warnings
    assert (
        "1 clip of train is in another split too (the same file): b.mp4 (train) = b again (train) = b.mp4 (test)"
        in found
    )
    assert "1 clip stands in one split more than once (the same file): t.mp4 (test) = t too (test)" in found


def test_nothing_is_said_of_lists_that_agree(tmp_path, caplog):
    assert record_training_list(tmp_path, [clip("a", (0, 1)), clip("b", (1,))], Listed(clip("c", (1,)))) == []
    assert warnings_of_test(tmp_path, Listed(clip("d", (0,)))) == [] and not caplog.text
    # the labels of several classes come back from the file as they were
    assert len(warnings_of_test(tmp_path, Listed(clip("a", (0, 1))))) == 1


def test_overlapping_segments_of_one_video_are_a_leak(tmp_path):
    def part(start, end, unit="seconds"):
        return Clip(f"a.mp4#{start}-{end}", "/data/a.mp4", 0, "", Segment(start, end, unit))

    train = [part(0, 2), part(4, 6)]
    assert record_training_list(tmp_path, train, Listed(part(2, 4), part(6, None))) == []
    assert warnings_of_test(tmp_path, Listed(part(2, 4))) == []
    (text,) = record_training_list(tmp_path, train, Listed(part(1.5, 3)))
    assert text == "1 clip of train is in another split too (the same file): a.mp4#0-2 (train) = a.mp4#1.5-3 (val)"
    record_training_list(tmp_path, train, None)
    (text,) = warnings_of_test(tmp_path, Listed(part(5.9, 7)))  # read back from the training's list
    assert "a.mp4#4-6 (train) = a.mp4#5.9-7 (test)" in text
    assert shared_clips(Listed(part(0, 2), part(3, 5)), Listed(part(4, 6))) == ["a.mp4#3-5"]
    (text,) = warnings_of_test(tmp_path, Listed(Clip("a.mp4", "/data/a.mp4", 0)))  # all of it
    assert "2 clips of train" in text


def test_parts_of_one_file_are_no_contradiction(tmp_path):
    segments = [TrackClip(f"{n}", n, "s", {0: "a.npz"}, {}, start=10 * n, end=10 * n + 10, group="s") for n in range(2)]
    assert record_training_list(tmp_path, segments, None) == []
    windows = [FusedClip(f"{n}", "a.mp4", n, "a.mp4", f"{n}.csv") for n in range(2)]
    assert record_training_list(tmp_path, windows, None) == []
    assert (
        "several labels"
        in record_training_list(tmp_path, [windows[0], FusedClip("2", "", 1, "a.mp4", "0.csv")], None)[0]
    )


def test_a_test_may_begin_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_training_list(tmp_path, [Clip("a", "data/a.mp4", 0)], None)
    monkeypatch.chdir("/")
    (warning,) = warnings_of_test(tmp_path, Listed(Clip("t", str(tmp_path / "data/a.mp4"), 0)))
    assert "another split" in warning


def test_a_list_that_cannot_be_read(tmp_path, caplog):
    (tmp_path / TRAIN_LIST).write_text(json.dumps({"samples": 3}))
    assert warnings_of_test(tmp_path, Listed(clip("a"))) == [] and "cannot be read" in caplog.text


def listed(seed, parts=False, size=40):
    """Clips that meet in files, parts of them and groups by chance, by other ways to write the same path too."""
    rng = np.random.RandomState(seed)

    def one(number):
        path = ["/data/{}.mp4", "/data/x/../{}.mp4", "data/{}.mp4"][rng.randint(3)].format(rng.randint(5 * size))
        bounds = sorted(rng.choice(50, 2, replace=False).tolist()) if parts and rng.randint(3) else None
        group = f"g{rng.randint(60)}" if rng.randint(2) else ""
        return Clip(f"{seed}-{number}", path, int(rng.randint(3)), group, bounds and Segment(*map(float, bounds)))

    return Clips([ClipList.of(map(one, range(size))), ClipList.of(map(one, range(size, 2 * size)))])


@pytest.mark.parametrize("parts", [False, True])
def test_of_very_many_clips_the_same_is_said(tmp_path, monkeypatch, parts):
    """What is looked at of many lists says what all of them say, of a training's own list that is read back too."""
    for seed in range(0, 60, 3):
        train, val, test = (listed(seed + number, parts) for number in range(3))
        said = []
        for many in (1 << 40, 0):
            monkeypatch.setattr(data_lists, "MANY", many)
            trained = record_training_list(tmp_path, train, listed_of(val))
            shared = shared_clips(listed_of(val), listed_of(test))
            said.append((trained, warnings_of_test(tmp_path, listed_of(test)), shared))
            assert (tmp_path / TRAIN_COLUMNS).is_file() == (not many or seed > 0)
        assert said[0] == said[1] and any(said[0])


def listed_of(clips):
    dataset = Listed()
    dataset.clips = clips
    return dataset


def test_columns_of_a_training_that_are_damaged_are_not_compared(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(data_lists, "MANY", 0)
    record_training_list(tmp_path, listed(1), None)
    with np.load(tmp_path / TRAIN_COLUMNS) as old:
        np.savez(tmp_path / TRAIN_COLUMNS, **{**old, "label": old["label"] + 1})
    warnings_of_test(tmp_path, listed_of(listed(2)))
    assert "the lists of training and test are not compared" in caplog.text and "label outside" in caplog.text


def test_the_identity_of_clips_is_the_same_in_columns():
    clips = [clip("a", (0, 1)), clip("b\udcff", None), clip("c", 7)]
    columns = listed_of(Clips.of(clips))
    assert fingerprint(columns, {}) == fingerprint(Listed(*clips), {})
    # as trainings before had it
    wanted = "".join(f"{one.id}\x1f{one.label}\x1e" for one in clips).encode(errors="surrogateescape")
    assert fingerprint(columns, {}) == hashlib.sha256(wanted).hexdigest()
