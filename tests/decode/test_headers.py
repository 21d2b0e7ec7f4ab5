"""What a header states and the file itself contradicts: rates, sizes, shapes of pixels, colours."""

import logging
import re
import tarfile
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from dust.config import load_config
from dust.convert.health import measure
from dust.convert.prepare import Encoding, prepare_clip
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.sample import BadClip
from dust.datasets.transforms.clip import EvalTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.datasets.video import VideoDataset
from dust.decode import cache, clip, pixels
from dust.decode.pixels import FrameConverter, Orientation
from dust.decode.reader import FrameRequest, VideoReader, open_clip
from dust.decode.times import NO_PTS, frame_times, rate_of
from dust.utils.errors import DustError, VideoError
from tests.datasets.clip_files import decode_all, write_clip
from tests.helpers import SHARED

CASES = SHARED / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the inputs of ../shared/cases")
H264 = {"g": "12", "bf": "2"}


@pytest.fixture(autouse=True)
def anew():
    cache._memory.clear()
    cache._memory_bytes = 0
    clip._said.clear()


def with_rate(source, target, rate):
    """A Matroska copy whose DefaultDuration says another rate."""
    content = bytearray(source.read_bytes())
    at = content.index(b"\x23\xe3\x83") + 3
    size = content[at] & 0x7F
    content[at + 1 : at + 1 + size] = round(1e9 / rate).to_bytes(size, "big")
    target.write_bytes(content)
    return target


def with_matrix(source, target, matrix):
    """A copy of an H.264 file whose colours are said to be by another matrix."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        filters = av.bitstream.BitStreamFilterContext(f"h264_metadata=matrix_coefficients={matrix}", stream, copy)
        for packet in container.demux(stream):
            out.mux(filters.filter(packet if packet.size else None))
    return target


# -- rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [60, 7, 26])
def test_the_rate_is_that_of_the_times(tmp_path, caplog, stated):
    source = write_clip(tmp_path / "a.mkv", 60, options=H264)
    path = with_rate(source, tmp_path / "b.mkv", stated)
    with caplog.at_level(logging.WARNING), VideoReader(path) as reader, VideoReader(path):
        assert reader.fps == pytest.approx(25, rel=1e-3) and reader.duration == pytest.approx(60 / 25, rel=1e-2)
    assert caplog.text.count(f"header says {stated} frames per second") == 1
    assert reader.report.remarks and not reader.report.damaged
    with VideoReader(source) as reader:
        assert reader.fps == 25 and not reader.report.remarks


def test_times_that_confirm_the_header_leave_its_exact_rate():
    seconds = np.round(np.arange(300) * 1001 / 30000, 3)
    assert rate_of(seconds, 30000 / 1001, 1e-3) == 30000 / 1001
    assert rate_of(seconds, 60.0, 1e-3) == pytest.approx(29.97, rel=1e-4)
    assert rate_of(np.array([4.0]), 12.0, 1e-3) == 12.0
    assert rate_of(np.array([4.0]), 0.0, 1e-3) == 25.0


def test_a_splice_of_a_broadcast_does_not_count():
    ticks = np.concatenate([np.arange(50) * 3600, 10 * np.arange(1) + 7, 7 + np.arange(1, 50) * 3600])
    seconds = frame_times(ticks, np.arange(100), 100, 1 / 90000, 0.0, splices=True)
    assert np.allclose(np.diff(seconds), 0.04, atol=1e-3)
    ahead = np.concatenate([np.arange(50), 50_000 + np.arange(50)]) * 3600
    assert np.allclose(np.diff(frame_times(ahead, np.arange(100), 100, 1 / 90000, 0.0, splices=True)), 0.04)
    assert frame_times(ahead, np.arange(100), 100, 1 / 90000, 0.0)[-1] > 1000
    assert np.allclose(frame_times(np.array([NO_PTS] * 4), None, 4, 1.0, 50.0), np.arange(4) / 50)


def test_only_so_many_files_of_a_kind_are_named(caplog):
    for number in range(30):
        clip.say_once("rate", f"{number}.mp4", "is odd")
        clip.say_once("rate", f"{number}.mp4", "is odd")
    assert len(re.findall("is odd", caplog.text)) == 20 and caplog.text.count("more files like this") == 1


@needs_cases
@pytest.mark.parametrize(
    "name, fps, frames",
    [
        ("webm_without_rate.webm", 29.97, [44, 48, 52, 57, 61, 66, 70, 74]),
        ("header_says_60.mkv", 15, [21, 23, 25, 27, 29, 31, 33, 36]),
        ("pal_2frames.dv", 25, None),
    ],
)
def test_cases_of_rates(name, fps, frames):
    sampler = ClipSampler(mode="dense", num_frames=8, sampling_rate=4, target_fps=30)
    with open_clip(CASES / name) as reader:
        assert reader.fps == pytest.approx(fps, rel=1e-3)
        assert reader.duration == pytest.approx(len(reader) / fps, rel=1e-2)
        assert frames is None or sampler.val(len(reader), reader.fps) == frames


# -- the shape of pixels -------------------------------------------------------------------------------------------


@pytest.fixture
def anamorphic(tmp_path):
    """A circle in 48x96 pixels, each shown 4:3."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        y, x = np.mgrid[:48, :96]
        circle = np.where(((x - 47.5) * 4 / 3) ** 2 + (y - 23.5) ** 2 < 18**2, 235, 20).astype(np.uint8)
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.repeat(circle[..., None], 3, 2), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def extent(picture):
    rows, columns = np.nonzero(picture.mean(-1) > 128)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


@pytest.mark.parametrize("resize", ["swscale", "torch"])
def test_the_aspect_of_pixels_is_told_and_followed_on_demand(anamorphic, resize, caplog):
    stored, _ = decode_all(anamorphic)
    with VideoReader(anamorphic, resize=resize) as reader:
        assert (reader.height, reader.width) == (48, 96) and reader.pixel_aspect == pytest.approx(4 / 3)
        assert np.array_equal(reader.frames([1])[0], stored[1])
    assert "1.333 times as wide as high" in caplog.text and "DATA.PIXEL_ASPECT" in caplog.text
    with VideoReader(anamorphic, resize=resize, aspect="displayed") as reader:
        assert (reader.height, reader.width) == (48, 128)
        shown = reader.frames([1])[0]
        assert shown.shape == (48, 128, 3) and np.abs(np.subtract(*extent(shown))) <= 2
        part = reader.frames([1], box=(4, 32, 40, 64), size=(80, 128), crops=((8, 8, 64, 112),))[0]
        assert part.shape == (1, 64, 112, 3) and np.abs(part[0, 28, 56].astype(int) - 235).max() < 12
        whole = reader.frames([1], size=(96, 96))[0]
        plain = VideoReader(anamorphic, resize=resize).frames([1], size=(96, 96))[0]
        assert np.array_equal(whole, plain)  # the same pixels, scaled once
        assert reader.frames([0], crops=((0, 64, 48, 64),)).shape == (1, 1, 48, 64, 3)
    values = {"DATA.PIXEL_ASPECT": "displayed", "DATA.NUM_FRAMES": 2}
    reading = VideoDataset.reading_from_config(load_config(None, values), "val")
    dataset = VideoDataset(manifest=Manifest([Clip("a", str(anamorphic), 0)], ["one"], "", False), **reading)
    with dataset.open(dataset.clips[0]) as reader:
        assert (reader.height, reader.width) == (48, 128)
    with pytest.raises(DustError, match="stored, displayed"):
        VideoReader(anamorphic, aspect="square")


def test_a_turned_picture_is_stretched_along_its_stored_width(anamorphic):
    with av.open(str(anamorphic)) as container:
        frame = next(container.decode(video=0))
    turn = Orientation(True, False, False)
    (picture,) = FrameConverter(FrameRequest([0]), 128, 48, turn, stretch=4 / 3)(frame)
    assert picture.shape == (128, 48, 3) and np.abs(np.subtract(*extent(picture))) <= 2


def test_a_prepared_copy_keeps_the_aspect(anamorphic, tmp_path):
    assert not prepare_clip(anamorphic, tmp_path / "out.mp4", Encoding(short_side=24))
    with VideoReader(tmp_path / "out.mp4", aspect="displayed") as reader:
        assert (reader.height, reader.width) == (24, 64)


@needs_cases
def test_case_of_anamorphic_pixels():
    pictures = [open_clip(CASES / name, aspect="displayed").frames([0])[0] for name in ("anamorphic.mp4", "square.mp4")]
    assert pictures[0].shape == pictures[1].shape == (144, 256, 3)


def test_a_header_with_another_picture_size_than_the_frames(tmp_path, monkeypatch):
    """The index is of the header; the first frame that is read shows another size, and is believed."""
    path = write_clip(tmp_path / "a.mp4", 20, options=H264)
    truth, _ = decode_all(path)
    index = cache.get_index(str(path))
    for height, width in ((32, 48), (128, 300)):
        cache.put_index(str(path), replace(index, height=height, width=width))
        with VideoReader(path) as reader:
            assert (reader.height, reader.width) == (height, width)
            request = FrameRequest([5], (0, 0, height, width), (40, 50))
            found, small = reader.read([FrameRequest([5]), request])
            assert np.array_equal(found[0], truth[5]) and small.shape == (1, 40, 50, 3)
            assert (reader.height, reader.width) == (64, 96) and not reader.report.damaged


# -- colours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_a_matrix_that_swscale_does_not_know_counts_as_unspecified(tmp_path, matrix, caplog):
    source = write_clip(tmp_path / "a.mp4", 20, options=H264)
    path = with_matrix(source, tmp_path / "b.mp4", matrix)
    known = True  # FFmpeg 7 takes them as unspecified of itself
    with av.open(str(path)) as container:
        try:
            next(container.decode(video=0)).to_ndarray(format="rgb24")
        except av.error.FFmpegError:
            known = False
    right, _ = decode_all(source)
    assert not measure(str(path), decode=True).reason and not measure(str(path), decode=False).reason
    with VideoReader(path) as reader, VideoReader(source) as plain:
        assert np.array_equal(reader.frames([7])[0], right[7])
        request = FrameRequest([3, 9], (4, 6, 40, 60), (80, 120), ((0, 0, 50, 50), (20, 50, 50, 50)))
        assert np.array_equal(reader.read([request])[0], plain.read([request])[0])
    assert caplog.text.count(f"matrix {matrix}") == (not known)


def test_what_cannot_be_converted_at_all_is_a_bad_clip(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", 20, options=H264)

    def refuse(reformatter, frame, options):
        raise av.error.OSError(95, "Operation not supported")

    monkeypatch.setattr(pixels, "_reformat", refuse)
    with VideoReader(path) as reader, pytest.raises(VideoError, match="cannot be converted to RGB"):
        reader.frames([0])
    manifest = Manifest([Clip("a", str(path), 0)], ["one"], "", False)
    sampler = ClipSampler(mode="dense", num_frames=2, sampling_rate=2, target_fps=25)
    crop = EvalTransform(crop_size=32, short_side=32, num_crops=1)
    bad = VideoDataset(manifest=manifest, sampler=sampler, eval_transform=crop)[0]
    assert isinstance(bad, BadClip) and "cannot be converted to RGB" in bad.reason
    assert "cannot be converted" in measure(str(path), decode=True).reason
    assert "cannot be converted" in measure(str(path), decode=False).reason


@needs_cases
def test_case_of_a_matrix():
    with open_clip(CASES / "matrix_ycgco_like.mp4") as reader:
        assert reader.frames([0, 31]).shape == (2, 256, 340, 3) and not reader.check().damaged


OTHERS = {
    "zip archive": b"PK\x03\x04" + bytes(600), "is a tar": tarfile.TarInfo("a.mp4").tobuf(), "web page": b"<html>404",
    "gzip": b"\x1f\x8b" + bytes(600), "Git LFS": b"version https://git-lfs.github.com/spec/v1\n", "zeros": bytes(600),
    "is a web page, and": b"\xef\xbb\xbf\n<!doctype HTML><title>404",
    "list of other files": b"ffconcat version 1.0\nfile a.mp4\n", "playlist": b"#EXTM3U\n#EXTINF:1,\na.mp4\n",
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_files_of_another_kind_are_called_by_their_name(tmp_path, what):
    (tmp_path / "a.mp4").write_bytes(OTHERS[what])
    with pytest.raises(VideoError, match=what):
        VideoReader(tmp_path / "a.mp4")
