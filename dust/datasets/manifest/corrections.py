"""Corrections of a list, made once and applied whenever the list is read (DATA.CORRECTIONS).

``id,action,label,split``, and any other columns for people: ``keep`` changes nothing, ``drop`` leaves a sample out,
``relabel`` gives it the label. Where ``split`` is empty, or absent, a row is about that id in every split that has it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dust.datasets.manifest.table import SPLIT_NAMES, read_table
from dust.utils.errors import DataError, Problems
from dust.utils.text import MOST_NAMES, counted, near_names

logger = logging.getLogger(__name__)

ACTIONS = ("keep", "drop", "relabel")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Correction:
    """``label`` as a list writes it, "" unless the action is relabel. ``split``: "" for all."""

    id: str
    action: str
    label: str = ""
    split: str = ""
    where: str = ""


def read_corrections(path: str | os.PathLike) -> list[Correction]:
    """Read a file of corrections. DataError with everything that is wrong with it."""
    path, problems = os.path.expanduser(path), Problems()
    table = read_table(path, problems)
    missing = [name for name in ("id", "action") if name not in table.header]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}: corrections have id,action,label[,split]")
    seen: dict[tuple[str, str], Correction] = {}
    idle = []
    for where, _, cells in table.rows:
        action, label, split = cells["action"].lower(), cells.get("label", ""), cells.get("split", "").lower()
        if action not in ACTIONS:
            problems.add(f"an action that is none of {', '.join(ACTIONS)}", f"{where}: {cells['action']!r}")
        if action == "relabel" and not label:
            problems.add("relabel without a label", f"{where}: {cells['id']}")
        if label and action in ("keep", "drop"):
            idle.append(f"{where}: {action}, {label}")
        if split and split not in SPLIT_NAMES:
            problems.add("a split that is none of train, val, test", f"{where}: {cells['split']!r}")
        found = Correction(cells["id"], action, label if action == "relabel" else "", SPLIT_NAMES.get(split, ""), where)
        before = seen.setdefault((found.id, found.split), found)
        if (before.action, before.label) != (found.action, found.label):
            problems.add("an id that is corrected in two ways", f"{where}: {found.id} (before: {before.where})")
    problems.raise_if_any(path)
    if idle:
        count = counted(len(idle), "label is", "labels are")
        logger.warning("%s: %s not read, for only relabel gives one (%s)", path, count, idle[0])
    return list(seen.values())


class Corrections:
    """The corrections that DATA.CORRECTIONS names; none for "".

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike = "") -> None:
        self.path = os.fspath(path)
        self.rows = read_corrections(path) if path else []

    def apply(
        self,
        items: Sequence[T],
        split: str,
        problems: Problems,
        relabel: Callable[[T, str], T] | None = None,
        *,
        others: Callable[[], Iterable[str]],
    ) -> list[T]:
        """Return the items of one split (each with an ``id``) as they are after the corrections.

        Args:
            problems: gets ids that the splits of their rows lack, and labels where there are none to change.
            relabel: gives an item the label of a list; None where items have no label of their own.
            others: returns the ids of the other splits; asked where a row of all splits has an id that is not here.
        """
        items = list(items)
        ids = map(_id, items)
        dropped, labels = self.choose(ids, split, problems, relabels=relabel is not None, others=others)
        if not dropped and not labels:
            return items
        gone = set(dropped)
        return [
            relabel(item, labels[row]) if relabel is not None and row in labels else item
            for row, item in enumerate(items)
            if row not in gone
        ]

    def choose(
        self,
        ids: Iterable[str],
        split: str,
        problems: Problems,
        *,
        relabels: bool = True,
        others: Callable[[], Iterable[str]],
    ) -> tuple[list[int], dict[int, str]]:
        """Return which rows of one split go, and the labels that others get.

        Args:
            ids: of the rows, in order.
            relabels: whether rows have labels of their own.
            split, problems, others: see :meth:`apply`.
        """
        dropped: list[int] = []
        labels: dict[int, str] = {}
        if not self.rows:
            return dropped, labels
        wanted: dict[str, Correction] = {}
        for row in sorted((row for row in self.rows if row.split in ("", split)), key=lambda row: row.split):
            wanted[row.id] = row  # one of this split comes after, and instead of, one of all splits
        here, near = set(), _Names()
        for number, name in enumerate(near.noting(ids)):
            correction = wanted.get(name)
            if correction is None:
                continue
            here.add(name)
            if correction.action == "drop":
                dropped.append(number)
            elif correction.action == "relabel" and relabels:
                labels[number] = correction.label
            elif correction.action == "relabel":
                problems.add(
                    "relabel of what has no label of its own", f"{self.path}: {correction.where}: {correction.id}"
                )
        absent = {name: row for name, row in wanted.items() if name not in here}
        known: set[str] = set()
        if any(not row.split for row in absent.values()):
            known = {name for name in near.noting(map(str, others())) if name in absent}
        for row in absent.values():
            if row.split:
                problems.add(f"corrections of an id that {split} lacks", f"{self.path}: {row.where}: {row.id}")
            elif row.id not in known:
                found = near_names(row.id, near.names, n=1)
                hint = f"; did you mean {found[0]}?" if found else ""
                problems.add("corrections of an id that no split has", f"{self.path}: {row.where}: {row.id}{hint}")
        logger.info("%s: %d samples of %s dropped, %d relabelled", self.path, len(dropped), split, len(labels))
        return dropped, labels


class _Names:
    """As many names as are compared for likeness at most, and one more: then nothing is compared."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def noting(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names, of which the first are kept."""
        for name in names:
            if len(self.names) <= MOST_NAMES:
                self.names[name] = None
            yield name


def _id(item: Any) -> str:
    return str(item.id)
