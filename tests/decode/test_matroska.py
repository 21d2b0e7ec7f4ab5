"""A Matroska file's structure, looked through without a demuxer."""

import random

import av
import pytest

from dust.convert.health import measure
from dust.decode import cache, matroska
from dust.decode.matroska import find_break
from dust.decode.reader import VideoReader
from tests.datasets.clip_files import decode_all, write_clip

LIVE = {"live": "1", "cluster_time_limit": "400"}  # a live recorder's: sizes are left open


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    options = {"g": "12", "bf": "2"}
    return {
        "mkv": write_clip(folder / "a.mkv", 60, options=options, container={"cluster_time_limit": "400"}),
        "no_sums": write_clip(
            folder / "b.mkv", 60, options=options, container={"write_crc32": "0", "cluster_time_limit": "400"}
        ),
        "webm": write_clip(folder / "c.webm", 60, codec="libvpx", options={"g": "20", "cpu-used": "8"}),
        "live": write_clip(folder / "d.mkv", 60, options=options, container=LIVE),
    }


def test_sound_files_have_no_break(clips, tmp_path):
    assert not {name: said for name, path in clips.items() if (said := find_break(str(path)))}
    assert "EBML header" in find_break(str(write_clip(tmp_path / "a.mp4", 3)))
    assert find_break(str(tmp_path / "missing.mkv"))


@pytest.mark.parametrize("name", ["mkv", "webm"])
def test_a_file_that_ends_early(clips, tmp_path, name):
    path = tmp_path / "cut.mkv"
    path.write_bytes(clips[name].read_bytes()[:-100])
    assert "ends before its segment" in find_break(str(path))


@pytest.mark.parametrize("name", ["mkv", "no_sums", "webm", "live"])
def test_where_a_demuxer_loses_frames_the_file_is_reported(clips, tmp_path, name):
    """Overwritten, lost and inserted bytes: whatever takes a frame from a plain decode is told."""
    source, rng, lost = clips[name], random.Random(1), 0
    whole = source.read_bytes()
    right, _ = decode_all(source)
    for number in range(8):
        content, at = bytearray(whole), rng.randrange(600, len(whole) - 600)
        if number % 4 == 0:
            content[at : at + 300] = rng.randbytes(300)
        elif number % 4 == 1:
            del content[at : at + 300]
        elif number % 4 == 2:
            content[at:at] = rng.randbytes(300)
        else:
            block = content.index(b"\xa3", at)
            content[block] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{number}.mkv"
        path.write_bytes(content)
        found, _ = decode_all(path)
        lost += len(found) < len(right)
        assert len(found) == len(right) or measure(str(path), decode=True).reason, (number, at)
    assert lost >= 2, "the demuxer did not lose a frame: the test shows nothing"


def test_a_flipped_bit_of_a_picture_is_seen_by_the_checksum(clips, tmp_path):
    with av.open(str(clips["mkv"])) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    place, size = packets[30]
    content = bytearray(clips["mkv"].read_bytes())
    content[place + size // 2] ^= 4
    path = tmp_path / "flipped.mkv"
    path.write_bytes(content)
    assert "checksum" in find_break(str(path))
    cache._memory.clear()
    with VideoReader(path) as reader:
        reader.frames([0])
        assert "checksum" in reader.report.reason


@pytest.mark.parametrize("name", ["mkv", "no_sums", "webm", "live"])
def test_runs_of_blocks_are_judged_as_block_by_block(clips, tmp_path, name, monkeypatch):
    """What looks through a run of simple blocks says what the walk from element to element says."""
    whole, rng, said = clips[name].read_bytes(), random.Random(2), set()
    path = tmp_path / "x.mkv"
    for number in range(60):
        content = bytearray(whole)
        blocks = [at for at in range(300, len(whole) - 300) if content[at] == 0xA3]
        at = rng.choice(blocks) + rng.randrange(0, 6)
        if number % 3 == 0:
            content[at] = rng.randrange(256)
        elif number % 3 == 1:
            del content[at : at + rng.randrange(1, 40)]
        else:
            del content[at:]
        path.write_bytes(content)
        fast = find_break(str(path))
        with monkeypatch.context() as patch:
            patch.setattr(matroska._Walk, "simple_blocks", lambda walk, at, end: at)
            assert find_break(str(path)) == fast, (number, at)
        said.add(fast)
    assert len(said) > 2, "sound and cut short only: the test shows little"
