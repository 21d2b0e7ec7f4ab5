"""What a test answered, read from its files: TEST's own predictions.csv, or anybody's in that form."""

import csv
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dust.config import flatten, read_written
from dust.datasets.manifest.table import find_separator
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text
from dust.utils.structured import read_json
from dust.utils.text import csv_value, is_number

PREDICTIONS, GROUPS, REPORT, CONFIG = "predictions.csv", "groups.csv", "test.json", "config.yaml"
PROBABILITY = "prob_"
COLUMNS = ("id", "path", "group", "label", "prediction")
#: By how much probabilities, rounded in a file, may sum to more or less than 1.
SUM = 0.02
#: What a report is asked for, where it has it.
FORM: dict[str, type] = {
    "metrics": dict, "intervals": dict, "counts": dict, "recordings": dict, "data_warnings": list
}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """The answers of one test to one question, for N clips.

    Attributes:
        name: of the question where there are several (``verb``, ``noun``); else empty.
        classes: K names.
        labels: (N,) class numbers, -1 where the label is unknown; (N, K) zeros and ones for multi-label.
        scores: (N, K) probabilities; where the file has none, 1 for what was predicted.
        graded: whether these are probabilities of all classes, so that more than the first place can be measured.
        missing: columns that would make them graded.
    """

    name: str
    classes: list[str]
    labels: np.ndarray
    scores: np.ndarray
    graded: bool
    missing: tuple[str, ...] = ()

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    @property
    def labelled(self) -> np.ndarray:
        """The numbers of the clips whose label is known; of several labels each, all."""
        return np.arange(len(self.labels)) if self.multi_label else np.flatnonzero(self.labels >= 0)

    @property
    def no_probabilities(self) -> str:
        """Why the scores cannot be probabilities, with their range; "" where they may be, or are only the answers."""
        if not self.graded or not len(self.scores):
            return ""
        low, high, sums = self.scores.min(), self.scores.max(), self.scores.sum(axis=1)
        if low >= -1e-6 and high <= 1 + 1e-6 and (self.multi_label or np.abs(sums - 1).max() <= SUM):
            return ""
        return (
            f"The scores reach from {low:.3g} to {high:.3g} and sum to {sums.min():.3g} to {sums.max():.3g} for a "
            "clip: they are no probabilities"
        )

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"{self.name}_" if self.name else ""

    def rows(self, index: np.ndarray) -> "Answers":
        """Return the same of some of the clips."""
        return replace(self, labels=self.labels[index], scores=self.scores[index])


@dataclass(frozen=True)
class Results:
    """What is known of one test.

    Attributes:
        name: what it is called in tables.
        ids, paths, groups: of the clips; a clip's group is what the column ``group`` says, else its video.
        answers: one entry for each question.
        recordings: figures of whole recordings by id, where the task measures those (KeyStep).
        report: test.json, or empty. config: config.yaml, or empty.
    """

    name: str
    ids: list[str]
    paths: list[str]
    groups: list[str]
    answers: list[Answers]
    recordings: dict[str, dict[str, Any]]
    report: dict[str, Any]
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """What the ids name."""
        return "recordings" if self.recordings else "clips"

    def rows(self, index: np.ndarray) -> "Results":
        """Return the same of some of the clips."""
        ids, paths, groups = ([column[i] for i in index] for column in (self.ids, self.paths, self.groups))
        return replace(self, ids=ids, paths=paths, groups=groups, answers=[one.rows(index) for one in self.answers])


def read_results(path: str | Path) -> Results:
    """Read the results of a run's folder, of its ``results`` folder, or of a predictions.csv.

    Raises:
        DataError: there are none, or the file is not in that form.
    """
    path = Path(path)
    if path.is_file():
        return _read(path, {}, {}, path.stem)
    folder = next((one for one in (path / "results", path) if (one / REPORT).is_file()), None)
    if folder is None:
        tested = sorted(one.parent.parent for one in path.glob(f"*/results/{REPORT}")) if path.is_dir() else []
        hint = f" Name one of its stages: {', '.join(map(str, tested))}." if tested else ""
        kind = "has no results of a test" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {kind}.{hint or ' Test the run first (TEST.ENABLE True), or name a predictions.csv.'}")
    report = read_report(folder / REPORT)
    run = folder.parent if folder.name == "results" else folder
    config, name = read_written(run / CONFIG), run.resolve().name
    if not (folder / PREDICTIONS).is_file():
        recordings = report.get("recordings")
        if isinstance(recordings, dict) and recordings and all(isinstance(one, dict) for one in recordings.values()):
            ids = sorted(recordings)
            known = _groups(folder)
            groups = [known.get(one) or one for one in ids]
            return Results(name, ids, ids, groups, [], recordings, report, config)
        raise DataError(f"{folder}: no {PREDICTIONS}, and {REPORT} has no recordings: test the run again")
    return _read(folder / PREDICTIONS, report, config, name)


def _groups(folder: Path) -> dict[str, str]:
    """Map id -> group of the clips whose list says so, as TEST wrote it beside the predictions."""
    if not (folder / GROUPS).is_file():
        return {}
    header, rows = read_table(folder / GROUPS)
    if header != ["id", "group"] or any(len(row) != 2 for row in rows):
        raise DataError(f"{folder / GROUPS}: not the columns id and group: test the run again")
    return {csv_value(name): csv_value(group) for name, group in rows}


def read_all(paths: Sequence[str | Path]) -> list[Results]:
    """Read several, see :func:`read_results`. Where names are the same, the whole paths are the names."""
    found = [read_results(path) for path in paths]
    counts = Counter(one.name for one in found)
    return [
        replace(one, name=str(path)) if counts[one.name] > 1 else one for one, path in zip(found, paths, strict=True)
    ]


def _read(path: Path, report: dict[str, Any], config: dict[str, Any], name: str) -> Results:
    header, rows, scores = _read_fast(path) or (*read_table(path), None)
    problems = Problems()
    lower = [cell.lower() for cell in header]
    for number, row in enumerate(rows, 2):
        if scores is None and len(row) != len(header):
            problems.add(f"not {len(header)} columns, as the header has", f"row {number}: {', '.join(row[:4])} ...")
    if "id" not in lower and "path" not in lower:
        problems.add(
            "no column id or path, so nobody knows which clip a row is of (it needs id, label, prediction and, where "
            "known, prob_<class>)",
            f"the header: {', '.join(header)}",
        )
    for cell, times in Counter(one if one.startswith(PROBABILITY) else one.lower() for one in header).items():
        if times > 1 and (cell in COLUMNS or cell.startswith(PROBABILITY)):
            problems.add("a column stands twice, so nobody knows which of them counts", f"{cell}, {times} times")
    problems.raise_if_any(str(path))

    def column(wanted: str) -> list[str] | None:
        return [csv_value(row[lower.index(wanted)].strip()) for row in rows] if wanted in lower else None

    ids, paths = column("id") or column("path") or [], column("path") or column("id") or []
    if "" in ids:
        raise DataError(f"{path}: row {ids.index('') + 2} has no id, so nobody knows which clip it is of")
    twice = sorted(one for one, rows_of_it in Counter(ids).items() if rows_of_it > 1)
    if twice:
        raise DataError(f"{path}: {len(twice)} ids stand in several rows, {twice[0]!r} for one: a clip has one answer")
    answers = _questions(path, header, rows, column, config, scores)
    known = _groups(path.parent)
    groups = column("group") or [known.get(one) or file for one, file in zip(ids, paths, strict=True)]
    return Results(name, ids, paths, groups, answers, {}, report, config)


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows. (All at once: line by line takes three times as long, and tests are large.)"""
    text = read_text(path)
    separator = find_separator(text.split("\n", 1)[:1])
    try:
        lines = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
        rows = [row for row in lines if row]
    except csv.Error as error:
        raise DataError(f"{path}: broken quoting ({error})") from error
    if len(rows) < 2:
        raise DataError(f"{path}: no predictions: it has {'only a header' if rows else 'no line'}")
    return [cell.strip() for cell in rows[0]], rows[1:]


def _read_fast(path: Path) -> tuple[list[str], list[list[str]], np.ndarray] | None:
    """Return the header, the cells of each row before the probabilities, and these (N, K), which stand at the ends of
    the rows; None for a file of another form, or with a fault, which :func:`read_table` reads cell by cell."""
    text = read_text(path).replace("\r\n", "\n")
    separator = find_separator(text.split("\n", 1)[:1])
    if separator not in (",", ";") or '"' in text or "\r" in text:
        return None
    first, *lines = text.split("\n")
    header = [cell.strip() for cell in first.split(separator)]
    columns = _columns_of_classes(header)
    if not columns or columns != list(range(columns[0], len(header))):
        return None
    begin, count = columns[0], len(columns)
    rows = [line.split(separator, begin) for line in lines if line]
    if not rows or any(len(row) != begin + 1 or row[begin].count(separator) != count - 1 for row in rows):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            scores = np.fromstring(separator.join(row.pop() for row in rows), sep=separator)
        except (ValueError, DeprecationWarning):
            return None
    return (header, rows, scores.reshape(len(rows), count)) if scores.size == len(rows) * count else None


def _columns_of_classes(header: list[str]) -> list[int]:
    # TEST.PREDICTIONS_TOP_K writes top_1, prob_1, top_2...: places, not classes
    return [] if "top_1" in header else [i for i, name in enumerate(header) if name.startswith(PROBABILITY)]


def _questions(
    path: Path,
    header: list[str],
    rows: list[list[str]],
    column: Any,
    config: dict[str, Any],
    read: np.ndarray | None,
) -> list[Answers]:
    labels, predictions = column("label"), column("prediction")
    if predictions is not None:
        multi = bool(flatten(config).get("DATA.MULTI_LABEL", False))
        _refuse_blanks(path, "prediction", predictions, may_be_empty=multi)
        return [_answers(path, header, rows, labels, predictions, multi, read)]
    kinds = [name[: -len("_prediction")] for name in map(str.lower, header) if name.endswith("_prediction")]
    if not kinds:
        raise DataError(f"{path}: no column prediction. It needs id, label, prediction and, where known, prob_<class>.")
    for kind in kinds:
        _refuse_blanks(path, f"{kind}_prediction", column(f"{kind}_prediction"))
    return [_first_places(kind, column(kind), column(f"{kind}_prediction")) for kind in kinds]


def _refuse_blanks(path: Path, name: str, predictions: list[str], *, may_be_empty: bool = False) -> None:
    blank = [number for number, one in enumerate(predictions, 2) if not one.strip()]
    if blank and not may_be_empty:
        raise DataError(
            f"{path}: {len(blank)} rows have no {name}, row {blank[0]} for one: every clip needs an answer. Remove "
            "these rows, and they are not compared."
        )


def _first_places(
    name: str, labels: list[str] | None, predictions: list[str], missing: tuple[str, ...] = ()
) -> Answers:
    """Return answers of which only the first place is known."""
    labels = labels or [""] * len(predictions)
    classes = sorted({*labels, *predictions} - {""})
    number = {one: index for index, one in enumerate(classes)} | {"": -1}
    scores = np.zeros((len(predictions), len(classes)))
    scores[np.arange(len(predictions)), [number[one] for one in predictions]] = 1
    return Answers(name, classes, np.array([number[one] for one in labels]), scores, False, missing)


def _answers(
    path: Path,
    header: list[str],
    rows: list[list[str]],
    labels: list[str] | None,
    predictions: list[str],
    multi: bool,
    read: np.ndarray | None,
) -> Answers:
    """Return answers to one question; ``read``: the probabilities, where they are read already."""
    columns = _columns_of_classes(header)
    classes = [header[index][len(PROBABILITY) :] for index in columns]
    named = {*(labels or ()), *predictions} - {""}
    multi = multi or bool(classes and not named <= set(classes) and _are_lists(named, set(classes)))
    if multi and classes:
        scores = _numbers(path, rows, columns) if read is None else _finite(path, read)
        truth = np.array([[name in _parts(text, classes) for name in classes] for text in labels or []], int)
        return Answers("", classes, truth.reshape(-1, len(classes)), scores, True)
    if multi:
        raise DataError(
            f"{path}: clips have several labels each, which needs a column prob_<class> for every class. Test the run "
            "with TEST.PREDICTIONS_TOP_K 0."
        )
    missing = tuple(f"{PROBABILITY}{name}" for name in sorted(named - set(classes)))
    if not classes or missing:
        return _first_places("", labels, predictions, missing or (f"{PROBABILITY}<class>",))
    scores = _numbers(path, rows, columns) if read is None else _finite(path, read)
    number = {one: index for index, one in enumerate(classes)} | {"": -1}
    best = np.array([number[one] for one in predictions])
    at = np.flatnonzero(best >= 0)
    largest = scores[at].max(axis=1)
    other = at[scores[at, best[at]] < largest - 1e-5]
    if len(other):
        row, likely = int(other[0]), classes[int(scores[other[0]].argmax())]
        raise DataError(
            f"{path}: {len(other)} rows predict another class than their most probable one, row {row + 2} for one: "
            f"{predictions[row]!r}, but {PROBABILITY}{likely} is larger. Mend the column prediction, or leave out the "
            "probabilities."
        )
    scores[at, best[at]] = largest + 1e-9  # of equal probabilities in six digits, the one that the test chose
    known = [number[one] for one in labels] if labels else [-1] * len(rows)
    return Answers("", classes, np.array(known), scores, True)


def _are_lists(named: set[str], classes: set[str]) -> bool:
    return all(set(text.split(",")) <= classes for text in named)


def _parts(text: str, classes: list[str]) -> set[str]:
    return {text} if text in classes else set(text.split(","))


def _numbers(path: Path, rows: list[list[str]], columns: list[int]) -> np.ndarray:
    try:
        begin, end = columns[0], columns[-1] + 1
        whole = end - begin == len(columns)
        scores = np.array([[*map(float, row[begin:end] if whole else [row[i] for i in columns])] for row in rows])
    except ValueError:
        row, column = next(
            (row, column) for row in range(len(rows)) for column in columns if not is_number(rows[row][column])
        )
        raise DataError(
            f"{path}: row {row + 2} has the probability {rows[row][column]!r} in column {column + 1}, no number "
            "(write 0.5 with a point)"
        ) from None
    return _finite(path, scores)


def _finite(path: Path, scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise DataError(f"{path}: row {row + 2} has a probability that is not finite")
    return scores


def read_report(path: Path) -> dict[str, Any]:
    """Read the ``test.json`` of a run. DataError where it is none that a test writes."""
    report = read_json(path, "test the run again")
    if not isinstance(report, dict):
        raise DataError(f"{path}: not the report of a test: test the run again")
    for name, kind in FORM.items():
        if not isinstance(report.get(name, kind()), kind):
            raise DataError(f"{path}: {name} is {report[name]!r:.60}, which no test writes: test the run again")
    return report
