"""Requests that wait are answered together: read by several threads, run through the model by one."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from dust.decode.deadline import Deadline, keep_to
from dust.deploy.prediction import Prediction
from dust.deploy.predictor import Predictor
from dust.deploy.reading import Reading


@dataclass(eq=False)
class _Job:
    reading: Reading
    threshold: float
    deadline: Deadline
    answer: "asyncio.Future[Prediction]"


def one_at_a_time(predictor: Predictor) -> Predictor:
    """Return the same predictor, whose forward passes wait for each other: batches and streams may share its model."""
    lock, forward = threading.Lock(), predictor.loop.forward

    def guarded(model: Any, inputs: dict[str, Any]) -> Any:
        with lock:
            return forward(model, inputs)

    shared = copy(predictor)
    shared.loop = replace(predictor.loop, forward=guarded)
    return shared


class Batcher:
    """Predicts single sources as they are asked for, with those that wait at the same moment in shared forward passes.

    While the model is at work, what has been read meanwhile collects, and goes through it next. So a lone request waits
    for nobody, and many fill the micro-batches. Use it from one event loop, and :meth:`close` it there.

    Args:
        predictor: is asked as ``dust predict`` asks it: ``read`` and ``predict_batch``.
        workers: threads that read.
        told: called with the number of clips of each batch.
    """

    def __init__(self, predictor: Predictor, *, workers: int, told: Callable[[int], Any] = lambda _: None) -> None:
        self.predictor, self.told = predictor, told
        views = int(predictor.preprocess.get("views") or 1)
        # readings hold pixels: only as many are kept as fill a micro-batch while others are being read
        self._room = asyncio.Semaphore(workers + -(-predictor.batch_size // views))
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="dust-read")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="dust-model")
        self._waiting: asyncio.Queue[_Job] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def predict(
        self, read: Callable[[], Reading], threshold: float, deadline: Deadline | None = None
    ) -> Prediction:
        """Predict one source. Where nobody waits for it any more, as by a cancellation, its decode ends.

        Args:
            read: makes its reading, called in another thread; its errors are raised here. Ids of readings that are
                under way are distinct.
            threshold: below this probability the answer is "none of these".
            deadline: when the decode ends in any case.
        """
        loop, until = asyncio.get_running_loop(), deadline or Deadline()

        def in_time() -> Reading:
            with keep_to(until):
                return read()

        try:
            async with self._room:
                reading = await loop.run_in_executor(self._readers, in_time)
                job = _Job(reading, threshold, until, loop.create_future())
                self._waiting.put_nowait(job)
                return await job.answer
        finally:
            until.cancel()

    async def close(self) -> None:
        """End the threads; what still waits is cancelled."""
        self._task.cancel()
        await asyncio.wait([self._task])
        while not self._waiting.empty():
            self._waiting.get_nowait().answer.cancel()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._model.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            jobs = [await self._waiting.get()]
            while not self._waiting.empty():
                jobs.append(self._waiting.get_nowait())
            for batch in _batches(jobs):
                await self._answer(batch)

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        """Answer jobs together; where that fails, each by itself, so that none fails by its neighbours."""
        jobs = [job for job in jobs if not job.answer.done()]  # whose client has left
        if not jobs:
            return
        work = asyncio.get_running_loop().run_in_executor(self._model, self._predict, jobs)
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:  # the server ends
            for job in jobs:
                job.answer.cancel()
            raise
        error = work.exception()
        if error is not None and len(jobs) > 1:
            for job in jobs:
                await self._answer([job])
            return
        self.told(len(jobs))
        for number, job in enumerate(jobs):
            if not job.answer.done():
                if error is not None:
                    job.answer.set_exception(error)
                else:
                    job.answer.set_result(work.result()[number])

    def _predict(self, jobs: Sequence[_Job]) -> list[Prediction]:
        predictor = self.predictor
        if jobs[0].threshold != predictor.threshold:
            predictor = copy(predictor)
            predictor.threshold = jobs[0].threshold
        # a recording is read while it runs, and runs by itself; jobs of several have been read
        with keep_to(jobs[0].deadline) if len(jobs) == 1 else contextlib.nullcontext():
            return predictor.predict_batch([job.reading for job in jobs])


def _batches(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Yield jobs that may run together: of one threshold; a recording, which is read while it runs, by itself."""
    alike: dict[float, list[_Job]] = {}
    for job in jobs:
        if isinstance(job.reading.items, list | tuple):
            alike.setdefault(job.threshold, []).append(job)
        else:
            yield [job]
    yield from alike.values()
