"""What ``dust predict`` does: clips, long videos with their timelines, a watched folder, a live source."""

import csv
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dust.datasets.manifest.manifest import Clip
from dust.decode.folders import VIDEO_SUFFIXES
from dust.deploy.overlay import write_overlay
from dust.deploy.prediction import Prediction
from dust.deploy.predictor import Predictor
from dust.deploy.reading import names_of
from dust.deploy.report import Output, about
from dust.deploy.streams import Stream
from dust.deploy.timeline import (
    MergeRule,
    Segment,
    Timeline,
    window_header,
    window_row,
    write_activitynet,
    write_timeline,
)
from dust.utils.errors import ConfigError, DataError, DustError, VideoError
from dust.utils.files import NO_ROOM, csv_text, file_stems, refuse_in_place
from dust.utils.text import csv_value

UNCHANGED_S = 1.0  # seconds for which a new file must not have grown before it is read


@dataclass
class LongVideos:
    """Timelines of long videos, one after the other.

    Args:
        window, stride: seconds, see :meth:`Predictor.stream`.
        rule: how windows are merged.
        output: where files are written; None: nowhere.
        overlay: write each video with the answers burnt in; ``top``: bars in it.
        timeline: write csv and picture of each.

    Attributes:
        done: (what it is called, timeline, segments) of those that were read.
        failed: (path, reason) of the others.
        written: paths of all files.
    """

    model: Predictor
    window: float = 0.0
    stride: float = 0.0
    rule: MergeRule = field(default_factory=MergeRule)
    output: Output | None = None
    timeline: bool = True
    overlay: bool = False
    top: int = 3
    done: list[tuple[str, Timeline, list[Segment]]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def run(
        self, sources: Sequence[Any], progress: Callable[[str, float, float], None] = lambda *_: None
    ) -> Iterator[tuple[Timeline, list[Segment]]]:
        """Yield the timeline and the segments of each source; what cannot be read is left out, and in ``failed``.

        Args:
            progress: called with (path, seconds read, seconds in all).
        """
        names = video_names(sources)
        for source, video, name in zip(sources, names, file_stems(names), strict=True):
            path = names_of(source)[1]
            try:
                stream = self._open(source)
                found = self._read(stream, progress)
                segments = found.segments(self.rule)
                self._write(name, found, segments, stream.video)
            except (VideoError, DataError) as error:
                if getattr(error.__cause__, "errno", None) in NO_ROOM:
                    raise  # no other source would fare better
                self.failed.append((path, error.reason if isinstance(error, VideoError) else str(error)))
                continue
            self.done.append((video, found, segments))
            yield found, segments
        if self.output is not None and self.timeline and self.done:
            target = self.output.path / "timeline.json"
            write_activitynet(target, self.done, about(self.model))
            self.written.append(target)

    def _open(self, source: Any) -> Stream:
        stream = self.model.stream(source, **options_of(window=self.window, stride=self.stride))
        if self.overlay and not stream.video:
            raise ConfigError(f"{stream.path}: holds no pictures into which an overlay could be drawn")
        return stream

    def _read(self, stream: Stream, progress: Callable[[str, float, float], None]) -> Timeline:
        found = timeline_of(stream, self.rule)
        for one in stream:
            found.add(one)
            progress(found.path, stream.now, stream.duration)
        found.notes = stream.notes
        if found.notes:
            found.duration = 0.0  # what the file promised and did not hold
        return found

    def _write(self, name: str, found: Timeline, segments: Sequence[Segment], video: str) -> None:
        if self.output is None:
            return
        if self.timeline:
            self.written += write_timeline(self.output.path, name, found, segments)
        if self.overlay:
            target = self.output.path / f"{name}.overlay.mp4"
            self.written.append(write_overlay(target, found, segments, video=video, top=self.top))


def options_of(**options: float) -> dict[str, float]:
    """Return the options of a stream that were given; ConfigError for one that it has not is the stream's own."""
    return {name: value for name, value in options.items() if value}


def timeline_of(stream: Stream, rule: MergeRule) -> Timeline:
    """Return an empty timeline for the windows of a stream. ConfigError where the rule says how what it has not is
    merged."""
    questions = stream.predictor.evaluation().questions()
    if questions is not None and not questions and rule != MergeRule():
        raise ConfigError(
            "threshold, hysteresis and min_length merge windows; the segments of this model are the steps that its "
            "decoder finds (KEYSTEP.DECODE): leave them out"
        )
    more: dict[str, Any] = {"gap": stream.gap, "frame_pattern": stream.predictor.reader.frame_pattern}
    return Timeline(stream.path, stream.predictor.classes, stream.duration, questions, **more)


def video_names(sources: Sequence[Any]) -> list[str]:
    """Return what each source is called: its own name without ending, or where several have that its whole one, or its
    path."""
    ids, paths = zip(*map(names_of, sources), strict=True) if sources else ((), ())
    short = [PurePath(urlsplit(name).path if "://" in name else name).stem or name for name in ids]
    counts = [Counter(name.casefold() for name in names) for names in (short, ids)]
    return [
        next((name for name, count in zip(names, counts, strict=False) if count[name.casefold()] == 1), names[-1])
        for names in zip(short, ids, paths, strict=True)
    ]


def file_names(sources: Sequence[Any]) -> list[str]:
    """Return a name for the files of each source, after :func:`video_names`."""
    return file_stems(video_names(sources))


def watch(
    folder: str, reader_suffixes: frozenset[str] = VIDEO_SUFFIXES, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str | None]:
    """Yield the files of a folder and those that come into it, each once it no longer grows; None where there is
    nothing new for the moment. It never ends by itself.

    Args:
        sleep: waits; for tests.

    Raises:
        DataError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise DataError(f"--watch {folder}: there is no such folder")
    seen: set[str] = set()
    sizes: dict[str, tuple[int, float]] = {}
    while True:
        ready = []
        for root, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                path = os.path.join(root, name)
                if name.startswith(".") or path in seen or os.path.splitext(name)[1].lower() not in reader_suffixes:
                    continue
                size = _size(path)
                before, since = sizes.get(path, (-1, 0.0))
                now = time.monotonic()
                if size != before:
                    sizes[path] = (size, now)
                elif size >= 0 and now - since >= UNCHANGED_S:
                    ready.append(path)
        for path in ready:
            seen.add(path)
            sizes.pop(path, None)
            yield path
        if not ready:
            yield None
            sleep(UNCHANGED_S / 2)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # gone again
        return -1


class WindowLog:
    """The windows of a live source in a csv, line by line as they come, so that nothing is kept in memory.

    Args:
        path: of the csv.
        found: the empty timeline of the source.
    """

    def __init__(self, path: Path, found: Timeline) -> None:
        self.path, self.found = path, found
        try:
            refuse_in_place(path)
            self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 - it lives as long as this
        except OSError as error:
            raise DustError(f"{path}: cannot be written: {error.strerror}") from error
        self._write(window_header(found.classes))

    def add(self, one: Prediction) -> None:
        """Write one window, at once."""
        assert one.start is not None and one.end is not None
        if self.found.asked or one.views:
            self._write(window_row(one.start, one.end, one.label, one.probabilities.values()))
        self.found.add_steps(one)

    def _write(self, row: Sequence[object]) -> None:
        self._file.write(csv_text([row], line_end="\r\n"))
        self._file.flush()

    def close(self) -> Timeline:
        """Return the timeline of all that was written."""
        self._file.close()
        with open(self.path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            next(rows)
            for start, end, label, *values in rows:
                self.found.add_window(float(start), float(end), csv_value(label), np.array(values, np.float32))
        return self.found


def whole_video(source: Any) -> Any:
    """Return a source of which a timeline can be made. DataError for a segment of a video."""
    if isinstance(source, Clip) and source.segment is not None:
        raise DataError(f"{source.id}: a timeline is of a whole video, and this is a segment of one: name the video")
    return source
