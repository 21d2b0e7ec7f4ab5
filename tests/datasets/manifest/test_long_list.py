"""Long lists kept as columns: made once, opened after that, and never in place of what the csv says now."""

import logging
import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dust.datasets.manifest import long_list, manifest, places
from dust.datasets.manifest.clips import Clips
from dust.datasets.manifest.manifest import Clip, read_manifest
from dust.datasets.manifest.several import read_folders
from dust.decode.segment import Segment
from dust.utils import distributed
from dust.utils.errors import DataError


@pytest.fixture(autouse=True)
def long(monkeypatch):
    monkeypatch.setattr(long_list, "LONG", 0)


def csv(root: Path, rows, split="train", header="path,label") -> Path:
    root.mkdir(exist_ok=True)
    path = root / f"{split}.csv"
    path.write_text("".join(f"{row}\n" for row in (header, *rows)))
    os.utime(path, ns=(10**18, 10**18))  # long ago
    return path


def kept(root: Path) -> list[Path]:
    return sorted(root.glob(".*.npz"))


def read(root: Path, split="train", **options):
    return read_manifest(root=str(root), split=split, **{"check_files": False, **options})


@pytest.fixture
def unread(monkeypatch):
    """From now on no csv may be read row by row."""

    def forbid():
        for name in ("read_csv", "columns_in_pieces"):
            monkeypatch.setattr(manifest, name, lambda *_, **__: pytest.fail("the rows are read"))

    return forbid


ROWS = ["a.mp4,wave,p1,,", "b b.mp4,jump,p2,1.5,2", "b b.mp4,wave,,0,", "日本.mp4,wave,p1,,3", "a.mp4,jump,p1,,"]
HEADER = "path,label,group,start,end"


def expected(root):
    return [
        Clip("a.mp4", f"{root}/a.mp4", 1, "p1"),
        Clip("b b.mp4#1.5-2", f"{root}/b b.mp4", 0, "p2", Segment(1.5, 2.0)),
        Clip("b b.mp4#0-", f"{root}/b b.mp4", 1, "", Segment(0.0, None)),
        Clip("日本.mp4#0-3", f"{root}/日本.mp4", 1, "p1", Segment(0.0, 3.0)),
        Clip("a.mp4#2", f"{root}/a.mp4", 0, "p1"),
    ]


def test_a_second_reading_opens_what_the_first_has_kept(tmp_path, unread, caplog):
    csv(tmp_path, ROWS, header=HEADER)
    first = read(tmp_path)
    unread()
    for found in (first, read(tmp_path), pickle.loads(pickle.dumps(read(tmp_path)))):
        assert list(found.clips) == [found.clips[n] for n in range(5)] == expected(tmp_path)
        assert found.clips[-1] == found.clips[1:][-1] and found.class_names == ["jump", "wave"]
        with pytest.raises(IndexError):
            found.clips[5]
    assert len(kept(tmp_path)) == 1
    assert caplog.text.count("1 row names what is named before") == 3  # said at each start


def test_an_id_that_is_the_path_is_stored_once(tmp_path):
    csv(tmp_path, [f"{n}.mp4,0" for n in range(50)])
    read(tmp_path)
    with np.load(kept(tmp_path)[0]) as arrays:
        assert sorted(arrays) == ["facts", "label", "labels.bytes", "labels.starts", "path.bytes", "path.starts"]
        assert arrays["path.starts"].dtype == np.uint32


def change_rows(path):
    text = path.read_text().replace("wave", "jump", 1)
    path.write_text(text)


def change_in_the_same_instant(path):
    """Another content of the same size and times."""
    change_rows(path)
    os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize("change", [change_rows, change_in_the_same_instant])
def test_a_csv_that_changed_is_read_again(tmp_path, change):
    path = csv(tmp_path, ROWS, header=HEADER)
    read(tmp_path)
    change(path)
    assert [clip.label for clip in read(tmp_path).clips] == [0, 0, 1, 1, 0]


def test_a_csv_that_was_only_touched_or_copied_is_not(tmp_path, unread):
    path = csv(tmp_path, ROWS, header=HEADER)
    read(tmp_path)
    unread()
    os.utime(path)
    assert list(read(tmp_path).clips) == expected(tmp_path)
    os.replace(tmp_path, f"{tmp_path}2")
    assert list(read(f"{tmp_path}2").clips) == expected(f"{tmp_path}2")


def test_a_csv_that_is_written_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    path = csv(tmp_path, ROWS, header=HEADER)
    old = manifest.read_csv

    def and_written(*args, **options):
        raw = old(*args, **options)
        path.write_text(path.read_text() + "c.mp4,wave,,,\n")
        return raw

    monkeypatch.setattr(manifest, "read_csv", and_written)
    assert len(read(tmp_path).clips) == 5 and kept(tmp_path) == []


def test_one_that_is_written_again_within_a_tick_of_the_clock_is_not_kept(tmp_path, monkeypatch):
    path = csv(tmp_path, ["a.mp4,wave", "b.mp4,jump"])
    now = time.time_ns()
    stamp = {"size": 0, "mtime_ns": now, "ctime_ns": now}  # a file system whose clock has ticks of seconds
    monkeypatch.setattr(long_list, "_stamp", lambda _: stamp)
    old = manifest.columns_in_pieces

    def and_written(*args, **options):
        found = old(*args, **options)
        path.write_text(path.read_text().replace("wave", "clap"))
        return found

    monkeypatch.setattr(manifest, "columns_in_pieces", and_written)
    read(tmp_path)
    assert read(tmp_path).class_names == ["clap", "jump"]


def test_a_file_that_another_run_has_made_meanwhile_is_left_to_those_who_read_it(tmp_path, monkeypatch):
    csv(tmp_path, ROWS, header=HEADER)
    old, others = long_list.write_columns, []

    def and_another(*args):
        if not others:
            others.append(None)
            others.append(read(tmp_path).clips)
        old(*args)

    monkeypatch.setattr(long_list, "write_columns", and_another)
    own = read(tmp_path).clips
    for clips in (own, others[1]):
        assert list(pickle.loads(pickle.dumps(clips))) == expected(tmp_path)  # opened anew, as in another process
    assert [path.name for path in tmp_path.iterdir() if ".tmp" in path.name] == []


def test_each_way_of_reading_has_a_file_of_its_own(tmp_path):
    csv(tmp_path, ROWS, header=HEADER)
    assert read(tmp_path).clips[1].segment == Segment(1.5, 2.0)
    with pytest.raises(DataError, match="start and end are frames"):
        read(tmp_path, segment_unit="frames")
    assert read(tmp_path, multi_label=True).clips[1].label == (0,)
    with pytest.raises(DataError, match="no column person"):
        read(tmp_path, group_column="person")
    assert len(kept(tmp_path)) == 2  # nothing is kept of a list that is wrong


def forged(path, **arrays):
    with np.load(path) as old:
        np.savez(path, **{**old, **arrays})


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_text("no archive"),
        lambda path: forged(path, label=np.array([0, 1, 2, 0, 0], "<i4")),
        lambda path: forged(path, label=np.array([0, 1, -2, 0, 0], "<i4")),
        lambda path: forged(path, group=np.array([0, 1, -1, 0, 9], "<i4")),
        lambda path: forged(path, start=np.array([0, 1, -1.0, 0, 9])),
        lambda path: forged(path, end=np.array([0, 1, np.inf, 0, 9])),
        lambda path: forged(path, **{"facts": np.frombuffer(b'{"kind": "x"}', np.uint8)}),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_a_damaged_or_forged_file_is_left_aside(tmp_path, damage):
    csv(tmp_path, ROWS, header=HEADER)
    read(tmp_path)
    (path,) = kept(tmp_path)
    damage(path)
    assert list(read(tmp_path).clips) == expected(tmp_path)


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Nothing can be written beside the lists."""
    write = long_list.write_columns

    def refuse(path, *args):
        if Path(path).parent == tmp_path / "data":
            raise OSError(30, "Read-only file system", str(path))
        write(path, *args)

    monkeypatch.setattr(long_list, "write_columns", refuse)
    csv(tmp_path / "data", ROWS, header=HEADER)
    return tmp_path / "data"


def test_where_nothing_can_be_written_the_cache_folder_keeps_it(read_only, tmp_path, unread, caplog):
    cache = tmp_path / "cache"
    read(read_only, cache=str(cache))
    assert len(os.listdir(cache)) == 1 and os.listdir(read_only) == ["train.csv"]
    assert "cannot be kept" not in caplog.text
    unread()
    assert list(read(read_only, cache=str(cache)).clips) == expected(read_only)


def test_without_one_the_columns_are_in_memory_and_one_line_says_so(read_only, caplog):
    assert list(read(read_only).clips) == expected(read_only)
    (line,) = [record.message for record in caplog.records if "cannot be kept" in record.message]
    assert "Read-only file system" in line and "DATA.INDEX_CACHE" in line


def test_columns_that_nobody_reads_are_named_at_each_start(tmp_path, caplog, unread):
    csv(tmp_path, ["a.mp4,0,x"], header="path,label,camera")
    with caplog.at_level(logging.INFO):
        read(tmp_path)
        unread()
        read(tmp_path)
    assert caplog.text.count("columns that are not read: camera") == 2


# --- what is made of the rows ---------------------------------------------------------------------------------------


def test_corrections_of_a_list_that_is_kept(tmp_path, unread):
    csv(tmp_path, ROWS, header=HEADER)
    read(tmp_path)
    path = tmp_path / "corrections.csv"
    path.write_text("id,action,label\na.mp4#2,drop,\nb b.mp4#1.5-2,relabel,swim\n")
    unread()
    found = read(tmp_path, corrections=path)
    assert found.class_names == ["swim", "wave"]  # nobody jumps any more
    assert [(clip.id, clip.label) for clip in found.clips] == [
        ("a.mp4", 1), ("b b.mp4#1.5-2", 0), ("b b.mp4#0-", 1), ("日本.mp4#0-3", 1),
    ]  # fmt: skip
    assert [clip.group for clip in found.clips[1:]] == ["p2", "", "p1"] and found.clips.counts(2) == [1, 3]


def test_ids_of_another_split_are_known_without_reading_its_rows(tmp_path, unread):
    csv(tmp_path, ROWS, header=HEADER)
    csv(tmp_path, ["v.mp4,wave"], "val")
    path = tmp_path / "corrections.csv"
    path.write_text("id,action,label\na.mp4#2,drop,\n")
    for split in ("train", "val"):
        read(tmp_path, split)
    unread()
    assert len(read(tmp_path, "val", corrections=path).clips) == 1


def test_several_folders_of_kept_lists(tmp_path, unread):
    for name in ("one", "two"):
        csv(tmp_path / name, ROWS, header=HEADER)
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for _ in range(2):
        found = read_folders(folders, "train", check_files=False)
        unread()
    assert [clip.id for clip in found.clips][::5] == ["one/a.mp4", "two/a.mp4"]
    assert found.clips[7] == Clip("two/b b.mp4#0-", f"{folders[1]}/b b.mp4", 1, "", Segment(0.0), 1)
    assert found.clips.parts().tolist() == [0] * 5 + [1] * 5 and found.clips.classes().tolist() == [1, 0, 1, 1, 0] * 2
    assert found.clips.counts(2) == [4, 6] and list(found.clips.ids()) == [clip.id for clip in found.clips]
    chosen = found.clips.where({1}.__contains__).where({1}.__contains__).with_labels(lambda label: label + 6)
    assert list(chosen) == [clip_with(clip, 7) for clip in found.clips if clip.label == 1]


def clip_with(clip, label):
    return Clip(clip.id, clip.path, label, clip.group, clip.segment, clip.part)


def test_clips_of_any_other_list_are_columns_too():
    clips = [
        Clip("a", "a.mp4", (1, 2), "g"), Clip("b.mp4", "b.mp4", (), segment=Segment(2.0, None, "frames")),
        Clip("c", "c\udcff.mp4", None), Clip("d", "d.mp4", (2,), "h"),
    ]  # fmt: skip
    found = Clips.of(clips)
    assert list(found) == clips and Clips.of(found) is found and found.counts(3) == [0, 1, 2]
    assert list(found.labels()) == [clip.label for clip in clips] and set(found.used()) == {(1, 2), (), (2,)}
    assert list(Clips.of([])) == [] and not len(Clips([])) and Clips([]).classes().tolist() == []


# --- where the files lie --------------------------------------------------------------------------------------------


def touch(*paths: Path):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("check", [True, False])
def test_files_under_several_folders(tmp_path, monkeypatch, check):
    """Each where the slow way finds it, also what our own lists had to write in another way."""
    data, work = tmp_path / "data", tmp_path / "work"
    touch(data / "a.mp4", work / "b.mp4", data / "both.mp4", work / "both.mp4", data / "'@c.mp4", data / "d\n.mp4")
    csv(data, ["a.mp4,0", "b.mp4,0", "both.mp4,0", "'@c.mp4,0", "d\\n.mp4,0", f"{work}/b.mp4,0"])
    monkeypatch.chdir(work)
    found = [clip.path for clip in read(data, check_files=check).clips]
    monkeypatch.setattr(long_list, "LONG", 1 << 40)
    assert found == [clip.path for clip in read(data, check_files=check).clips] and all(map(os.path.exists, found))


def test_nothing_is_looked_for_one_by_one_where_nothing_is_checked(tmp_path, monkeypatch):
    asked, exists = [], os.path.exists
    csv(tmp_path, [f"{n}.mp4,0" for n in range(5000)])
    touch(tmp_path / "0.mp4")
    read(tmp_path)
    monkeypatch.setattr(os.path, "exists", lambda path: asked.append(path) or exists(path))
    assert read(tmp_path).clips[4999].path == str(tmp_path / "4999.mp4")
    assert len(asked) <= 2 * places._FIRST + 5


def test_missing_files_are_said_as_the_slow_way_says_them(tmp_path, monkeypatch):
    touch(tmp_path / "c.mp4")
    csv(tmp_path, ["video,0", "b.mp4,1", "c.mp4,0", "video,1", *(f"{n}.mp4,0" for n in range(20))])
    with pytest.raises(DataError) as ours:
        read(tmp_path, check_files=True)
    monkeypatch.setattr(long_list, "LONG", 1 << 40)
    with pytest.raises(DataError) as slow:
        read(tmp_path, check_files=True)
    assert str(ours.value) == str(slow.value) and "(23 cases)" in str(ours.value)


# --- several processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def world(monkeypatch):
    """Threads that take themselves for the processes of a run: ``world(function, count, machines)``."""
    me = threading.local()

    def run(function, count, per_machine=None):
        barrier, places_of, results = threading.Barrier(count, timeout=30), [None] * count, [None] * count

        def gather(value):
            places_of[me.rank] = value
            barrier.wait()
            found = list(places_of)
            barrier.wait()
            return found

        def one(rank):
            me.rank = rank
            try:
                results[rank] = function(rank)
            except Exception as error:
                results[rank] = error

        monkeypatch.setattr(distributed, "rank", lambda: me.rank)
        monkeypatch.setattr(distributed, "is_main", lambda: me.rank == 0)
        monkeypatch.setattr(distributed, "local_rank", lambda: me.rank % (per_machine or count))
        monkeypatch.setattr(distributed, "world_size", lambda: count)
        monkeypatch.setattr(distributed, "all_gather_objects", gather)
        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run


def test_one_process_reads_the_rows_and_each_looks_for_its_share_of_the_files(tmp_path, world, monkeypatch):
    csv(tmp_path, [f"{n}.mp4,{n % 3}" for n in range(3000)])
    touch(*(tmp_path / f"{n}.mp4" for n in range(3000)))
    reads, asked, old, access = [], [], manifest.columns_in_pieces, os.access
    monkeypatch.setattr(manifest, "columns_in_pieces", lambda *args, **how: reads.append(1) or old(*args, **how))
    monkeypatch.setattr(os, "access", lambda path, mode, **how: asked.append(path) or access(path, mode, **how))
    found = world(lambda rank: read(tmp_path, check_files=True, shared=True), 3)
    assert len(reads) == 1 and len(asked) == 3000
    for one in found:
        assert list(one.clips) == list(found[0].clips) and len(one.clips) == 3000


def test_all_processes_say_what_one_of_them_misses(tmp_path, world):
    csv(tmp_path, [f"{n}.mp4,0" for n in range(9)])
    touch(*(tmp_path / f"{n}.mp4" for n in range(8)))
    found = world(lambda rank: read(tmp_path, check_files=True, shared=True), 3)
    assert len({str(one) for one in found}) == 1 and "line 10: " in str(found[0]) and isinstance(found[2], DataError)


def test_a_file_in_another_folder_is_known_to_all(tmp_path, world, monkeypatch):
    data, work = tmp_path / "data", tmp_path / "work"
    touch(work / "1.mp4", *(data / f"{n}.mp4" for n in (0, 2, 3)))
    csv(data, [f"{n}.mp4,0" for n in range(4)])
    monkeypatch.chdir(work)
    for one in world(lambda rank: read(data, check_files=True, shared=True), 2):
        assert [clip.path for clip in one.clips] == [f"{data}/0.mp4", "1.mp4", f"{data}/2.mp4", f"{data}/3.mp4"]


@pytest.mark.parametrize("wrong", ["an empty label", "not UTF-8"])
def test_a_list_that_is_wrong_is_so_for_all_and_nobody_waits(tmp_path, world, wrong):
    path = csv(tmp_path, ["a.mp4,0", "b.mp4,"])
    if wrong == "not UTF-8":
        path.write_bytes(b"path,label\n\xff.mp4,0\n")
    found = world(lambda rank: read(tmp_path, shared=True), 3)
    assert len({str(one) for one in found}) == 1 and wrong in str(found[0])


def test_machines_that_share_no_cache_folder_each_make_one(tmp_path, world, read_only, monkeypatch):
    reads, old = [], manifest.read_csv
    monkeypatch.setattr(manifest, "read_csv", lambda *args, **options: reads.append(1) or old(*args, **options))

    def one(rank):
        return read(read_only, cache=str(tmp_path / f"machine{rank // 2}"), shared=True)

    for found in world(one, 4, per_machine=2):
        assert list(found.clips) == expected(read_only)
    assert len(reads) == 2


def test_where_nobody_can_keep_them_all_have_them_in_memory(read_only, world):
    for found in world(lambda rank: read(read_only, shared=True), 3):
        assert list(found.clips) == expected(read_only)
