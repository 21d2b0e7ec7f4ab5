"""What happens when in a long video: windows' probabilities, merged into segments; csv, ActivityNet json, a picture."""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dust.deploy.prediction import Prediction
from dust.streaming.video import extents
from dust.utils.files import write_csv, write_text
from dust.utils.text import NONE, printable

PRESENT = 0.5  # a class that is there or not is there from this probability on, where no threshold is given


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label.

    Attributes:
        start, end: seconds.
        confidence: the mean probability of the label over its windows, by their length; of "none of these" that no
            class is likely enough; of a step the largest that a window has given its component since its last one.
        row: of several questions, the one that it answers. Segments of one row follow each other; only steps that are
            completed together share their time.
        named: the class whose probability it is, where the label is another word.
    """

    start: float
    end: float
    label: str
    confidence: float
    row: int = 0
    named: str = ""

    @property
    def of(self) -> str:
        """The class whose probability it is."""
        return self.named or self.label


@dataclass(frozen=True)
class MergeRule:
    """How windows become segments.

    Attributes:
        threshold: below this probability the answer is "none of these".
        hysteresis: a label stays until another one is likelier by this much, 0..1; 0: at once. A class that is there
            or not ends once it is so much below the threshold.
        min_length: seconds; a shorter segment goes to the neighbour whose label its windows find likelier; of a class
            that is there or not it is left out. 0: all stay.
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
        questions: for each the classes of which one is right, or a single one that is there or not; None: one question
            of all classes. Empty: nothing is asked of a window, and the segments are the steps of a procedure.
        gap: seconds between two windows for which nothing is said, where there are more; 0: however many.
        labels: what was answered for each window.
        steps: of a procedure, as far as it has come.
        frame_pattern: DATA.FRAME_PATTERN, by which a folder of pictures was read.
    """

    path: str
    classes: Sequence[str]
    duration: float = 0.0
    questions: Sequence[Sequence[str]] | None = None
    gap: float = 0.0
    labels: list[str] = field(default_factory=list)
    steps: list[Segment] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frame_pattern: str = ""
    _likely: dict[str, float] = field(default_factory=dict)

    def add(self, one: Prediction) -> None:
        """Collect one more window, or the steps that were completed without one."""
        assert one.start is not None and one.end is not None
        if self.asked or one.views:
            self.add_window(one.start, one.end, one.label, np.fromiter(one.probabilities.values(), np.float32))
        self.add_steps(one)

    def add_window(self, start: float, end: float, label: str, row: np.ndarray) -> None:
        """Collect one more window; ``row`` (K,) are its probabilities."""
        self.starts.append(start)
        self.ends.append(end)
        self.labels.append(label)
        self.rows.append(row)

    def add_steps(self, one: Prediction) -> None:
        """Add steps, each of which begins where the one before was completed; steps that are completed together share
        their time."""
        before = [step for step in self.steps if step.end < (one.end or 0.0)][-1:]
        for component, value in one.probabilities.items():
            self._likely[component] = max(self._likely.get(component, 0.0), value)
        for step in one.facts.get("steps", ()):
            begin, component = before[0].end if before else 0.0, step["component"]
            sure = self._likely.pop(component, 0.0)
            self.steps.append(Segment(begin, one.end or 0.0, step["description"], sure, named=component))

    @property
    def asked(self) -> Sequence[Sequence[str]]:
        """The questions."""
        return [self.classes] if self.questions is None else self.questions

    @property
    def probabilities(self) -> np.ndarray:
        """(windows, classes) float32."""
        return np.stack(self.rows) if self.rows else np.zeros((0, len(self.classes)), np.float32)

    @property
    def length(self) -> float:
        """Seconds: of the video, or to the end of the last window."""
        return self.duration or max(self.ends, default=0.0)

    def segments(self, rule: MergeRule) -> list[Segment]:
        """Return the windows' labels merged where neighbours agree, by their beginnings. A window answers for the time
        up to the middle of what it shares with its neighbours; the first and the last also for the video's ends. Of
        several questions each has segments of its own, but none of "none of these"."""
        if not self.asked:
            return list(self.steps)
        between = zip(self.ends, self.starts[1:], strict=False)
        cuts = [number for number, (end, start) in enumerate(between, 1) if self.gap and start - end > self.gap]
        found: list[Segment] = []
        for first, stop in itertools.pairwise([0, *cuts, len(self.rows)]):
            found += self._segments_between(first, stop, rule)
        return sorted(found, key=lambda one: (one.start, one.row))

    def _segments_between(self, first: int, stop: int, rule: MergeRule) -> list[Segment]:
        """Return those of windows ``first`` to ``stop`` (exclusive), between which there is no gap."""
        if stop <= first:
            return []
        duration = self.duration if stop == len(self.rows) else 0.0
        times = extents(self.starts[first:stop], self.ends[first:stop], duration)
        if first:
            times[0] = (self.starts[first], times[0][1])
        probabilities, found = np.stack(self.rows[first:stop]), list[Segment]()
        columns = {name: number for number, name in enumerate(self.classes)}
        for row, names in enumerate(self.asked):
            part = probabilities[:, [columns[name] for name in names]]
            alone = self.questions is not None and len(names) == 1
            runs = _present_runs(part, times, rule) if alone else _best_runs(part, times, rule)
            found += [_segment(run, part, times, names, row) for run in runs if run[2] >= 0 or len(self.asked) == 1]
        return found


def _segment(
    run: "Run", rows: np.ndarray, times: Sequence[tuple[float, float]], names: Sequence[str], row: int
) -> Segment:
    first, last, label = run
    weights = np.array([end - start for start, end in times[first : last + 1]])
    weights = weights if weights.sum() > 0 else np.ones_like(weights)
    part = rows[first : last + 1]
    sure = part[:, label] if label >= 0 else 1 - part.max(axis=1)
    confidence = float(np.average(sure, weights=weights))
    return Segment(times[first][0], times[last][1], names[label] if label >= 0 else NONE, confidence, row)


class Moments:
    """Finds the segments of a moment."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._rows: dict[int, list[tuple[float, float, int]]] = {}
        for number, one in enumerate(segments):
            self._rows.setdefault(one.row, []).append((one.end, one.start, number))
        self._last = max((one.end for one in segments), default=0.0)

    def at(self, seconds: float) -> tuple[int, ...]:
        """Return the numbers of the segments in which a moment lies; behind the end of all of them those of the end."""
        seconds = min(seconds, float(np.nextafter(self._last, 0.0)))
        found: list[int] = []
        for row in self._rows.values():
            place = bisect_right(row, (seconds, float("inf"), 0))
            end = row[place][0] if place < len(row) else 0.0
            for other_end, start, number in itertools.islice(row, place, None):
                if other_end > end:
                    break
                if start <= seconds:
                    found.append(number)
        return tuple(found)


def _with_hysteresis(probabilities: np.ndarray, rule: MergeRule) -> list[int]:
    """Return the label of each window; -1 is none."""
    labels: list[int] = []
    for row in probabilities:
        best = int(row.argmax())
        before = labels[-1] if labels else -1
        if before >= 0 and row[best] < row[before] + rule.hysteresis and row[before] >= rule.threshold:
            best = before
        labels.append(best if row[best] >= rule.threshold else -1)
    return labels


Run = tuple[int, int, int]  # first window, last window, label


Times = Sequence[tuple[float, float]]


def _best_runs(probabilities: np.ndarray, times: Times, rule: MergeRule) -> list[Run]:
    """Return the runs of classes of which one is right: (W, K)."""
    labels = _with_hysteresis(probabilities, rule)
    runs = _runs(labels)
    return _without_short(runs, labels, times, probabilities, rule.min_length) if rule.min_length else runs


def _present_runs(probabilities: np.ndarray, times: Times, rule: MergeRule) -> list[Run]:
    """Return the runs of a class that is there or not: (W, 1)."""
    threshold = rule.threshold or PRESENT
    labels, there = [], False
    for value in probabilities[:, 0]:
        there = value >= (threshold - rule.hysteresis if there else threshold)
        labels.append(0 if there else -1)
    return [run for run in _runs(labels) if run[2] >= 0 and times[run[1]][1] - times[run[0]][0] >= rule.min_length]


def _runs(labels: Sequence[int]) -> list[Run]:
    runs: list[Run] = []
    for number, label in enumerate(labels):
        if runs and runs[-1][2] == label:
            runs[-1] = (runs[-1][0], number, label)
        else:
            runs.append((number, number, label))
    return runs


def _without_short(runs: list[Run], labels: list[int], times: Times, rows: np.ndarray, shortest: float) -> list[Run]:
    """Drop runs that are too short: the shortest goes first, to the likelier neighbour, until none is too short."""
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


def write_timeline(folder: Path, name: str, timeline: Timeline, segments: Sequence[Segment]) -> list[Path]:
    """Write ``NAME.windows.csv``, ``NAME.segments.csv`` and ``NAME.png`` of one video; return their paths."""
    windows = folder / f"{name}.windows.csv"
    columns = (timeline.starts, timeline.ends, timeline.labels, timeline.rows)
    rows = (window_row(*window) for window in zip(*columns, strict=True))
    write_csv(windows, window_header(timeline.classes), rows, line_end="\r\n")
    return [windows, *write_segments(folder, name, timeline, segments)]


def window_header(classes: Sequence[str]) -> list[str]:
    """Return the first row of ``NAME.windows.csv``."""
    return ["start", "end", "prediction", *(f"prob_{label}" for label in classes)]


def window_row(start: float, end: float, label: str, probabilities: Iterable[float]) -> list[str]:
    """Return a row of ``NAME.windows.csv``."""
    return [f"{start:.3f}", f"{end:.3f}", label, *(f"{value:.6g}" for value in probabilities)]


def write_segments(folder: Path, name: str, timeline: Timeline, segments: Sequence[Segment]) -> list[Path]:
    """Write ``NAME.segments.csv`` and ``NAME.png`` of one video; return their paths."""
    merged, picture = folder / f"{name}.segments.csv", folder / f"{name}.png"
    columns = ["path", "start", "end", "label", "confidence"]  # a list that dust reads, once it is corrected
    lines = [
        [timeline.path, f"{one.start:.3f}", f"{one.end:.3f}", one.label, f"{one.confidence:.6g}"] for one in segments
    ]
    write_csv(merged, columns, lines, line_end="\r\n")
    if not timeline.rows:
        return [merged]
    from dust.visualization.segments import segments_figure

    figure = segments_figure(
        [(one.start, one.end, one.label, one.of, one.row) for one in segments],
        (np.array(timeline.starts) + np.array(timeline.ends)) / 2,
        timeline.probabilities,
        timeline.classes,
        length=timeline.length,
        title=printable(Path(timeline.path).name),
    )
    figure.savefig(picture, dpi=100)
    return [merged, picture]


def write_activitynet(path: Path, videos: Sequence[tuple[str, Timeline, Sequence[Segment]]], about: Any) -> None:
    """Write all segments in the json form of ActivityNet's detection results."""
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
