"""Whether files can be read: opened, or decoded to the end, in parallel processes; and what they are."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from tqdm import tqdm

from dust.decode.members import spoilt
from dust.decode.reader import open_clip
from dust.utils.errors import DataError, VideoError


@dataclass(frozen=True, slots=True)
class Health:
    """``reason``: what is wrong with it, in one line, "" if nothing is. The others are 0 where they are not known."""

    reason: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0


def measure(path: str, *, decode: bool, pattern: str = "") -> Health:
    """Look at a clip, a video or a folder of frames.

    Args:
        decode: decode every frame; else index the packets and decode the first frame only.
        pattern: which pictures of a folder, see :func:`dust.decode.folders.scan_pictures`.
    """
    try:
        wrong = spoilt(path) if decode else ""
        if wrong:
            return Health(wrong)
        with open_clip(path, pattern=pattern) as reader:
            report = reader.check() if decode else reader.report
            if not report.damaged:
                reader.frames([0])
            return Health(reader.report.reason, len(reader), reader.height, reader.width, reader.fps)
    except VideoError as error:
        return Health(error.reason)
    except OSError as error:  # of a tar; of any other file a VideoError says it
        return Health(f"cannot be opened: {error.strerror or error}")


def examine_all(paths: Sequence[str], *, decode: bool, workers: int = 0) -> dict[str, str]:
    """Return {path: what is wrong with it} for the clips that are bad; see :func:`look_at_all`."""
    desc = "decoding" if decode else "opening"
    found = look_at_all(paths, partial(measure, decode=decode), workers=workers, desc=desc)
    return {path: health.reason for path, health in found.items() if health.reason}


def look_at_all(
    paths: Iterable[str], look: Callable[[str], Health], *, workers: int = 0, desc: str = "reading"
) -> dict[str, Health]:
    """Return {path: what ``look`` says of it}, each path once.

    Args:
        look: can be pickled where there are workers.
        workers: processes; 0 works in this one. A process that a file crashes costs that file only.

    Raises:
        DataError: no process starts, as from a script without ``if __name__ == "__main__":``.
    """
    paths = list(dict.fromkeys(paths))
    found: dict[str, Health] = {}
    with tqdm(total=len(paths), unit="file", desc=desc, disable=None) as bar:
        if workers <= 0 or not paths:
            for path in paths:
                found[path] = _one_line(look(path))
                bar.update()
            return found
        left = _in_pool(paths, look, workers, found, bar)
        if left and not found and not _processes_start():
            raise DataError(
                "worker processes end as soon as they start: where a script asks for them, put what it does behind "
                'if __name__ == "__main__": or ask for none (workers 0)'
            )
        for path in left:  # one of these took a process down: each alone now
            if _in_pool([path], look, 1, found, bar):
                found[path] = Health("the decoder crashed on it")
                bar.update()
    return {path: found[path] for path in paths}


def _in_pool(
    paths: Sequence[str], look: Callable[[str], Health], workers: int, found: dict[str, Health], bar: tqdm
) -> list[str]:
    """Look at the files and return those that were not reached because a process died."""
    # "spawn": codecs' threads do not survive a fork, and a fork server dies with a folder in /tmp that cleaners remove.
    pool = ProcessPoolExecutor(min(workers, len(paths)) or 1, mp_context=get_context("spawn"))
    try:
        jobs: dict[Future[Health], str] = {}
        with suppress(BrokenProcessPool):  # a process may die before all are asked for
            for path in paths:
                jobs[pool.submit(look, path)] = path
        for job in as_completed(list(jobs)):
            with suppress(BrokenProcessPool):
                found[jobs[job]] = _one_line(job.result())
                bar.update()
        return [path for path in paths if path not in found]
    finally:
        pool.shutdown(cancel_futures=True)


def _processes_start() -> bool:
    """Tell whether a process can do anything at all: it imports the main program again, which may end it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(os.getpid).result() > 0
        except BrokenProcessPool:
            return False


def _one_line(health: Health) -> Health:
    return Health(" ".join(health.reason.split()), health.frames, health.height, health.width, health.fps)
