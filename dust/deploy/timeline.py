"""What happens when in a long video: windows' probabilities, merged into segments; csv, ActivityNet json, a picture."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dust.deploy.prediction import Prediction
from dust.streaming.video import extents
from dust.tasks.task import NONE
from dust.utils.files import write_csv, write_text


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label. ``start``, ``end``: seconds. ``confidence``: the mean probability of the
    label over its windows, by their length; of "none of these" that no class is likely enough."""

    start: float
    end: float
    label: str
    confidence: float


@dataclass(frozen=True)
class MergeRule:
    """How windows become segments.

    Attributes:
        threshold: below this probability the answer is "none of these".
        hysteresis: a label goes on until another one is likelier by this much, 0..1; 0: at once.
        min_length: seconds; a shorter segment goes to the neighbour whose label its windows find likelier; 0: all stay.
    """

    threshold: float = 0.0
    hysteresis: float = 0.0
    min_length: float = 0.0


@dataclass
class Timeline:
    """The windows of one video, in order.

    Attributes:
        path: of the video.
        classes: names, in the order of the probabilities.
        duration: of the video in seconds; 0 where it is not known.
        frame_pattern: DATA.FRAME_PATTERN, by which a folder of pictures was read.
    """

    path: str
    classes: Sequence[str]
    duration: float = 0.0
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frame_pattern: str = ""

    def add(self, one: Prediction) -> None:
        """Collect one more window."""
        assert one.start is not None and one.end is not None
        self.starts.append(one.start)
        self.ends.append(one.end)
        self.rows.append(np.fromiter(one.probabilities.values(), np.float32))

    @property
    def probabilities(self) -> np.ndarray:
        """(windows, classes) float32."""
        return np.stack(self.rows) if self.rows else np.zeros((0, len(self.classes)), np.float32)

    @property
    def length(self) -> float:
        """Seconds: of the video, or to the end of the last window."""
        return self.duration or max(self.ends, default=0.0)

    def segments(self, rule: MergeRule) -> list[Segment]:
        """The windows' labels merged where neighbours agree. A window answers for the time up to the middle of what it
        shares with its neighbours; the first and the last also for the video's ends."""
        if not self.rows:
            return []
        probabilities = self.probabilities
        times = extents(self.starts, self.ends, self.duration)
        labels = _with_hysteresis(probabilities, rule)
        runs = _runs(labels)
        if rule.min_length:
            runs = _without_short(runs, labels, times, probabilities, rule.min_length)
        found = []
        for first, last, label in runs:
            weights = np.array([end - start for start, end in times[first : last + 1]])
            weights = weights if weights.sum() > 0 else np.ones_like(weights)
            part = probabilities[first : last + 1]
            sure = part[:, label] if label >= 0 else 1 - part.max(axis=1)
            confidence = float(np.average(sure, weights=weights))
            name = self.classes[label] if label >= 0 else NONE
            found.append(Segment(times[first][0], times[last][1], name, confidence))
        return found

    def at(self, segments: Sequence[Segment], seconds: float) -> int:
        """The number of the segment in which a moment lies; the last one behind the end."""
        ends = [one.end for one in segments]
        return min(int(np.searchsorted(ends, seconds, side="right")), len(segments) - 1)


def _with_hysteresis(probabilities: np.ndarray, rule: MergeRule) -> list[int]:
    """The label of each window; -1 is none."""
    labels: list[int] = []
    for row in probabilities:
        best = int(row.argmax())
        before = labels[-1] if labels else -1
        if before >= 0 and row[best] < row[before] + rule.hysteresis and row[before] >= rule.threshold:
            best = before
        labels.append(best if row[best] >= rule.threshold else -1)
    return labels


Run = tuple[int, int, int]  # first window, last window, label


def _runs(labels: Sequence[int]) -> list[Run]:
    runs: list[Run] = []
    for number, label in enumerate(labels):
        if runs and runs[-1][2] == label:
            runs[-1] = (runs[-1][0], number, label)
        else:
            runs.append((number, number, label))
    return runs


def _without_short(
    runs: list[Run], labels: list[int], times: Sequence[tuple[float, float]], rows: np.ndarray, shortest: float
) -> list[Run]:
    """The shortest run goes first, to the likelier neighbour, until none is too short."""
    labels = list(labels)
    while len(runs) > 1:
        lengths = [times[last][1] - times[first][0] for first, last, _ in runs]
        number = int(np.argmin(lengths))
        if lengths[number] >= shortest:
            break
        first, last, _ = runs[number]
        beside = [runs[other][2] for other in (number - 1, number + 1) if 0 <= other < len(runs)]
        best = max(beside, key=lambda label: float(rows[first : last + 1, label].mean()) if label >= 0 else -1.0)
        labels[first : last + 1] = [best] * (last + 1 - first)
        runs = _runs(labels)
    return runs


# --- files ------------------------------------------------------------------------------------------------------


def stems(paths: Iterable[str]) -> list[str]:
    """A file name for each path, each once."""
    found: list[str] = []
    for path in paths:
        stem = re.sub(r"[^\w.-]+", "_", Path(path).stem or "stream").strip("_") or "stream"
        name, number = stem, 2
        while name in found:
            name, number = f"{stem}_{number}", number + 1
        found.append(name)
    return found


def write_timeline(folder: Path, name: str, timeline: Timeline, segments: Sequence[Segment]) -> list[Path]:
    """``NAME.windows.csv``, ``NAME.segments.csv`` and ``NAME.png`` of one video; returns their paths."""
    windows, merged, picture = (folder / f"{name}.{end}" for end in ("windows.csv", "segments.csv", "png"))
    rows = (
        [f"{start:.3f}", f"{end:.3f}", timeline.classes[int(row.argmax())], *(f"{value:.6g}" for value in row)]
        for start, end, row in zip(timeline.starts, timeline.ends, timeline.rows, strict=True)
    )
    header = ["start", "end", "prediction", *(f"prob_{label}" for label in timeline.classes)]
    write_csv(windows, header, rows, line_end="\r\n")
    lines = [[f"{one.start:.3f}", f"{one.end:.3f}", one.label, f"{one.confidence:.6g}"] for one in segments]
    write_csv(merged, ["start", "end", "label", "confidence"], lines, line_end="\r\n")
    if not timeline.rows:
        return [windows, merged]
    from dust.visualization.segments import segments_figure

    figure = segments_figure(
        [(one.start, one.end, one.label) for one in segments],
        (np.array(timeline.starts) + np.array(timeline.ends)) / 2,
        timeline.probabilities,
        timeline.classes,
        length=timeline.length,
        title=Path(timeline.path).name,
    )
    figure.savefig(picture, dpi=100)
    return [windows, merged, picture]


def write_activitynet(path: Path, videos: Sequence[tuple[str, Timeline, Sequence[Segment]]], about: Any) -> None:
    """All segments in the json form of ActivityNet's detection results."""
    results = {
        name: [
            {"label": one.label, "score": one.confidence, "segment": [round(one.start, 3), round(one.end, 3)]}
            for one in segments
            if one.label != NONE
        ]
        for name, _, segments in videos
    }
    document = {"version": "VERSION 1.3", "results": results, "external_data": {"used": False, "details": about}}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
