"""Labels of a list as class indices, and the list of the classes."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from dust.datasets.manifest.table import RawSplit, Row
from dust.utils.errors import SHOWN, DataError, Problems
from dust.utils.files import read_text, write_text
from dust.utils.text import MAX_CLASSES, near_names, printable

logger = logging.getLogger(__name__)

CLASS_LIST = "classes.txt"  # beside the csv files: the classes in their order, where that is not the sorted one

#: Shares of several classes in one cell, see :mod:`dust.datasets.manifest.votes`.
_SHARES = re.compile(r"[^|]+:\s*[\d.]+(\s*\|[^|]+:\s*[\d.]+)+")
_INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0+)?")  # 3.0 is what a spreadsheet or pandas makes of 3


def index_labels(
    raw: RawSplit, class_names: Sequence[str] | None, num_classes: int | None, multi_label: bool
) -> tuple[list[tuple[int, ...] | None], list[str]]:
    """Return (the class indices of each row, the class names). Problems go into ``raw.problems``; such rows get None.

    Without ``class_names``: if every label is an integer, the classes are "0", "1", ... up to ``num_classes`` or the
    largest label; else they are the labels' names, sorted. With them: a label is one of the names; integer labels under
    a list of names that are not integers are positions in it.
    """
    words = [None if row.label is None else _words(printable(row.label), multi_label) for row in raw.rows]
    used = {word for row_words in words if row_words for word in row_words if word}
    if any(map(is_shares, used)):
        _report_shares(raw)
    lists = [] if multi_label or class_names is not None else sorted(word for word in used if _lists_others(word, used))
    if lists:
        logger.warning(
            "%s: labels that list other labels are taken for classes of their own (%s): if a clip has several classes, "
            "set DATA.MULTI_LABEL True (--multi-label)", raw.source, _sample([repr(word) for word in lists]),
        )  # fmt: skip
    numbers = {word: _number(match[1]) for word in used if (match := _INTEGER.fullmatch(word))}
    integers = len(numbers) == len(used)
    if class_names is not None:
        names = [printable(name) for name in class_names]
    elif integers:
        names = _integer_names(num_classes if num_classes is not None else _count_classes(raw, words, numbers))
    else:
        names = sorted(used)
        if numbers:
            logger.warning("%s: labels are both names and integers (%s): all names", raw.source, min(numbers))
    if num_classes is not None and len(names) != num_classes and used:
        raw.problems.add(
            f"{len(names)} classes, but MODEL.NUM_CLASSES is {num_classes}: set MODEL.NUM_CLASSES {len(names)}, or "
            "correct the labels",
            _sample(names),
        )
    positions = integers and (names == _integer_names(len(names)) or not any(map(_INTEGER.fullmatch, names)))
    if positions:
        table = {word: number for word, number in numbers.items() if 0 <= number < len(names)}
    else:
        table = {name: index for index, name in enumerate(names)}
        table.update({word: table[str(n)] for word, n in numbers.items() if word not in table and str(n) in table})
    if not used <= table.keys() or any(row_words and "" in row_words for row_words in words):
        report = _report_numbers if positions else _report_names
        report(raw, words, table, names)
    return [None if row_words is None else _indices(row_words, table) for row_words in words], names


def is_shares(label: str) -> bool:
    """Tell whether a cell is written as shares of several annotators, ``a:0.7|b:0.3``."""
    return "|" in label and bool(_SHARES.fullmatch(printable(label)))


def _lists_others(word: str, words: Collection[str]) -> bool:
    """Tell whether a label is several others with commas between them, as multi-label lists write it."""
    return "," in word and all(part.strip() in words for part in word.split(","))


def _report_shares(raw: RawSplit) -> None:
    """Report shares of several annotators, which are read on request alone."""
    kind = "shares of several classes: set DATA.SOFT_LABELS True (--soft-labels of dust check, split and curate)"
    for row in raw.rows:
        if row.label and is_shares(row.label):
            raw.problems.add(kind, f"{row.where}: {row.label}")


def report_unused(raw: RawSplit, labels: Sequence[tuple[int, ...] | None], names: Sequence[str]) -> None:
    """Report numbered classes that end below NUM_CLASSES: mostly a NUM_CLASSES that was left as it was."""
    largest = max((index for row in labels if row for index in row), default=len(names) - 1)
    if largest + 1 < len(names):
        raw.problems.add(
            f"labels end below MODEL.NUM_CLASSES {len(names)}: set MODEL.NUM_CLASSES {largest + 1}, or, if the classes "
            f"above have no training clip, list all {len(names)} in {CLASS_LIST} beside the file or in DATA.CLASS_LIST",
            f"the largest label is {largest}",
        )


def _integer_names(size: int) -> list[str]:
    if size > MAX_CLASSES:
        raise DataError(f"MODEL.NUM_CLASSES {size}: at most {MAX_CLASSES:,} classes are taken")
    return [str(index) for index in range(size)]


def _number(text: str) -> int:
    """Return a label's number; for one of more than 18 digits, one that is as far out of range."""
    digits = text.lstrip("+-")
    return int(text) if len(digits) <= 18 else -MAX_CLASSES if text.startswith("-") else 10**18


def _count_classes(raw: RawSplit, words: "Words", numbers: Mapping[str, int]) -> int:
    """Return one class more than the largest label; a label that would make absurdly many is a problem, not a class."""
    absurd = {word for word, number in numbers.items() if number >= MAX_CLASSES}
    for row, row_words in zip(raw.rows, words, strict=True):
        for word in row_words or ():
            if word in absurd:
                kind = f"a label that would make more than {MAX_CLASSES:,} classes: classes count from 0"
                raw.problems.add(kind, f"{row.where}: {word[:40]}")
    return max((number for word, number in numbers.items() if word not in absurd), default=-1) + 1


def _words(label: str, multi_label: bool) -> list[str]:
    if not multi_label:
        return [label]
    return [word.strip() for word in label.split(",")] if label else []


def _indices(words: list[str], table: dict[str, int]) -> tuple[int, ...] | None:
    try:
        return tuple(sorted({table[word] for word in words}))
    except KeyError:
        return None


def _sample(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


Words = Sequence[Sequence[str] | None]


def _unknown(raw: RawSplit, words: Words, table: dict[str, int]) -> Iterator[tuple[Row, str]]:
    """Yield every label that is not in the table, with its row; empty ones are reported at once."""
    for row, row_words in zip(raw.rows, words, strict=True):
        for word in row_words or ():
            if not word:
                raw.problems.add("an empty label among several", f"{row.where}: {row.label}")
            elif word not in table:
                yield row, word


def _report_numbers(raw: RawSplit, words: Words, table: dict[str, int], names: Sequence[str]) -> None:
    found = [_INTEGER.fullmatch(word) for row_words in words for word in row_words or () if word]
    numbers = [_number(match[1]) for match in found if match]
    way_out = f"set MODEL.NUM_CLASSES {max(numbers) + 1}, or correct the labels"
    if min(numbers) == 1 and max(numbers) == len(names):
        way_out = "they seem to count from 1: subtract 1 from every label"
    for row, word in _unknown(raw, words, table):
        if word.startswith("-"):
            raw.problems.add("a negative label: classes count from 0", f"{row.where}: {word}")
        else:
            raw.problems.add(f"a label out of range 0..{len(names) - 1} ({way_out})", f"{row.where}: {word}")


def _report_names(raw: RawSplit, words: Words, table: dict[str, int], names: Sequence[str]) -> None:
    near: dict[str, str] = {}
    kind = f"a label that is none of the {len(names)} classes ({_sample(names)})"
    for row, word in _unknown(raw, words, table):
        if word not in near and len(near) < SHOWN:  # what is not shown is not looked for
            close = near_names(word, names)
            near[word] = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raw.problems.add(kind, f"{row.where}: {word!r}{near.get(word, '')}")


# --- class lists ------------------------------------------------------------------------------------------------


def write_class_list(path: str | os.PathLike, names: Sequence[str]) -> None:
    """Write the class names in their order, one per line."""
    bad = [name for name in names if not name.strip() or "\n" in name or "\r" in name]
    if bad:
        raise DataError(f"class names must be single lines of text; got {bad[0]!r}")
    write_text(path, "".join(f"{printable(name)}\n" for name in names))


def read_class_list(path: str | os.PathLike) -> list[str]:
    """Read what :func:`write_class_list` wrote. DataError for an empty list, an empty line or a name twice."""
    names = read_text(path).split("\n")
    if names[-1] == "":
        names.pop()
    problems = Problems()
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name.strip():
            problems.add("an empty line: remove it", f"line {number}")
        elif name in seen:
            problems.add("a class named twice", f"line {number}: {name}")
        seen.add(name)
    if not names:
        problems.add("no class in it: write one name per line", str(path))
    problems.raise_if_any(str(path))
    return names
