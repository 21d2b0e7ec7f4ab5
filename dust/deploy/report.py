"""What predictions leave: a table on the terminal, ``predictions.csv`` as a test writes it, ``predictions.json``."""

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dust.deploy.prediction import Prediction
from dust.deploy.predictor import Predictor
from dust.tasks.task import Evaluation
from dust.utils.errors import DataError
from dust.utils.files import write_csv, write_text
from dust.utils.text import NONE, counted

FILE_WIDTH = 400  # columns of a table that no terminal shows
JSON, CSV, BAD = "predictions.json", "predictions.csv", "bad_clips.csv"


class Output:
    """The folder of a prediction's files.

    Args:
        path: made if need be.
        force: files of an earlier prediction there are overwritten.

    Raises:
        DataError: it holds something already, or cannot be made.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        if self.path.is_file():
            raise DataError(f"{path}: is a file; name a folder for the predictions")
        if not force and self.path.is_dir() and any(self.path.iterdir()):
            raise DataError(f"{path}: exists already and is not empty: name another folder, or say --force")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be made ({error.strerror}): name another folder") from error

    def write(self, model: Predictor, evaluation: Evaluation, predictions: Sequence[Prediction]) -> list[Path]:
        """Write the task's own files of what was answered (``predictions.csv``), ``predictions.json`` of everything,
        and ``bad_clips.csv`` of what could not be read, where there is any; returns their paths."""
        written = evaluation.write(self.path) if evaluation.records() else []
        for path in (self.path / BAD, *([] if written else [self.path / CSV])):
            path.unlink(missing_ok=True)  # of an earlier prediction
        document = {**about(model), "predictions": [one.to_json() for one in predictions]}
        write_text(self.path / JSON, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        bad = [["predict", one.id, one.path, one.error] for one in predictions if not one.ok]
        if bad:
            write_csv(self.path / BAD, ["split", "id", "path", "reason"], bad, line_end="\r\n")
        return [*written, self.path / JSON, *([self.path / BAD] if bad else [])]


def about(model: Predictor) -> dict[str, Any]:
    """Return what made the predictions, as json can hold it."""
    identity = model.identity
    return {
        "model": {"source": identity.source, "name": identity.model, "checkpoint_sha256": identity.checkpoint_sha256},
        "classes": model.classes,
        "threshold": model.threshold,
        "preprocess": model.preprocess,
    }


# --- the terminal -----------------------------------------------------------------------------------------------


class Table:
    """Lines of a table that come one by one: file, label, confidence, and what is next likely.

    Args:
        names: of the files, for the width of the first column.
        labels: that may stand in the second one.
        top: how many of the likeliest classes are shown.
        width: of the terminal in columns; None: as it is, or wide where the output is no terminal.
    """

    def __init__(self, names: Sequence[str], labels: Sequence[str], *, top: int = 2, width: int | None = None) -> None:
        terminal = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else FILE_WIDTH
        self.width = max(width or terminal, 40)
        self.top = max(top, 1)
        longest = max(map(width_of, labels), default=5)
        self.label = min(max(longest, len("label"), *([len(NONE)] if labels else [])), self.width // 4)
        widest = max(map(width_of, names), default=4)
        self.name = min(max(widest, 4), max(self.width - self.label - 12 - (18 if self.top > 1 else 0), 12))

    def head(self) -> str:
        more = f"  {'second best' if self.top == 2 else 'next best'}" if self.top > 1 else ""
        return f"{pad('file', self.name)}  {pad('label', self.label)}  {'conf.':>6}{more}"

    def rows(self, one: Prediction) -> Iterator[str]:
        """Yield the line of a prediction, and a line for each thing to be said about it."""
        name = pad(shorten(one.id, self.name, left=True), self.name)
        if not one.ok:
            yield f"{name}  {shorten('unreadable: ' + one.error, self.width - self.name - 2)}"
            return
        best = one.top(self.top)
        line = f"{name}  {pad(shorten(one.label or '-', self.label), self.label)}  {one.confidence:>6.1%}"
        others = [pair for pair in best if pair[0] != one.label] if one.label != NONE else best
        room = self.width - width_of(line) - 2
        shown = ", ".join(f"{word} {value:.1%}" for word, value in others[: self.top - 1])
        yield f"{line}  {shorten(shown, room)}".rstrip() if self.top > 1 and room > 8 else line
        notes = [f"damaged: {one.damage}" if one.damage else "", *one.warnings]
        for note in filter(None, notes):
            yield shorten(f"  ! {note}", self.width)


def width_of(text: str) -> int:
    """Return columns that a text takes in a terminal: two for wide characters, none for marks that combine."""
    wide = {"W": 2, "F": 2}
    return sum(0 if unicodedata.combining(c) else wide.get(unicodedata.east_asian_width(c), 1) for c in text)


def pad(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))


def shorten(text: str, width: int, *, left: bool = False) -> str:
    """Return at most ``width`` columns of a text, without what would move the cursor; ``left`` keeps its end."""
    text = "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode("utf-8"))
    if width_of(text) <= width:
        return text
    kept = ""
    for character in reversed(text) if left else text:
        if width_of(kept) + width_of(character) >= width:
            break
        kept = character + kept if left else kept + character
    return f"…{kept}" if left else f"{kept}…"


class Tally:
    """Counts what came out of a prediction, and how fast."""

    def __init__(self) -> None:
        self.answered = self.damaged = self.failed = self.warned = 0
        self._begin = time.monotonic()

    def add(self, one: Prediction) -> None:
        self.failed += not one.ok
        self.answered += one.ok
        self.damaged += bool(one.damage)
        self.warned += bool(one.warnings)

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._begin, 1e-6)
        parts = [f"{self.answered} answered"]
        parts += [f"{self.damaged} of them damaged"] if self.damaged else []
        parts += [f"{self.warned} with a warning"] if self.warned else []
        parts += [f"{self.failed} unreadable"] if self.failed else []
        total = self.answered + self.failed
        return f"{counted(total, 'clip')}: {', '.join(parts)}; {total / seconds:.1f} clips/s"
