"""Whether clips can be read: opened, or decoded to the end, in parallel processes."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext

from tqdm import tqdm

from dust.decode.reader import open_clip
from dust.utils.errors import VideoError


def examine(path: str, *, decode: bool) -> str:
    """What is wrong with a clip (a video or a folder of frames), in one line; "" if nothing is.

    ``decode``: decode every frame; else index the packets and decode the first frame only.
    """
    try:
        with open_clip(path) as reader:
            if decode:
                return reader.check().reason
            if not reader.report.damaged:
                reader.frames([0])
            return reader.report.reason
    except VideoError as error:
        return error.reason


def examine_all(paths: Sequence[str], *, decode: bool, workers: int = 0) -> dict[str, str]:
    """{path: what is wrong with it} for the clips that are bad.

    Args:
        workers: processes; 0 works in this one. A process that a clip crashes costs that clip only.
    """
    paths = list(dict.fromkeys(paths))
    bad: dict[str, str] = {}
    with tqdm(total=len(paths), unit="clip", desc="decoding" if decode else "opening", disable=None) as bar:
        if workers <= 0:
            for path in paths:
                _note(bad, path, examine(path, decode=decode))
                bar.update()
            return bad
        left = _examine_in_pool(paths, decode, workers, bad, bar)
        for path in left:  # a clip among these took a process down: each alone now
            if _examine_in_pool([path], decode, 1, bad, bar):
                _note(bad, path, "the decoder crashed on it")
                bar.update()
    return {path: bad[path] for path in paths if path in bad}


def _examine_in_pool(paths: Sequence[str], decode: bool, workers: int, bad: dict[str, str], bar: tqdm) -> list[str]:
    """Examines the clips and returns those that were not reached because a process died."""
    pool = ProcessPoolExecutor(min(workers, len(paths)) or 1, mp_context=_context())
    try:
        jobs = {pool.submit(examine, path, decode=decode): path for path in paths}
        for job in as_completed(jobs):
            try:
                reason = job.result()
            except BrokenProcessPool:
                continue
            path = jobs.pop(job)
            _note(bad, path, reason)
            bar.update()
        return list(jobs.values())
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How to start processes: never by a bare fork, which codecs' threads do not survive."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # import once, not in every process
    return context


def _note(bad: dict[str, str], path: str, reason: str) -> None:
    if reason:
        bad[path] = " ".join(reason.split())
