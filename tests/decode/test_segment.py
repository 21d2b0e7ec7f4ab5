"""A segment has the frames of a plain decode whose times lie in it, at the cost of a clip."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from dust.decode.reader import open_clip
from dust.decode.segment import FRAMES, Segment, SegmentReader, part_of
from dust.decode.session import DecodeSession
from dust.utils.errors import VideoError
from tests.datasets.clip_files import write_clip
from tests.helpers import VIDEOS, needs_videos

X264 = {"preset": "fast", "g": "12", "bf": "3", "x264-params": "mbtree=0"}
IRREGULAR = np.cumsum(np.random.RandomState(1).randint(1, 4, 60)).tolist()
KINDS = {
    "steady.mp4": {},
    "late.mkv": {"times": [100 + number for number in range(60)]},
    "irregular.mp4": {"times": IRREGULAR},
    "irregular.mkv": {"times": IRREGULAR},
    "stream.ts": {},
    "rate.mp4": {"rate": 30},
}


def plain(path):
    """Every frame of a plain decode from the start, with its exact time after the first one's."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        found = [(frame.pts * stream.time_base, frame) for frame in container.decode(stream)]
    return [(time - found[0][0], frame) for time, frame in found]


def picture(frame):
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def check(path, segments):
    frames = plain(path)
    for start, end in segments:
        wanted = [picture(frame) for time, frame in frames if Fraction(start) <= time < Fraction(end)]
        if not wanted:
            with open_clip(path) as reader, pytest.raises(VideoError, match="no frame lies in seconds"):
                SegmentReader(reader, Segment(float(start), float(end)))
            continue
        with part_of(open_clip(path), Segment(float(start), float(end))) as reader:
            assert len(reader) == len(wanted)
            np.testing.assert_array_equal(reader.frames(range(len(reader))), np.stack(wanted))
            back = list(range(len(reader)))[::-3]
            np.testing.assert_array_equal(reader.frames(back), np.stack([wanted[number] for number in back]))
            with pytest.raises(IndexError):
                reader.frames([len(reader)])


@pytest.mark.parametrize("name", KINDS)
def test_its_frames_are_those_whose_times_lie_in_it(tmp_path, name):
    facts = {"count": 60, "options": X264, **KINDS[name]}
    path = write_clip(tmp_path / name, facts.pop("count"), **facts)
    at = [time for time, _ in plain(path)]
    rng = np.random.RandomState(0)
    middles = [(before + after) / 2 for before, after in itertools.pairwise(at)]
    segments = [sorted(rng.choice(len(middles), 2, replace=False)) for _ in range(8)]
    check(path, [(middles[first], middles[last]) for first, last in segments])
    # bounds that are a frame's own time: the start is in, the end is out
    check(path, [(at[5], at[9]), (at[0], at[1]), (at[12], at[13]), (0, at[-1])])
    check(path, [(at[-1], at[-1] + 1), (at[-1] + 1, at[-1] + 2), (0, at[-1] + 100)])


@needs_videos
@pytest.mark.parametrize("name", ["vfr.mp4", "vfr_jump.mkv", "offset5s.mp4", "bframes8.mp4", "rot90.mp4"])
def test_segments_of_awkward_files(name):
    path = VIDEOS / "bad" / name
    at = [time for time, _ in plain(path)]
    bounds = [(before + after) / 2 for before, after in itertools.pairwise(at)]
    check(path, [(bounds[first], bounds[first + 7]) for first in (3, len(bounds) // 2, len(bounds) - 9)])


def test_frames_are_counted_as_they_are_decoded(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 30, options=X264, times=IRREGULAR[:30])
    frames = [picture(frame) for _, frame in plain(path)]
    for start, end in ((0, 5), (7, 8), (20, 100), (29, None)):
        with part_of(open_clip(path), Segment(start, end, FRAMES)) as reader:
            np.testing.assert_array_equal(reader.frames(range(len(reader))), np.stack(frames[start:end]))
    with pytest.raises(VideoError, match="no frame lies in frames 30 to 40; the file has 30 frames"):
        part_of(open_clip(path), Segment(30, 40, FRAMES))


def test_folders_of_pictures_have_segments_too(tmp_path):
    for number in range(60):
        Image.fromarray(np.full((16, 24, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    with part_of(open_clip(tmp_path), Segment(0.5, 1.0)) as reader:  # 30 frames per second
        assert reader.frames(range(len(reader)))[:, 0, 0, 0].tolist() == list(range(15, 30)) and reader.fps == 30


def test_only_the_packets_of_the_segment_are_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "long.mp4", 400, options={**X264, "g": "10", "bf": "0"})
    with open_clip(path) as reader:
        reader.frames([0])  # the index is made
    taken = []
    take = DecodeSession._take_packet
    monkeypatch.setattr(DecodeSession, "_take_packet", lambda self: taken.append(1) or take(self))
    with part_of(open_clip(path), Segment(12.0, 12.4)) as reader:
        assert len(reader) == 10
        reader.frames(range(10))
    assert len(taken) <= 25


def test_the_rate_is_that_of_its_own_frames(tmp_path):
    times = [*range(50), *range(52, 152, 2)]  # 25 frames per second, then half as many
    path = write_clip(tmp_path / "a.mkv", 100, options=X264, times=times)
    for segment, fps in ((Segment(0, 2), 25), (Segment(2.08, 6), 12.5)):
        with part_of(open_clip(path), segment) as reader:
            assert reader.fps == pytest.approx(fps, rel=1e-3)
    steady = write_clip(tmp_path / "b.mkv", 100, rate=30)  # times in whole milliseconds
    with open_clip(steady) as whole, part_of(open_clip(steady), Segment(0.3, 2.7)) as reader:
        assert reader.fps == whole.fps == 30


def test_an_end_beyond_the_files_is_said(tmp_path, caplog):
    path = write_clip(tmp_path / "a.mp4", 50)
    with part_of(open_clip(path), Segment(1.0, 2.0)) as reader:
        assert len(reader) == 25
    assert not caplog.text
    with part_of(open_clip(path), Segment(1.0, 9.0)) as reader:
        assert len(reader) == 25
    assert "seconds 1 to 9 goes beyond its end; the file has 50 frames, 2 s" in caplog.text


def test_a_segment_is_known_by_its_clips_name():
    path = "/data/videos/a#b.mp4"
    for one in (Segment(0, 2), Segment(1.25, None), Segment(0.00001, 12345.678)):
        for name in (f"videos/a#b.mp4#{one}", f"./videos/a#b.mp4#{one}#2", f"{path}#{one}"):
            assert Segment.of_id(name, path, "seconds") == one, name
    for name in ("videos/a#b.mp4", "a#b.mp4#2", "other.mp4#0-2", "run 1"):
        assert Segment.of_id(name, path, "seconds") is None


def test_a_reader_that_knows_no_times_is_refused_by_name(tmp_path):
    class Bare:
        path, tells_damage, height, width, fps, report = "a.mp4", True, 16, 24, 25.0, None

        def close(self):
            self.closed = True

    reader = Bare()
    with pytest.raises(VideoError, match="Bare knows no times of frames"):
        part_of(reader, Segment(0, 1))
    assert reader.closed


def test_parts_are_read_back_and_compared():
    for one in (Segment(0, 2), Segment(1.25, None), Segment(3, 9, FRAMES)):
        assert Segment.of_part(one.part) == one
    assert Segment.of_part("") is None and Segment.of_part("7") is None
    assert Segment(0, 2).overlaps(Segment(1.9, 3)) and not Segment(0, 2).overlaps(Segment(2, 3))
    assert Segment().overlaps(Segment(5, 6)) and Segment(5, 6, FRAMES).overlaps(Segment())
    assert not Segment(5, 6, FRAMES).overlaps(Segment(5, 6))
