"""What a server does for a request: it makes room, takes the files, and asks the predictor."""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from dust.decode.cache import forget_index
from dust.decode.deadline import Deadline, OutOfTime, check_time, keep_to
from dust.deploy.jobs import LongVideos
from dust.deploy.prediction import Prediction
from dust.deploy.predictor import Predictor
from dust.deploy.reading import Reading
from dust.deploy.report import about
from dust.deploy.serve.batcher import Batcher, one_at_a_time
from dust.deploy.serve.limits import Limits, Refused, check_video, find_under, sees_video
from dust.deploy.serve.metrics import Metrics
from dust.deploy.streams import Stream
from dust.deploy.timeline import MergeRule
from dust.utils.errors import DustError, VideoError
from dust.utils.text import printable

PREFIX = "dust-serve-"  # of the folder of uploads
RETRY_AFTER_S = 2  # seconds after which one who found no room may come again
TOP = 5  # classes that are listed as the likeliest, where nobody says how many


@dataclass(frozen=True)
class Options:
    """How one request wants its answer.

    Attributes:
        top: the likeliest classes that are listed; ``probabilities`` hold no others then. 0: all of them.
        threshold: below this probability the answer is "none of these"; None: the server's.
        timeline: also what happens when.
        window, stride: of the timeline or stream, seconds; 0: the server's.
    """

    top: int = 0
    threshold: float | None = None
    timeline: bool = False
    window: float = 0.0
    stride: float = 0.0


@dataclass(frozen=True)
class Sample:
    """What a request is about. ``path`` is read, ``name`` is what it is called in the answer; ``folder`` holds it and
    what belongs to it where they were sent, "" for what lies here anyway."""

    path: str
    name: str
    folder: str = ""


#: Windows of a stream that are open at once, at most.
MOST_OPEN = 64


class Stopped(Exception):
    """Nobody waits for this answer any more."""


class Service:
    """Answers requests with one predictor. Make, :meth:`start` and :meth:`close` it around one event loop.

    Args:
        predictor: the model.
        limits: of one request.
        files: a folder whose files may be named instead of sent; "" for none.
        workers: threads that read; None: as many as there are CPUs, at most 4.
        window, stride: seconds of timelines and streams, where a request does not say; 0: the training's.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits | None = None,
        *,
        files: str = "",
        workers: int | None = None,
        window: float = 0.0,
        stride: float = 0.0,
    ) -> None:
        self.predictor, self.limits, self.files = one_at_a_time(predictor), limits or Limits(), files
        self.workers = workers or min(4, os.cpu_count() or 1)
        self.window, self.stride = window, stride
        self.kind = str(predictor.preprocess.get("input", ""))
        self.metrics = Metrics()
        self._busy = 0
        self._numbers = itertools.count()
        self._folder = ""
        self._batcher: Batcher | None = None
        self._streams: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Make the folder of uploads and the threads; in the event loop that will ask."""
        self._folder = tempfile.mkdtemp(prefix=PREFIX)
        self._batcher = Batcher(self.predictor, workers=self.workers, told=self.metrics.batch.observe)
        self._streams = ThreadPoolExecutor(self.limits.queue, thread_name_prefix="dust-stream")

    async def close(self) -> None:
        """End the threads and remove all uploads."""
        if self._batcher is not None and self._streams is not None:
            await self._batcher.close()
            self._streams.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """Return the model and what this server takes."""
        limits = self.limits
        return {
            **about(self.predictor),
            "limits": {
                "max_mb": limits.max_mb, "max_minutes": limits.max_minutes, "timeout": limits.timeout,
                "queue": limits.queue,
            },
            "files": bool(self.files),
        }  # fmt: skip

    # --------------------------------------------------------------------------------------------------- room

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for requests that are under way. Refused (503) where all are taken."""
        if self._busy >= self.limits.queue:
            raise Refused(503, f"all {self.limits.queue} places are taken: come again in {RETRY_AFTER_S} s")
        self._busy += 1
        self.metrics.busy.set(self._busy)
        try:
            yield
        finally:
            self._busy -= 1
            self.metrics.busy.set(self._busy)

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """Give a folder for one request's uploads, gone afterwards, also where the client has left."""
        if not os.path.isdir(self._folder):  # what cleans up temporary files takes it from a server that runs for weeks
            self._folder = tempfile.mkdtemp(prefix=PREFIX)
        path = os.path.join(self._folder, str(next(self._numbers)))
        os.mkdir(path)
        try:
            yield path
        finally:
            for name in os.listdir(path) if os.path.isdir(path) else ():
                forget_index(os.path.join(path, name))
            shutil.rmtree(path, ignore_errors=True)

    def named(self, name: str) -> Sample:
        """Return the sample that ``name`` means in the folder of ``--files``. Refused where there is none."""
        if not self.files:
            raise Refused(403, "this server reads no files of its own: send the video, or start it with --files DIR")
        path = find_under(self.files, name)
        if os.path.isdir(path) and not self.predictor.reader.is_clip(path):
            raise Refused(422, f"path {printable(name)}: is a folder and no single clip")
        return Sample(path, printable(name))

    # ------------------------------------------------------------------------------------------------ answers

    async def predict(self, sample: Sample, options: Options) -> dict[str, Any]:
        """Return the answer about one sample, as ``predictions.json`` has it, with ``timeline`` where it was asked for.

        Its ``error`` stands at its top too where the sample cannot be read. A ``timeline`` that the model cannot make
        has an ``error`` of its own.
        """
        assert self._batcher is not None
        threshold = self.predictor.threshold if options.threshold is None else options.threshold
        deadline = Deadline(self.limits.timeout)
        answer = await self._batcher.predict(lambda: self._read(sample), threshold, deadline)
        answer = self._renamed(answer, sample)
        self.metrics.clips.labels("unreadable" if not answer.ok else "damaged" if answer.damage else "answered").inc()
        found: dict[str, Any] = {**about(self.predictor), "threshold": threshold}
        found["predictions"] = [shown(answer, options.top)]
        if not answer.ok:
            found["error"] = answer.error
        elif options.timeline:
            found["timeline"] = await self.in_thread(lambda _: self._timeline(sample, options))
        return found

    def _read(self, sample: Sample) -> Reading:
        reading = Reading(sample.path, sample.path)
        try:
            if sees_video(self.kind):
                check_video(sample.path, self.limits)
            return self.predictor.read(sample.path)
        except OutOfTime:  # not the file's fault
            raise
        except VideoError as error:
            reading.error = error.reason
        except DustError as error:
            reading.error = str(error)
        return reading

    def _renamed(self, answer: Prediction, sample: Sample) -> Prediction:
        """Return the prediction under the name that the client knows, without paths of this machine."""
        error, damage = (_without(text, sample) for text in (answer.error, answer.damage))
        return replace(answer, id=sample.name, path=sample.name, error=error, damage=damage)

    def _timeline(self, sample: Sample, options: Options) -> dict[str, Any]:
        threshold = self.predictor.threshold if options.threshold is None else options.threshold
        rule = MergeRule(threshold)
        job = LongVideos(self.predictor, *self.windows(options), rule)

        def progress(*_: object) -> None:
            check_time()

        try:
            done = list(job.run([sample.path], progress))
        except OutOfTime:
            raise
        except DustError as error:  # this model has no timeline
            return {"error": _without(str(error), sample)}
        if not done:
            return {"error": _without(job.failed[0][1], sample)}
        found, segments = done[0]
        windows = [
            {"start": start, "end": end, "top": likeliest(zip(found.classes, row.tolist(), strict=True), options.top)}
            for start, end, row in zip(found.starts, found.ends, found.rows, strict=True)
        ]
        return {
            "duration": found.length, "windows": windows, "segments": [vars(one) for one in segments],
            "notes": [_without(note, sample) for note in found.notes],
        }  # fmt: skip

    @property
    def training_s(self) -> float:
        """Seconds that a clip of the training covers; 0 where they are not of a fixed length."""
        facts = self.predictor.preprocess
        frames, rate, fps = (float(facts.get(name) or 0) for name in ("frames", "sampling_rate", "target_fps"))
        return frames * rate / fps if fps else 0.0

    def windows(self, options: Options) -> tuple[float, float]:
        """Return (window, stride) in seconds of a request; 0 is the training's. Refused where too many would be
        open."""
        window, stride = options.window or self.window, options.stride or self.stride
        if stride and (window or self.training_s) > MOST_OPEN * stride:
            raise Refused(422, f"stride: at least the {MOST_OPEN}th part of the window, or too many are open at once")
        return window, stride

    def stream(self, source: Any, options: Options, **live: Any) -> Stream:
        """Return the predictor's stream of a live source. DustError where the model has none."""
        model = self.predictor
        if options.threshold is not None:
            model = copy(model)
            model.threshold = options.threshold
        window, stride = self.windows(options)
        given = {name: value for name, value in (("window", window), ("stride", stride)) if value}
        return model.stream(source, **given, **live)

    async def in_thread(self, work: Callable[[Deadline], Any]) -> Any:
        """Return what ``work(deadline)`` returns in a thread of its own; it is over once nobody waits for it."""
        assert self._streams is not None
        deadline = Deadline()

        def in_time() -> Any:
            with keep_to(deadline):
                return work(deadline)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._streams, in_time)
        finally:
            deadline.cancel()


async def unless_gone(work: Any, gone: Callable[[], Any]) -> Any:
    """Return what ``work`` returns; where ``gone()`` returns first, its client having left, it is cancelled:
    Stopped."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Stopped
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def shown(answer: Prediction, top: int) -> dict[str, Any]:
    """Return a prediction as json, with its likeliest classes; with ``top`` only these of its probabilities."""
    found = answer.to_json()
    if answer.probabilities or answer.heads:
        found["top"] = answer.top(top or TOP)
    if top and "probabilities" in found:
        found["probabilities"] = dict(likeliest(found["probabilities"].items(), top))
    return found


def likeliest(pairs: Any, top: int) -> list[tuple[str, float]]:
    """Return the ``top`` likeliest (name, probability) of any number, the best first."""
    return sorted(pairs, key=lambda pair: -pair[1])[: top or TOP]


def _without(text: str, sample: Sample) -> str:
    """Return a text without the folders of this machine."""
    folder = sample.folder or os.path.dirname(sample.path)
    return text.replace(sample.path, sample.name).replace(f"{folder}{os.sep}", "")
