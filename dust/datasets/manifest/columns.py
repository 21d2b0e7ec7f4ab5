"""What the columns of a list mean: whose name stands for which, and which nobody may ignore.

A column that changes what a row means (where a segment begins, its unit, the one frame that a label is of) and that is
not read from this list is refused by name. All others are named in one line of the log.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence

from dust.decode.segment import FRAMES, Segment
from dust.utils.errors import Problems
from dust.utils.files import AddressError, plain_path

logger = logging.getLogger(__name__)

GROUP, START, END, ANNOTATOR = "group", "start", "end", "annotator"
_UNITS = r"(_?(time|times|timestamp|frame|frames|s|sec|secs|second|seconds|ms|msec|milliseconds|idx|index|pos))?"
#: Columns that say which part of a file, which moment of it, or in which unit, is meant.
_MEANING = re.compile(
    rf"(start|end|begin|stop|onset|offset|from|to|t0|t1|t_0|t_1|tstart|tend){_UNITS}"
    r"|(time|frame|t|timestamp|temporal|clip|segment|seg|action|event|label)_?(start|end|begin|stop)"
    rf"|(time|timestamp|timestamps|time_stamp|frame|moment){_UNITS}|frame_?(id|no|nr|num|number)|segment|segments"
    r"|unit|units|(time|segment|duration)_units?"
)
_LENGTH = re.compile(rf"(duration|length|len|dur){_UNITS}")
_NUMBERED = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")  # 0,5: a comma for the decimal point


def column_name(cell: str) -> str:
    """Return a column's name as it is compared: ``" Video Path"`` and ``#video-path`` are ``video_path``."""
    return re.sub(r"[\s\-]+", "_", cell.strip().lstrip("#").strip().lower())


def to_number(cell: str) -> float:
    """Return the number in a cell, also with a comma for the decimal point. ValueError if it is none."""
    text = cell.strip()
    return float(text.replace(",", ".") if _NUMBERED.fullmatch(text) else text)


def refuse_twice(names: Sequence[str], problems: Problems) -> None:
    """Refuse columns of one name, for nobody can say which of them is meant. Those without a name are left aside."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        problems.add("a column twice: rename or remove one of them", ", ".join(twice))


def find_group(names: Sequence[str], group_column: str, problems: Problems) -> int | None:
    """Return which of the columns is the group's: that of DATA.GROUP_COLUMN, which must be there, else ``group``."""
    wanted = column_name(group_column) or GROUP
    if wanted in names:
        return list(names).index(wanted)
    if group_column:
        kind = f"no column {group_column}, which DATA.GROUP_COLUMN names"
        problems.add(kind, f"the columns are {', '.join(names) or 'without names'}")
    return None


def check_columns(
    names: Sequence[str], used: Sequence[str], source: str, problems: Problems, extra: Sequence[str] = ()
) -> list[str]:
    """Refuse columns that change what a row means, and several of one name; return those that nobody reads, which the
    log names.

    Args:
        names: of all columns.
        used: those that are read.
        source: the list, for the log.
        extra: DATA.EXTRA_COLUMNS, columns that are known to be of no meaning here: nothing is said of them.
    """
    refuse_twice([name for name in map(column_name, names) if name in map(column_name, used)], problems)
    known = {column_name(name) for name in (*used, *extra)}
    others = [name for name in names if column_name(name) not in known]
    partial = START in used and END not in used  # then a length says where a segment ends
    bare = {name: re.sub(r"[()\[\]]", "", column_name(name)) for name in others}
    meaning = [name for name in others if _MEANING.fullmatch(bare[name]) or (partial and _LENGTH.fullmatch(bare[name]))]
    if meaning:
        problems.add(
            "columns that change what a row means and are not understood: in a list of clips the columns start and end "
            "cut segments (DATA.SEGMENT_UNIT). Rename them, remove them, or, if they mean something else, name them in "
            "DATA.EXTRA_COLUMNS",
            ", ".join(meaning),
        )
    ignored = [name or "(without a name)" for name in others if name not in meaning]
    say_unread(source, ignored)
    return ignored


def say_unread(source: str, columns: Sequence[str]) -> None:
    """Name in the log the columns of a list that nobody reads."""
    if columns:
        logger.info("%s: columns that are not read: %s (DATA.EXTRA_COLUMNS)", source, ", ".join(columns))


def read_segment(start: str, end: str, unit: str, where: str, problems: Problems) -> Segment | None:
    """Return the part [start, end) that two cells say; None where both are empty, and for what is no segment.

    Args:
        start, end: numbers from 0 on; an empty start is the beginning, an empty end the end of the file.
        unit: seconds | frames.
        where: names the row among the problems.
    """
    values = [_moment(cell, unit) for cell in (start, end)]
    if values[0] is None and values[1] is None:
        return None
    first, last = values[0] or 0.0, values[1]
    if math.isnan(first) or (last is not None and math.isnan(last)):
        kind = "frames, whole numbers" if unit == FRAMES else "seconds, numbers"
        problems.add(f"start and end are {kind} from 0 on (DATA.SEGMENT_UNIT {unit})", f"{where}: {start!r}, {end!r}")
    elif last is not None and last <= first:
        problems.add("an end that is not behind its start", f"{where}: {start}, {end}")
    else:
        return Segment(first, last, unit)
    return None


def _moment(cell: str, unit: str) -> float | None:
    """Return the number in a cell; None for an empty one, NaN for what is none from 0 on."""
    if not cell.strip():
        return None
    try:
        value = to_number(cell)
    except ValueError:
        return math.nan
    if unit == FRAMES and (not math.isfinite(value) or value != int(value)):
        return math.nan
    return value if 0 <= value < math.inf else math.nan


def path_of(cell: str, where: str, problems: Problems) -> str:
    """Return the path that a cell holds, also as the address of a file (``file:///...``)."""
    try:
        return plain_path(cell)
    except AddressError as error:
        problems.add("an address that names no file of this machine", f"{where}: {error}")
        return cell


def several_numbers(label: str) -> str:
    """Return what is wrong with numbers and commas as the label of a clip, with the way out; "" for other labels."""
    if not re.fullmatch(r"\d+(,\d+)+", label):
        return ""
    if re.fullmatch(r"\d+,0+", label):  # what a spreadsheet with decimal commas makes of a whole number
        return "several labels, or a decimal comma: set DATA.MULTI_LABEL True, or write 3 for 3,0"
    once = len(set(label.split(","))) == 1
    return "a class named twice: name it once" if once else "several labels for one clip: set DATA.MULTI_LABEL True"
