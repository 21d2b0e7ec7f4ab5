"""Where the files of a list lie: one row at a time, or of a long list at once, shared out over the processes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dust.datasets.manifest.clips import Places
from dust.datasets.manifest.column_file import BLOCK, Texts
from dust.datasets.manifest.shards import is_there
from dust.decode.remote import is_remote, under
from dust.utils import distributed
from dust.utils.errors import SHOWN, Problems
from dust.utils.files import like_missing, restored
from dust.utils.text import csv_cell

_FIRST = 1000  # rows that decide under which folder the paths of a long list are
_GUARDED = np.frombuffer(b"'=+-@\t\r", np.uint8)  # what a path begins with that a list of ours had to guard
_BACKSLASH = ord("\\")


def add_missing(problems: Problems, where: str, written: str, bases: Sequence[str], *, header: bool = False) -> None:
    """Say that a file is missing, and for those that are shown what it may be; ``header``: the row may be one."""
    folders = [folder or "the working folder" for folder in bases]
    kind = f"a file that is missing (relative paths are looked for in {', then '.join(folders)}; see DATA.PATH_PREFIX)"
    hint = "" if not header or os.path.splitext(written)[1] else " (a header? name its columns path and label)"
    if not hint and problems.count(kind) < SHOWN:  # looking for names that are alike takes long
        hint = like_written(written, bases)
    problems.add(kind, f"{where}: {under(bases[0], written)}{hint}")


def like_written(written: str, bases: Sequence[str]) -> str:
    """Return which file a missing one may stand for, see :func:`dust.utils.files.like_missing`; "" if none is alike."""
    return next((text for folder in bases if (text := like_missing(under(folder, written)))), "")


def find_file(written: str, bases: Sequence[str], check: bool) -> str | None:
    """Return the first place where the path exists; the first place at all if nothing is checked."""
    paths = list(dict.fromkeys(under(folder, written) for folder in bases))
    found = next((path for path in paths if is_there(path)), None)
    if found is None:  # a name that our own lists had to write in another way
        others = [restored(path) for path in paths]
        others += [os.path.join(folder, f"'{written}") for folder in bases if csv_cell(written) != written]
        found = next((path for path in others if os.path.exists(path)), None)
    return paths[0] if found is None and not check else found


# --- of a long list ---------------------------------------------------------------------------------------------------


@dataclass
class _Looked:
    """What one process found: rows under another base than most, paths that are none of these, rows without a file."""

    bases: list[tuple[int, int]] = field(default_factory=list)
    others: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)


def find_places(
    paths: Texts, bases: Sequence[str], *, rows: np.ndarray | None, check: bool, shared: bool,
    where: Callable[[int], str], problems: Problems,
) -> Places:  # fmt: skip
    """Return where the files of a long list lie.

    The folder under which the first rows lie is tried first for all. Each row is looked for where ``check`` is set, or
    the first ones lie in several folders; else nothing is, but names that a list of ours cannot write as they are.

    Args:
        bases: folders that relative paths are looked for in, in this order.
        rows: those that are meant; None for all.
        check: whether a missing file is a problem.
        shared: all processes of the run ask for it now, and each looks for its share of the files.
        where: names a row among the problems.
    """
    shared = shared and distributed.world_size() > 1
    wanted: Any = range(len(paths)) if rows is None else rows
    seen: list[int] = []
    if len(bases) > 1 and (not shared or distributed.is_main()):
        some = (paths[int(row)] for row in wanted[:_FIRST])
        seen = [number for written in some if (number := _base_of(written, bases)) is not None]
    seen = distributed.all_gather_objects(seen)[0] if shared else seen
    several = len(set(seen)) > 1
    base = 0 if several or not seen else seen[0]
    looked = _Looked()
    found: Iterator[tuple[int, str]] = iter(())
    if check or several:
        found = _texts(paths, rows, *(_share(len(wanted)) if shared else (0, len(wanted))))
    elif not shared or distributed.is_main():
        found = ((row, paths[row]) for row in _oddly_written(paths, rows))
    for row, written in _not_below(bases[base], found):
        _look(row, written, bases, base, check, looked)
    parts = distributed.all_gather_objects(looked) if shared else [looked]
    missing = [row for part in parts for row in part.missing]
    if missing:
        gone = set(missing)
        found_first = next((row for row in map(int, wanted) if row not in gone), len(paths))
        for row in missing:
            add_missing(problems, where(row), paths[row], bases, header=row < found_first)
    others = {row: path for part in parts for row, path in part.others.items()}
    moved = [pair for part in parts for pair in part.bases]
    if not moved:
        return Places(bases, base, others)
    numbers = np.full(len(paths), base, np.uint8)
    numbers[[row for row, _ in moved]] = [number for _, number in moved]
    return Places(bases, numbers, others)


def _base_of(written: str, bases: Sequence[str]) -> int | None:
    """Return the first base under which a relative path exists."""
    if os.path.isabs(written) or is_remote(written):
        return None
    return next((number for number, base in enumerate(bases) if is_there(under(base, written))), None)


def _share(count: int) -> tuple[int, int]:
    """Return the first of this process's part of ``count`` things, and the one behind its last."""
    rank, world = distributed.rank(), distributed.world_size()
    return count * rank // world, count * (rank + 1) // world


def _texts(paths: Texts, rows: np.ndarray | None, first: int, last: int) -> Iterator[tuple[int, str]]:
    """Yield (row, what is written there) from place ``first`` to ``last`` among the rows that are meant."""
    for begin in range(first, last, BLOCK):
        end = min(begin + BLOCK, last)
        if rows is None:
            yield from zip(range(begin, end), paths[begin:end], strict=True)
        else:
            yield from ((row, paths[row]) for row in rows[begin:end].tolist())


def _not_below(base: str, rows: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the rows whose file is not below ``base``."""
    access, there = os.access, os.F_OK
    try:  # the system then need not walk to it for each file
        folder = os.open(base or os.curdir, os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
    except (OSError, ValueError):
        folder = None  # on a server, or nowhere
    try:
        for row, written in rows:
            try:
                if folder is None or ".tar[" in written or "://" in written:
                    found = is_there(under(base, written))
                else:
                    found = access(written, there, dir_fd=folder)
                if not found:
                    yield row, written
            except ValueError:  # a NUL byte
                yield row, written
    finally:
        if folder is not None:
            os.close(folder)


def _look(row: int, written: str, bases: Sequence[str], base: int, check: bool, looked: _Looked) -> None:
    """Look everywhere for the file of one row, which most others have below ``bases[base]``."""
    likely = under(bases[base], written)
    path = find_file(written, bases, check)
    if path is None:
        looked.missing.append(row)
    elif path == likely:
        return
    else:
        number = next((n for n, folder in enumerate(bases) if under(folder, written) == path), None)
        if number is None:
            looked.others[row] = path
        else:
            looked.bases.append((row, number))


def _oddly_written(paths: Texts, rows: np.ndarray | None) -> Iterator[int]:
    """Yield the rows with a backslash, or a beginning that a spreadsheet would take for a formula."""
    meant = None if rows is None else np.isin(np.arange(len(paths)), rows)
    for first in range(0, len(paths), BLOCK):
        last = min(first + BLOCK, len(paths))
        starts = paths.starts[first : last + 1].astype(np.int64)
        data = np.append(
            paths.data[int(starts[0]) : int(starts[-1])], np.uint8(0)
        )  # an empty text begins somewhere too
        starts -= starts[0]
        odd = np.isin(data[starts[:-1]], _GUARDED)
        at = np.flatnonzero(data == _BACKSLASH)
        odd[np.searchsorted(starts, at, side="right") - 1] = True
        if meant is not None:
            odd &= meant[first:last]
        yield from (np.flatnonzero(odd) + first).tolist()
