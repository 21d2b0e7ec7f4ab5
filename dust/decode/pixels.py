"""From a decoded frame to uint8 RGB of the wanted region and size.

Three ways, chosen by the request: no scaling (convert, then cut a view: exact); swscale (cut the box out of the YUV
planes, scale those, then convert; a box's corner is rounded to the chroma grid, so it is right to about one source
pixel); torch (convert whole, then plain bilinear as in the published protocols: align_corners False, no antialiasing,
rounded to uint8). Crops are cut from the scaled box, exactly.

Scaling the planes first and converting afterwards costs swscale a third of doing both at once, and keeps the mean
colour, which its one-pass way shifts by one or two levels.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from dust.utils.errors import DustError

RESIZES = ("swscale", "torch")
PIXEL_ASPECTS = ("stored", "displayed")
Box = tuple[float, float, float, float]
Crops = tuple[tuple[int, int, int, int], ...]
_UNSPECIFIED_MATRIX = 2  # ITU-T H.273; swscale then takes BT.601's
_LAST_RANGE = 2  # 0 unspecified, 1 limited, 2 full
# bytes per sample and (vertical, horizontal) chroma shift of the planar formats that can be cut before conversion
_PLANAR = {
    "gray": (1, 0, 0),
    "yuv420p": (1, 1, 1),
    "yuvj420p": (1, 1, 1),
    "yuv422p": (1, 0, 1),
    "yuvj422p": (1, 0, 1),
    "yuv444p": (1, 0, 0),
    "yuvj444p": (1, 0, 0),
    "yuv420p10le": (2, 1, 1),
    "yuv422p10le": (2, 0, 1),
    "yuv444p10le": (2, 0, 0),
}


class ConversionError(Exception):
    """A decoded frame that swscale can make no RGB picture of; the words are FFmpeg's."""


class Orientation(NamedTuple):
    """How stored pixels become the displayed picture: transpose, then turn rows and columns round."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Return a view of (H, W, 3) as displayed."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def stored_region(self, region: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
        """Return where a (y, x, h, w) region of the (height, width) display lies in the stored picture."""
        y, x, h, w = region
        if self.flip_rows:
            y = height - y - h
        if self.flip_columns:
            x = width - x - w
        return (x, y, w, h) if self.transpose else (y, x, h, w)

    def shown_region(self, region: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
        """Return where a (y, x, h, w) region of the stored picture lies in the (height, width) display."""
        y, x, h, w = region
        if self.transpose:
            y, x, h, w = x, y, w, h
        if self.flip_rows:
            y = height - y - h
        if self.flip_columns:
            x = width - x - w
        return y, x, h, w


UPRIGHT = Orientation()
_SKEW = 0.017  # the tangent of a degree


def shown_size(height: int, width: int, stretch: float, orientation: Orientation) -> tuple[int, int]:
    """Return the size at which a frame of (height, width) pixels, already turned, is shown whose stored pixels are
    ``stretch`` times wider than high."""
    if orientation.transpose:
        return max(1, round(height * stretch)), width
    return height, max(1, round(width * stretch))


def orientation_of(frame: Any) -> Orientation:
    """Return the orientation that a frame's display matrix asks for: right angles, to about a degree, and mirrorings;
    anything else is upright."""
    for one in _carried(frame):
        if one.type.name == "DISPLAYMATRIX":
            # stored (x, y) is shown at (a x + c y, b x + d y)
            a, b, _, c, d = struct.unpack("=5i", bytes(one)[:20])
            if max(abs(a), abs(d)) < _SKEW * min(abs(b), abs(c)):
                return Orientation(True, b < 0, c < 0)
            if max(abs(b), abs(c)) < _SKEW * min(abs(a), abs(d)):
                return Orientation(False, d < 0, a < 0)
    return UPRIGHT


def _carried(frame: Any) -> list[Any]:
    """Return what a frame carries beside its picture, without what PyAV does not know (FFmpeg 8: EXIF, a second view):
    beside such a thing it lists nothing."""
    while True:
        try:
            return list(frame.side_data)
        except ValueError as error:
            unknown = re.match(r"(\d+) is not a valid", str(error))
            if unknown is None:
                raise
            frame = _without(frame, unknown[1])


def _without(frame: Any, number: str) -> Any:
    """Return the frame without what it carries of this kind, a number of FFmpeg's AVFrameSideDataType."""
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
    )
    graph.link_nodes(source, graph.add("sidedata", f"mode=delete:type={number}"), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


@dataclass(frozen=True)
class FrameRequest:
    """Frames of one clip and what to make of them; plain data that crosses processes.

    Attributes:
        indices: frame numbers in display order, in any order, repeats allowed.
        box: (y, x, h, w) region in displayed pixels, as floats; None = the whole frame.
        size: (H, W) that the region is scaled to; None = no scaling (the box is then rounded to whole pixels).
        crops: (y, x, h, w) cuts in the scaled region, all of one size; None = no cut.
    """

    indices: Sequence[int]
    box: Box | None = None
    size: tuple[int, int] | None = None
    crops: Crops | None = None


class _Plan(NamedTuple):
    """For frames of one size and format: their size when turned, the box in it, and the box's size after scaling."""

    height: int
    width: int
    region: tuple[int, int, int, int]
    size: tuple[int, int]


class FrameConverter:
    """Makes the pictures of one request; ``height`` and ``width`` are the reader's, to which boxes refer.

    ``stretch``: how many times wider than stored a frame is shown, before it is turned. ``remarks`` tell of
    ``colours`` that had to be guessed, and of frames of other ``sizes``. ConversionError for a frame that cannot be
    converted.
    """

    def __init__(
        self,
        request: FrameRequest,
        height: int,
        width: int,
        orientation: Orientation = UPRIGHT,
        resize: str = "swscale",
        stretch: float = 1.0,
    ) -> None:
        from av.video.reformatter import VideoReformatter

        _check(request, height, width)
        self.request, self.height, self.width = request, height, width
        self.orientation, self.resize, self.stretch = orientation, resize, stretch
        self.remarks: dict[str, str] = {}
        self._rgb, self._scale = VideoReformatter(), VideoReformatter()
        self._plans: dict[tuple[int, int, str], _Plan] = {}
        self._source, self._part = _PlaneCutter(), _PlaneCutter()

    def __call__(self, frame: Any) -> list[np.ndarray]:
        """Return one uint8 (h, w, 3) picture per crop (one in all without crops); views that live as long as the
        frame."""
        key = (frame.width, frame.height, frame.format.name)
        if key not in self._plans:
            self._plans[key] = self._plan(frame)
        plan = self._plans[key]
        y, x, h, w = plan.region
        if (h, w) == plan.size:
            picture = self.orientation.apply(pixels(self._reformat(self._rgb, frame)))[y : y + h, x : x + w]
        elif self.resize == "torch":
            whole = self.orientation.apply(pixels(self._reformat(self._rgb, frame)))
            picture = torch_bilinear(whole[y : y + h, x : x + w], plan.size)
        else:
            return self._scaled(frame, plan)
        return cut(picture, self.request.crops)

    def _reformat(self, reformatter: Any, frame: Any, *how: Any) -> Any:
        """Call ``reformat``; colours by a matrix or a range that swscale does not know are taken as unspecified."""
        try:
            return reformat(reformatter, frame, *how)
        except ConversionError:
            matrix, span = int(frame.colorspace), int(frame.color_range)
            frame.colorspace, frame.color_range = _UNSPECIFIED_MATRIX, span if span <= _LAST_RANGE else 0
            picture = reformat(reformatter, frame, *how)
            text = f"its colours (matrix {matrix}, range {span}) cannot be converted: read as unspecified ones"
            self.remarks["colours"] = text
            return picture

    def _plan(self, frame: Any) -> _Plan:
        height, width = frame.height, frame.width
        if self.orientation.transpose:
            height, width = width, height
        shown_height, shown_width = shown_size(height, width, self.stretch, self.orientation)
        # A file may change its picture size on the way; boxes keep their place in the picture.
        if (shown_height, shown_width) != (self.height, self.width):
            self.remarks["sizes"] = tell_sizes([(self.height, self.width), (shown_height, shown_width)])
        tall, wide = shown_height / self.height, shown_width / self.width
        y, x, h, w = self.request.box or (0.0, 0.0, self.height, self.width)
        box = y * tall, x * wide, h * tall, w * wide
        size = self.request.size or _whole(box, shown_height, shown_width)[2:]
        if self.request.crops is not None and self.request.size is None:
            size = _whole((y, x, h, w), self.height, self.width)[2:]  # so that the crops fit frames of any size
        tall, wide = height / shown_height, width / shown_width
        region = _whole((box[0] * tall, box[1] * wide, box[2] * tall, box[3] * wide), height, width)
        if self.resize == "swscale" and size != region[2:]:
            region = self._aligned(region, frame)
        return _Plan(height, width, region, size)

    def _aligned(self, region: tuple[int, int, int, int], frame: Any) -> tuple[int, int, int, int]:
        """Return the region with its stored corner on the chroma grid, so that the planes can be cut."""
        height, width = frame.height, frame.width
        if self.orientation.transpose:
            height, width = width, height
        y, x, h, w = region
        if (h, w) == (height, width) or frame.format.name not in _PLANAR:
            return y, x, h, w
        _, down, across = _PLANAR[frame.format.name]
        sy, sx, sh, sw = self.orientation.stored_region((y, x, h, w), height, width)
        return self.orientation.shown_region((sy >> down << down, sx >> across << across, sh, sw), height, width)

    def _scaled(self, frame: Any, plan: _Plan) -> list[np.ndarray]:
        """Cut the region out, scale and convert it as displayed; then cut the crops."""
        turn, crops = self.orientation, self.request.crops
        y, x, h, w = turn.stored_region(plan.region, plan.height, plan.width)
        height, width = plan.size[::-1] if turn.transpose else plan.size
        name, top, left = frame.format.name, 0, 0
        if name not in _PLANAR:
            if (h, w) != (frame.height, frame.width):
                import av

                rgb = pixels(self._reformat(self._rgb, frame))[y : y + h, x : x + w]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            picture = turn.apply(pixels(self._reformat(self._scale, frame, "rgb24", width, height)))
        else:
            if (h, w) != (frame.height, frame.width):
                frame = self._source(frame, y, x, h, w)
            frame = self._reformat(self._scale, frame, name, width, height)
            if crops is not None:  # convert only what the crops need
                part = turn.stored_region(_hull(crops), *plan.size)
                _, down, across = _PLANAR[name]
                y, x = part[0] >> down << down, part[1] >> across << across
                h, w = part[0] + part[2] - y, part[1] + part[3] - x
                frame = self._part(frame, y, x, h, w)
                top, left, _, _ = turn.shown_region((y, x, h, w), *plan.size)
            picture = turn.apply(pixels(self._reformat(self._rgb, frame)))
        return cut(picture, crops, top, left)


class _PlaneCutter:
    """Copies one region out of a planar frame's planes into a frame that it keeps and fills again."""

    def __init__(self) -> None:
        self._kept: Any = None

    def __call__(self, frame: Any, y: int, x: int, h: int, w: int) -> Any:
        """Cut a region out of a frame. ``y`` and ``x`` lie on the chroma grid."""
        name, kept = frame.format.name, self._kept
        if kept is None or (kept.width, kept.height, kept.format.name) != (w, h, name):
            import av

            kept = self._kept = av.VideoFrame(w, h, name)
        kept.colorspace, kept.color_range = frame.colorspace, frame.color_range
        sample, down, across = _PLANAR[name]
        for number, (source, target) in enumerate(zip(frame.planes, kept.planes, strict=True)):
            v, u = (down, across) if number else (0, 0)
            rows, columns = -(-h >> v), -(-w >> u) * sample
            top, left = y >> v, (x >> u) * sample
            into = np.frombuffer(target, np.uint8)[: rows * target.line_size].reshape(rows, -1)[:, :columns]
            lines = np.frombuffer(source, np.uint8)
            lines = lines[: lines.size // source.line_size * source.line_size].reshape(-1, source.line_size)
            into[:] = lines[top : top + rows, left : left + columns]
        return kept


def tell_sizes(sizes: Iterable[tuple[int, int]]) -> str:
    """Return what to say of a clip whose pictures are of these heights and widths; "" where all are of one size."""
    several = list(dict.fromkeys(sizes))
    if len(several) < 2:
        return ""
    shown = ", ".join(f"{height}x{width}" for height, width in several[:4]) + (", ..." if len(several) > 4 else "")
    return f"its pictures are of several sizes ({shown}; height x width): all are scaled to one of them"


def cut(picture: np.ndarray, crops: Crops | None, top: int = 0, left: int = 0) -> list[np.ndarray]:
    """Return views of the crops (of the whole without any) in a picture that begins at (top, left)."""
    if crops is None:
        return [picture]
    return [picture[y - top : y - top + h, x - left : x - left + w] for y, x, h, w in crops]


def _hull(crops: Crops) -> tuple[int, int, int, int]:
    """Return the smallest (y, x, h, w) that holds all crops."""
    top, left = min(crop[0] for crop in crops), min(crop[1] for crop in crops)
    bottom, right = max(crop[0] + crop[2] for crop in crops), max(crop[1] + crop[3] for crop in crops)
    return top, left, bottom - top, right - left


def reformat(
    reformatter: Any,
    frame: Any,
    format: str = "rgb24",
    width: int | None = None,
    height: int | None = None,
) -> Any:
    """Convert a frame by one kept swscale context on one thread, with the colours of ``frame.to_ndarray("rgb24")``.

    ConversionError where swscale cannot do it.
    """
    import av  # PyAV is imported where it is needed first: models train on arrays without it

    options: Any = {"width": width, "height": height, "format": format, "interpolation": "BILINEAR"}
    try:
        return _reformat(reformatter, frame, options)
    except (av.error.FFmpegError, ValueError) as error:
        raise ConversionError(str(getattr(error, "strerror", None) or error)) from error


def _reformat(reformatter: Any, frame: Any, options: dict[str, Any]) -> Any:
    try:
        return reformatter.reformat(frame, threads=1, **options)
    except TypeError:  # PyAV before 16 has no such argument, and one thread anyway
        return reformatter.reformat(frame, **options)


def pixels(frame: Any) -> np.ndarray:
    """Return the (H, W, 3) uint8 view of an rgb24 frame; no copy."""
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8)[: plane.line_size * frame.height].reshape(frame.height, plane.line_size)
    return lines[:, : frame.width * 3].reshape(frame.height, frame.width, 3)


def torch_bilinear(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (h, w, 3) uint8 scaled to ``size`` as ``interpolate(bilinear, align_corners=False)`` does, rounded."""
    import torch

    data = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    data = torch.nn.functional.interpolate(data, size=size, mode="bilinear", align_corners=False, antialias=False)
    return data[0].permute(1, 2, 0).round_().clamp_(0, 255).to(torch.uint8).numpy()


def rescaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return (h, w, 3) uint8 scaled by swscale."""
    import av
    from av.video.reformatter import VideoReformatter

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return pixels(reformat(VideoReformatter(), frame, "rgb24", width, height)).copy()


def _whole(region: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Return a region in whole pixels, at least one, inside the picture."""
    y, x, h, w = (round(value) for value in region)
    h, w = min(max(h, 1), height), min(max(w, 1), width)
    return min(max(y, 0), height - h), min(max(x, 0), width - w), h, w


def _check(request: FrameRequest, height: int, width: int) -> None:
    """Raise DustError for a region, size or crop that does not fit."""
    problems = []
    tall, wide = height, width
    if request.box is not None:
        y, x, h, w = request.box
        if h <= 0 or w <= 0 or y < -0.5 or x < -0.5 or y + h > height + 0.5 or x + w > width + 0.5:
            problems.append(f"box {request.box} (y, x, h, w) does not lie in the {height}x{width} picture")
        tall, wide = round(h), round(w)
    if request.size is not None:
        tall, wide = request.size
        if tall < 1 or wide < 1:
            problems.append(f"size {request.size} must be positive")
    if request.crops is not None:
        if not request.crops or len({crop[2:] for crop in request.crops}) != 1:
            problems.append(f"crops {request.crops} must be at least one, all of one size")
        for crop in request.crops:
            if min(crop[:2]) < 0 or min(crop[2:]) < 1 or crop[0] + crop[2] > tall or crop[1] + crop[3] > wide:
                problems.append(f"crop {crop} (y, x, h, w) does not lie in the {tall}x{wide} scaled picture")
    if problems:
        raise DustError("a request for frames cannot be met: " + "; ".join(problems))
