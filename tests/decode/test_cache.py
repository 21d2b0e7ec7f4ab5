import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dust.decode import cache as index_cache
from dust.decode.cache import forget_index, get_index
from dust.decode.index import full_scan
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


def forge(folder: str, key, **changes) -> None:
    """Rewrite the entry of a clip, with the checksum that its new contents have."""
    forget()
    index = index_cache._load(key, folder)
    index_cache._store(key, replace(index, **changes), folder)


def swapped(order):
    order = order.copy()
    order[[10, 60]] = order[[60, 10]]
    return order


@pytest.mark.parametrize("mode", ["seek", "start"])
@pytest.mark.parametrize(
    "change",
    [
        lambda index: {"order": index.order[::-1]},
        lambda index: {"order": swapped(index.order)},
        lambda index: {"order": np.roll(index.order, 1)},
        lambda index: {"order": index.order[np.arange(80) ^ 1]},
        lambda index: {"order": swapped(index.order), "packet_pts": swapped(index.packet_pts)},
        lambda index: {"order": index.order[:-7], "frame_pts": index.frame_pts[:-7]},
        lambda index: {"order": np.delete(index.order, 30), "frame_pts": np.delete(index.frame_pts, 30)},
        lambda index: {"order": index.order + 1000},
        lambda index: {"entries": index.entries + 3 * (index.mode == "seek")},
        lambda index: {"entries": index.entries + 3 * (index.entries > 0)},
        lambda index: {"frame_pts": index.frame_pts[::-1]},
        lambda index: {"height": 1 << 40},
    ],
)
def test_a_forged_index_never_gives_another_frame(clip, tmp_path, mode, change):
    """Its checksum is right: it is found out by its own timestamps, or by packets and frames while they are read."""
    folder, key = str(tmp_path / "cache"), index_cache._key(str(clip))
    forget()
    with VideoReader(clip) as reader:
        truth = reader.frames(list(range(80)))
    forget()
    index = get_index(str(clip)) if mode == "seek" else full_scan(str(clip))
    assert index.mode == mode
    index_cache._store(key, index, folder)
    forge(folder, key, **change(index))
    for wanted in ([10], [29, 30, 31, 62], [60], [72, 79]):
        forget()
        with VideoReader(clip, index_cache=folder) as reader:
            if wanted[-1] < len(reader):
                np.testing.assert_array_equal(reader.frames(wanted), truth[wanted])


def test_a_changed_head_of_an_entry_counts_as_damage(clip, tmp_path):
    folder = str(tmp_path / "cache")
    forget()
    built = get_index(str(clip), folder=folder)
    (entry,) = [path for path in Path(folder).rglob("*") if path.is_file()]
    entry.write_bytes(entry.read_bytes().replace(f'"fps": {built.fps}'.encode(), b'"fps": 12.5'))
    forget()
    assert get_index(str(clip), folder=folder).fps == built.fps


def test_an_absurd_entry_is_built_again(clip, tmp_path):
    folder = str(tmp_path / "cache")
    forget()
    get_index(str(clip), folder=folder)
    (entry,) = [path for path in Path(folder).rglob("*") if path.is_file()]
    for head in (b"[" * 100_000, b"[]", b"1" * 5000, b'{"identity": 1}'):
        entry.write_bytes(head + b"\n")
        forget()
        assert len(get_index(str(clip), folder=folder).order) == 80
    entry.unlink()
    os.mkfifo(entry)
    forget()
    assert len(get_index(str(clip), folder=folder).order) == 80


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


def test_what_is_forgotten_takes_no_memory(clip, tmp_path):
    before = index_cache._memory_bytes
    first = get_index(str(clip))
    assert index_cache._memory_bytes == before + first.nbytes
    forget_index(str(clip))
    forget_index(str(clip))
    forget_index(str(tmp_path / "gone.mp4"))
    assert index_cache._memory_bytes == before and get_index(str(clip)) is not first
