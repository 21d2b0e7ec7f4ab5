"""What ``dust predict`` does: clips, long videos with their timelines, a watched folder, a live source."""

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.manifest.manifest import Clip
from dust.decode.folders import VIDEO_SUFFIXES
from dust.deploy.overlay import write_overlay
from dust.deploy.prediction import Prediction
from dust.deploy.predictor import Predictor
from dust.deploy.report import Output, about
from dust.deploy.timeline import MergeRule, Segment, Timeline, stems, write_activitynet, write_timeline
from dust.utils.errors import DataError, DustError, VideoError
from dust.utils.files import csv_text

SETTLED = 1.0  # seconds for which a new file must not have grown before it is read


@dataclass
class LongVideos:
    """Timelines of long videos, one after the other.

    Args:
        window, stride: seconds, see :meth:`Predictor.stream`.
        rule: how windows are merged.
        output: where files are written; None: nowhere.
        overlay: write each video with the answers burnt in.
        timeline: write csv and picture of each.

    Attributes:
        done: (name, timeline, segments) of those that were read.
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
    done: list[tuple[str, Timeline, list[Segment]]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def run(
        self, sources: Sequence[str], progress: Callable[[str, float, float], None] = lambda *_: None
    ) -> Iterator[tuple[Timeline, list[Segment]]]:
        """Yield the timeline and the segments of each source; what cannot be read is left out, and in ``failed``.

        Args:
            progress: called with (path, seconds read, seconds in all).
        """
        for path, name in zip(sources, stems(sources), strict=True):
            try:
                found = self._read(path, progress)
                segments = found.segments(self.rule)
                self._write(name, found, segments)
            except (VideoError, DataError) as error:
                self.failed.append((path, error.reason if isinstance(error, VideoError) else str(error)))
                continue
            self.done.append((name, found, segments))
            yield found, segments
        if self.output is not None and self.timeline and self.done:
            target = self.output.path / "timeline.json"
            write_activitynet(target, self.done, about(self.model))
            self.written.append(target)

    def _read(self, path: str, progress: Callable[[str, float, float], None]) -> Timeline:
        stream = self.model.stream(path, **options_of(self.model, self.window, self.stride))
        found = Timeline(path, self.model.classes, stream.duration, frame_pattern=self.model.reader.frame_pattern)
        for one in stream:
            found.add(one)
            progress(path, stream.now, stream.duration)
        found.notes = stream.notes
        if found.notes:
            found.duration = 0.0  # what the file promised and did not hold
        return found

    def _write(self, name: str, found: Timeline, segments: Sequence[Segment]) -> None:
        if self.output is None:
            return
        if self.timeline:
            self.written += write_timeline(self.output.path, name, found, segments)
        if self.overlay:
            self.written.append(write_overlay(self.output.path / f"{name}.overlay.mp4", found, segments))


def options_of(model: Predictor, window: float, stride: float) -> dict[str, float]:
    """The options of a stream that this model has; ConfigError for one that it has not is the stream's own."""
    options = {"window": window, "stride": stride}
    return {name: value for name, value in options.items() if value}


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
                elif size >= 0 and now - since >= SETTLED:
                    ready.append(path)
        for path in ready:
            seen.add(path)
            sizes.pop(path, None)
            yield path
        if not ready:
            yield None
            sleep(SETTLED / 2)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # gone again
        return -1


class WindowLog:
    """The windows of a live source in a csv, line by line as they come, so that nothing is kept in memory.

    Args:
        path: of the csv.
        classes: in the order of the probabilities.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path, self.classes = path, list(classes)
        try:
            self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 - it lives as long as this
        except OSError as error:
            raise DustError(f"{path}: cannot be written: {error.strerror}") from error
        self._write(["start", "end", "prediction", *(f"prob_{name}" for name in self.classes)])

    def add(self, one: Prediction) -> None:
        """Write one window, at once."""
        values = (f"{value:.6g}" for value in one.probabilities.values())
        self._write([f"{one.start:.3f}", f"{one.end:.3f}", one.label, *values])

    def _write(self, row: Sequence[object]) -> None:
        self._file.write(csv_text([row], line_end="\r\n"))
        self._file.flush()

    def close(self, path: str) -> Timeline:
        """The timeline of all that was written, for the source ``path``."""
        self._file.close()
        found = Timeline(path, self.classes)
        with open(self.path, newline="", encoding="utf-8") as file:
            for row in list(csv.reader(file))[1:]:
                found.starts.append(float(row[0]))
                found.ends.append(float(row[1]))
                found.rows.append(np.array(row[3:], np.float32))
        return found


def whole_video(source: Any) -> str:
    """The path of a source of which a timeline is made. DataError for a segment of a video."""
    if isinstance(source, Clip) and source.segment is not None:
        raise DataError(f"{source.id}: a timeline is of a whole video, and this is a segment of one: name the video")
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(source.path)


def name_of(source: Any) -> str:
    """What a source is called in a table."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(source.id)
