"""Labels of several people who disagree (DATA.SOFT_LABELS): what was said of a clip, as a share of each class.

A cell is ``wave:0.7|push:0.3``, shares that make 1, or ``wave:2|push:1``, how many people said so; a class alone is
what one person said. Rows of one clip are the words of several people and become one; a column ``annotator`` says who
they are.
"""

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dust.datasets.manifest.labels import index_labels
from dust.datasets.manifest.table import RawSplit, Row
from dust.utils.errors import Problems

if TYPE_CHECKING:
    from torch import Tensor

#: What was said of a clip: (class, how many people said it, or its share), in the order of the classes.
Votes = tuple[tuple[int, float], ...]
R = TypeVar("R", bound=Row)

_SAID = re.compile(r"(.+):\s*(\d+(?:\.\d*)?|\.\d+)")
_EXACT = 0.015  # of the sum of shares: 0.33|0.33|0.33 makes 1


def read_votes(cell: str) -> dict[str, float] | None:
    """Map class -> how many said it, or its share. None for a cell that is neither (see the module)."""
    parts = [part.strip() for part in cell.split("|")]
    matches = [_SAID.fullmatch(part) for part in parts]
    if len(parts) == 1 and matches[0] is None:
        return {cell: 1.0}
    said = {match[1].strip(): float(match[2]) for match in matches if match}
    people = all(value.is_integer() for value in said.values())
    right = len(said) == len(parts) and all(0 < value < math.inf for value in said.values())
    return said if right and (people or abs(sum(said.values()) - 1) <= _EXACT) else None


def write_votes(votes: Votes, names: Sequence[str]) -> str:
    """Return the cell that :func:`read_votes` reads; of one person the class alone."""
    alone = names[votes[0][0]]
    if len(votes) == 1 and votes[0][1] == 1 and read_votes(alone) == {alone: 1}:  # a class called 12:30 needs its 1
        return alone
    return _written({names[number]: weight for number, weight in votes})


def _written(said: Mapping[str, float]) -> str:
    total = sum(said.values())
    people = all(value == int(value) for value in said.values())
    return "|".join(f"{name}:{value if people else value / total:.10g}" for name, value in said.items())


def merge_rows(rows: Sequence[R], key: Callable[[R], Hashable], problems: Problems) -> list[R]:
    """Return the rows with those of one key made one, whose label says what all of them say. A label that cannot be
    read is among the problems, as are groups and splits that differ, and two rows of one annotator. Rows without labels
    stay as they are."""
    if all(row.label is None for row in rows):
        return list(rows)
    found: dict[Hashable, R] = {}
    said: dict[Hashable, dict[str, float]] = {}
    heard: dict[tuple[Hashable, str], R] = {}
    for row in rows:
        own = None if row.label is None else read_votes(row.label)
        if row.label is not None and own is None:
            kind = "neither a class nor shares (a:0.7|b:0.3, which make 1) nor people (a:2|b:1)"
            problems.add(kind, f"{row.where}: {row.label}")
            row.label = None
            continue
        first = found.setdefault(key(row), row)
        before = heard.setdefault((key(row), row.annotator), row)
        if row.annotator and before is not row:
            kind = "one annotator twice of one clip: keep the row that counts"
            problems.add(kind, f"{before.where} and {row.where}: {row.annotator}")
        if (first.group, first.split) != (row.group, row.split):
            problems.add("rows of one clip with several groups or splits", f"{first.where} and {row.where}")
        all_said = said.setdefault(key(row), {})
        for name, value in (own or {}).items():
            all_said[name] = all_said.get(name, 0.0) + value
    for place, row in found.items():
        if row.label is not None and (len(said[place]) > 1 or sum(said[place].values()) != 1):
            row.label = _written(said[place])
    return list(found.values())


#: The class indices of each row, the class names, and what several people said, by id.
Indexed = tuple[list[tuple[int, ...] | None], list[str], dict[str, Votes]]


def index_rows(
    raw: RawSplit,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    *,
    multi_label: bool = False,
    soft_labels: bool = False,
) -> Indexed:
    """Call :func:`dust.datasets.manifest.labels.index_labels`, or with ``soft_labels`` :func:`index_votes`."""
    if soft_labels:
        return index_votes(raw, class_names, num_classes)
    labels, names = index_labels(raw, class_names, num_classes, multi_label)
    return labels, names, {}


def index_votes(raw: RawSplit, class_names: Sequence[str] | None, num_classes: int | None) -> Indexed:
    """Return what :func:`dust.datasets.manifest.labels.index_labels` does, and what was said of each clip, by id.

    The classes of a row are in the order of their shares, of equal ones the first class first: so the first one is what
    an answer is measured by.
    """
    said = [None if row.label is None else read_votes(row.label) for row in raw.rows]
    flat = [(row, place, name) for place, row in enumerate(raw.rows) for name in said[place] or ()]
    rows = [Row(row.where, row.written, name) for row, _, name in flat]
    numbers, names = index_labels(RawSplit(raw.source, rows, problems=raw.problems), class_names, num_classes, False)
    found: list[dict[int, float] | None] = [None if one is None else {} for one in said]
    for (_, place, name), number in zip(flat, numbers, strict=True):
        own, weights = found[place], said[place]
        if number is None or own is None or weights is None:
            found[place] = None  # no class: said with the labels
        else:
            own[number[0]] = own.get(number[0], 0.0) + weights[name]
    labels = [None if own is None else tuple(sorted(own, key=lambda one: (-own[one], one))) for own in found]
    votes = {row.id or "": tuple(sorted(own.items())) for row, own in zip(raw.rows, found, strict=True) if own}
    return labels, names, votes


def shares_of(votes: Votes, num_classes: int) -> "Tensor":
    """Return (num_classes,) float32 that sum to 1."""
    import torch

    shares = torch.zeros(num_classes)
    for number, weight in votes:
        shares[number] = weight
    return shares / shares.sum()
