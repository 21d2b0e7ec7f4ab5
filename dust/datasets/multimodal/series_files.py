"""Values and times of one series as files hold them: .npz, .csv, .parquet (extra ``parquet``), .edf, .bdf (``edf``)."""

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dust.datasets.manifest.columns import to_number
from dust.datasets.manifest.table import split_line, text_lines
from dust.utils.arrays import open_npz
from dust.utils.errors import DataError, SampleError
from dust.utils.files import open_file
from dust.utils.package import import_extra

TIME_NAMES = ("time", "t", "timestamp", "seconds")
MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none"})
GAP = 5.0  # a step of more than so many median steps is a gap
ON_POINT = 1e-6  # of a step: nearer than that to a time point, its value alone is taken
SUFFIXES = (".npy", ".npz", ".csv", ".parquet", ".edf", ".bdf")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_MOST_VALUES = 1 << 27  # of one series: a small file can say that it holds any number of one value
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
#: Words of which one makes a name that of times (of another unit than :data:`TIME_NAMES`, or as nobody knows), and
#: those that may stand beside it.
_OF_TIMES = re.compile(r"(unix)?(date)?time(s|stamps?)?|date|epoch|unix|elapsed|stamps?|ts")
_BESIDE = re.compile(
    r"m?s|m?secs?|(milli|micro|nano)?seconds?|[uµn]s|usec|utc|gmt|local|in|of|since|start|boot|begin|sensor|device|system"
)
_ONSET = re.compile(rb"[+-]\d+(\.\d*)?(?=[\x14\x15])")

Table = tuple[np.ndarray, np.ndarray | None]


def read_table_of(path: str, key: str, num_channels: int | None) -> Table | None:
    """Return (C, L) values and (L,) times of a file with a column (or a signal) for each channel; None for another
    kind.

    Args:
        key: names of the columns that are meant, with commas between; "" for all.
        num_channels: None for any.

    Raises:
        SampleError: a file that cannot be read, or has another number of channels. ConfigError: an extra is missing.
    """
    suffix = path[path.rfind(".") :].lower()
    if suffix == ".csv":
        return _read_csv(path, num_channels)
    if suffix not in (".parquet", ".edf", ".bdf"):
        return None
    wanted = [name.strip() for name in key.split(",")] if key else []
    values, times, names = (_read_parquet if suffix == ".parquet" else _read_edf)(path, wanted)
    if num_channels is not None and len(values) != num_channels:
        reason = f"another number of channels than SERIES.NUM_CHANNELS {num_channels}: correct the key, or name those "
        reason += f"that are meant, file{suffix}#a,b"
        raise SampleError(path, reason, f"{len(values)}: {', '.join(names)}")
    return values, times


def _chosen(path: str, names: list[str], wanted: list[str]) -> list[int]:
    """Return where the wanted names stand; of all, if none is wanted. SampleError for one that is there twice, or
    not."""
    for name in wanted:
        if names.count(name) != 1:
            reason = "no column or signal of that name" if name not in names else "several of that name"
            raise SampleError(path, reason, f"{name!r} of {', '.join(names)}"[:300])
    return [names.index(name) for name in wanted] if wanted else list(range(len(names)))


def _refuse_hidden_times(path: str, names: Iterable[str]) -> None:
    """Raise SampleError for a channel that is called like times: they would be learnt from."""
    found = []
    for name in names:
        words = re.findall(r"[^\W\d_]+", name.lower())
        rest = [word for word in words if not _OF_TIMES.fullmatch(word)]
        if len(rest) < len(words) and all(map(_BESIDE.fullmatch, rest)):
            found.append(name)
    if found:
        reason = "a channel that looks like times: call it time, in seconds, or leave it out"
        raise SampleError(path, reason, ", ".join(found))


def resample(values: np.ndarray, times: np.ndarray, at: np.ndarray, longest_step: float = np.inf) -> np.ndarray:
    """Return (C, len(at)) float32: linear between the values (C, L) at ``times``; NaN where a neighbour is NaN or where
    the neighbours are more than ``longest_step`` apart. ``at`` lies within ``times``; L >= 2."""
    low = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    step = times[low + 1] - times[low]
    share = (at - times[low]) / step
    share = np.where(share < ON_POINT, 0.0, np.where(share > 1 - ON_POINT, 1.0, share))
    left, right = values[:, low].astype(np.float64), values[:, low + 1].astype(np.float64)
    between = np.where((share > 0) & (share < 1) & (step > longest_step), np.nan, left + share * (right - left))
    return np.where(share == 0, left, np.where(share == 1, right, between)).astype(np.float32)


# --- parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(path: str, wanted: list[str]) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Return (C, L) values, NaN for nulls, (L,) times in seconds and the channels' names, in the order of the columns.

    Timestamps with a date count from 1970 (UTC where they have no zone), durations from 0.
    """
    arrow, parquet = (import_extra(name, "parquet", path) for name in ("pyarrow", "pyarrow.parquet"))
    try:
        with open_file(path) as stream, parquet.ParquetFile(stream) as file:
            count = file.metadata.num_rows
            if count * file.metadata.num_columns > _MOST_VALUES:
                raise SampleError(path, f"more than {_MOST_VALUES:,} values: cut it into recordings", f"{count:,} rows")
            table = file.read()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise SampleError(path, "not a parquet file, or damaged: write it again", f"{error}"[:200]) from error
    if not table.num_rows:
        raise SampleError(path, "a table without rows: remove the sample")
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise SampleError(path, "several columns of one name: write it again, each with its own", ", ".join(twice))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    timed = [name for name, column in columns.items() if _is_times(name, column, arrow)]
    if len(timed) > 1:
        raise SampleError(path, "more than one time column", ", ".join(timed))
    names = [name for name in columns if name not in timed]
    if any(re.fullmatch(r"(__index_level_\d+__)?", name) for name in names):
        raise SampleError(path, "a column without a name (an index? save the file without it)", ", ".join(names))
    names = [names[place] for place in _chosen(path, names, wanted)]
    _refuse_hidden_times(path, () if wanted else names)
    if not names:
        raise SampleError(path, "no column but the times", ", ".join(timed))
    values = np.stack([_numbers_of(path, name, columns[name], arrow) for name in names])
    return values, _times_of(path, timed[0], columns[timed[0]], arrow) if timed else None, names


def _is_times(name: str, column: Any, arrow: Any) -> bool:
    """Tell whether these are times: by the name, or as what pandas makes of an index of times that has none."""
    of_pandas = name.startswith("__index_level_") and arrow.types.is_timestamp(column.type)
    return name.strip().lower() in TIME_NAMES or of_pandas


def _numbers_of(path: str, name: str, column: Any, arrow: Any) -> np.ndarray:
    """Return (L,) float64, NaN for nulls. SampleError for a column of anything but numbers."""
    kind, types = column.type, arrow.types
    if types.is_boolean(kind):
        column = column.cast(arrow.int8())
    elif not (types.is_integer(kind) or types.is_floating(kind)):
        reason = "a column that holds no numbers: leave it out, or name those that are meant"
        raise SampleError(path, reason, f"{name}: {kind}")
    return np.array(column.cast(arrow.float64(), safe=False).to_numpy(), np.float64)


def _times_of(path: str, name: str, column: Any, arrow: Any) -> np.ndarray:
    """Return seconds; NaN where a time is missing."""
    kind, types = column.type, arrow.types
    if not (types.is_timestamp(kind) or types.is_duration(kind)):
        if not (types.is_integer(kind) or types.is_floating(kind)):
            reason = "times are seconds (numbers), timestamps or durations: convert the column"
            raise SampleError(path, reason, f"{name}: {kind}")
        return _numbers_of(path, name, column, arrow)
    unit, whole = _UNITS[kind.unit], column.cast(arrow.int64())
    ticks = np.array(whole.fill_null(0).to_numpy(), np.int64)
    missing = np.array(whole.is_null().to_numpy(), bool)
    return np.where(missing, np.nan, ticks // unit + ticks % unit / unit)


# --- EDF ------------------------------------------------------------------------------------------------------------


def _read_edf(path: str, wanted: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return (C, L) physical values, (L,) times in seconds from the file's start, and the signals' names, in the file's
    order.

    Signals of other rates are laid on the times of the fastest one, as far as all reach, by linear interpolation that
    never crosses a gap of a recording in pieces (EDF+D).
    """
    edfio = import_extra("edfio", "edf", path)
    try:
        with open_file(path) as stream:
            data = stream.read()
        read = edfio.read_bdf if path.lower().endswith(".bdf") else edfio.read_edf
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is cut off, which is an error here
            file = read(io.BytesIO(data))
        whole = int(data[236:244])  # records that the header announces; -1 while it is recorded
        if int(file.num_data_records) < whole:
            reason = "cut off: copy it again"
            raise SampleError(path, reason, f"{int(file.num_data_records)} of {whole} records are there")
        values = [np.array(signal.data, np.float64) for signal in file.signals]
        names = [str(signal.label) for signal in file.signals]
        duration, records = float(file.data_record_duration), int(file.num_data_records)
        onsets = _onsets(data) if file.reserved[3:5] == "+D" else duration * np.arange(records)
    except (OSError, ValueError, ArithmeticError, LookupError) as error:
        raise SampleError(path, "not an EDF file, or damaged: write it again", f"{error}"[:200]) from error
    chosen = _chosen(path, names, wanted)
    names, values = [names[place] for place in chosen], [values[place] for place in chosen]
    if not values or not all(map(len, values)):
        raise SampleError(path, "no signal with values: remove the sample", ", ".join(names) or "none")
    if not len(onsets) or any(len(one) % len(onsets) for one in values):
        raise SampleError(path, "damaged: a signal is not as long as its records say: write it again")
    steps = [duration * len(onsets) / len(one) for one in values]
    within = [np.arange(len(one) // len(onsets)) * step for one, step in zip(values, steps, strict=True)]
    times = [(onsets[:, None] + one).ravel() for one in within]
    return *_on_one_clock(path, values, times, steps), names


def _on_one_clock(
    path: str, values: list[np.ndarray], times: list[np.ndarray], steps: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (C, L) values of signals on the times (L,) of the one with the smallest step, as far as all reach."""
    axis = times[int(np.argmin(steps))]
    if all(len(one) == len(axis) for one in values):
        return np.stack(values), axis
    if any((np.diff(one) <= 0).any() for one in times):
        reason = "signals of several rates in records whose times overlap or go backwards: name those of one rate"
        raise SampleError(path, reason)
    axis = axis[(axis >= max(one[0] for one in times)) & (axis <= min(one[-1] for one in times))]
    if not len(axis) or min(map(len, values)) < 2:
        raise SampleError(path, "a signal of too few values to be laid on the others' times: name those that are meant")
    found = zip(values, times, steps, strict=True)
    return np.concatenate([resample(one[None], at, axis, GAP * step) for one, at, step in found]), axis


def _onsets(data: bytes) -> np.ndarray:
    """Return when each record of an EDF+D file begins, seconds from the file's start: the first annotation of each says
    it.

    The file's layout is that of "European data format 'plus' (EDF+)", Kemp and Olivan, Clinical Neurophysiology 114,
    2003, https://www.edfplus.info/specs/edfplus.html. ValueError if a record does not say it.
    """
    header, count = int(data[184:192]), int(data[252:256])
    width = 3 if data[:1] == b"\xff" else 2  # bytes of a sample
    labels = [data[256 + 16 * place : 272 + 16 * place].strip() for place in range(count)]
    samples = [int(data[256 + 216 * count + 8 * place :][:8]) for place in range(count)]
    first = next((place for place, label in enumerate(labels) if label.endswith(b" Annotations")), None)
    if first is None:
        raise ValueError("a recording in pieces (EDF+D) without annotations, which say when each begins")
    start, size = width * sum(samples[:first]), width * sum(samples)
    found = [_ONSET.match(data, at + start) for at in range(header, len(data) - size + 1, size)]
    if not all(found):
        raise ValueError("a record does not say when it begins")
    return np.array([float(match[0]) for match in found if match])


# --- npz and csv ----------------------------------------------------------------------------------------------------


def read_npz(path: str, key: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the array called ``key``, or the only one; and the times, if an array has one of their names."""
    with open_npz(path) as archive:
        times = [name for name in archive.names if name.lower() in TIME_NAMES]
        others = [name for name in archive.names if name not in times]
        name = key or (others[0] if len(others) == 1 else "")
        if name not in archive.names:
            reason = "no array of that name" if key else "not one array but several: name one, as file.npz#name"
            raise SampleError(path, reason, f"{key + ' of ' if key else ''}{', '.join(archive.names) or 'none'}")
        return archive.read(name), archive.read(times[0]) if len(times) == 1 else None


def _read_csv(path: str, num_channels: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (C, L) values and the times of a csv file. ``num_channels``: None for any."""
    try:
        lines, separator, _ = text_lines(path)
    except DataError as error:
        raise SampleError(path, str(error).removeprefix(f"{path}: ")) from error
    if not lines:
        raise SampleError(path, "an empty file: remove the sample")
    separator = separator or next((mark for mark in ("\t", ";", ",") if mark in lines[0]), " ")
    try:
        cells = [line.split() if separator == " " else split_line(line, separator) for line in lines]
    except ValueError as error:
        raise SampleError(path, "broken quoting", str(error)) from error
    header = _header(cells[0], path)
    rows = cells[1:] if header else cells
    ragged = next((n for n, row in enumerate(cells, 1) if len(row) != len(cells[0])), 0)
    if ragged:
        reason = "rows of different length: every row needs a cell per column; an empty cell is a missing value"
        raise SampleError(path, reason, f"line {ragged}: {len(cells[ragged - 1])} cells, line 1: {len(cells[0])}")
    timed = [column for column, name in enumerate(header) if name in TIME_NAMES]
    _refuse_hidden_times(path, (name for name in header if name not in TIME_NAMES))
    table = _numbers(rows, path, 2 if header else 1, separator, timed)
    if len(timed) > 1:
        raise SampleError(path, "more than one time column", ", ".join(header))
    values = np.delete(table, timed, axis=1).T
    if num_channels is not None and len(values) != num_channels:  # said here, because a csv's axes are known
        reason = f"another number of columns than SERIES.NUM_CHANNELS {num_channels}, besides one called time"
        if separator == "," and len(cells[0]) == 2 * (num_channels + bool(timed)) and not header:
            reason += " (commas as decimal points? put semicolons between the columns, or write points)"
        raise SampleError(path, reason, f"{len(values)} columns: {', '.join(cells[0])}")
    return values, table[:, timed[0]] if timed else None


def _header(cells: list[str], path: str) -> list[str]:
    """Return the columns' names, lower case; [] if the first line holds values. A line that is half of each is
    refused."""
    names = [cell.strip().lower() for cell in cells]
    words = [name for name in names if name not in MISSING_WORDS and not _is_number(name)]
    if not words:
        return []
    if "" in names:
        raise SampleError(path, "a column without a name (an index? save the file without it)", ", ".join(cells))
    if len(words) < len(names) and not set(words) <= set(TIME_NAMES):
        raise SampleError(path, "line 1 is neither a header nor values: not numbers", ", ".join(words))
    return names


def _is_number(word: str) -> bool:
    try:
        to_number(word)
    except ValueError:
        return False
    return True


def _numbers(rows: list[list[str]], path: str, first_line: int, separator: str, timed: Sequence[int]) -> np.ndarray:
    """Return (L, columns) float64; NaN for missing values. SampleError for cells that are neither, and where a comma
    may be a decimal point or part thousands off. ``timed``: the columns of times."""
    if not rows:
        raise SampleError(path, "a header without values: remove the sample")
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        pass
    _check_commas([cell.strip() for row in rows for cell in row if "," in cell or "." in cell], path, separator)
    table = np.full((len(rows), len(rows[0])), np.nan)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            word = cell.strip()
            if word.lower() in MISSING_WORDS:
                continue
            try:
                table[number, column] = to_number(word)
            except ValueError:
                reason = "a cell that is no number (a missing value is an empty cell or NaN; decimals take a point)"
                if column in timed:
                    reason = "a time that is no number of seconds (a .parquet may hold timestamps with dates)"
                raise SampleError(path, reason, f"line {number + first_line}: {word!r}") from None
    return table


def _check_commas(cells: list[str], path: str, separator: str) -> None:
    """Raise SampleError where commas within numbers can be read in two ways."""
    commas, points = [cell for cell in cells if "," in cell], [cell for cell in cells if "." in cell]
    if commas and points:
        reason = "numbers with commas and numbers with points: write all of them with a decimal point"
        raise SampleError(path, reason, f"{commas[0]!r} and {points[0]!r}")
    if commas and separator != ";" and all(_THOUSANDS.fullmatch(cell) for cell in commas):
        reason = "a comma that may be a decimal point or part thousands off: write numbers with a decimal point"
        raise SampleError(path, reason, repr(commas[0]))
