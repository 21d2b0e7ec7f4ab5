"""The boxes of mp4 files, looked through without a demuxer."""

import struct

import av
import pytest

from dust.decode import cache
from dust.decode.iso import find_break
from dust.decode.reader import VideoReader
from tests.datasets.clip_files import decode_all, patch_box, write_clip

X264 = {"preset": "fast", "g": "12", "bf": "2"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    plain = write_clip(folder / "plain.mp4", 60, options={**X264, "g": "60"})
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    content = plain.read_bytes()
    at = content.index(b"elst") + 4
    length, start = struct.unpack(">II", content[at + 8 : at + 16])
    with av.open(str(plain)) as container:
        tick = container.streams.video[0].duration // 60
    edit = struct.pack(">II", length * 40 // 60, start + 20 * tick)  # the first 20 frames are hidden
    return {
        "plain": plain,
        "edited": patch_box(plain, folder / "edited.mp4", b"elst", 8, edit),
        "fragmented": write_clip(folder / "fragmented.mp4", 60, options=X264, container=fragments),
    }


def number_of(path):
    with av.open(str(path)) as container:
        return container.streams.best("video").id


def test_sound_files_have_no_break(clips, tmp_path):
    for name, path in clips.items():
        for hidden in (False, True):
            assert not find_break(str(path), number_of(path), hidden), name
    assert not find_break(str(tmp_path / "missing.mp4"), 1, True)
    assert not VideoReader(clips["edited"]).report.damaged and len(VideoReader(clips["edited"])) < 60


def test_bytes_between_fragments_that_are_no_box(clips, tmp_path):
    content = bytearray(clips["fragmented"].read_bytes())
    third = [at for at in range(len(content)) if content[at : at + 4] == b"moof"][2] - 4
    content[third : third + 4] = b"\xff" * 4
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    assert len(decode_all(path)[0]) < 60
    with VideoReader(path) as reader:
        assert f"the box at byte {third}" in reader.report.reason
    content[third : third + 4] = bytes(4)
    content[third + 4] = 0
    path.write_bytes(content)
    assert find_break(str(path), 1, False) == f"bytes at {third} are no box"


@pytest.mark.parametrize("box, words", [(b"ctts", "composition times of"), (b"stts", "times as long as")])
def test_tables_that_make_an_edit_list_hide_what_it_should_show(clips, tmp_path, box, words):
    source = clips["plain"].read_bytes()
    entry = source.index(box) + 12
    count, value = struct.unpack(">II", source[entry : entry + 8])
    new = struct.pack(">II", count + 5, 20 * value) if box == b"ctts" else struct.pack(">II", count, 200 * value)
    path = patch_box(clips["plain"], tmp_path / "odd.mp4", box, 8, new)
    cache._memory.clear()
    assert words in find_break(str(path), number_of(path), True)
    lost = 60 - len(decode_all(path)[0])
    with VideoReader(path) as reader:
        assert words in reader.report.reason or not lost


def test_a_fragment_whose_time_falls_back(clips, tmp_path):
    content = bytearray(clips["fragmented"].read_bytes())
    first = content.index(b"tfdt") + 8
    content[first] |= 1
    path = tmp_path / "late.mp4"
    path.write_bytes(content)
    assert "begins before the one" in find_break(str(path), number_of(path), True)


def test_damage_in_a_frame_that_is_hidden_is_seen(clips, tmp_path):
    """Shown frames refer to it, and the decoder hands out no frame of it that could be marked."""
    path = clips["edited"]
    with av.open(str(path)) as container:
        packets = [(one.pos, one.size, one.is_discard) for one in container.demux(video=0) if one.size]
    seen = 0
    for number in range(12):
        place, size, hidden = packets[number]
        assert hidden
        content = bytearray(path.read_bytes())
        content[place + size // 2 : place + size // 2 + 20] = b"\xa5" * 20
        broken = tmp_path / f"{number}.mp4"
        broken.write_bytes(content)
        found, error = decode_all(broken)
        if error:
            continue
        with VideoReader(broken) as reader:
            given = reader.frames(range(len(found)))
            sound = all((a == b).all() for a, b in zip(given, found, strict=True))
            assert reader.report.damaged or sound, number
            seen += "hides are marked corrupt" in reader.report.reason
    assert seen >= 1
