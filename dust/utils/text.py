"""Texts of others on a screen, in a log and in a table: names of files, ids, labels.

A file's name may hold anything but a slash: sequences that steer a terminal, line breaks that begin a forged line of a
log, bytes that are not UTF-8, the beginning of a spreadsheet's formula.
"""

import difflib
import io
import os
import re
import sys
from collections.abc import Collection
from typing import Any

# control characters, halves of characters (bytes that are not UTF-8), line ends, and what turns the writing direction
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]{1,18}")
_LINE_END = re.compile(r"\n(?! )")
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|([nrt]))")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONG = {"n": "\n", "r": "\r", "t": "\t"}
# what gets an apostrophe, as it is and as it is written then: reading is the reverse of writing for every text
_FORMULA = re.compile(r"'*[=+\-@\t\r]|'+\\[tr]")
_GUARDED = re.compile(r"'+(?:[=+\-@\t\r]|\\[tr])")
#: What is said of a sample that no class is likely enough for.
NONE = "none of these"
MAX_CLASSES = 1_000_000  # that a list of labels may stand for
_LONGEST_NAME = 200  # characters of what is looked for among known names
MOST_NAMES = 20_000  # known names that are compared


def printable(text: str) -> str:
    """Return a text as one line in which nothing steers a terminal, with ``\\n``, ``\\x1b``, ``\\udcff``."""
    return _UNSEEN.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return a text of several lines likewise. A line after the first begins with a space, or it belongs to a name."""
    lines = _LINE_END.sub("\\\\n", text.rstrip("\n")).split("\n")
    return "\n".join(printable(line) for line in lines)


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def unescaped(text: str) -> str:
    """Return the name that :func:`printable` turned into ``text``; a guess where the name holds a backslash."""
    return _ESCAPED.sub(lambda match: _LONG.get(match[3]) or chr(int(match[1] or match[2], 16)), text)


def forgiving_console() -> None:
    """Let the console show what its encoding lacks as an escape, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def csv_cell(value: Any) -> Any:
    """Return what stands in a table for a value: numbers as they are, texts printable and never a formula.

    A text that begins with = + - @, a tab or a carriage return gets one leading apostrophe, unless it is a number;
    :func:`csv_value` takes it away again.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if _FORMULA.match(value) and not is_number(value) else shown


def csv_value(cell: str) -> str:
    """Return the text of a cell that :func:`csv_cell` made."""
    return cell[1:] if _GUARDED.match(cell) else cell


def counted(number: int, one: str, several: str = "") -> str:
    """Return ``1 clip``, ``2 clips``, ``0 classes``: a number with what it counts.

    Args:
        one: the thing, or how a sentence about one continues: ``clip is bad``.
        several: the same of several, where it is more than an s or es.
    """
    several = several or f"{one}{'es' if one.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
    return f"{number} {one if number == 1 else several}"


def whole_number(text: str) -> int | None:
    """Return the number that up to 18 digits 0 to 9 say; None for any other text."""
    return int(text) if _DIGITS.fullmatch(text) else None


def is_number(text: str) -> bool:
    """Tell whether ``float`` reads the text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def near_names(word: str, known: Collection[str], *, n: int = 2, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most like ``word``, at most ``n``; none where looking would take long. Those that
    differ in upper and lower case alone are alike."""
    if len(word) > _LONGEST_NAME or len(known) > MOST_NAMES:
        return []
    same = [name for name in known if name.casefold() == word.casefold()]
    if same:
        return same[:n]
    return difflib.get_close_matches(word, [name for name in known if len(name) <= _LONGEST_NAME], n=n, cutoff=cutoff)
