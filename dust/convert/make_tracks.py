"""Point tracks from videos: what ``TRAIN.DATASET PointTracks`` reads, for people who have only clips.

Corners are followed by pyramidal Lucas-Kanade (OpenCV), forwards and back again: a point that does not return to where
it came from is lost. CoTracker can be used instead where its licence allows it.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from dust.convert.prepare import agree_on_settings
from dust.convert.trackers import TRACKERS, Settings, need_opencv, read_mask
from dust.datasets.manifest.labels import is_shares
from dust.datasets.manifest.manifest import SPLITS, available_splits, read_manifest
from dust.datasets.manifest.table import read_table
from dust.datasets.manifest.votes import write_votes
from dust.decode.reader import VideoReader
from dust.decode.segment import Segment
from dust.utils.arrays import open_npz
from dust.utils.errors import DataError, Problems, VideoError
from dust.utils.files import replacing, write_csv
from dust.utils.text import whole_number

logger = logging.getLogger(__name__)

RECORD = "make_tracks.json"  # what a folder was made with; another run must agree
COLUMNS = ("video", "sample", "view", "label", "sequence", "split", "group", "mask", "start", "end")
AT_ONCE = 64  # frames that are decoded together


@dataclass(slots=True)
class Job:
    """One camera of one clip. ``start``, ``end``: frames of the video that are the clip, end exclusive; ``segment``:
    the same in seconds or frames, None for all of it."""

    where: str
    video: Path
    sample: str
    view: int = 0
    label: str = ""
    sequence: str = ""
    split: str = ""
    group: str = ""
    mask: Path | None = None
    start: int = 0
    end: int | None = None
    segment: Segment | None = None

    @property
    def file(self) -> str:
        """Where its tracks go, below the output folder."""
        return f"tracks/{re.sub(r'[^A-Za-z0-9_.-]+', '_', self.sample)}_view_{self.view}.npz"


@dataclass
class Made:
    """What a run did: files written now and found ready, and videos left out with the reason."""

    written: int = 0
    ready: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def make_tracks(
    source: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings,
    *,
    progress: Callable[[Sequence[Job]], Iterable[Job]] = iter,
) -> Made:
    """Write ``out/tracks.csv`` and ``out/tracks/*.npz``. What an earlier run with the same settings wrote is kept.

    Args:
        source: a csv with the columns of :data:`COLUMNS` (only ``video`` is needed), a row per clip and camera; or a
            folder of clips as in DATASET.md, one camera.
        progress: wraps the list of jobs to show how far it is.

    Raises:
        DataError: everything wrong with the list, before anything is tracked; a folder made with other settings; none
            of the videos could be read.
    """
    settings.check()
    need_opencv()
    source, out = Path(source), Path(out)
    jobs = read_jobs(source)
    agree_on_settings(out, RECORD, asdict(settings), "made")
    made, rows = Made(), []
    try:
        (out / "tracks").mkdir(exist_ok=True)
        for job in progress(jobs):
            target = out / job.file
            try:
                if _is_ready(job, target):
                    made.ready += 1
                else:
                    _track(job, target, settings)
                    made.written += 1
            except VideoError as error:
                made.left_out[str(job.video)] = error.reason
                continue
            rows.append((job.sample, job.view, job.label, job.file, job.sequence, job.split, job.group))
    except OSError as error:
        raise DataError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from error
    if not rows:
        listed = "".join(f"\n      {video}: {reason}" for video, reason in made.left_out.items())
        raise DataError(f"{source}: none of the videos could be read:{listed}")
    header = ("sample", "view", "label", "file", "sequence", "split", "group")
    keep = [place for place, name in enumerate(header) if name not in ("split", "group") or any(r[place] for r in rows)]
    write_csv(out / "tracks.csv", [header[place] for place in keep], [[row[place] for place in keep] for row in rows])
    return made


def _is_ready(job: Job, target: Path) -> bool:
    """Tell whether the tracks are there, of this part of this video, and newer than it."""
    if not target.is_file() or target.stat().st_mtime < job.video.stat().st_mtime:
        return False
    with open_npz(target) as archive:
        return str(archive.read("source", text=True)) == _source(job)


def _source(job: Job) -> str:
    part = "" if job.segment is None else f" {job.segment.part}"
    return f"{job.video.resolve()} {job.start} {job.end} {job.mask}{part}"


def _track(job: Job, target: Path, settings: Settings) -> None:
    with VideoReader(job.video) as reader:
        numbers = _frame_numbers(job, reader, settings.fps)
        size = _scaled(reader.height, reader.width, settings.short_side)
        fps = settings.fps if settings.fps and settings.fps < reader.fps else reader.fps
        chunks = (reader.frames(numbers[at : at + AT_ONCE], size=size) for at in range(0, len(numbers), AT_ONCE))
        masks = read_mask(job.mask, numbers, size) if job.mask else None
        xy, visible = TRACKERS[settings.tracker]((frame for chunk in chunks for frame in chunk), masks, settings)
    if not visible.any():
        logger.warning("%s: no point could be followed in %s", job.where, job.video)
    with replacing(target, suffix=".npz") as temporary:  # a suffix that np.savez leaves as it is
        np.savez(
            temporary,
            tracks=xy.astype(np.float32),
            visibility=visible,
            size=np.array(size),
            fps=np.array(fps),
            source=np.array(_source(job)),
        )


def _frame_numbers(job: Job, reader: VideoReader, fps: float) -> list[int]:
    """Return the frames of the clip; with ``fps`` those nearest to its times, if it is below the video's rate."""
    start, end = job.start, len(reader) if job.end is None else job.end
    if job.segment is not None:
        start, end = job.segment.bounds(reader.pts)
    if not start < end <= len(reader):
        named = f"frames {start} to {end}" if job.segment is None else job.segment.part
        raise VideoError(str(job.video), f"{named} of a video of {len(reader)} frames ({job.where})")
    if not fps or fps >= reader.fps:
        return list(range(start, end))
    times = reader.pts[start:end] - reader.pts[start]
    wanted = np.arange(0.0, times[-1] + 0.5 / reader.fps, 1.0 / fps)
    return [start + int(np.abs(times - time).argmin()) for time in wanted]


def _scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the height and width with the short side brought down to ``short_side``; 0 leaves it."""
    scale = min(1.0, short_side / min(height, width)) if short_side else 1.0
    return max(1, round(height * scale)), max(1, round(width * scale))


# ------------------------------------------------------------------------------------------------- what to track


def read_jobs(source: Path) -> list[Job]:
    """Return the cameras of all clips that a csv or a folder of clips lists. DataError with everything that is
    wrong."""
    if source.is_dir():
        jobs = []
        for split in available_splits(str(source)):
            try:
                manifest = read_manifest(root=str(source), split=split)
            except DataError:  # for shares of several people? Then these are read, and refused in the words of tracks
                manifest = read_manifest(root=str(source), split=split, soft_labels=True)
            for clip in manifest.clips:
                said, names = manifest.votes.get(clip.id, ()), manifest.class_names
                label = write_votes(said, names) if said else names[clip.label] if isinstance(clip.label, int) else ""
                name = f"{split}_{clip.id}"
                jobs.append(
                    Job(clip.path, Path(clip.path), name, label=label, sequence=name, split=split, group=clip.group,
                        segment=clip.segment)
                )  # fmt: skip
        problems = Problems()
    else:
        problems = Problems()
        jobs = _read_csv(source, problems)
    _check(jobs, problems)
    problems.raise_if_any(str(source))
    if not jobs:
        raise DataError(f"{source} lists no video")
    return jobs


def _read_csv(path: Path, problems: Problems) -> list[Job]:
    table = read_table(path, problems, where=f"{path.name} line {{}}")
    unknown = [name for name in table.header if name not in COLUMNS]
    if "video" not in table.header or unknown:
        raise DataError(
            f"{path}: the header is {','.join(table.header) or 'missing'}: a column video is needed, and there may be "
            f"{', '.join(COLUMNS[1:])}" + (f"; not {', '.join(unknown)}" if unknown else "")
        )
    jobs = []
    for where, _, named in table.rows:
        cells = dict.fromkeys(COLUMNS, "") | named
        wrong = [name for name in ("view", "start", "end") if cells[name] and whole_number(cells[name]) is None]
        for name in wrong:
            problems.add(f"a {name} that is not a number from 0", f"{where}: {cells[name]!r}")
        if wrong or not cells["video"]:
            if not cells["video"]:
                problems.add("no video", where)
            continue
        sample = cells["sample"] or Path(cells["video"]).stem
        jobs.append(
            Job(
                where,
                _locate(path.parent, cells["video"]),
                sample,
                view=int(cells["view"] or 0),
                label=cells["label"],
                sequence=cells["sequence"] or sample,
                split=cells["split"],
                group=cells["group"],
                mask=_locate(path.parent, cells["mask"]) if cells["mask"] else None,
                start=int(cells["start"] or 0),
                end=int(cells["end"]) if cells["end"] else None,
            )
        )
    return jobs


def _locate(folder: Path, written: str) -> Path:
    """Find the video beside the csv, else in the working folder; where it is in neither, beside the csv."""
    return next((path for path in (folder / written, Path(written)) if path.exists()), folder / written)


def _check(jobs: list[Job], problems: Problems) -> None:
    samples: dict[str, Job] = {}
    files: dict[str, Job] = {}
    sequences: dict[str, Job] = {}
    for job in jobs:
        for kind, path in (("video", job.video), ("mask", job.mask)):
            if path is not None and not path.exists():
                problems.add(f"a {kind} that is missing", f"{job.where}: {path}")
        if is_shares(job.label):
            problems.add(
                "several people disagree on its label; tracks have one label a clip", f"{job.where}: {job.label}"
            )
        if job.split and job.split not in SPLITS:
            problems.add(f"a split that is none of {', '.join(SPLITS)}", f"{job.where}: {job.split!r}")
        other = files.setdefault(job.file, job)
        if other is not job:
            problems.add("a sample and view twice", f"{job.where}: {job.sample}, view {job.view} ({other.where})")
        other = samples.setdefault(job.sample, job)
        for name in ("label", "sequence", "split", "group"):
            if getattr(job, name) != getattr(other, name):
                shown = f"{name} {getattr(job, name)!r}, but {getattr(other, name)!r} in {other.where}"
                problems.add("a sample whose rows disagree", f"{job.where}: {job.sample}: {shown}")
        other = sequences.setdefault(job.sequence, job)
        if job.split != other.split:
            shown = f"{job.sequence} in {job.split or 'none'}, and in {other.split or 'none'} ({other.where})"
            problems.add("a sequence in two splits: keep a recording together", f"{job.where}: {shown}")
