"""A decode ends soon after the moment from which on nobody waits for it."""

import threading

import pytest

from dust.decode import deadline as module
from dust.decode.cache import forget_index
from dust.decode.deadline import Deadline, OutOfTime, check_time, keep_to, open_options
from dust.decode.live import FileFrames
from dust.decode.reader import open_clip
from dust.utils.errors import VideoError
from tests.datasets.clip_files import write_clip


class After(Deadline):
    """Over after it was asked ``count`` times."""

    def __init__(self, count):
        super().__init__()
        self.count, self.asked = count, 0

    def left(self):
        self.asked += 1
        return float("inf") if self.asked <= self.count else 0.0


def files(folder):
    """Clips of 48 frames that are indexed by their packets, decoded once, and pictures."""
    yield write_clip(folder / "indexed.mp4", 48)
    yield write_clip(folder / "matroska.mkv", 48)
    yield write_clip(folder / "decoded.avi", 48, codec="mpeg4")
    damaged = write_clip(folder / "damaged.avi", 48, codec="mpeg4")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    damaged.write_bytes(bytes(data))
    yield damaged
    pictures = folder / "pictures"
    pictures.mkdir()
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(pictures / f"{number:03}.png")
    yield pictures


def test_every_kind_of_reading_asks_between_pieces(tmp_path):
    """With every number of questions that it may take, a read ends in OutOfTime and in nothing else, or whole."""
    for path in files(tmp_path):
        expected = None
        for count in [*range(0, 60, 3), 10_000]:
            forget_index(str(path))
            until = After(count)
            try:
                with keep_to(until), open_clip(path) as reader:
                    found = reader.frames([0, len(reader) // 2, len(reader) - 1])
            except OutOfTime:
                assert until.asked == count + 1, f"{path.name}: read on after it was over"
                continue
            expected = found
        assert expected is not None, path.name
        forget_index(str(path))
        with open_clip(path) as reader:
            assert (reader.frames([0, len(reader) // 2, len(reader) - 1]) == expected).all()


def test_a_stream_of_a_file_asks_too(tmp_path):
    path = write_clip(tmp_path / "a.avi", 48, codec="mpeg4")
    frames, until = FileFrames(path), After(5)
    with keep_to(until), pytest.raises(OutOfTime, match="longer than anybody waits"):
        list(frames)
    assert len(list(frames)) == 48


def test_a_deadline_is_its_threads_own_and_can_be_cancelled():
    assert open_options() == {}
    outer, inner = Deadline(50), Deadline()
    with keep_to(outer):
        assert 49 < open_options()["timeout"] <= 50
        with keep_to(inner):
            assert open_options() == {}
            threading.Thread(target=inner.cancel).start()
            assert inner._cancelled.wait(10) and inner.left() == 0
            with pytest.raises(OutOfTime):
                check_time()
            seen = []
            other = threading.Thread(target=lambda: seen.append(getattr(module._local, "deadline", None)))
            other.start()
            other.join()
            assert seen == [None]
        check_time()
    with keep_to(Deadline(0)), pytest.raises(OutOfTime):
        check_time()
    check_time()


def test_ffmpeg_gives_up_opening_where_no_packet_comes(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 8)

    class Short(Deadline):
        def left(self):
            return 1e-9

    with keep_to(Short()), pytest.raises(VideoError, match="cannot be opened"):
        open_clip(path)
