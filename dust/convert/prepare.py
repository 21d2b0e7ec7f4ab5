"""Re-encode a dataset once, so that every later epoch decodes faster.

Each clip is scaled to a short side (never enlarged), turned upright, and written as H.264 with a key frame every 16
frames and the encoder's fastdecode settings; times are kept, sound is left out. The originals are only read. A clip
that is damaged or cannot be read is copied as it is and listed, so that training meets and reports it as before.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np

from dust.datasets.manifest.table import read_csv
from dust.decode.cache import get_index
from dust.decode.folders import VIDEO_SUFFIXES, iter_clips
from dust.decode.index import full_scan
from dust.decode.pixels import ConversionError, FrameConverter, FrameRequest
from dust.utils.errors import DataError, VideoError
from dust.utils.files import read_text, replacing, write_csv, write_text
from dust.utils.structured import read_json

SETTINGS = "prepare.json"  # what a folder was prepared with; another run must agree
KEPT_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv"}  # containers that keep exact times; other clips become .mp4
TEXT_SUFFIXES = {".csv", ".txt", ".json", ".tsv"}
_TICKS = 90_000  # per second


@dataclass(frozen=True)
class Encoding:
    """How clips are written. ``short_side`` pixels; ``gop`` frames from key frame to key frame; ``crf`` x264's quality
    (lower is better and larger)."""

    short_side: int = 256
    gop: int = 16
    crf: int = 20
    preset: str = "medium"

    def check(self) -> None:
        """Raise DataError for values that x264 or the reader cannot use."""
        if self.short_side < 16 or self.gop < 1 or not 0 <= self.crf <= 51:
            raise DataError(f"{self} cannot be used: short_side >= 16, gop >= 1, crf 0 to 51")


@dataclass
class Prepared:
    """What a run did: clips written now, found ready, and copied unchanged with the reason."""

    written: int = 0
    ready: int = 0
    copied: dict[str, str] = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0


def prepare(
    source: str | os.PathLike,
    out: str | os.PathLike,
    encoding: Encoding | None = None,
    *,
    path_prefix: str = "",
    workers: int = 1,
    progress: Callable[..., Iterable[Any]] = lambda work, total: work,
) -> Prepared:
    """Prepare a folder (same tree below ``out``, lists copied) or a csv (same csv in ``out``, clips beside it).

    Stopped and started again, it continues where it was. ``progress`` wraps the iterator over finished clips.

    Raises DataError for a source without clips, an ``out`` inside the source or prepared with other settings, clips
    that would get one name, or a disk that cannot be written.
    """
    encoding = encoding or Encoding()
    encoding.check()
    root, target = Path(os.path.abspath(source)), Path(os.path.abspath(out))
    if root.is_dir():
        if target == root or root in target.parents or target in root.parents:
            raise DataError(f"--out {out} and the source {source} lie in each other: choose a separate folder")
        jobs = _folder_jobs(root, target)
    elif root.is_file():
        if target in root.parents:
            raise DataError(f"--out {out} holds the source {source}: choose another folder")
        jobs = _csv_jobs(root, target, path_prefix)
    else:
        raise DataError(f"{source} is neither a folder nor a csv file")
    if not jobs:
        raise DataError(f"{source} names no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    _refuse_collisions(jobs)
    agree_on_settings(target, SETTINGS, asdict(encoding))
    done = _run(jobs, encoding, workers, progress)
    if root.is_dir():
        _copy_lists(root, target)
    else:
        _write_list(root, target, path_prefix)
    return done


def prepare_clip(source: Path, target: Path, encoding: Encoding) -> str:
    """Re-encode one clip to ``target``; "" on success, else why it was copied instead.

    The new file appears by a rename, when it is whole, with the original's modification time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, suffix=target.suffix) as temporary:
        try:
            reason = _encode(source, temporary, encoding)
        except VideoError as error:
            reason = error.reason
        if reason:
            shutil.copyfile(source, temporary)
        stamp = source.stat()
        os.utime(temporary, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    return reason


def is_ready(source: Path, target: Path) -> bool:
    """Tell whether ``target`` was made from ``source`` as it is now."""
    try:
        return target.stat().st_mtime_ns == source.stat().st_mtime_ns
    except OSError:
        return False


def _encode(source: Path, target: Path, encoding: Encoding) -> str:
    index = get_index(str(source))
    if index.report.damaged:
        return index.report.reason
    unit = min(encoding.short_side / min(index.height, index.width), 1.0)
    height, width = (max(round(side * unit / 2) * 2, 2) for side in (index.height, index.width))
    whole = FrameRequest([], size=(height, width))
    converter = FrameConverter(whole, index.height, index.width, index.orientation)
    ticks = np.round((index.frame_pts - index.frame_pts[0]) * _TICKS).astype(np.int64)
    written = [0]
    with av.open(os.path.abspath(target), "w") as out:
        stream: Any = out.add_stream("libx264", rate=Fraction(index.fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        aspect = 1 / index.pixel_aspect if index.orientation.transpose else index.pixel_aspect
        stream.codec_context.sample_aspect_ratio = Fraction(aspect).limit_denominator(255)
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": encoding.preset,
            "crf": str(encoding.crf),
            "g": str(encoding.gop),
            "tune": "fastdecode",
        }

        def write(number: int, frame: Any) -> None:
            if number >= len(ticks) or number < written[0]:
                return  # the index was wrong, or a damaged file is decoded again: seen below, and the file is copied
            written[0] += 1
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(converter(frame)[0]), format="rgb24")
            picture.pts, picture.time_base = int(ticks[number]), Fraction(1, _TICKS)
            out.mux(stream.encode(picture))

        try:
            found = full_scan(str(source), 1, write)
        except ConversionError as error:
            return f"a frame cannot be converted to RGB: {error}"
        out.mux(stream.encode(None))
    if found.report.damaged:
        return found.report.reason
    made = get_index(str(target))
    count = len(made.frame_pts)
    if count != len(found.frame_pts) or len(ticks) != count or made.report.damaged:
        return f"{len(found.frame_pts)} frames became {count}"
    return ""


def _folder_jobs(root: Path, target: Path) -> list[tuple[Path, Path]]:
    found = sorted(Path(path) for path in iter_clips(root, frames=False))
    return [(path, target / _renamed(path.relative_to(root))) for path in found]


def _csv_jobs(source: Path, target: Path, prefix: str) -> list[tuple[Path, Path]]:
    places = _places(source, prefix)
    return sorted({(clip, target / name) for clip, name in places.values()})


def _places(source: Path, prefix: str) -> dict[str, tuple[Path, Path]]:
    """Return for each path, as the csv writes it, the clip, and its new name below ``out``."""
    raw = read_csv(source, split="")
    raw.problems.raise_if_any(str(source))
    bases = [Path(prefix)] if prefix else [source.parent, Path.cwd()]
    found: dict[str, Path] = {}
    missing = []
    for row in raw.rows:
        candidates = [Path(os.path.abspath(base / row.written)) for base in bases]
        clip = next((path for path in candidates if path.is_file()), None)
        if clip is None:
            missing.append(f"{row.where}: {row.written}")
        else:
            found[row.written] = clip
    if missing:
        shown = "".join(f"\n  {one}" for one in missing[:10])
        raise DataError(f"{source}: {len(missing)} clips are not there (--path-prefix may help):{shown}")
    if not found:
        return {}
    common = Path(os.path.commonpath([clip.parent for clip in found.values()]))
    return {written: (clip, _renamed(clip.relative_to(common))) for written, clip in found.items()}


def _renamed(path: Path) -> Path:
    return path.with_suffix(encoded_suffix(path.suffix))


def encoded_suffix(suffix: str) -> str:
    """Return what a clip of this suffix ends in once it is encoded."""
    return suffix if suffix.lower() in KEPT_SUFFIXES else ".mp4"


def _refuse_collisions(jobs: list[tuple[Path, Path]]) -> None:
    by_target: dict[Path, Path] = {}
    for source, target in jobs:
        if by_target.setdefault(target, source) != source:
            raise DataError(f"{source} and {by_target[target]} would both become {target}: rename one of them")


def agree_on_settings(target: Path, record_name: str, wanted: dict[str, Any], verb: str = "prepared") -> None:
    """Make the folder of a resumable tool, or see that it was made with the same settings.

    Raises:
        DataError: other settings, a folder that is not the tool's, or one that cannot be written.
    """
    record = target / record_name
    if record.is_file():
        try:
            before = read_json(record)
        except DataError:
            before = None
        if before != wanted:
            raise DataError(f"{target} was {verb} with {before}, not with {wanted}: choose another --out")
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}") from error
    mine = target / f".{record_name}.{os.getpid()}.tmp"
    if any(record_name not in path.name for path in target.iterdir()):
        raise DataError(f"{target} is not empty and was not {verb} by this tool: choose another --out")
    write_text(mine, json.dumps(wanted, indent=1) + "\n")
    try:
        os.link(mine, record)
    except FileExistsError:  # another process was quicker, by milliseconds
        agree_on_settings(target, record_name, wanted, verb)
    except OSError:  # a file system without such links
        os.replace(mine, record)
    finally:
        mine.unlink(missing_ok=True)


def _run(jobs: list[tuple[Path, Path]], encoding: Encoding, workers: int, progress: Callable) -> Prepared:
    done = Prepared()
    open_jobs = []
    for source, target in jobs:
        if is_ready(source, target):
            done.ready += 1
        else:
            open_jobs.append((source, target))
    try:
        for source, reason in progress(_results(open_jobs, encoding, workers), total=len(open_jobs)):
            done.written += not reason
            if reason:
                done.copied[str(source)] = reason
    except OSError as error:
        name = error.filename or jobs[0][1].parent
        raise DataError(f"{name}: cannot be written: {error.strerror}; free space and start again") from error
    except BrokenExecutor as error:
        raise DataError("a worker process died (out of memory?): start again with fewer workers") from error
    done.bytes_before = sum(source.stat().st_size for source, _ in jobs)
    done.bytes_after = sum(target.stat().st_size for _, target in jobs)
    return done


def _results(jobs: list[tuple[Path, Path]], encoding: Encoding, workers: int) -> Iterator[tuple[Path, str]]:
    """Yield (source, reason) as clips finish."""
    if workers <= 1 or len(jobs) < 2:
        for source, target in jobs:
            yield source, prepare_clip(source, target, encoding)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))
    try:
        tasks = {pool.submit(prepare_clip, source, target, encoding): source for source, target in jobs}
        for task in as_completed(tasks):
            yield tasks[task], task.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _copy_lists(root: Path, target: Path) -> None:
    """Copy text lists (csv, split files, labels) with the clips' new endings, and with ``root`` replaced by
    ``target``."""
    old = sorted((suffix for suffix in VIDEO_SUFFIXES - KEPT_SUFFIXES), key=len, reverse=True)
    ending = re.compile("(" + "|".join(re.escape(suffix) for suffix in old) + r")(?![\w.])", re.IGNORECASE)
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in TEXT_SUFFIXES and path.is_file():
            text = ending.sub(".mp4", read_text(path)).replace(str(root), str(target))
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_text(copy, text)


def _write_list(source: Path, target: Path, prefix: str) -> None:
    places = _places(source, prefix)
    rows = read_csv(source, split="").rows
    table: dict[str, list[str | None]] = {
        "path": [places[row.written][1].as_posix() for row in rows],
        "label": [row.label for row in rows],
        "start": ["" if row.segment is None else row.segment.cells[0] for row in rows],
        "end": ["" if row.segment is None else row.segment.cells[1] for row in rows],
        "id": [row.id for row in rows],
        "group": [row.group for row in rows],
        "split": [row.split for row in rows],
    }
    kept = {name: column for name, column in table.items() if any(cell not in (None, "") for cell in column)}
    write_csv(target / source.name, kept, ([cell or "" for cell in line] for line in zip(*kept.values(), strict=True)))
