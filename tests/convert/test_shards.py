"""Packing into tars: what other programs read there, what a stopped run leaves, what a later one adds."""

import errno
import json
import os
import shutil
import signal
import tarfile
from pathlib import Path

import pytest

from dust.convert import prepare as preparing
from dust.convert import shards as module
from dust.convert.check import check_data
from dust.convert.lists import ListOptions, read_lists
from dust.convert.prepare import Encoding, prepare
from dust.convert.shards import pack
from dust.datasets.manifest import long_list
from dust.decode.members import member_of, open_bytes
from dust.utils.errors import DataError, DustError
from tests.datasets.clip_files import write_clip
from tests.helpers import command, contents, csv_dicts
from tests.runs import write_noise

SMALL = 14_000  # bytes of a shard: a few clips each


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Segments, groups, one file in two splits, a name that is a formula; a damaged clip and an avi among them."""
    root = tmp_path_factory.mktemp("loose") / "data"
    (root / "a b").mkdir(parents=True)
    for number in range(6):
        write_noise(root / "a b" / f"=clip {number}.mp4", 40 + 30 * number, seed=number)
    write_clip(root / "old.avi", 20, codec="mpeg4")
    whole = (root / "a b" / "=clip 0.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (root / "train.csv").write_text(
        "path,label,group,start,end\n"
        "a b/=clip 0.mp4,pour,anna,0,0.5\na b/=clip 0.mp4,cut,anna,0.5,\na b/=clip 1.mp4,cut,ben,,\nold.avi,pour,,,\n"
        "a b/=clip 2.mp4,stir,ben,,\ncut.mp4,stir,,,\n"
    )
    (root / "val.csv").write_text("id,path,label\nv1,a b/=clip 3.mp4,pour\nv2,a b/=clip 4.mp4,cut\n")
    (root / "test.csv").write_text("id,path,label\nt1,a b/=clip 5.mp4,stir\nt2,a b/=clip 4.mp4,cut\n")
    (root / "classes.txt").write_text("stir\npour\ncut\n")
    return root


@pytest.fixture
def data(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "loose", copy_function=shutil.copy2))


def clips_of(root, **options):
    return read_lists(str(root), ListOptions(**options))


@pytest.mark.parametrize("long", [False, True], ids=["rows", "columns"])
def test_lists_and_bytes_are_those_of_the_files(data, tmp_path, monkeypatch, long):
    if long:  # as a csv of millions of rows is read
        monkeypatch.setattr(long_list, "LONG", 0)
    before, out = set(data.iterdir()), tmp_path / "packed"
    done = pack(data, out, shard_bytes=SMALL)
    assert before <= set(data.iterdir()) and (done.written, done.ready) == (8, 0)
    assert list(done.odd) == [str(data / "cut.mp4")]
    loose, packed = clips_of(data), clips_of(out)
    assert packed.class_names == loose.class_names == ["stir", "pour", "cut"] and set(packed.clips) == set(loose.clips)
    for split, clips in loose.clips.items():
        for one, other in zip(clips, packed.clips[split], strict=True):
            assert (one.id, one.label, one.group, one.segment) == (other.id, other.label, other.group, other.segment)
            with open_bytes(other.path) as file:
                assert file.read() == Path(one.path).read_bytes()
            assert os.path.splitext(one.path)[1] == os.path.splitext(other.path)[1]
    tars = sorted(out.glob("*.tar"))
    assert len(tars) == done.shards > 4 and all(tar.stat().st_size < SMALL + 12_000 for tar in tars)
    # a file that several rows name lies there once, with the first split that has it
    twice = {clip.path for clip in packed.clips["train"][:2]} | {packed.clips["test"][1].path}
    assert twice == {packed.clips["train"][0].path, packed.clips["val"][1].path}


def test_webdataset_reads_it(data, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "packed"
    pack(data, out, shard_bytes=SMALL)
    tars = [str(path) for path in sorted(out.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(5)]
    first, *rest = samples
    assert first["mp4"] == (data / "a b" / "=clip 0.mp4").read_bytes() and "cls" not in first
    assert [(row["labels"], row["start"], row["end"]) for row in first["json"]["clips"]] == [
        (["pour"], 0, 0.5),
        (["cut"], 0.5, None),
    ]
    assert [sample["cls"] for sample in rest] == [2, 1, 0, 0]
    assert [row["id"] for row in rest[1]["json"]["clips"]] == ["old.avi"] and "avi" in rest[1]


def test_keys_stand_together_and_name_nothing_outside(data, tmp_path):
    pack(data, tmp_path / "packed", shard_bytes=SMALL)
    for path in (tmp_path / "packed").glob("*.tar"):
        with tarfile.open(path) as tar:
            names = [member.name for member in tar]
        assert names == sorted(names, key=lambda name: name.partition(".")[0])
        assert all(name[:9].isdigit() and "/" not in name for name in names)


def test_of_two_that_begin_at_once_the_first_says_how_it_is_packed(data, tmp_path, monkeypatch):
    """The second comes between the other's look into the empty folder and its record there."""
    out, write = tmp_path / "out", preparing.write_text

    def slowly(path, text):
        monkeypatch.undo()
        pack(data, out, shard_bytes=99_000)
        (out / "train-000000.csv").read_text()  # it has gone on
        write(path, text)

    monkeypatch.setattr(preparing, "write_text", slowly)
    with pytest.raises(DataError, match="packed with .*99000.*not with .*88000"):
        pack(data, out, shard_bytes=88_000)
    assert pack(data, out, shard_bytes=99_000).written == 0
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("encoding", [None, Encoding(short_side=16, preset="ultrafast")], ids=["unchanged", "encoded"])
@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(data, tmp_path, monkeypatch, encoding, after):
    options = {"shard_bytes": SMALL if encoding is None else 9_000, "encoding": encoding}
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(data, whole, **options)
    add, left = module._Writer._add_file, [after]

    def stop(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return add(*args)

    monkeypatch.setattr(module._Writer, "_add_file", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(data, out, **options)
    assert not list(out.glob("*.tmp*")) and not (out / "train.csv").exists()
    with pytest.raises(DataError, match="packed with"):
        pack(data, out, shard_bytes=99_000)
    monkeypatch.undo()
    done = pack(data, out, **options)
    assert contents(out) == contents(whole) and done.ready + done.written == 8 and done.ready <= after
    assert pack(data, out, **options).written == 0 and contents(out) == contents(whole)


def test_a_second_packer_is_refused_and_one_that_was_killed_leaves_nothing_behind(data, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(data, whole, shard_bytes=SMALL)
    (ready, tell), (never, _) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        add, left = module._Writer._add_file, [4]

        def stop(*args):
            left[0] -= 1
            if left[0] < 0:
                os.write(tell, b"1")
                os.read(never, 1)
            return add(*args)

        monkeypatch.setattr(module._Writer, "_add_file", stop)
        try:
            pack(data, out, shard_bytes=SMALL)
        finally:
            os._exit(1)
    os.close(tell)
    assert os.read(ready, 1) == b"1"
    with pytest.raises(DustError, match=f"{out} is in use by host .* pid {child} since .*choose another folder"):
        pack(data, out, shard_bytes=SMALL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(out.glob(".*.tmp")) and list(out.glob("*.tar"))
    pack(data, out, shard_bytes=SMALL)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_full_disk_is_said_and_costs_one_shard(data, tmp_path, monkeypatch, at_the_end):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(data, whole, shard_bytes=SMALL)
    add = module._Writer._add_file

    def full(writer, *args):
        if writer.shards["train"] == 1:
            if at_the_end:  # as a real one: what is kept back is written when the tar is closed
                writer.files.callback(full_at_last)
            full_at_last()
        return add(writer, *args)

    def full_at_last():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module._Writer, "_add_file", full)
    with pytest.raises(DataError, match="No space left on device; free space and start again"):
        pack(data, out, shard_bytes=SMALL)
    assert [path.name for path in out.glob("*.tar")] == ["train-000000.tar"] and not list(out.glob(".*.tmp"))
    monkeypatch.undo()
    pack(data, out, shard_bytes=SMALL)
    assert contents(out) == contents(whole)


def test_a_file_that_changes_while_it_is_packed(data, tmp_path, monkeypatch):
    made = module._made

    def cut(job, *args):
        found = made(job, *args)
        if job.source.endswith("old.avi"):
            os.truncate(job.source, 900)
        return found

    monkeypatch.setattr(module, "_made", cut)
    with pytest.raises(DataError, match=r"old\.avi: has changed while it was packed"):
        pack(data, tmp_path / "out")


def test_encoded_clips_are_those_of_prepare(data, tmp_path):
    encoding = Encoding(short_side=24, preset="ultrafast")
    prepare(data, tmp_path / "fast", encoding)
    done = pack(data, tmp_path / "packed", encoding=encoding)
    assert list(done.odd) == [str(data / "cut.mp4")]
    fast, packed = clips_of(tmp_path / "fast"), clips_of(tmp_path / "packed")
    for one, other in zip(fast.clips["train"], packed.clips["train"], strict=True):
        with open_bytes(other.path) as file:
            assert file.read() == Path(one.path).read_bytes(), one.id


@pytest.mark.slow
def test_workers_change_nothing(data, tmp_path):
    encoding = Encoding(short_side=16, preset="ultrafast")
    for workers in (1, 2):
        pack(data, tmp_path / str(workers), encoding=encoding, shard_bytes=9_000, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_clips_are_added(data, tmp_path):
    out, more = tmp_path / "packed", tmp_path / "more"
    pack(data, out, shard_bytes=SMALL)
    before = contents(out)
    shutil.copytree(data / "a b", more)
    (more / "train.csv").write_text("id,path,label\nn1,=clip 1.mp4,cut\nn2,=clip 2.mp4,chop\n")
    done = pack(more, out, shard_bytes=SMALL)
    assert (done.written, done.ready) == (2, 0)
    after = contents(out)
    assert all(after[name] == data for name, data in before.items() if name.endswith(".tar"))
    lists = clips_of(out)
    assert lists.class_names == ["stir", "pour", "cut", "chop"]
    assert [clip.id for clip in lists.clips["train"]] == [clip.id for clip in clips_of(data).clips["train"]] + [
        "n1",
        "n2",
    ]
    assert [clip.id for clip in lists.clips["val"]] == ["v1", "v2"]
    # a label that was mended, and nothing else
    (more / "train.csv").write_text("id,path,label\nn1,=clip 1.mp4,cut\nn2,=clip 2.mp4,stir\n")
    assert pack(more, out, shard_bytes=SMALL).written == 0
    assert clips_of(out).clips["train"][-1].label == 0
    assert not check_data(str(out)).lists.clips["train"][-1].group


def test_what_cannot_be_added(data, tmp_path):
    out, other = tmp_path / "packed", tmp_path / "other"
    pack(data, out)
    before = contents(out)
    shutil.copytree(data, other)
    (other / "test.csv").write_text("id,path,label\nt1,a b/=clip 0.mp4,stir\n")
    with pytest.raises(DataError, match=r"(?s)an id that another clip has there.*v1"):
        pack(other, out)
    (other / "train.csv").write_text("path,label\nold.avi,1\n")
    (other / "classes.txt").unlink()
    for name in ("val.csv", "test.csv"):
        (other / name).unlink()
    with pytest.raises(DataError, match="name the classes alike"):
        pack(other, out)
    os.rename(out / "val-000000.tar", tmp_path / "away")
    with pytest.raises(DataError, match="its tar is not there"):
        pack(data, out)
    os.rename(tmp_path / "away", out / "val-000000.tar")
    with open(data / "old.avi", "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="changed since it was packed"):
        pack(data, out)
    (data / "old.avi").unlink()
    (data / "cut.mp4").unlink()
    with pytest.raises(DataError, match=r"missing.*2 cases"):
        pack(data, out)
    assert contents(out) == before
    with pytest.raises(DataError, match="not empty"):
        pack(other, tmp_path)


def test_folders_of_pictures_are_refused(tmp_path):
    folder = tmp_path / "data" / "one"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(b"x")
    (tmp_path / "data" / "train.csv").write_text("path,label\none,0\n")
    with pytest.raises(DataError, match="folder of pictures"):
        pack(tmp_path / "data", tmp_path / "out")


def test_check_finds_what_was_spoilt(data, tmp_path):
    out = tmp_path / "packed"
    pack(data, out)
    sound = {finding.id for finding in check_data(str(out)).findings if finding.kind == "bad"}
    assert sound == {"cut.mp4"} == {one.id for one in check_data(str(data)).findings if one.kind == "bad"}
    clip = clips_of(out).clips["train"][2]
    member = member_of(clip.path)
    with open(member.shard, "r+b") as file:
        file.seek(member.end - 3)  # in the tables of an mp4, where a decoder need not look
        file.write(b"\xff")
    bad = {one.id: one.detail for one in check_data(str(out)).findings if one.kind == "bad"}
    assert set(bad) == {"cut.mp4", clip.id} and "SHA-256" in bad[clip.id]
    os.truncate(member.shard, member.end - 1)
    reasons = {one.id: one.detail for one in check_data(str(out)).findings if one.kind == "bad"}
    assert "ends at byte" in reasons[clip.id]


def test_the_command(data, tmp_path):
    out = tmp_path / "packed"
    done = command("dust.cli.prepare", data, "--shards", out, "--workers", 1)
    assert done.returncode == 0 and "packed 8 clips" in done.stdout and "packed as it is" in done.stdout
    lines = csv_dicts(out / "train.csv")
    assert list(lines[0]) == ["id", "path", "label", "group", "start", "end"]
    assert json.loads((out / "shards.json").read_text())["segment_unit"] == "seconds"
    fixed = command("dust.cli.check", out, "--workers", 0, "--out", tmp_path / "found", "--fix", tmp_path / "clean")
    assert fixed.returncode == 1 and "1 bad" in fixed.stdout
    clean = clips_of(tmp_path / "clean")
    assert [clip.id for clip in clean.clips["train"]] == [row["id"] for row in lines if row["id"] != "cut.mp4"]
    assert all(member_of(clip.path) for clip in clean.clips["train"])
    assert command("dust.cli.prepare", data, "--out", out, "--encode").returncode == 2
    again = command("dust.cli.prepare", out, "--shards", tmp_path / "again", "--workers", 1)
    assert again.returncode == 0 and "packed 8 clips" in again.stdout
    assert (tmp_path / "again" / "train.csv").read_bytes() == (out / "train.csv").read_bytes()


def test_labels_of_several_people_are_read_again_when_clips_are_added(tmp_path):
    options = ListOptions(soft_labels=True)
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        write_noise(tmp_path / name / f"{name}.mp4", 4, seed=number)
        (tmp_path / name / "train.csv").write_text(f"path,label\n{name}.mp4,cut:2|stir:1\n")
        pack(tmp_path / name, tmp_path / "out", options=options)
    labels = [row["label"] for row in csv_dicts(tmp_path / "out" / "train.csv")]
    assert labels == ["cut:2|stir:1"] * 2
