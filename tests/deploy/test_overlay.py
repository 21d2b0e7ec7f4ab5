"""The overlay shows every frame at its time, keeps the sound, and can be read at any size."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from dust.deploy.overlay import _Band, write_overlay
from dust.deploy.prediction import Prediction
from dust.deploy.timeline import MergeRule, Timeline
from dust.utils.errors import DataError
from tests.datasets.clip_files import write_clip


def overlay(path, out, values=(0.9, 0.2)):
    found = Timeline(str(path), ["cut onions", "stir"], 2.0)
    for number, value in enumerate(values):
        row = {"cut onions": value, "stir": 1 - value}
        found.add(Prediction("a", "a", probabilities=row, start=float(number), end=number + 1.0))
    return write_overlay(out, found, found.segments(MergeRule()))


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def write_with_sound(path, codec="aac", rate=44100):
    """Two seconds of video and of sound."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=rate)
        for number in range(50):
            picture = np.full((48, 64, 3), 4 * number, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        size = sound.codec_context.frame_size or 1024
        kind = sound.codec_context.format.name
        for begin in range(0, 2 * rate, size):
            wave = np.sin(np.arange(begin, begin + size) / 20)[None].astype(np.float32)
            data = wave if kind == "fltp" else (wave * 30000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(data, format=kind, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def test_every_frame_at_its_time(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 40, times=[0, 1, 2, 5, 6, *range(9, 44)], size=(256, 320))
    out = overlay(path, tmp_path / "out.mp4")
    before, after = frames_of(path), frames_of(out)
    assert len(before) == len(after)
    assert [t for t, _ in after] == pytest.approx([t - before[0][0] for t, _ in before], abs=1e-4)
    for (_, a), (_, b) in zip(before, after, strict=True):
        assert b.shape[0] > 256 and b.shape[1] == 320
        assert np.abs(b[:256].astype(int) - a).mean() < 12, "the picture itself is not covered"


@pytest.mark.parametrize("size", [(2, 2), (64, 48), (48, 64), (33, 17), (240, 640), (480, 200)])
def test_words_can_be_read_at_any_size(tmp_path, size):
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1", size=(max(size[0], 16), max(size[1], 16)), pixels="bgr0")
    ((_, picture), *_) = frames_of(overlay(path, tmp_path / "out.mp4"))
    assert min(picture.shape[:2]) >= 240 and picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    band = picture[-40:]
    assert band.max() > 150 and band.min() < 60, "letters and bars on a dark ground"


def test_a_name_that_fits_is_written_whole():
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    for name in ("down", "left", "a", "wash hands"):
        timeline = Timeline("a.mp4", [name])
        for side in (240, 360, 480, 720, 1080, 2160):
            band = _Band(side, side * 16 // 9, timeline, (), 1)
            assert band._fit(draw, name, band.small, band.begin - 2 * band.layout.pad) == name


def test_a_strip_is_enlarged_as_far_as_encoders_take_it(tmp_path):
    path = write_clip(tmp_path / "a.mkv", 2, codec="ffv1", size=(16, 1200), pixels="bgr0")
    ((_, picture), *_) = frames_of(overlay(path, tmp_path / "out.mp4"))
    assert max(picture.shape[:2]) == 3600 and min(picture.shape[:2]) > 3 * 16


def test_the_label_changes_with_the_segments(tmp_path):
    out = overlay(write_clip(tmp_path / "a.mp4", 50, size=(256, 320)), tmp_path / "out.mp4")
    found = frames_of(out)
    first, last = found[10][1][256:286, :160], found[40][1][256:286, :160]
    assert np.abs(first.astype(int) - last).mean() > 2


@pytest.mark.parametrize(("codec", "name"), [("aac", "a.mp4"), ("libvorbis", "a.mkv"), ("flac", "a.mkv")])
def test_the_sound_is_kept(tmp_path, codec, name):
    try:
        path = write_with_sound(tmp_path / name, codec)
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV has no encoder for it: {error}")
    out = overlay(path, tmp_path / "out.mp4")
    with av.open(str(out)) as container:
        (sound,) = container.streams.audio
        waves = [frame.to_ndarray() for frame in container.decode(sound)]
        seconds = sum(wave.shape[-1] for wave in waves) / sound.codec_context.sample_rate
    assert seconds == pytest.approx(2.0, abs=0.15) and max(np.abs(wave).max() for wave in waves) > 0.1
    if codec == "aac":  # packet by packet the same

        def packets(file):
            with av.open(str(file)) as container:
                return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]

        assert packets(out)[-20:] == packets(path)[-20:]


def test_a_name_that_no_font_knows_and_a_folder_that_is_not_there(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 3)
    found = Timeline(str(path), ["切る\n\x1b[31m", "x" * 300], 0.1)
    found.add(Prediction("a", "a", probabilities={"切る\n\x1b[31m": 0.6, "x" * 300: 0.4}, start=0.0, end=0.1))
    write_overlay(tmp_path / "out.mp4", found, found.segments(MergeRule()))
    with pytest.raises(DataError, match="cannot be written"):
        overlay(path, tmp_path / "nowhere" / "out.mp4")


def test_a_line_for_each_question(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 50, size=(256, 320))
    heights = []
    for questions in (None, [["cut"], ["stir"], ["fry"]]):
        found = Timeline(str(path), ["cut", "stir", "fry"], 2.0, questions)
        for number in range(2):
            row = {"cut": 0.9, "stir": 0.8, "fry": 0.7}
            found.add(Prediction("a", "a", "x", row, start=float(number), end=number + 1.0))
        out = write_overlay(tmp_path / "out.mp4", found, found.segments(MergeRule()))
        last = frames_of(out)[-1][1]
        heights.append(last.shape[0])
    assert heights[1] > heights[0]
    strip = last[-(heights[1] - heights[0]) :, 160].reshape(-1, 3).astype(int)
    assert len({tuple(np.round(colour / 40)) for colour in strip}) >= 3, "each class has its colour"
