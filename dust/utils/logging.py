"""Logging: a console, OUTPUT_DIR/stdout.log and SlowFast's ``json_stats`` lines."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import simplejson

from dust.utils.errors import DataError, DustError
from dust.utils.files import refuse_in_place
from dust.utils.structured import parse_json
from dust.utils.text import printable, printable_lines

FORMAT = "[%(asctime)s][%(levelname)s] %(filename)s: %(lineno)3d: %(message)s"
DATE = "%m/%d %H:%M:%S"
LOG_NAME = "stdout.log"
JSON_STATS = "json_stats: "


class _Formatter(logging.Formatter):
    """Lines in which no name of a file steers a terminal, or begins what looks like another line of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable_lines(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class _AboveProgressBar(logging.Handler):
    """Writes a line to the console of the moment, above a tqdm bar where there is one instead of through it.

    A console that is gone (a closed pipe, a file on a full disk) does not end the run: it continues without one.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not (str(record.msg).startswith(JSON_STATS) and sys.stdout.isatty()):  # there a table tells it
                write_above_progress(self.format(record))
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._do_without(error)

    def _do_without(self, error: Exception) -> None:
        root = logging.getLogger("dust")
        root.removeHandler(self)
        with contextlib.suppress(OSError, ValueError):  # what it still holds would fail again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.stdout.flush()
        _warn(f"the console cannot be written to: {error}; the run continues without it")
        root.warning("the console cannot be written to: %s; from here on there is only this file", error)


class _LogFile(logging.FileHandler):
    """A full disk costs log lines, not the run, nor a stack trace per line. Once there is room, the log says so."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.lost
        super().emit(record)
        if lost and lost == self.lost:
            self.lost = 0
            gap = f"{self.baseFilename} could not be written for a while: {lost} lines before this may be missing"
            super().emit(logging.LogRecord(record.name, logging.WARNING, __file__, 0, gap, (), None))

    def handleError(self, record: logging.LogRecord) -> None:
        self.lost += 1
        if self.lost == 1:
            _warn(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}; the run continues without these lines")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def write_above_progress(text: str) -> None:
    """Write a line to the console, above a progress bar where there is one instead of through it.

    OSError or ValueError if the console is gone."""
    from tqdm import tqdm

    # names of files may hold bytes that are no UTF-8, whatever the formatter makes of them
    tqdm.write(text.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stdout)
    sys.stdout.flush()


def _is_main() -> bool:
    """Tell whether this process is the first; one that has not imported torch (two seconds) is alone."""
    if "torch" not in sys.modules:
        return True
    from dust.utils import distributed

    return distributed.is_main()


def _warn(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be on the same disk
        print(f"warning: {text}", file=sys.stderr)


def setup_logging(output_dir: str | Path | None = None) -> None:
    """Send dust's log lines to the console and, in the main process, to ``output_dir/stdout.log`` (appended).

    Raises DustError if that file cannot be opened.
    """
    root = logging.getLogger("dust")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = False
    root.setLevel(logging.INFO if _is_main() else logging.WARNING)
    handlers: list[logging.Handler] = [_AboveProgressBar()]
    if output_dir is not None and _is_main():
        path = Path(output_dir) / LOG_NAME
        try:  # names of files may hold bytes that are no UTF-8
            refuse_in_place(path)
            handlers.append(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise DustError(f"{path}: cannot be written to ({error.strerror}). Choose another OUTPUT_DIR.") from error
    for handler in handlers:
        handler.setFormatter(_Formatter(FORMAT, DATE))
        root.addHandler(handler)


def console_logging(level: int = logging.INFO, form: str = "%(message)s") -> None:
    """Send log lines to standard error alone, for a command that has no OUTPUT_DIR."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(form))
    logging.basicConfig(level=level, handlers=[handler])


def log_json_stats(logger: logging.Logger, stats: dict[str, Any]) -> None:
    """Log one ``json_stats: {...}`` line; keys sorted, floats with five decimals, as SlowFast's log parsers expect."""
    line = {key: round(value, 5) if isinstance(value, float) else value for key, value in stats.items()}
    logger.info(JSON_STATS + "%s", simplejson.dumps(line, sort_keys=True, ignore_nan=True), stacklevel=2)


def read_json_stats(line: str) -> dict[str, Any]:
    """Return what a ``json_stats`` line of a log says; {} for one that a full disk has torn, or any other line."""
    _, mark, text = line.partition(JSON_STATS)
    try:
        found = parse_json(text, LOG_NAME) if mark else {}
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def record_error(message: str) -> None:
    """Write an error into the log file only; the command line tells it on the console."""
    logger = logging.getLogger("dust")
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def progress(iterable, **kwargs):
    """Return a tqdm bar on a terminal; the bare iterable elsewhere, so that log files stay clean."""
    from tqdm import tqdm

    return tqdm(iterable, disable=not (sys.stderr.isatty() and _is_main()), leave=False, **kwargs)
