"""Which frames of a video make a clip: pure functions from lengths to frame numbers.

Every function returns ``num_frames`` ints in 0..video_len-1, in order of time, for any ``video_len`` of at least 1; a
fraction of a frame, no frames, or a clip that is none of ``num_clips`` is a DataError.
``rng`` is anything with NumPy RandomState's ``randint(low, high)`` (high excluded) and ``uniform(low, high)``.

The dense, segment and VideoMAE rules are those of SlowFast/TimeSformer and VideoMAE (their numbers are in
``tests/data``); the whole-clip rule is ours.
"""

import difflib
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from dust.utils.errors import ArgumentError, ConfigError, DataError
from dust.utils.numbers import finite, whole


class Rng(Protocol):
    """The part of ``numpy.random.RandomState`` that sampling draws from."""

    def randint(self, low: int, high: int) -> Any: ...

    def uniform(self, low: float, high: float) -> Any: ...


def _check(
    video_len: float, num_frames: float, *, num_clips: float = 1, clip_idx: float = 0
) -> tuple[int, int, int, int]:
    """Return the first four as whole numbers. ArgumentError that names what cannot be."""
    counts = (("video_len", video_len), ("num_frames", num_frames), ("num_clips", num_clips))
    length, frames, clips = (whole(name, value, low=1) for name, value in counts)
    clip = whole("clip_idx", clip_idx, low=0)
    if clip >= clips:
        raise ArgumentError(f"clip_idx is {clip}, and there are {clips} clips, which count from 0")
    return length, frames, clips, clip


# --- dense: a window of fixed duration ----------------------------------------------------------------------------


def dense_span(num_frames: int, sampling_rate: float, fps: float, target_fps: float) -> float:
    """Return a dense clip's length in frames of the video: ``sampling_rate * num_frames`` frames of ``target_fps``.

    ``fps`` is the video's rate; 0 or NaN (frame folders have none) means that its frames count as ``target_fps``.
    """
    whole("num_frames", num_frames, low=1)
    finite("sampling_rate", sampling_rate, above=0), finite("target_fps", target_fps, above=0)
    rate = fps if math.isfinite(fps) and fps > 0 else target_fps
    return sampling_rate * num_frames / target_fps * rate


def dense_window(video_len: int, start: float, span: float, num_frames: int) -> list[int]:
    """Return ``num_frames`` evenly spaced frames of [start, start + span - 1], rounded down.

    Past the end of the video its last frame is repeated.
    """
    video_len, num_frames, *_ = _check(video_len, num_frames)
    finite("start", start), finite("span", span)
    points = _single_linspace(start, start + max(span, 1.0) - 1.0, num_frames)
    return np.clip(points, 0, video_len - 1).astype(int).tolist()


def _single_linspace(start: float, end: float, count: int) -> np.ndarray:
    """Return ``torch.linspace(start, end, count)`` in float32, to the bit, on every machine.

    The published frame numbers depend on its last bit: a point that should be 33 may come out as 32.999998. Each
    half is counted from its own end, with one rounding per point as by a fused multiply-add (hence the float64).
    """
    first, last = np.float64(np.float32(start)), np.float64(np.float32(end))
    step = np.float64(np.float32(np.float32(last - first) / np.float32(max(count - 1, 1))))
    i = np.arange(count)
    points = np.where(i < count // 2, first + step * i, last - step * (count - 1 - i))
    return (points if count > 1 else np.array([first])).astype(np.float32)


def dense_train(
    video_len: int, fps: float, num_frames: int, sampling_rate: float, target_fps: float, rng: Rng
) -> list[int]:
    """Return a dense clip that starts anywhere (uniform over the reals) so that it ends within the video, if it can."""
    video_len, num_frames, *_ = _check(video_len, num_frames)
    span = dense_span(num_frames, sampling_rate, fps, target_fps)
    start = float(rng.uniform(0.0, max(video_len - span, 0.0)))
    return dense_window(video_len, start, span, num_frames)


def dense_start(video_len: int, span: float, num_clips: int, clip_idx: int, use_offset: bool = False) -> float:
    """Return the first frame of test clip ``clip_idx`` of ``num_clips``.

    By default ``slack * clip_idx / num_clips``, where slack = max(video_len - span, 0): one clip starts at frame 0
    and the end of the video is never reached. With ``use_offset`` one clip lies in the centre, and several reach
    from the beginning to the end in whole steps.
    """
    video_len, _, num_clips, clip_idx = _check(video_len, 1, num_clips=num_clips, clip_idx=clip_idx)
    slack = max(video_len - finite("span", span), 0.0)
    if not use_offset:
        return slack * clip_idx / num_clips
    if num_clips == 1:
        return float(math.floor(slack / 2))
    return float(math.floor(slack / (num_clips - 1)) * clip_idx)


def dense_test(
    video_len: int,
    fps: float,
    num_frames: int,
    sampling_rate: float,
    target_fps: float,
    *,
    num_clips: int,
    clip_idx: int,
    use_offset: bool = False,
) -> list[int]:
    """Return dense test clip ``clip_idx`` of ``num_clips``; see :func:`dense_start`."""
    span = dense_span(num_frames, sampling_rate, fps, target_fps)
    return dense_window(video_len, dense_start(video_len, span, num_clips, clip_idx, use_offset), span, num_frames)


def dense_centre(video_len: int, fps: float, num_frames: int, sampling_rate: float, target_fps: float) -> list[int]:
    """Return the dense clip in the middle of the video."""
    return dense_test(video_len, fps, num_frames, sampling_rate, target_fps, num_clips=1, clip_idx=0, use_offset=True)


# --- segments: one frame of each of T parts (SlowFast's Something-Something rule) ---------------------------------


def _segment_bounds(video_len: int, num_frames: int) -> list[tuple[int, int]]:
    """Return first and last frame of each part; neighbours share their boundary, which is rounded half to even."""
    video_len, num_frames, *_ = _check(video_len, num_frames)
    length = (video_len - 1) / num_frames
    bounds = [int(np.round(length * i)) for i in range(num_frames + 1)]
    return list(pairwise(bounds))


def segments_train(video_len: int, num_frames: int, rng: Rng) -> list[int]:
    """Return one random frame of each part, both ends included; neighbours may give the same frame twice."""
    return [int(rng.randint(first, last + 1)) for first, last in _segment_bounds(video_len, num_frames)]


def segments_test(video_len: int, num_frames: int, *, num_clips: int = 1, clip_idx: int = 0) -> list[int]:
    """Return the middle of each part, rounded down.

    The original knows one view only. Of n views, view c takes the frame at (2c + 1) / 2n of every part.
    """
    _, _, num_clips, clip_idx = _check(video_len, num_frames, num_clips=num_clips, clip_idx=clip_idx)
    return [
        first + (last - first) * (2 * clip_idx + 1) // (2 * num_clips)
        for first, last in _segment_bounds(video_len, num_frames)
    ]


# --- whole clip ---------------------------------------------------------------------------------------------------


def whole_clip_random(video_len: int, num_frames: int, rng: Rng) -> list[int]:
    """Return one random frame of each of ``num_frames`` equal segments of the whole video, in order.

    The segments do not overlap. Where the video is shorter than the clip, frames are repeated evenly.
    """
    video_len, num_frames, *_ = _check(video_len, num_frames)
    bounds = [video_len * i // num_frames for i in range(num_frames + 1)]
    return [int(rng.randint(low, max(high, low + 1))) for low, high in pairwise(bounds)]


def whole_clip_uniform(video_len: int, num_frames: int, *, num_clips: int = 1, clip_idx: int = 0) -> list[int]:
    """Return the midpoint of each of ``num_frames`` equal segments of the whole video.

    Of n views, view c takes the frame at (2c + 1) / 2n of every segment, so all together are again evenly spaced.
    """
    video_len, num_frames, num_clips, clip_idx = _check(video_len, num_frames, num_clips=num_clips, clip_idx=clip_idx)
    return [
        video_len * (2 * num_clips * i + 2 * clip_idx + 1) // (2 * num_clips * num_frames) for i in range(num_frames)
    ]


# --- VideoMAE -----------------------------------------------------------------------------------------------------


def videomae_dense_train(video_len: int, num_frames: int, sampling_rate: int, rng: Rng) -> list[int]:
    """Return ``num_frames`` frames of a random window of ``num_frames * sampling_rate`` frames, whatever the video's
    rate.

    A video no longer than the window is walked through at about ``sampling_rate``, then its last frame is repeated.
    """
    video_len, num_frames, *_ = _check(video_len, num_frames)
    sampling_rate = whole("sampling_rate", sampling_rate, low=1)
    span = num_frames * sampling_rate
    if video_len <= span:
        return _videomae_window(video_len, num_frames, sampling_rate, 0)
    return _videomae_window(video_len, num_frames, sampling_rate, int(rng.randint(span, video_len)) - span)


def _videomae_window(video_len: int, num_frames: int, sampling_rate: int, start: int) -> list[int]:
    span = num_frames * sampling_rate
    if video_len <= span:
        indices = np.linspace(0, video_len, max(video_len // sampling_rate, 1))
        indices = np.pad(indices, (0, num_frames - len(indices)), constant_values=video_len)
        return np.clip(indices, 0, video_len - 1).astype(int).tolist()
    end = start + span
    return np.clip(np.linspace(start, end, num_frames), start, end - 1).astype(int).tolist()


def vjepa_test(video_len: int, num_frames: int, sampling_rate: int, *, num_clips: int, clip_idx: int) -> list[int]:
    """Return test clip ``clip_idx`` of ``num_clips`` by the rule of V-JEPA's clips, which is VideoMAE's of training.

    The original draws a random window in its evaluation too. Here clips reach from the beginning to the end in equal
    steps, and one lies in the centre.
    """
    video_len, num_frames, num_clips, clip_idx = _check(video_len, num_frames, num_clips=num_clips, clip_idx=clip_idx)
    sampling_rate = whole("sampling_rate", sampling_rate, low=1)
    slack = max(video_len - num_frames * sampling_rate, 0)
    start = slack // 2 if num_clips == 1 else slack * clip_idx // (num_clips - 1)
    return _videomae_window(video_len, num_frames, sampling_rate, start)


def videomae_dense_test(
    video_len: int, num_frames: int, sampling_rate: int, *, num_clips: int, clip_idx: int
) -> list[int]:
    """Return test clip ``clip_idx`` of ``num_clips``: every ``sampling_rate``-th frame, from the beginning to the end.

    One clip lies in the centre (the original divides by zero there). All clips of a short video are equal.
    """
    video_len, num_frames, num_clips, clip_idx = _check(video_len, num_frames, num_clips=num_clips, clip_idx=clip_idx)
    sampling_rate = whole("sampling_rate", sampling_rate, low=1)
    taken = list(range(0, video_len, sampling_rate))
    taken += [taken[-1]] * (num_frames - len(taken))
    slack = len(taken) - num_frames
    start = slack // 2 if num_clips == 1 else int(clip_idx * slack / (num_clips - 1))
    return taken[start : start + num_frames]


def tsn_train(video_len: int, num_frames: int, rng: Rng) -> list[int]:
    """Follow VideoMAE's rule for Something-Something: one random frame of each of T parts of ``video_len // T`` frames.

    As in the original, the remainder at the end is never seen, and a video shorter than the clip gives frame 0 only.
    """
    video_len, num_frames, *_ = _check(video_len, num_frames)
    length = video_len // num_frames
    if length == 0:
        return [0] * num_frames
    return [i * length + int(rng.randint(0, length)) for i in range(num_frames)]


def tsn_test(video_len: int, num_frames: int, *, num_clips: int = 2, clip_idx: int = 0) -> list[int]:
    """Return test clip c of n: the frame at c/n of each of T equal parts; a single clip takes the midpoints.

    With two clips this is the original's rule (the beginnings, then the midpoints), which knows no other number.
    """
    video_len, num_frames, num_clips, clip_idx = _check(video_len, num_frames, num_clips=num_clips, clip_idx=clip_idx)
    tick = video_len / num_frames
    shift = tick / 2 if num_clips == 1 else tick * clip_idx / num_clips
    return [int(shift + tick * i) for i in range(num_frames)]


# --- clips of one video that make a view together -----------------------------------------------------------------


def joined_parts(video_len: int, parts: int, span: float) -> list[tuple[int, int]]:
    """Cut a video into ``parts`` for a clip each: the first frame and the length of each part.

    As in V-JEPA's evaluation: equal parts, whose remainder at the end is never seen. Where they are shorter than
    ``span``, what a clip covers, they are as long as that (or as the video), and overlap, spread from the beginning to
    the end.
    """
    video_len, parts, *_ = _check(video_len, parts)
    length = video_len // parts
    if length >= max(span, 1):
        return [(number * length, length) for number in range(parts)]
    length = min(video_len, max(math.ceil(span), 1))
    step = (video_len - length) // max(parts - 1, 1)
    return [(number * step, length) for number in range(parts)]


# --- what the dataset uses ----------------------------------------------------------------------------------------

MODES = ("dense", "segments", "whole_clip", "videomae_dense", "videomae_tsn", "vjepa")


class ClipSampler:
    """The frames of training, validation and test clips under one rule.

    Args:
        mode: ``dense`` (SlowFast, TimeSformer on Kinetics) | ``segments`` (the same on Something-Something) |
            ``whole_clip`` (LightTimeSformer) | ``videomae_dense`` (Kinetics, UCF101) | ``videomae_tsn``
            (Something-Something; a video shorter than the clip is sampled by ``whole_clip`` in training, where the
            original repeats frame 0) | ``vjepa`` (V-JEPA 2: videomae_dense's clips of training, in tests too).
        num_frames: frames of a clip.
        sampling_rate: distance of a clip's frames; of no meaning to segments, whole_clip and videomae_tsn.
        clips_per_view: clips that a view joins in time, one of each of as many parts of the video; see
            :func:`joined_parts`. A view has ``num_frames`` times as many frames.
        target_fps: the frame rate that ``sampling_rate`` is counted in; dense only.
        use_offset_sampling: test clips from centre or end to end instead of from the start; dense only.
        jitter_fps: training adds up to this many frames per second to ``target_fps`` at random; dense only.

    Raises:
        ConfigError: an unknown mode or a value out of range; all of them are named.
        DataError: by the methods, for a video without frames.
    """

    def __init__(
        self,
        *,
        mode: str,
        num_frames: int,
        sampling_rate: int,
        target_fps: float,
        use_offset_sampling: bool = False,
        jitter_fps: float = 0.0,
        clips_per_view: int = 1,
    ) -> None:
        problems = []
        if mode not in MODES:
            near = difflib.get_close_matches(mode, MODES, n=2, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            problems.append(f"sampling {mode!r}: {hint}Choose one of {', '.join(MODES)}")
        for name, value in (
            ("number of frames", num_frames),
            ("sampling rate", sampling_rate),
            ("clips", clips_per_view),
        ):
            if value < 1:
                problems.append(f"{name} {value}: must be at least 1")
        if not target_fps > 0:
            problems.append(f"target fps {target_fps}: must be above 0")
        if jitter_fps < 0:
            problems.append(f"fps jitter {jitter_fps}: must not be negative")
        if problems:
            raise ConfigError("; ".join(problems))
        self.mode = mode
        self.num_frames = num_frames
        self.sampling_rate = sampling_rate
        self.target_fps = float(target_fps)
        self.use_offset_sampling = use_offset_sampling
        self.jitter_fps = jitter_fps
        self.clips_per_view = clips_per_view

    def __repr__(self) -> str:
        return f"ClipSampler({self.mode}, {self.num_frames}x{self.sampling_rate} at {self.target_fps:g} fps)"

    def train(self, video_len: int, fps: float, rng: Rng) -> list[int]:
        """Return one random view of a video of ``video_len`` frames at ``fps`` frames per second."""
        return self._joined(video_len, fps, lambda length: self._random(length, fps, rng))

    def val(self, video_len: int, fps: float) -> list[int]:
        """Return the one view in the centre."""
        return self._joined(video_len, fps, lambda length: self._centre(length, fps))

    def test(self, video_len: int, fps: float, num_clips: int) -> list[list[int]]:
        """Return all ``num_clips`` temporal views.

        Views of segments, whole_clip and videomae_tsn all span the video; they differ by where in each segment the
        frame is taken.
        """
        if num_clips < 1:
            raise ConfigError(f"{num_clips} temporal views: must be at least 1")
        views = (partial(self._view, fps=fps, num_clips=num_clips, clip_idx=view) for view in range(num_clips))
        return [self._joined(video_len, fps, view) for view in views]

    def span(self, fps: float) -> float:
        """Return the frames of a video that a view covers; 0 for the rules that spread its frames over any video."""
        if self.mode == "dense":
            return self.clips_per_view * dense_span(self.num_frames, self.sampling_rate, fps, self.target_fps)
        if self.mode in ("videomae_dense", "vjepa"):
            return self.clips_per_view * self.num_frames * self.sampling_rate
        return 0

    def _joined(self, video_len: int, fps: float, clip: Callable[[int], list[int]]) -> list[int]:
        """Return the frames of a clip of each part, which ``clip`` gives for a video as long as the part."""
        _check_length(video_len)
        if self.clips_per_view == 1:
            return clip(video_len)
        parts = joined_parts(video_len, self.clips_per_view, self.span(fps) / self.clips_per_view)
        return [start + number for start, length in parts for number in clip(length)]

    def _random(self, video_len: int, fps: float, rng: Rng) -> list[int]:
        frames = self.num_frames
        if self.mode == "dense":
            jitter = float(rng.uniform(0.0, self.jitter_fps)) if self.jitter_fps else 0.0
            return dense_train(video_len, fps, frames, self.sampling_rate, self.target_fps + jitter, rng)
        if self.mode == "segments":
            return segments_train(video_len, frames, rng)
        if self.mode in ("videomae_dense", "vjepa"):
            return videomae_dense_train(video_len, frames, self.sampling_rate, rng)
        if self.mode == "videomae_tsn" and video_len >= frames:
            return tsn_train(video_len, frames, rng)
        return whole_clip_random(video_len, frames, rng)

    def _centre(self, video_len: int, fps: float) -> list[int]:
        if self.mode == "dense":
            return dense_centre(video_len, fps, self.num_frames, self.sampling_rate, self.target_fps)
        return self._view(video_len, fps, 1, 0)

    def windows(self, video_len: int, fps: float, stride: int) -> list[list[int]]:
        """Return all dense clips that begin at frames 0, ``stride``, 2 ``stride`` ... and end within the video; one at
        least.

        Args:
            stride: in frames of the video; 0 is the length of a clip, so that windows do not overlap.
        """
        _check_length(video_len)
        if self.mode != "dense" or self.clips_per_view > 1:
            raise ConfigError(
                f"DATA.SAMPLING {self.mode}, DATA.CLIPS_PER_VIEW {self.clips_per_view}: windows of a fixed length "
                "slide only with dense, one clip each"
            )
        span = dense_span(self.num_frames, self.sampling_rate, fps, self.target_fps)
        step = stride or max(round(span), 1)
        count = max(int((video_len - span) // step) + 1, 1)
        return [dense_window(video_len, index * step, span, self.num_frames) for index in range(count)]

    def _view(self, video_len: int, fps: float, num_clips: int, clip_idx: int) -> list[int]:
        frames = self.num_frames
        if self.mode == "dense":
            return dense_test(
                video_len,
                fps,
                frames,
                self.sampling_rate,
                self.target_fps,
                num_clips=num_clips,
                clip_idx=clip_idx,
                use_offset=self.use_offset_sampling,
            )
        if self.mode in ("videomae_dense", "vjepa"):
            along = videomae_dense_test if self.mode == "videomae_dense" else vjepa_test
            return along(video_len, frames, self.sampling_rate, num_clips=num_clips, clip_idx=clip_idx)
        rule = {"segments": segments_test, "whole_clip": whole_clip_uniform, "videomae_tsn": tsn_test}[self.mode]
        return rule(video_len, frames, num_clips=num_clips, clip_idx=clip_idx)


def _check_length(video_len: int) -> None:
    if video_len < 1:
        raise DataError(f"a video of {video_len} frames has nothing to sample; leave it out of the manifest")
