"""What the zoo remembers under ``$DUST_HOME``: the hashes that it trusted on first use, and what it verified already.

``zoo_hashes.json`` maps a name to ``{"sha256", "size", "source", "recorded"}``. It is only ever added to: a file that
differs from its record is an error, never a new record. A hash in the project's own list comes before it.
"""

import contextlib
import datetime
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dust.utils.errors import DataError, DustError
from dust.utils.files import write_atomically
from dust.utils.structured import read_json
from dust.zoo.entries import Entry

logger = logging.getLogger(__name__)


def home() -> Path:
    """Return ``$DUST_HOME``, or ~/.cache/dust."""
    return Path(os.environ.get("DUST_HOME") or "~/.cache/dust").expanduser()


def cannot_write(path: Path, error: OSError) -> DustError:
    """Return the error for a folder that is full, read-only or not ours."""
    return DustError(
        f"cannot write {path}: {error.strerror or error}. Free some space, or set DUST_HOME to another folder."
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock`` against other processes and threads; it frees itself when its holder dies.

    The lock file stays behind: removing it would let two processes hold two different files of that name.
    """
    import fcntl  # POSIX only; imported here so that `import dust.zoo` works everywhere.

    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = open(lock, "a")  # noqa: SIM115 - closed below, after a message that needs it open
    except OSError as error:
        raise cannot_write(lock, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is working on %s; waiting for it", path.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise DustError(
                f"cannot lock {lock}: {error.strerror or error}. Set DUST_HOME to a folder on a disk that knows locks."
            ) from error
        yield


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that a reader sees the old file or the new one, and nothing between."""
    try:
        write_atomically(path, json.dumps(value, indent=1, sort_keys=True))
    except OSError as error:
        raise cannot_write(path, error) from error


def _records_path() -> Path:
    return home() / "zoo_hashes.json"


def _records() -> dict[str, dict[str, Any]]:
    path = _records_path()
    try:
        if not path.exists():
            return {}
        records = read_json(path)
    except (OSError, DataError) as error:
        raise DustError(
            f"cannot read {path}, which holds the hashes of weights trusted before: {error}. "
            "Repair it, or move it away to trust the next downloads again."
        ) from error
    well_formed = isinstance(records, dict) and all(
        isinstance(record, dict) and isinstance(record.get("sha256"), str) for record in records.values()
    )
    if not well_formed:
        raise DustError(
            f"{path} is not a table of name -> {{sha256, ...}}. Move it away to trust the next downloads again."
        )
    return records


def mismatch(entry: Entry, sha256: str) -> str:
    """Return why a file with this hash is not ``entry``'s file, or "" if nothing that we know speaks against it."""
    if entry.sha256:
        if sha256 == entry.sha256:
            return ""
        return f"its sha256 is {sha256}, but the zoo's list says {entry.sha256}"
    if entry.sha256_prefix and not sha256.startswith(entry.sha256_prefix):
        return f"its sha256 is {sha256}, but its publisher's begins with {entry.sha256_prefix}"
    record = _records().get(entry.name)
    if record is not None and record["sha256"] != sha256:
        return (
            f"its sha256 is {sha256}, but {record['sha256']} was recorded on first use "
            f"({record.get('recorded', 'date unknown')}, from {record.get('source', 'an unknown source')}). "
            f"If you trust the new file all the same, take {entry.name!r} out of {_records_path()}"
        )
    return ""


def record_first_use(entry: Entry, sha256: str, size: int, source: str) -> None:
    """Remember the hash of a file for which no full one is published. Never changes a record."""
    if entry.sha256 or _records().get(entry.name, {}).get("sha256") == sha256:
        return
    path = _records_path()
    with locked(path):
        records = _records()
        if entry.name in records:
            if records[entry.name]["sha256"] != sha256:  # Somebody else recorded it since mismatch() looked.
                raise DustError(f"cannot trust this copy of {entry.name!r}: {mismatch(entry, sha256)}.")
            return
        records[entry.name] = {
            "sha256": sha256,
            "size": size,
            "source": source,
            "recorded": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        write_json(path, records)
    logger.info("no full hash of %s is published; recorded sha256 %s in %s", entry.name, sha256, path)


def _memo_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified.json")


def remembered_sha256(path: Path) -> str:
    """Return the hash found when ``path`` was last verified, if size and mtime are still the same; else ""."""
    try:
        memo = read_json(_memo_path(path))
        stat = path.stat()
        if (memo["size"], memo["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
            return str(memo["sha256"])
    except (OSError, DataError, KeyError, TypeError):
        pass  # A missing or damaged memo only costs one more hash.
    return ""


def remember_verified(path: Path, sha256: str) -> None:
    if remembered_sha256(path) == sha256:
        return  # Nothing to write, so that a read-only cache can be verified too.
    stat = path.stat()
    write_json(_memo_path(path), {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256})
