"""A clip within a tar is the clip of a file that holds the same bytes."""

import io
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from numpy.random import RandomState

from dust.decode import cache, members
from dust.decode.cache import get_index, pack_index
from dust.decode.members import Member, Window, make_note, member_of, open_bytes, read_note, sha256_of_member, spoilt
from dust.decode.reader import VideoReader, open_clip
from dust.utils.errors import VideoError
from dust.utils.files import open_file, sha256_of_file
from tests.datasets.clip_files import damaged, turned, write_clip


def tar_of(path, files, *, note=None):
    """{name: path of the member} of a tar that holds these files, each with a note behind it if one is given."""
    places = {}
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, file in enumerate(files):
            start = tar.offset + 512
            tar.add(file, f"{number}{file.suffix}")
            places[file.name] = Member(str(path), start, start + file.stat().st_size, file.suffix).path
            if note is not None:
                data = note(file)
                info = tarfile.TarInfo(f"{number}.idx")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return places


def true_note(file):
    try:
        return make_note(sha256_of_file(file), pack_index(get_index(str(file)), file.stat().st_size))
    except VideoError:
        return make_note(sha256_of_file(file), b"")


@pytest.fixture(autouse=True)
def empty_memory(monkeypatch):
    monkeypatch.setattr(cache, "_memory", type(cache._memory)())
    monkeypatch.setattr(cache, "_memory_bytes", 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Clips in several containers, among them an irregular one, a turned one and two damaged ones."""
    root = tmp_path_factory.mktemp("loose")
    write_clip(root / "a.mp4", 30)
    write_clip(root / "first.mp4", 31, container={"movflags": "+faststart"})
    write_clip(root / "irregular.mkv", 20, times=np.cumsum([0] + [1, 3] * 10)[:20].tolist())
    write_clip(root / "old.avi", 20, codec="mpeg4")
    write_clip(root / "air.ts", 20)
    write_clip(root / "net.webm", 12, codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"})
    write_clip(root / "bare.h264", 15)
    write_clip(root / "parts.mp4", 20, container={"movflags": "frag_keyframe+empty_moov"})
    turned(write_clip(root / "x.mp4", 10), root / "turned.mp4", 0, 1, -1, 0)
    damaged(root / "first.mp4", root / "cut.mp4", "cut")
    damaged(root / "a.mp4", root / "bits.mp4", "bits")
    (root / "none.mp4").write_bytes(b"no video at all" * 50)
    return sorted(root.iterdir())


def facts(path):
    try:
        with VideoReader(path) as reader:
            report = reader.check()
            frames = reader.frames(range(0, len(reader), 3))
            return len(reader), reader.fps, reader.pts.tolist(), report, frames.tobytes(), frames.shape
    except VideoError as error:
        return error.reason


@pytest.mark.parametrize("note", [None, true_note], ids=["bare", "with_index"])
def test_frames_times_and_damage_are_those_of_the_file(files, tmp_path, note):
    places = tar_of(tmp_path / "shard.tar", files, note=note)
    for file in files:
        assert facts(places[file.name]) == facts(str(file)), file.name
        assert sha256_of_member(places[file.name]) == sha256_of_file(file)


def test_an_index_that_travels_along_is_used(files, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the index is built again")

    file = next(file for file in files if file.name == "a.mp4")
    place = tar_of(tmp_path / "shard.tar", [file], note=true_note)[file.name]
    whole = get_index(str(file))
    monkeypatch.setattr(cache, "build_index", refuse)
    index = get_index(place)
    assert index.report == whole.report and index.frame_pts.tolist() == whole.frame_pts.tolist()


@pytest.mark.parametrize(
    "lie", ["order", "times", "entries", "words", "more", "huge", "nothing", "rate", "no rate", "turn"]
)
def test_a_forged_index_gives_no_other_frame(files, tmp_path, monkeypatch, lie):
    monkeypatch.setattr(members, "_LONGEST_INDEX", 1 << 20)
    file = next(file for file in files if file.name == "a.mp4")
    index = get_index(str(file))
    told = {
        "order": replace(index, order=index.order[::-1].copy()),
        "times": replace(index, packet_pts=index.packet_pts + 7),
        "entries": replace(index, entries=np.arange(len(index.order), dtype=np.int32)),
        "words": replace(index, report=replace(index.report, errors=[3])),
        "more": replace(index, mode="count", frame_pts=np.arange(99.0), order=np.arange(99, dtype=np.int32)),
        "rate": replace(index, fps=3 * index.fps),
        "no rate": replace(index, fps=0),
        "turn": replace(index, orientation=type(index.orientation)(True, False, False)),
    }

    def note(file):
        if lie in told:
            return make_note("0" * 64, pack_index(told[lie], file.stat().st_size))
        return make_note("0" * 64, bytes(3 << 20) if lie == "huge" else b"")

    place = tar_of(tmp_path / "shard.tar", [file], note=note)[file.name]
    with VideoReader(str(file)) as right, VideoReader(place) as reader:
        picks = [2, 17, 29]
        try:
            assert (reader.frames(picks) == right.frames(picks)).all() and reader.fps == right.fps
        except VideoError:
            assert lie == "more"
    assert spoilt(place) == "" if lie == "huge" else "SHA-256" in spoilt(place)


def test_a_window_reads_as_the_bytes_do(tmp_path):
    data = RandomState(0).bytes(2000)
    (tmp_path / "file").write_bytes(data)
    own, plain, rng = Window(open_file(tmp_path / "file"), 300, 1500), io.BytesIO(data[300:1500]), RandomState(1)
    for _ in range(300):
        whence, size = int(rng.randint(3)), int(rng.randint(-1, 700))
        offset = int(rng.randint(0, 1400)) if whence == 0 else int(rng.randint(0, 60)) - (600 if whence == 2 else 0)
        assert own.seek(offset, whence) == plain.seek(offset, whence) and own.read(size) == plain.read(size)
        assert own.tell() == plain.tell()
    with pytest.raises(OSError, match="before the beginning"):
        own.seek(-1)
    own.close()


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("/a b/x.tar[512:90].mp4", None),
        ("x.tar[512:900].mp4", ("x.tar", 512, 900, ".mp4")),
        ("x.tar[5:5]", ("x.tar", 5, 5, "")),
        ("https://host/d/x.tar[5:8].webm", ("https://host/d/x.tar", 5, 8, ".webm")),
        ("/odd [1:2]/../x.tar[3:4].mp4", ("/odd [1:2]/../x.tar", 3, 4, ".mp4")),
        ("x.tar[-5:8].mp4", None),
        ("x.tar[5:8", None),
        ("x.tar[5:8].mp4/more", None),
        (f"x.tar[5:{'9' * 30}].mp4", None),
        ("clip.mp4", None),
    ],
)
def test_what_names_a_part_of_a_tar(path, member):
    assert member_of(path) == member
    assert member is None or member_of(path).path == path


def test_a_part_that_is_not_there_is_said(files, tmp_path):
    shard = tmp_path / "shard.tar"
    place = tar_of(shard, files[:1])[files[0].name]
    os.truncate(shard, 2000)
    with pytest.raises(VideoError, match=r"ends at byte 2000.*the shard was cut"):
        open_clip(place)
    shard.unlink()
    with pytest.raises(VideoError, match="No such file"):
        open_clip(place)
    os.mkfifo(shard)
    with pytest.raises(VideoError, match="pipe or a device"):
        open_clip(place)
    shard.unlink()
    shard.write_bytes(bytes(4096))
    with pytest.raises(VideoError, match="the file is empty"):
        open_clip(Member(str(shard), 512, 512, ".mp4").path)


@pytest.mark.parametrize("size", [0, 5, 1 << 23, (1 << 33) - 1])
def test_a_header_that_promises_much_is_no_note(tmp_path, size):
    info = tarfile.TarInfo("../../etc/passwd.idx")
    info.size = size
    (tmp_path / "x.tar").write_bytes(bytes(1024) + info.tobuf(tarfile.GNU_FORMAT) + b"dust clip note 1\nxx")
    assert read_note(Member(str(tmp_path / "x.tar"), 512, 1000).path) is None
    with open_bytes(Member(str(tmp_path / "x.tar"), 512, 1000).path) as file:
        assert file.read() == bytes(488)
