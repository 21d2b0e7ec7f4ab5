import os
from pathlib import Path

import numpy as np
import pytest

from dust.decode import cache as index_cache
from dust.decode.cache import get_index
from dust.decode.reader import VideoReader
from tests.datasets.clip_files import scratched, write_clip

OPTIONS = {"g": "20", "bf": "2"}


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", 80, options=OPTIONS, container={"movflags": "+faststart"})


def forget():
    index_cache._memory.clear()
    index_cache._memory_bytes = 0


def refuse(*_):
    raise AssertionError("the index is built again")


def same(one, other):
    fields = {name: value for name, value in vars(one).items() if not isinstance(value, np.ndarray)}
    arrays = [name for name in vars(one) if name not in fields]
    return all(getattr(other, name) == value for name, value in fields.items()) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def test_a_kept_index_is_the_same_and_is_used(clip, tmp_path, monkeypatch):
    folder = str(tmp_path / "cache")
    forget()
    built = get_index(str(clip), folder=folder)
    forget()
    monkeypatch.setattr(index_cache, "build_index", refuse)
    assert same(built, get_index(str(clip), folder=folder))
    assert get_index(str(clip)) is get_index(str(clip))  # by now in memory
    forget()
    with VideoReader(clip, index_cache=folder) as reader:
        assert reader.frames([70, 3]).shape == (2, 64, 96, 3)
    assert not [name for _, _, names in os.walk(folder) for name in names if name.endswith(".tmp")]


def test_another_file_or_a_torn_entry_is_built_again(clip, tmp_path):
    folder = str(tmp_path / "cache")
    forget()
    get_index(str(clip), folder=folder)
    (entry,) = [path for path in Path(folder).rglob("*") if path.is_file()]
    whole = entry.read_bytes()
    for torn in (whole[:-5], b"", b"{}\n", whole[:-1] + bytes([whole[-1] ^ 1])):
        entry.write_bytes(torn)
        forget()
        assert len(get_index(str(clip), folder=folder).order) == 80
        assert entry.read_bytes() == whole
    write_clip(clip, 30, options=OPTIONS)
    assert len(get_index(str(clip), folder=folder).order) == 30


def test_damage_is_remembered(clip, tmp_path, monkeypatch):
    folder = str(tmp_path / "cache")
    path = scratched(clip, tmp_path / "scratched.mp4")
    forget()
    with VideoReader(path, index_cache=folder) as reader:
        assert not reader.report.damaged
        reader.frames(range(0, len(reader), 3))
        report = reader.report
        assert report.damaged
    forget()
    monkeypatch.setattr(index_cache, "build_index", refuse)
    with VideoReader(path, index_cache=folder) as reader:
        assert reader.report == report


def test_a_folder_that_cannot_be_written_only_costs_time(clip, tmp_path, caplog):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    forget()
    assert len(get_index(str(clip), folder=str(blocked)).order) == 80
    assert "is not kept" in caplog.text


def test_memory_is_bounded(clip, tmp_path, monkeypatch):
    forget()
    monkeypatch.setattr(index_cache, "_MEMORY", 3 * get_index(str(clip)).nbytes)
    for number in range(6):
        copy = tmp_path / f"copy{number}.mp4"
        copy.write_bytes(clip.read_bytes())
        get_index(str(copy))
    assert len(index_cache._memory) == 3
    assert index_cache._memory_bytes == sum(index.nbytes for index in index_cache._memory.values())
