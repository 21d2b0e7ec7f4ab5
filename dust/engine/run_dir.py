"""OUTPUT_DIR: who writes there, whose checkpoints it holds, and results that are never overwritten by another's."""

import contextlib
import csv
import fcntl
import io
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from dust.config import KEYS, flatten
from dust.datasets.sample import BadClip
from dust.launch.requeue import note_begin
from dust.utils import distributed
from dust.utils.errors import DataError, DustError
from dust.utils.files import csv_text, read_bytes, refuse_in_place, write_text
from dust.utils.lock import holding
from dust.utils.structured import parse_yaml, read_json
from dust.utils.text import counted, csv_value, printable

logger = logging.getLogger(__name__)

#: The folder in OUTPUT_DIR in which processes keep the records of an evaluation while it lasts.
RECORDS = "records.partial"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RunDir:
    """The folder of one run: ``checkpoints/``, ``results/``, ``bad_clips.csv``, ``config.yaml``, ``stdout.log``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.results = self.path / "results"
        self.features = self.path / "features"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DustError(
                f"OUTPUT_DIR {self.path}: cannot be made ({error.strerror}). Choose a folder that you may write to."
            ) from error

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder for this process, see :func:`dust.utils.lock.holding`."""
        return holding(self.path, f"OUTPUT_DIR {self.path}", "choose another OUTPUT_DIR")

    def begin(self, config: str, *, from_start: bool = False) -> None:
        """Write ``config.yaml``, once all checks of a stage have passed: a run that is refused changes nothing here.

        Args:
            from_start: keep an earlier run's checkpoints under another name.

        Raises:
            DataError: the disk is full or read-only; an older file is left as it was.
        """
        for left in self.path.glob(".*.tmp"):  # by a process that was killed; this one holds the lock
            left.unlink(missing_ok=True)
        shutil.rmtree(self.path / RECORDS, ignore_errors=True)
        if (self.path / RECORDS).is_symlink():
            (self.path / RECORDS).unlink()
        write_text(self.path / "config.yaml", config)
        logger.info("configuration: %s", self.path / "config.yaml")
        if from_start:
            self.set_checkpoints_aside()
            note_begin(self.path)

    def set_checkpoints_aside(self) -> None:
        """Keep an earlier run's checkpoints under another name when a new run begins from scratch here."""
        if any(self.checkpoints.iterdir()):
            aside = _free_name(self.path / "checkpoints.old")
            self.checkpoints.rename(aside)
            self.checkpoints.mkdir()
            logger.warning("TRAIN.AUTO_RESUME is False: the checkpoints of an earlier run are kept in %s", aside)

    def publish_results(
        self, temporary: Path, checkpoint_sha256: str, name: str = "results", *, split: str = "test"
    ) -> None:
        """Make ``temporary`` the results folder. Results of another checkpoint, or on another split, are renamed
        under its hash."""
        results, replaced = self.path / name, self.path / f"{name}.replaced"
        _sync_files(temporary)
        shutil.rmtree(replaced, ignore_errors=True)  # which a killed run left
        if results.exists():
            try:
                report = read_json(results / "test.json")
                other, measured = report["checkpoint_sha256"], report.get("split", "test")
            except (DataError, KeyError, TypeError, AttributeError):
                other, measured = "unknown", split
            if not _SHA256.fullmatch(str(other)):  # it becomes a part of a folder's name
                other = "unknown"
            if (other, measured) == (checkpoint_sha256, split):
                results.rename(replaced)
            else:
                aside = _free_name(self.path / f"{name}.{other[:8]}")
                results.rename(aside)
                what = "another checkpoint" if other != checkpoint_sha256 else f"the {measured} split"
                logger.info("results of %s are kept in %s", what, aside)
        temporary.rename(results)
        shutil.rmtree(replaced, ignore_errors=True)


def _sync_files(folder: Path) -> None:
    """Let what is in ``folder`` outlive a power cut, before it gets a name that says that it is whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _free_name(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}.{number}")
        number += 1
    return candidate


def differing_keys(saved_cfg: str, cfg_text: str) -> list[str]:
    """Return lines ``KEY: saved value -> present value`` of two configurations, without keys that may change on resume.

    DataError if what was saved is no plain YAML.
    """
    saved, present = (flatten(_mapping(text, "the saved configuration")) for text in (saved_cfg, cfg_text))
    lines = []
    for key in sorted(saved.keys() | present.keys()):
        free = key in KEYS and KEYS[key].may_change_on_resume
        # a key that only one of the two knows is a key that another version of dust added or dropped
        if not free and key in saved and key in present and saved[key] != present[key]:
            lines.append(f"{key}: {saved[key]} -> {present[key]}")
    return lines


def _mapping(text: str, source: str | Path) -> dict[str, Any]:
    parsed = parse_yaml(text, source)
    return parsed if isinstance(parsed, dict) else {}


#: Of ``bad_clips.csv``.
_COLUMNS = ("split", "id", "path", "reason")


class BadClipLog:
    """Collects bad clips into ``bad_clips.csv`` (each once) and enforces the policy.

    A clip is bad if it cannot be read, or if the model's output for it is not finite. Under TRAIN.ON_BAD_CLIP ``raise``
    the first one ends the run; under TEST.ON_BAD_CLIP ``raise`` :meth:`finish` does, once all others are evaluated and
    written.

    Args:
        policy: ``skip`` | ``raise``.
        key: the configuration key that holds the policy; by default that of the split.
        limit: share of an epoch's clips above which training stops; None for no limit.
        total: clips of an epoch, which ``limit`` is a share of.
    """

    def __init__(
        self, path: Path, split: str, policy: str, *, key: str = "", limit: float | None = None, total: int = 0
    ) -> None:
        self.path = path
        self.split = split
        self.policy = policy
        self.key = key or ("TEST.ON_BAD_CLIP" if split == "test" else "TRAIN.ON_BAD_CLIP")
        self.limit, self.total = limit, total
        self.count = 0
        self.first: BadClip | None = None
        self._known = {(row[0], csv_value(row[1])) for row in _rows(path) if len(row) == len(_COLUMNS)}

    def start_epoch(self, count: int = 0) -> None:
        self.count = count

    def __call__(self, bad: BadClip) -> None:
        """Note one bad clip. Raises DataError by TRAIN.ON_BAD_CLIP ``raise`` or when there are too many."""
        self.count += 1
        self.first = self.first or bad
        known = (self.split, printable(bad.id))
        if known not in self._known:
            self._known.add(known)
            logger.warning("bad clip in %s: %s (%s)", self.split, bad.path, bad.reason)
            try:
                self._write(bad)
            except OSError as error:
                logger.error("%s cannot be written (%s): this clip is missing there", self.path, error.strerror)
        if self.policy == "raise" and self.key != "TEST.ON_BAD_CLIP":
            raise DataError(
                f"{bad.path}: {bad.reason} ({self.split} split). Mend or remove the clip, or set {self.key} skip to "
                f"leave such clips out; they are listed in {self.path}."
            )
        self.check(self.count)

    def gather(self) -> int:
        """Take in what all processes have noted; all call it together. Returns the number of bad clips."""
        noted = distributed.all_gather_objects((self.count, self.first))
        self.count = sum(count for count, _ in noted)
        self.first = next((bad for _, bad in noted if bad is not None), None)
        return self.count

    def refuse_empty(self, total: int) -> None:
        """Raise DataError: of ``total`` clips none is left."""
        why = f", the first because of: {self.first.reason}" if self.first else ""
        raise DataError(f"none of the {total} clips of the {self.split} split could be used{why}. See {self.path}")

    def finish(self, written: object) -> None:
        """Raise DataError by policy ``raise`` if any clip was bad. All others stand in ``written``."""
        if self.policy == "raise" and self.count:
            assert self.first is not None
            raise DataError(
                f"{counted(self.count, 'clip')} of the {self.split} split could not be used, the first is "
                f"{self.first.path}: {self.first.reason}. All "
                f"others are in {written}. Mend or remove the clips that {self.path} lists, "
                f"or set {self.key} skip to leave them out."
            )

    def check(self, count: int) -> None:
        """Raise DataError if ``count``, of this process or of all, is more than an epoch may have."""
        if self.limit is not None and count > self.limit * self.total:
            share = f" ({count / self.total:.3g})" if self.total else ""
            raise DataError(
                f"{count} of the {self.total} clips of this epoch{share} could not be read, more than "
                f"DATA.MAX_BAD_FRACTION {self.limit:g} allows. They are listed in {self.path}; mend them, or raise the "
                "fraction."
            )

    def _write(self, bad: BadClip) -> None:
        """Add a line in one write: several processes add to the same file, and any of them may be killed."""
        text = ""
        refuse_in_place(self.path)
        with open(self.path, "a+b", buffering=0) as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if not size:
                text = csv_text([_COLUMNS], line_end="\r\n")
            elif os.pread(file.fileno(), 1, size - 1) != b"\n":  # a line that was cut off, maybe within quotes
                text = '"\r\n' if self.path.read_bytes().count(b'"') % 2 else "\r\n"
            text += csv_text([[self.split, bad.id, bad.path, bad.reason]], line_end="\r\n")
            file.write(text.encode("utf-8", "backslashreplace"))


def _rows(path: Path) -> list[list[str]]:
    """Return the lines of a ``bad_clips.csv``, without its head. One that was cut off is among them as it is."""
    try:
        text = read_bytes(path).decode("utf-8", "replace").replace("\0", "")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return list(csv.reader(io.StringIO(text, newline="")))[1:]
