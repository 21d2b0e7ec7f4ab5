"""What a command has read once is there for all its stages, and for nobody else."""

from functools import partial

import pytest

from dust.datasets.manifest.manifest import read_manifest
from dust.datasets.manifest.once import once, reading_once
from dust.utils.errors import DataError


def test_another_way_of_reading_is_another_list(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a.mp4,wave\nb.mp4,jump\n")
    read = partial(read_manifest, root=str(tmp_path), split="train", check_files=False)

    with reading_once():
        first = read(class_names=["wave", "jump"])
        path.write_text("c.mp4,jump\n")
        assert read(class_names=["wave", "jump"]).clips is first.clips
        assert [clip.label for clip in first.clips] == [0, 1]
        assert [clip.label for clip in read(class_names=["jump", "wave"]).clips] == [0]
        with reading_once():
            assert len(read(class_names=["wave", "jump"]).clips) == 1
        read(class_names=["wave", "jump"]).clips = []  # whoever puts others in their place
        assert read(class_names=["wave", "jump"]).clips is first.clips
    assert [clip.id for clip in read(class_names=["wave", "jump"]).clips] == ["c.mp4"]


def test_a_number_of_classes_that_was_found_needs_no_further_look(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a.mp4,2\nb.mp4,0\n")
    read = partial(read_manifest, root=str(tmp_path), split="train", check_files=False)

    with reading_once():
        first = read()
        assert read(num_classes=3).clips is first.clips and first.class_names == ["0", "1", "2"]
        with pytest.raises(DataError, match="set MODEL.NUM_CLASSES 3"):
            read(num_classes=4)
        with pytest.raises(DataError, match="out of range"):
            read(num_classes=2)
    path.write_text("a.mp4,0\n")
    with reading_once():
        read(num_classes=1)
        path.write_text("a.mp4,0\nb.mp4,1\n")
        assert read().class_names == ["0", "1"], "the other way round it is another list"


def test_an_error_is_not_kept():
    asked = []

    @once
    def read(*, name):
        asked.append(name)
        if len(asked) == 1:
            raise DataError(name)
        return asked[-1]

    with reading_once():
        with pytest.raises(DataError):
            read(name="a")
        assert [read(name="a"), read(name="a"), read(name="b")] == ["a", "a", "b"] and asked == ["a", "a", "b"]
