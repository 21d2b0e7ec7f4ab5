"""Answers while something is read or comes in: windows of a video, of point tracks, the steps of a procedure."""

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import av
import numpy as np
import torch

from dust.datasets.keystep.files import Recording
from dust.datasets.manifest.manifest import Clip
from dust.decode.live import FileFrames, LiveFrames, StreamFrame, is_live, is_remote_file
from dust.decode.pixels import FrameConverter, FrameRequest, Orientation
from dust.deploy.prediction import Prediction, make_prediction
from dust.deploy.reading import Reader, Reading, VideoClipReader, download, names_of
from dust.deploy.reading_procedures import ProcedureReader
from dust.deploy.reading_tracks import TrackReader
from dust.engine.inference import Inference
from dust.models.keystep import TemporalEncoder
from dust.models.track_front_end import PointTrackModel
from dust.procedure.mistakes import MistakeWatch
from dust.procedure.step_decoder import OBJECTS
from dust.streaming.keystep import StepStream
from dust.streaming.tracks import TrackStream
from dust.streaming.video import ClipWindow, CropConverter, SlidingClips, window_rule
from dust.tasks import Evaluation, KeyStep, Task
from dust.utils.errors import ConfigError, DataError, VideoError

LIVE_OPTIONS = ("queue", "retries", "seconds", "opener", "sleep")  # of LiveFrames
GAP_S = 1.0  # a live source without a frame for so many seconds, or half a window: windows begin again


class Asked(Protocol):
    """What a stream asks of a :class:`dust.deploy.predictor.Predictor`."""

    loop: Inference
    task: Task
    reader: Reader
    classes: list[str]

    def evaluation(self) -> Evaluation: ...


class Stream(ABC):
    """Predictions with times, one after the other, of one source.

    Attributes:
        id, path: of the source, as in ``predictions.csv``.
        live: whether it is a camera or a network stream.
        duration: seconds of a file; 0 where that is not known.
        now: seconds of the source that were read.
    """

    #: Those of :func:`open_stream` that such a stream has, besides those of a live source.
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, predictor: Asked, source: Any, *, live: bool = False, duration: float = 0.0) -> None:
        self.predictor, self.live, self.duration = predictor, live, duration
        self.id, self.path = names_of(source)
        self.now = 0.0

    @abstractmethod
    def __iter__(self) -> Iterator[Prediction]: ...

    @property
    def video(self) -> str:
        """The file that holds its pictures, as long as this stream is kept; "" where there is none."""
        return ""

    @property
    def gap(self) -> float:
        """Seconds between two windows for which nothing was seen, where there are more; 0: there is no such gap."""
        return 0.0

    @property
    def notes(self) -> list[str]:
        """What there is to say of the source once it has ended: damage, dropped frames, breaks."""
        return []


class ArrayFrames:
    """Frames in memory as if they were read."""

    def __init__(self, frames: np.ndarray, fps: float) -> None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise DataError(f"frames are uint8 (T, H, W, 3), RGB; got {frames.dtype} {frames.shape}")
        self.frames, self.fps, self.duration, self.damage = frames, fps, len(frames) / fps, ""
        self.orientation = Orientation()

    def __iter__(self) -> Iterator[StreamFrame]:
        for number, picture in enumerate(self.frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            yield StreamFrame(number, number / self.fps, frame)


class FetchedFrames(FileFrames):
    """The frames of a file on a web server, which is fetched first, and gone with this object. VideoError where it
    cannot be fetched or opened."""

    def __init__(self, address: str) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="dust-", suffix=".video")  # noqa: SIM115 - it lives as long
        try:
            download(address, self._file)
            self._file.flush()
            super().__init__(self._file.name)
        except VideoError as error:
            self._file.close()
            raise VideoError(address, error.reason) from error


class VideoStream(Stream):
    """Windows of a video.

    Args:
        window, stride: seconds; 0: the span of a training clip, and half a window.
        live: options of a live source, see :class:`dust.decode.live.LiveFrames`.
    """

    options = ("window", "stride")

    def __init__(
        self,
        predictor: Asked,
        reader: VideoClipReader,
        source: Any,
        *,
        window: float = 0.0,
        stride: float = 0.0,
        **live: Any,
    ) -> None:
        self.dataset = reader.dataset
        self.frames = open_frames(source, self.dataset.sampler.target_fps, reader.frame_pattern, **live)
        taken = isinstance(self.frames, LiveFrames)
        super().__init__(predictor, source, live=taken, duration=self.frames.duration)
        # what comes live has times but no reliable numbers: positions are those of the training's rate
        rate = self.dataset.sampler.target_fps if taken else self.frames.fps
        self.rule = window_rule(self.dataset.sampler, rate, window=window, stride=stride)
        self._clips: SlidingClips | None = None

    def __iter__(self) -> Iterator[Prediction]:
        if isinstance(self.frames, LiveFrames):
            with self.frames:
                yield from self._predict()
        else:
            yield from self._predict()

    def _predict(self) -> Iterator[Prediction]:
        predictor, evaluation = self.predictor, self.predictor.evaluation()
        loop = predictor.loop
        if self.live:  # an answer is not kept waiting for the next windows
            crops = len(self._transform.geometry(64, 64).crops)
            loop = replace(loop, micro_batch=crops, in_flight=0)
        for record in evaluation.infer(loop, self._items()):
            window, reading = record["window"], Reading(self.id, self.path)
            when = {"start": window.begin, "end": window.end}
            if self.live:
                when["delay"] = time.monotonic() - window.arrived
            yield make_prediction(evaluation, record, evaluation.keep(record), reading, **when)

    def _items(self) -> Iterator[dict[str, Any]]:
        convert = CropConverter(self._transform, self.dataset.resize, lambda: self.frames.orientation)
        rate, live = self.rule.rate, self.live
        clips = self._clips = SlidingClips(self.rule, convert, gap=self._longest_break * live)
        for frame in self.frames:
            self.now = frame.time
            yield from map(self._item, clips.push(frame.time * rate if live else frame.number, frame))
        yield from map(self._item, clips.finish())

    def _item(self, window: ClipWindow) -> dict[str, Any]:
        sample = self.dataset.sample(Clip(self.id, self.path, None), window.video())
        window.pictures.clear()
        return {**sample, "window": window}

    @property
    def gap(self) -> float:
        apart = max(self.rule.step - self.rule.length, 0) + self._longest_break
        return apart / self.rule.rate if self.live else 0.0

    @property
    def _longest_break(self) -> float:
        """Positions without a frame after which windows begin again."""
        return max(GAP_S * self.rule.rate, self.rule.length / 2)

    @property
    def _transform(self) -> Any:
        assert self.dataset.eval_transform is not None
        return self.dataset.eval_transform

    @property
    def video(self) -> str:
        return self.frames.path if isinstance(self.frames, FileFrames) else ""

    @property
    def notes(self) -> list[str]:
        return notes_of(self.frames, self._clips.restarts if self._clips is not None else 0)


class TrackWindows(Stream):
    """Windows of point tracks; each frame goes through the front end once.

    Args:
        stride: seconds from one window to the next; 0 is half a window.
    """

    options = ("stride",)

    def __init__(self, predictor: Asked, reader: TrackReader, source: Any, *, stride: float = 0.0) -> None:
        self.inputs, self.fps, clip = reader.frames(source)
        super().__init__(predictor, clip, duration=len(self.inputs["tracks"]) / self.fps)
        model = predictor.loop.model
        if not isinstance(model, PointTrackModel):
            raise ConfigError(f"{type(model).__name__} does not stream; PointTrackTransformer and PointTrackLSTM do")
        window = int(reader.description["window"])
        step = max(round(stride * self.fps) if stride else window // 2, 1)
        if stride < 0 or step > window:
            raise ConfigError(
                f"stride {stride:g} s: a window of this model has {window} frames, {window / self.fps:g} s, and the "
                "next one begins within it; 0 is half a window"
            )
        how: dict[str, Any] = {"window": window, "stride": step, "autocast": predictor.loop.autocast}
        self.stream = TrackStream(model, view_mask=self.inputs["view_mask"], **how)

    def __iter__(self) -> Iterator[Prediction]:
        evaluation = self.predictor.evaluation()
        made = 0
        both = zip(self.inputs["tracks"], self.inputs["visible"], strict=True)
        for number, (points, visible) in enumerate(both):
            self.now = number / self.fps
            window = self.stream.push(points, visible)
            if window is not None:
                made += 1
                yield self._prediction(evaluation, window)
        window = self.stream.finish()
        if window is not None:
            yield self._prediction(evaluation, window)

    def _prediction(self, evaluation: Any, window: Any) -> Prediction:
        record = {"id": self.id, "path": self.path, "label": None, "outputs": window.logits[None]}
        when = {"start": window.start / self.fps, "end": window.stop / self.fps}
        return make_prediction(evaluation, record, evaluation.keep(record), Reading(self.id, self.path), **when)


class StepPredictions(Stream):
    """The steps of a procedure as they are completed, and the probabilities of each window; each frame is encoded once.

    A prediction's ``facts["steps"]`` are the steps that were recognised with its last frame.
    """

    def __init__(self, predictor: Asked, reader: ProcedureReader, source: Any, **live: Any) -> None:
        task = predictor.task
        assert isinstance(task, KeyStep)
        if task.recordings is None:
            raise ConfigError("TEST.DATASET must be ProcedureRecordings for a stream of steps")
        if isinstance(predictor.loop.model, TemporalEncoder):
            raise ConfigError(
                "KEYSTEP.DTYPE embedding: a stream and a timeline take a model of frames (KeyStepVideo); with this one "
                "predict whole recordings"
            )
        self.frames = open_frames(source, 10.0, reader.frame_pattern, **live)
        if isinstance(source, Recording) and source.fps and os.path.isdir(source.path):
            self.frames.duration *= self.frames.fps / source.fps
            self.frames.fps = source.fps  # pictures do not say it, the list does
        taken = isinstance(self.frames, LiveFrames)
        super().__init__(predictor, source, live=taken, duration=self.frames.duration)
        self.size, rules = int(reader.description["crop_size"]), task.recordings
        if rules["decoder"].mode in OBJECTS:
            raise ConfigError(
                f"KEYSTEP.DECODE.MODE {rules['decoder'].mode} needs what an object detector says of each frame, which "
                "a stream has not: predict the recording, or --opts KEYSTEP.DECODE.MODE temporal"
            )
        decoder, data = rules["decoder"], reader.data
        named = source.procedure if isinstance(source, Recording) else reader.procedure
        procedure, graph, rule = data.procedure(named), data.graph(named), rules["mistakes"]
        self.evaluation: Any = predictor.evaluation()
        self.stream = StepStream(
            predictor.loop.model,
            decoder,
            lambda: decoder.start(procedure, {}),
            watch=lambda: MistakeWatch(graph, procedure, rule, self.frames.fps),
            components=procedure.num_components,
            frames=rules["frames"],
            skip=rules["skip"],
            phases=rules["phases"],
            transform=lambda picture: predictor.loop.transform.normalize(picture[None, :, None])[0, :, 0],
            autocast=predictor.loop.autocast,
        )

    def __iter__(self) -> Iterator[Prediction]:
        if isinstance(self.frames, LiveFrames):
            with self.frames:
                yield from self._predict()
        else:
            yield from self._predict()

    def _predict(self) -> Iterator[Prediction]:
        convert: FrameConverter | None = None
        frame = None
        for frame in self.frames:
            if convert is None:
                turn = self.frames.orientation
                height, width = frame.picture.height, frame.picture.width
                height, width = (width, height) if turn.transpose else (height, width)
                convert = FrameConverter(FrameRequest((), size=(self.size, self.size)), height, width, turn)
            picture = torch.from_numpy(np.ascontiguousarray(convert(frame.picture)[0])).permute(2, 0, 1)
            self.now = frame.time
            update = self.stream.push(picture)
            if update.probabilities is not None or update.steps or update.alarms:
                yield self._prediction(update, frame)
        last = self.stream.finish()
        if last is not None and frame is not None:
            yield self._prediction(last, frame)

    def _prediction(self, update: Any, frame: StreamFrame) -> Prediction:
        probabilities = np.zeros((0, len(self.predictor.classes)), np.float32)
        if update.probabilities is not None:
            probabilities = update.probabilities.numpy()[None]
        fps = self.frames.fps
        kept = {"predicted": update.steps, "fps": fps, "probabilities": probabilities, "alarms": update.alarms}
        answer = self.evaluation.answer(kept)
        end = frame.time + 1 / fps
        start = max(end - self.stream.span / fps, 0.0)
        delay = time.monotonic() - frame.arrived if self.live else None
        return Prediction(
            self.id, self.path, answer.label if update.steps else "", answer.probabilities, facts=answer.facts,
            views=len(probabilities), start=start, end=end, delay=delay,
        )  # fmt: skip

    @property
    def video(self) -> str:
        return self.frames.path if isinstance(self.frames, FileFrames) else ""

    @property
    def notes(self) -> list[str]:
        return notes_of(self.frames, 0)


def open_frames(source: Any, fps: float, pattern: str = "", **live: Any) -> Any:
    """Return the frames of a source one by one. VideoError where it cannot be opened.

    Args:
        fps: of an array.
        pattern: DATA.FRAME_PATTERN, which pictures of a folder are its frames.
        live: options of :class:`dust.decode.live.LiveFrames`.
    """
    if isinstance(source, np.ndarray):
        return ArrayFrames(source, fps)
    if is_live(source):
        return LiveFrames(source, **live)
    path = names_of(source)[1]
    return FetchedFrames(path) if is_remote_file(path) else FileFrames(path, pattern=pattern)


def notes_of(frames: Any, restarts: int) -> list[str]:
    if not isinstance(frames, LiveFrames):
        return [f"damaged: {frames.damage}"] if frames.damage else []
    counts = {
        "frames were dropped, as the model is slower than the source": frames.dropped,
        "times the source was opened again": frames.reconnected,
        "times windows began again after a gap": restarts,
    }
    return [f"{count} {text}" for text, count in counts.items() if count]


def open_stream(predictor: Asked, source: Any, **options: Any) -> Stream:
    """Return the stream of a source by what the model sees. See :meth:`Predictor.stream`.

    Raises:
        VideoError, DataError: the source cannot be opened. ConfigError: the model does not stream, or has no such
            options for this source.
    """
    kinds: dict[type, type[Any]] = {
        VideoClipReader: VideoStream,
        TrackReader: TrackWindows,
        ProcedureReader: StepPredictions,
    }
    reader = predictor.reader
    for kind, stream in kinds.items():
        if isinstance(reader, kind):
            check_options(options, stream, reader, source)
            return stream(predictor, reader, source, **options)
    raise ConfigError(
        f"a model of {reader.description.get('input')} does not stream: its parts would have to come together"
    )


def check_options(options: Collection[str], stream: type[Stream], reader: Reader, source: Any) -> None:
    """Raise ConfigError that names all options which such a stream of this source has not."""
    live, kind = is_live(source) and stream is not TrackWindows, reader.description.get("input")
    problems = []
    for name in options:
        if name in LIVE_OPTIONS:
            problems += [] if live else [f"option {name} is for a camera or a network stream"]
        elif name not in stream.options:
            problems.append(f"a stream of a model of {kind} has no option {name}")
    if problems:
        known = ", ".join([*stream.options, *(LIVE_OPTIONS if live else ())])
        raise ConfigError(f"{'; '.join(problems)}. It has {known or 'no options'}")
