"""Logging: a console, OUTPUT_DIR/stdout.log and SlowFast's ``json_stats`` lines."""

import logging
import sys
from pathlib import Path
from typing import Any

import simplejson

from dust.utils import distributed

FORMAT = "[%(asctime)s][%(levelname)s] %(filename)s: %(lineno)3d: %(message)s"
DATE = "%m/%d %H:%M:%S"
LOG_NAME = "stdout.log"


class _AboveProgressBar(logging.Handler):
    """Writes a line to the console of the moment, above a tqdm bar where there is one instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _LogFile(logging.FileHandler):
    """A full disk costs log lines, not a stack trace per line."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            print(f"warning: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


def setup_logging(output_dir: str | Path | None = None) -> None:
    """Send dust's log lines to the console and, in the main process, to ``output_dir/stdout.log`` (appended)."""
    root = logging.getLogger("dust")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = False
    root.setLevel(logging.INFO if distributed.is_main() else logging.WARNING)
    handlers: list[logging.Handler] = [_AboveProgressBar()]
    if output_dir is not None and distributed.is_main():
        handlers.append(_LogFile(Path(output_dir) / LOG_NAME, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT, DATE))
        root.addHandler(handler)


def log_json_stats(logger: logging.Logger, stats: dict[str, Any]) -> None:
    """One ``json_stats: {...}`` line; keys sorted, floats with five decimals, as SlowFast's log parsers expect."""
    line = {key: round(value, 5) if isinstance(value, float) else value for key, value in stats.items()}
    logger.info("json_stats: %s", simplejson.dumps(line, sort_keys=True, ignore_nan=True), stacklevel=2)


def record_error(message: str) -> None:
    """Write an error into the log file only; the command line tells it on the console."""
    logger = logging.getLogger("dust")
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def progress(iterable, **kwargs):
    """A tqdm bar on a terminal; the bare iterable elsewhere, so that log files stay clean."""
    from tqdm import tqdm

    return tqdm(iterable, disable=not (sys.stderr.isatty() and distributed.is_main()), leave=False, **kwargs)
