"""What the runs of a folder are doing, told from their files alone: no run is asked, none is disturbed."""

import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust.config import flatten, read_written
from dust.utils.errors import DataError
from dust.utils.files import natural_order, open_file, read_bytes
from dust.utils.logging import read_json_stats
from dust.utils.structured import read_json
from dust.utils.text import printable

#: A run that has written nothing for so many seconds is taken for lost.
SIGN_OF_LIFE_S = 600.0
#: Bytes of a log's end that are read.
TAIL = 1 << 18
#: Folders below the one that was asked about in which runs are looked for.
DEPTH = 3
#: What the log of a run that cannot continue says last.
DIVERGED = re.compile("the (loss is|gradients are) not finite")
_HOLDER = re.compile(r"host (\S+) pid (\d{1,9}) since")
_CHECKPOINT = re.compile(r"checkpoint_epoch_(\d+)")


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        state: ``running``, ``lost`` (it holds its folder, but has given no sign of life for ten minutes, or its process
            is gone), ``finished``, ``interrupted``, ``diverged``; a trial of `dust tune` also ``pruned``, ``failed``.
        where: host and process of a run that holds its folder.
        epoch, epochs: whole epochs that are saved, of how many; None for a run that does not train.
        best: the best validation figure so far, as the log says it.
        silent_s: seconds since it wrote last.
        last: the last line of its log.
    """

    path: Path
    state: str
    where: str
    epoch: int | None
    epochs: int | None
    best: str
    silent_s: float
    last: str


def find_runs(root: Path) -> list[RunStatus]:
    """Look at every run in ``root``, itself or up to three folders below, in natural order."""
    return [read_status(folder) for folder in sorted(_folders(root, DEPTH), key=natural_order)]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.yaml").is_file() and ((folder / "stdout.log").exists() or (folder / "checkpoints").is_dir()):
        yield folder
    if not depth:
        return
    try:
        below = [one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()]
    except OSError:
        return
    for one in below:
        if one.name not in ("checkpoints", "results", "features") and not one.name.startswith("."):
            yield from _folders(one, depth - 1)


def read_status(folder: Path) -> RunStatus:
    """Tell what one run is doing."""
    config = flatten(read_written(folder / "config.yaml"))
    log = _tail(folder / "stdout.log")
    train, test = (bool(config.get(f"{name}.ENABLE", False)) for name in ("TRAIN", "TEST"))
    planned = config.get("SOLVER.MAX_EPOCH") if train else None
    epochs = planned if isinstance(planned, int) else None
    epoch = _epochs_saved(folder) if train else None
    holder = _HOLDER.search(_text(folder / ".lock"))
    silent = max(0.0, time.time() - _last_written(folder))
    where = f"{holder[1]} pid {holder[2]}" if holder else ""
    if holder:
        state = "running" if silent < SIGN_OF_LIFE_S and not _gone(holder[1], int(holder[2])) else "lost"
    elif DIVERGED.search(log[-4000:]):
        state = "diverged"
    elif config and (not train or _trained(epoch, epochs, log)) and (not test or _newer_results(folder, train)):
        state = "finished"
    else:
        state = _ended_by_study(folder) or "interrupted"
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    return RunStatus(folder, state, where, epoch, epochs, _best(log), silent, last)


def _ended_by_study(folder: Path) -> str:
    """Return ``pruned`` or ``failed`` where `dust tune` has said so of a trial; else empty."""
    try:
        said = read_json(folder / "trial.json")
    except DataError:
        return ""
    state = said.get("state") if isinstance(said, dict) else None
    return state if state in ("pruned", "failed") else ""


def _trained(epoch: int | None, epochs: Any, log: str) -> bool:
    return epoch is not None and (epoch == epochs or "stopping early" in log)


def _newer_results(folder: Path, train: bool) -> bool:
    """Tell whether the results are those of the newest checkpoint."""
    report = folder / "results" / "test.json"
    if not report.is_file():
        return False
    written = [file.stat().st_mtime for file in (folder / "checkpoints").glob("checkpoint_epoch_*.pyth")]
    return not train or not written or report.stat().st_mtime >= max(written)


def _epochs_saved(folder: Path) -> int:
    names = [entry.name for entry in (folder / "checkpoints").glob("checkpoint_epoch_*")]
    found = [int(match[1]) for match in map(_CHECKPOINT.match, names) if match]
    return max(found, default=0)


def _best(log: str) -> str:
    """Return the best figure of the newest validation; ``min_<name>_err`` becomes the accuracy that it is."""
    for line in reversed(log.splitlines()):
        stats = read_json_stats(line) if '"val_epoch"' in line else {}
        if not stats:
            continue
        for name, value in stats.items():
            if name.startswith("min_") and name.endswith("_err") and isinstance(value, int | float):
                return f"{name[4:-4]}_acc {100 - value:.2f}"
        figures = [(name, value) for name, value in stats.items() if isinstance(value, float) and name != "time_diff"]
        return f"{figures[0][0]} {figures[0][1]:.2f} (newest)" if figures else ""
    return ""


def _last_written(folder: Path) -> float:
    times = [0.0]
    for file in (folder / "stdout.log", folder / ".lock", *(folder / "checkpoints").glob("*")):
        try:
            times.append(file.stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _gone(host: str, pid: int) -> bool:
    """Tell whether a process of this host has ended; those of others cannot be asked."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _tail(file: Path) -> str:
    try:
        with open_file(file) as opened:
            opened.seek(max(0, file.stat().st_size - TAIL))
            return opened.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def table_of(runs: list[RunStatus], root: Path, *, width: int = 100) -> str:
    """Make a table for a terminal; last lines are cut to ``width``."""
    rows: list[tuple[str, ...]] = [("run", "state", "epoch", "best so far", "last sign", "where")]
    for run in runs:
        name = str(run.path.relative_to(root)) if run.path != root else run.path.resolve().name
        epoch = "-" if run.epoch is None else f"{run.epoch}/{run.epochs}"
        cells = name, run.state, epoch, run.best or "-", f"{_ago(run.silent_s)} ago", run.where or "-"
        rows.append(tuple(map(printable, cells)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    of_rows: list[RunStatus | None] = [None, *runs]
    for row, one in zip(rows, of_rows, strict=True):
        lines.append("  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip())
        if one is not None and one.state != "finished" and one.last:
            lines.append(f"    {printable(one.last.strip())[:width]}")
    return "\n".join(lines)


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
