"""A video with what the model says burnt in: label, bar and timeline in a band below the picture; its sound is kept."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from dust.decode.container import open_stream, read_errors, words
from dust.decode.live import FileFrames
from dust.decode.pixels import pixels, reformat
from dust.deploy.timeline import Moments, Segment, Timeline
from dust.utils.errors import DataError
from dust.utils.files import replacing
from dust.utils.text import NONE

LARGE = 4096  # pixels: the longest side that a picture is enlarged to, which encoders take
SMALL = 240  # pixels: a picture whose short side is less is enlarged by a whole factor, so that words can be read
COPIED = (
    "aac",
    "mp3",
    "mp3float",
    "ac3",
    "eac3",
    "alac",
)  # sounds that an mp4 takes as they are; others are encoded again
STRIPS = 6  # lines of the timeline: those of the questions with the most time
BACK, TEXT, DIM = (18, 20, 24), (255, 255, 255), (150, 155, 165)
GREY = (110, 114, 122)


def write_overlay(
    path: str | Path, timeline: Timeline, segments: Sequence[Segment], *, video: str = "", top: int = 3, crf: int = 20
) -> Path:
    """Write ``path`` (an mp4): every frame of the timeline's video at its own time, upright, with a band below it.

    Args:
        video: the file of the timeline's video; "" where its path is that.
        top: likeliest classes of the moment that get a bar.
        crf: quality of libx264; smaller is better and larger.

    Raises:
        DataError: the file cannot be written. VideoError: the video cannot be read.
    """
    frames = FileFrames(video or timeline.path, pattern=timeline.frame_pattern)
    target = Path(path)
    try:
        with replacing(target, suffix=".mp4") as temporary, av.open(os.path.abspath(temporary), "w") as out:
            _Writer(out, frames, timeline, segments, top, crf).run()
    except read_errors() as error:
        raise DataError(f"{path}: cannot be written: {words(error)}") from error
    return target


class _Writer:
    """Reads the frames and the sound of a video, and writes both into another one."""

    def __init__(
        self,
        out: Any,
        frames: FileFrames,
        timeline: Timeline,
        segments: Sequence[Segment],
        top: int,
        crf: int,
    ) -> None:
        self.out, self.frames, self.timeline, self.segments = out, frames, timeline, list(segments)
        self.moments = Moments(self.segments)
        self.top, self.crf = min(top, len(timeline.classes)), crf
        self.middles = (np.array(timeline.starts) + np.array(timeline.ends)) / 2
        self.reformatter = VideoReformatter()
        self.base = Fraction(1, 90000)
        self.video: Any = None
        self.band: _Band | None = None

    def run(self) -> None:
        sound = _Sound(self.out, self.frames.path)
        try:
            last = -1
            for frame in self.frames:
                picture = self._drawn(frame)
                picture.pts = max(round(frame.time / self.base), last + 1)
                last = picture.pts
                picture.time_base = self.base
                sound.until(frame.time)
                self.out.mux(self.video.encode(picture))
            if self.video is not None:
                sound.until(float("inf"))
                self.out.mux(self.video.encode(None))
        finally:
            sound.close()

    def _drawn(self, frame: Any) -> Any:
        picture = self.frames.orientation.apply(pixels(reformat(self.reformatter, frame.picture)))
        if self.band is None:
            height, width = picture.shape[:2]
            self.band = _Band(height, width, self.timeline, self.segments, self.top)
            self._open(*self.band.canvas)
        nearest = int(np.abs(self.middles - frame.time).argmin()) if len(self.middles) else -1
        drawn = self.band.draw(picture, frame.time, self.moments.at(frame.time), nearest)
        return av.VideoFrame.from_ndarray(drawn, format="rgb24")

    def _open(self, height: int, width: int) -> None:
        rate = Fraction(self.frames.fps or 25).limit_denominator(1001)
        self.video = self.out.add_stream("libx264", rate=rate, options={"crf": str(self.crf), "preset": "veryfast"})
        self.video.width, self.video.height, self.video.pix_fmt = width, height, "yuv420p"
        self.video.codec_context.time_base = self.base
        self.video.time_base = self.base


class _Sound:
    """The first sound of a file, copied into another one packet by packet, or encoded as AAC."""

    def __init__(self, out: Any, path: str) -> None:
        self.out = out
        self.container: Any = None
        self.packet: Any = None
        self.target: Any = None
        if Path(path).is_dir():
            return
        self.container, video = open_stream(path)
        audio = self.container.streams.best("audio")
        if audio is None or audio.codec_context is None:
            return
        self.source, self.copied = audio, audio.codec_context.name in COPIED
        base = video.time_base
        self.start = float(video.start_time * base) if video.start_time is not None and base else 0.0
        if self.copied:
            add = getattr(out, "add_stream_from_template", None)  # PyAV before 14 has another word for it
            self.target = add(audio) if add is not None else out.add_stream(template=audio)
        else:
            self.target = out.add_stream("aac", rate=audio.codec_context.sample_rate)
            self.target.codec_context.layout = audio.codec_context.layout
        self.packets: Iterator[Any] = self.container.demux(audio)
        self._advance()

    def until(self, seconds: float) -> None:
        """Write the sound up to a moment of the video."""
        while self.packet is not None and self._time() <= seconds:
            self._write(self.packet)
            self._advance()
        if self.packet is None and self.target is not None and seconds == float("inf") and not self.copied:
            self.out.mux(self.target.encode(None))

    def close(self) -> None:
        if self.container is not None:
            self.container.close()

    def _time(self) -> float:
        return float(self.packet.pts * self.source.time_base) - self.start

    def _advance(self) -> None:
        try:
            self.packet = next((one for one in self.packets if one.size and one.pts is not None), None)
        except read_errors():
            self.packet = None  # damage: the sound ends here

    def _write(self, packet: Any) -> None:
        shift = round(self.start / float(self.source.time_base))
        try:
            if self.copied:
                packet.pts -= shift
                packet.dts = packet.pts if packet.dts is None else packet.dts - shift
                if packet.pts >= 0:
                    packet.stream = self.target
                    self.out.mux(packet)
                return
            for frame in packet.decode():
                frame.pts = None if frame.pts is None else frame.pts - shift
                if frame.pts is None or frame.pts >= 0:
                    self.out.mux(self.target.encode(frame))
        except read_errors():
            return  # a broken packet of sound is left out


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels, all from the size of the letters."""

    font: int
    pad: int
    bar: int
    strip: int


class _Band:
    """Draws the picture and the band below it."""

    def __init__(self, height: int, width: int, timeline: Timeline, segments: Sequence[Segment], top: int) -> None:
        from dust.visualization.segments import colours_of, most_shown

        self.factor = max(1, min(-(-SMALL // min(height, width)), LARGE // max(height, width)))
        self.height, self.width = height * self.factor, width * self.factor
        font = max(12, min(self.height // 22, self.width // 22))
        self.layout = _Layout(font, max(4, font // 2), max(6, font // 2), max(8, font * 2 // 3))
        lay = self.layout
        self.rows = top
        seconds: dict[int, float] = {}
        for one in segments:
            seconds[one.row] = seconds.get(one.row, 0.0) + one.end - one.start
        self.lines = sorted(sorted(seconds, key=lambda row: -seconds[row])[:STRIPS]) or [0]
        self.strips = lay.strip * len(self.lines)
        band = lay.pad + font + lay.pad + top * (font + lay.pad // 2) + lay.pad + self.strips + lay.pad
        self.canvas = (self.height + band + (self.height + band) % 2, self.width + self.width % 2)
        self.timeline, self.segments = timeline, segments
        triples = [(one.start, one.end, one.of) for one in segments]
        named = most_shown(triples, timeline.probabilities, timeline.classes)
        self.colours = {name: tuple(round(255 * value) for value in rgb) for name, rgb in colours_of(named).items()}
        self.big, self.small = _font(font), _font(max(11, font * 4 // 5))
        widest = max(self.small.getlength(_printable(name)) for name in timeline.classes)
        self.begin = 2 * lay.pad + math.ceil(min(widest, 0.42 * self.width))
        self.strip = self._strip()
        self.image = np.full((*self.canvas, 3), BACK, np.uint8)
        self.shown: tuple[tuple[int, ...], int] | None = None
        self.still: Any = None

    def draw(self, picture: np.ndarray, seconds: float, numbers: tuple[int, ...], window: int) -> np.ndarray:
        """Return (H, W, 3) uint8: the picture of a moment, the labels of its segments by their numbers, and bars of a
        window; valid until the next call."""
        from PIL import Image, ImageDraw

        if picture.shape[:2] != (self.height, self.width):  # enlarged, or the file changes its size on the way
            scaled = Image.fromarray(np.ascontiguousarray(picture))
            picture = np.asarray(scaled.resize((self.width, self.height), Image.Resampling.BICUBIC))
        if (numbers, window) != self.shown:
            self.shown, self.still = (numbers, window), self._still(numbers, window)
        band, lay = self.still.copy(), self.layout
        draw = ImageDraw.Draw(band)
        draw.text((self.width - lay.pad, lay.pad), _clock(seconds), DIM, self.small, anchor="ra")
        length, y = max(self.timeline.length, 1e-6), band.height - lay.pad - self.strips
        x = lay.pad + round((self.width - 2 * lay.pad - 1) * min(seconds / length, 1.0))
        draw.line([(x, y - lay.pad // 2), (x, y + self.strips + lay.pad // 2)], TEXT, max(1, lay.font // 8))
        self.image[: self.height, : self.width] = picture
        self.image[self.height :] = np.asarray(band)
        return self.image

    def _still(self, numbers: Sequence[int], window: int) -> Any:
        """Return the band without what moves with every frame."""
        from PIL import Image, ImageDraw

        band = Image.new("RGB", (self.canvas[1], self.canvas[0] - self.height), BACK)
        draw, lay, y = ImageDraw.Draw(band), self.layout, self.layout.pad
        label = ", ".join(self.segments[number].label for number in numbers) or NONE
        room = self.width - 3 * lay.pad - draw.textlength(_clock(self.timeline.length), self.small)
        draw.text((lay.pad, y), self._fit(draw, label, self.big, room), TEXT, self.big)
        y += lay.font + lay.pad
        row = self.timeline.rows[window] if window >= 0 else np.zeros(len(self.timeline.classes))
        for index in np.argsort(-row, kind="stable")[: self.rows]:
            self._bar(draw, y, self.timeline.classes[int(index)], float(row[index]))
            y += lay.font + lay.pad // 2
        band.paste(self.strip, (lay.pad, band.height - lay.pad - self.strips))
        return band

    def _bar(self, draw: Any, y: int, name: str, value: float) -> None:
        lay = self.layout
        share, begin = f"{value:.0%}", self.begin
        end = self.width - lay.pad - round(draw.textlength("100%", self.small)) - lay.pad
        draw.text((lay.pad, y), self._fit(draw, name, self.small, begin - 2 * lay.pad), DIM, self.small)
        middle = y + lay.font // 2
        box = (begin, middle - lay.bar // 2, max(end, begin + 1), middle + lay.bar // 2)
        draw.rectangle(box, (48, 52, 60))
        if value > 0:
            filled = begin + round((box[2] - begin) * value)
            draw.rectangle((box[0], box[1], max(filled, begin), box[3]), self.colours.get(name, GREY))
        draw.text((self.width - lay.pad, y), share, DIM, self.small, anchor="ra")

    def _strip(self) -> Any:
        """Return the segments of the whole video in their colours, a line for each question."""
        from PIL import Image, ImageDraw

        width = max(self.width - 2 * self.layout.pad, 1)
        image = Image.new("RGB", (width, self.strips), (48, 52, 60))
        draw, length = ImageDraw.Draw(image), max(self.timeline.length, 1e-6)
        for one in self.segments:
            if one.row not in self.lines:
                continue
            top = self.lines.index(one.row) * self.layout.strip
            end = max(round(width * one.end / length) - 1, 0)
            box = (round(width * one.start / length), top, end, top + self.layout.strip - (len(self.lines) > 1))
            if box[2] >= box[0]:
                draw.rectangle(box, self.colours.get(one.of, GREY))
        return image

    @staticmethod
    def _fit(draw: Any, text: str, font: Any, room: float) -> str:
        """Return the text, shortened to so many pixels."""
        text = _printable(text)
        if draw.textlength(text, font) <= room:
            return text
        while text and draw.textlength(f"{text}…", font) > room:
            text = text[:-1]
        return f"{text}…"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def _font(size: int) -> Any:
    """Return a font that knows Latin, Greek and Cyrillic letters: the one that matplotlib brings."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
