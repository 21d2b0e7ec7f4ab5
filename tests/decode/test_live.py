"""Frames one after the other: of a file as the reader has them, of a source that comes live and breaks off."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from dust.decode import live
from dust.decode.live import FileFrames, LiveFrames, is_live, is_remote_file, open_live
from dust.decode.pixels import pixels, reformat
from dust.decode.reader import VideoReader
from dust.utils.errors import VideoError
from tests.datasets.clip_files import write_clip
from tests.decode.rtsp import Publisher
from tests.helpers import VIDEOS, needs_videos


def rgb(frame):
    from av.video.reformatter import VideoReformatter

    return pixels(reformat(VideoReformatter(), frame.picture)).copy()


def test_a_files_frames_are_the_readers(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 30, options={"bf": "2"})
    frames = list(FileFrames(path))
    with VideoReader(path) as reader:
        assert [frame.number for frame in frames] == list(range(len(reader)))
        assert [frame.time for frame in frames] == pytest.approx(list(reader.pts - reader.pts[0]))
        np.testing.assert_array_equal(np.stack([rgb(frame) for frame in frames]), reader.frames(range(30)))


def test_pictures_of_several_kinds_are_told_apart_as_by_the_reader(tmp_path):
    for number in range(4):
        for kind, value in (("img", 10 * number), ("flow", 200)):
            Image.fromarray(np.full((16, 24, 3), value, np.uint8)).save(tmp_path / f"{kind}_{number}.png")
    frames = list(FileFrames(tmp_path, pattern="img_*.png"))
    assert [int(rgb(frame).mean()) for frame in frames] == [0, 10, 20, 30]
    with pytest.raises(VideoError, match=r"DATA.FRAME_PATTERN"):
        FileFrames(tmp_path)


def test_a_file_that_breaks_off_says_so(tmp_path):
    data = write_clip(tmp_path / "a.mp4", 60, options={"g": "10"}, container={"movflags": "faststart"}).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    frames = FileFrames(cut)
    assert 0 < len(list(frames)) < 60 and frames.damage
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        FileFrames(tmp_path / "text.mp4")


@needs_videos
@pytest.mark.parametrize("name", ["bad/vfr_jump.mkv", "bad/res_change.ts", "bad/rot90.mp4"])
def test_times_of_awkward_files_rise(name):
    times = [frame.time for frame in FileFrames(VIDEOS / name)]
    assert times == sorted(times) and times[0] == 0
    with VideoReader(VIDEOS / name) as reader:
        assert len(times) == len(reader)


def test_what_is_live():
    assert is_live("camera:0") and is_live("rtsp://host/x") and is_live("http://host/live.m3u8")
    assert is_live("https://host/stream") and not is_live("clip.mp4") and not is_live(np.zeros(3))
    assert is_remote_file("https://host/a.mp4?x=1") and not is_live("https://host/a.mp4?x=1")
    assert not is_live("file:///home/a.mp4") and not is_live("FILE://localhost/home/a%20b.mp4")
    with pytest.raises(VideoError, match="no such camera"):
        open_live("camera:77")


class Fake:
    """A container and its stream that give frames at a pace, and then break."""

    duration = None
    average_rate = guessed_rate = 25

    def __init__(self, count, pace=0.0, error=None):
        self.count, self.pace, self.error, self.time_base = count, pace, error, 1 / 25

    def decode(self, stream):
        for number in range(self.count):
            time.sleep(self.pace)
            yield Picture(number)
        if self.error:
            raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Picture:
    rotation, side_data = 0, ()

    def __init__(self, number):
        self.pts = number


def pair(fake):
    return fake, fake


def test_the_oldest_frames_are_dropped_and_counted():
    with LiveFrames("x://y", queue=5, retries=0, opener=lambda _: pair(Fake(100))) as frames:
        frames._thread.join()
        kept = list(frames)
    assert [frame.number for frame in kept] == list(range(95, 100)) and frames.dropped == 95
    assert kept[0].arrived > 0 and kept[1].time - kept[0].time == pytest.approx(1 / 25)


def test_it_connects_again_after_growing_pauses():
    pauses, opened = [], []

    def opener(source):
        opened.append(source)
        if len(opened) in (2, 3, 4):
            raise VideoError(source, "unplugged")
        return pair(Fake(10, error=OSError("gone") if len(opened) == 1 else None))

    def sleep(seconds):
        pauses.append(seconds)
        return False

    with LiveFrames("rtsp://x", queue=100, retries=4, opener=opener, sleep=sleep) as frames:
        found = [next(iter(frames)) for _ in range(20)]
        times = [frame.time for frame in found]
        assert times == sorted(times) and [frame.number for frame in found] == list(range(20))
        assert pauses[:4] == [1.0, 2.0, 4.0, 8.0] and frames.reconnected >= 1


def test_it_gives_up_where_it_is_told_to():
    def opener(source, tries=[]):  # noqa: B006 - it counts
        tries.append(source)
        if len(tries) > 1:
            raise VideoError(source, "no route to host")
        return pair(Fake(3, error=OSError("gone")))

    with LiveFrames("rtsp://x", retries=2, opener=opener, sleep=lambda seconds: False) as frames:
        assert len(list(frames)) == 3
    assert frames.error == "no route to host" and not any(t.name == "dust-live" for t in threading.enumerate())


def test_a_source_with_a_length_is_not_played_twice():
    fake = Fake(5)
    fake.duration = 200_000
    with LiveFrames("http://x/stream", opener=lambda _: pair(fake)) as frames:
        assert len(list(frames)) == 5 and frames.reconnected == 0


def test_the_pauses_end():
    assert tuple(sorted(live.PAUSES_S)) == live.PAUSES_S and live.PAUSES_S[-1] <= 60


def test_an_rtsp_stream_that_is_unplugged_comes_again():
    """A real connection: 60 frames by TCP, cut after 30, opened again, and played from the start."""
    with (
        Publisher(60, unplug_after=30) as publisher,
        LiveFrames(publisher.url, retries=1, sleep=lambda seconds: False, queue=200) as frames,
    ):
        found = list(frames)
    assert publisher.clients == 2 and frames.reconnected == 1 and frames.dropped == 0
    assert 80 <= len(found) <= 90, "a decoder may keep its last frames when it is cut off"
    times = [frame.time for frame in found]
    assert times == sorted(times)
    assert times[20] - times[10] == pytest.approx(10 / 25, abs=0.01), "by the stream's clock, though it came faster"


def test_a_source_that_breaks_at_once_is_given_longer_and_longer_pauses():
    pauses = []

    def opener(source):
        return pair(Fake(1, error=OSError("gone")))

    with LiveFrames("rtsp://x", retries=8, opener=opener, sleep=lambda s: pauses.append(s)) as frames:
        assert len(list(frames)) == 9
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_source_that_sends_nothing_ends_in_time():
    silent = threading.Event()

    class Silent(Fake):
        def decode(self, stream):
            silent.wait(60)
            yield from ()

    with LiveFrames("camera:0", opener=lambda _: pair(Silent(0)), seconds=0.2) as frames:
        assert list(frames) == [] and not silent.is_set()
        silent.set()
