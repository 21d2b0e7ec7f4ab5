"""Tars of strangers: what is listed are the bytes that tarfile finds, and no name or size leads anywhere else."""

import gzip
import io
import os
import random
import tarfile

import pytest

from dust.convert.lists import ListOptions, read_lists
from dust.convert.webdataset import convert_webdataset, read_entries
from dust.decode.members import member_of, open_bytes
from dust.utils.errors import DataError
from tests.helpers import command
from tests.runs import write_noise


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "x.mp4"
    write_noise(path, 90)
    return path.read_bytes()


def write_tar(path, members, form=tarfile.GNU_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


HOSTILE = ["../../escape", "/etc/passwd", "a\nb\x1b[31m", "=1+1", "x" * 180, "ü/é" + "ö" * 120]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_is_listed_is_what_tarfile_finds(tmp_path, clip, form):
    names = HOSTILE[:4] if form == tarfile.USTAR_FORMAT else HOSTILE
    members = [(f"{name}.{kind}", data) for name in names for kind, data in (("cls", b"3\n"), ("mp4", clip))]
    path = write_tar(tmp_path / "tars" / "train-000.tar", members, form)
    with open(path, "rb") as file, tarfile.open(path) as tar:
        found = list(read_entries(file, "x"))
        assert [(one.name, one.start, one.end - one.start) for one in found] == [
            (one.name, one.offset_data, one.size) for one in tar
        ]
    assert convert_webdataset(path.parent, tmp_path / "lists") == {"train": len(names)}
    clips = read_lists(str(tmp_path / "lists"), ListOptions()).clips["train"]
    assert len(clips) == len(names) and {one.label for one in clips} == {3}
    for one in clips:
        assert member_of(one.path).shard == str(path)
        with open_bytes(one.path) as file:
            assert file.read() == clip
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lists", "tars"]


def test_labels_and_splits(tmp_path, clip):
    said = b'{"label": "wave", "deep": {"x": 1}, "other": 7}'
    root = tmp_path / "tars"
    write_tar(root / "val" / "0.tar", [("a.mp4", clip), ("a.json", said), ("b.txt", b"no video"), ("c.webm", clip),
                                       ("c.json", said.replace(b"wave", b"push"))])  # fmt: skip
    write_tar(root / "training_0.tar", [("b/1.x.mp4", clip), ("b/1.json", said), ("b/2.mp4", clip),
                                            ("b/2.json", said.replace(b"wave", b"push"))])  # fmt: skip
    write_tar(root / "more.tar", [("b/1.mp4", clip)])
    assert convert_webdataset(root, tmp_path / "lists") == {"train": 2, "val": 2, "test": 1}
    lists = read_lists(str(tmp_path / "lists"), ListOptions(path_prefix=""))
    assert [lists.words(one) for one in lists.clips["val"]] == ["wave", "push"]
    assert [one.id for one in lists.clips["val"]] == ["val/0/a", "val/0/c"]
    assert [one.id for one in lists.clips["train"]] == ["training_0/b/1", "training_0/b/2"]
    assert (
        command("dust.cli.convert_data", "webdataset", root, "--out", tmp_path / "again", "--label", "other").returncode
        == 0
    )
    assert {one.label for one in read_lists(str(tmp_path / "again"), ListOptions()).clips["val"]} == {7}
    with pytest.raises(DataError, match=r"without a label.*--label FIELD.*\n.*training_0"):
        convert_webdataset(root, tmp_path / "third", label="absent")
    with pytest.raises(DataError, match="already holds"):
        convert_webdataset(root, tmp_path / "lists")


def raw_header(name="x.mp4", size=10, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (raw_header(size=5000) + bytes(1024), "ends behind the file"),
        (raw_header(size=(1 << 62)) + bytes(1024), "ends behind the file"),
        (raw_header(size=2 << 20, kind=tarfile.GNUTYPE_LONGNAME) + bytes(3 << 20), "a header of 2097152 bytes"),
        (raw_header(size=2 << 20, kind=tarfile.XHDTYPE) + bytes(3 << 20), "a header of 2097152 bytes"),
        (raw_header(size=512, kind=tarfile.XHDTYPE) + b"17 size=99999999\n".ljust(512, b"\0") + raw_header(),
         "ends behind the file"),
        (raw_header(size=512, kind=tarfile.XHDTYPE) + b"11 size=-9\n".ljust(512, b"\0") + raw_header(), "ends behind"),
        (raw_header(size=512, kind=tarfile.XHDTYPE) + b"12 size=abc\n".ljust(512, b"\0") + raw_header(), "no header"),
        (raw_header()[:100] + b"\x01" + raw_header()[101:] + bytes(1024), "no header of a tar at byte 0"),
        (b"", "is no tar file"),
        (bytes(4096), "is no tar file"),
        (b"text " * 300, "no header of a tar at byte 0"),
        (gzip.compress(raw_header(), mtime=0), "is compressed"),
    ],
)  # fmt: skip
def test_a_tar_that_means_harm_is_refused(tmp_path, content, said):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=said):
        convert_webdataset(tmp_path, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize("name", ["PKU-MMD_0001.mp4", "BZh9.mp4"])
def test_a_first_name_that_looks_like_an_archive_is_a_name(tmp_path, clip, name):
    path = write_tar(tmp_path / "x.tar", [(name, clip[:700])])
    with open(path, "rb") as file:
        assert [one.name for one in read_entries(file, "x")] == [name]


def test_a_mutated_tar_ends(tmp_path, clip):
    """With entries within the file, or with one sentence."""
    path = write_tar(tmp_path / "x.tar", [(f"{n}{HOSTILE[-1]}.mp4", clip[:700]) for n in range(4)], tarfile.PAX_FORMAT)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        del content[rng.choice([len(content), rng.randrange(len(content))]) :]
        path.write_bytes(content)
        with open(path, "rb") as file:
            try:
                assert all(0 <= one.start <= one.end <= len(content) for one in read_entries(file, "x"))
            except DataError as error:
                assert str(error).startswith("x: ")


def test_links_and_folders_are_no_clips(tmp_path, clip):
    kinds = {"a.txt": tarfile.SYMTYPE, "b.txt": tarfile.LNKTYPE, "c.mp4": tarfile.DIRTYPE, "d.mp4": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    with pytest.raises(DataError, match="no tar of it holds a video"):
        convert_webdataset(tmp_path, tmp_path / "lists")
    write_tar(tmp_path / "x.tar", [("a.mp4", clip), ("a.avi", clip)])
    with pytest.raises(DataError, match="several videos"):
        convert_webdataset(tmp_path, tmp_path / "lists")


PAX_SPARSE = raw_header(size=512, kind=tarfile.XHDTYPE) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (raw_header(size=0, kind=tarfile.SYMTYPE), "x.mp4 is a link"),
        (raw_header(size=0, kind=tarfile.LNKTYPE), "x.mp4 is a link"),
        (raw_header(size=10, kind=tarfile.GNUTYPE_SPARSE) + bytes(512), "x.mp4 is a sparse file"),
        (PAX_SPARSE + raw_header(size=10) + bytes(512), "x.mp4 is a sparse file"),
        (raw_header(size=5120, kind=tarfile.XHDTYPE) + b"5011 size=" + b"9" * 5000 + bytes(110) + raw_header(),
         "ends behind the file"),
        (b"PK\x03\x04".ljust(2048, b"\0"), "is compressed"),
    ],
)  # fmt: skip
def test_a_clip_that_is_no_part_of_the_tar_is_not_left_out_in_silence(tmp_path, content, said):
    (tmp_path / "x.tar").write_bytes(content + bytes(1024))
    with pytest.raises(DataError, match=said):
        convert_webdataset(tmp_path, tmp_path / "lists")


def test_what_is_no_file_in_place_of_a_tar(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"x\.tar: cannot be read: it is a pipe"):
        convert_webdataset(tmp_path, tmp_path / "lists")


def test_a_name_that_comes_again_is_said(tmp_path, clip):
    names = ("a", "b", "a")
    write_tar(
        tmp_path / "x.tar",
        [(f"{name}.{kind}", data) for name in names for kind, data in (("cls", b"1"), ("mp4", clip))],
    )
    with pytest.raises(DataError, match="several samples"):
        convert_webdataset(tmp_path, tmp_path / "lists")
