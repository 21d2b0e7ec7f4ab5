"""Pack the clips of a data folder into tar files, shards, that other programs read too (WebDataset's layout).

A clip becomes neighbouring members of one name: ``000000012.mp4``, the file itself, byte for byte; ``.idx``, its note
(SHA-256 and index of frames, see :mod:`dust.decode.members`); ``.json``, what the lists say of it; and ``.cls``, the
number of its class where it has one. Beside the tars stand lists as of loose clips, whose paths name parts of tars.

Shards are filled in the order of the lists, training first, and appear by a rename when they are whole, each with a
table of what it holds. A run that was stopped begins with the first shard that has no table, and gives the same bytes;
a later one adds the clips that no table names.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dust.convert.lists import ListOptions, Lists, read_lists
from dust.convert.prepare import Encoding, agree_on_settings, encoded_suffix, is_ready, prepare_clip
from dust.convert.shard_lists import Rows, key_of
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.manifest.shards import SETTINGS, VERSION, is_there
from dust.datasets.manifest.table import read_table
from dust.decode.cache import get_index, pack_index
from dust.decode.members import BLOCK, NOTE_SUFFIX, Member, bytes_facts, make_note, member_of, open_bytes
from dust.utils.errors import DataError, Problems, VideoError
from dust.utils.files import replacing, write_csv
from dust.utils.lock import holding
from dust.utils.text import printable

SHARD_BYTES = 1_000_000_000
TABLE = ("source", "size", "path", "sha256")  # of a shard's table: the file and its size, and where it lies now
ENCODING = ".encoding"  # clips that are encoded and not packed yet
_TABLES = re.compile(rf"({'|'.join(SPLITS)})-(\d{{6}})\.csv")
_LEFT = re.compile(rf"\.({'|'.join(SPLITS)})-\d{{6}}\.(tar|csv)\.\d+\.\d+\.tmp")  # by a process that was killed
_AHEAD = 4  # clips for each worker that are looked at ahead


@dataclass
class Packed:
    """What a run did: clips packed now, those that were there before; shards written; what is packed as it is and
    cannot be read, or was not encoded, with the reason."""

    written: int = 0
    ready: int = 0
    shards: int = 0
    bytes: int = 0
    odd: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A file on its way: its path, its size, the split of its shard, and its key in the tars."""

    source: str
    size: int
    split: str
    number: int


@dataclass(frozen=True)
class _Made:
    """What is packed of a file: where its bytes are now, how many, its suffix, its index of frames (b"" for none), and
    what is odd about it."""

    path: str
    size: int
    suffix: str
    index: bytes
    odd: str


def pack(
    source: str | os.PathLike,
    out: str | os.PathLike,
    options: ListOptions | None = None,
    *,
    encoding: Encoding | None = None,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: Callable[..., Iterable[Any]] = lambda work, total: work,
) -> Packed:
    """Pack every clip of all splits into shards below ``out``, and write their lists there.

    Args:
        source: a data folder or a csv; it is only read.
        options: how its lists are read.
        encoding: encode the clips first, see :mod:`dust.convert.prepare`; None packs the files unchanged.
        shard_bytes: a shard ends before it would be larger, unless one clip is.
        workers: processes that look at clips, or encode them.
        progress: wraps the iterator over clips.

    Raises:
        DataError: lists that cannot be used, clips that are missing or no files, an ``out`` that is something else's or
            was packed in another way, one id for two clips, a disk that cannot be written.
        DustError: another process packs into ``out``.
    """
    options = options or ListOptions()
    if encoding is not None:
        encoding.check()
    if shard_bytes < 1:
        raise DataError(f"shards of {shard_bytes} bytes: give at least 1")
    lists = read_lists(os.fspath(source), options)
    owners = _owners(lists)
    if encoding is not None and any(map(member_of, owners)):
        raise DataError(f"{source}: parts of tars are packed as they are; encode from the files themselves")
    target = Path(os.path.abspath(out))
    settings = {
        "version": VERSION,
        "encoding": encoding and asdict(encoding),
        "shard_bytes": shard_bytes,
        "segment_unit": options.segment_unit,
        "multi_label": options.multi_label,
    }
    agree_on_settings(target, SETTINGS, settings, "packed")
    with holding(target, str(target), "choose another folder"):
        agree_on_settings(target, SETTINGS, settings, "packed")  # whoever had it until now may have begun it
        for path in target.iterdir():
            if _LEFT.fullmatch(path.name):
                path.unlink(missing_ok=True)
        places, shards = _read_tables(target)
        jobs = _plan(owners, places, str(source))
        rows = Rows(target, lists, options)
        rows.refuse_doubles(places)
        done = Packed(ready=len(owners) - len(jobs))
        try:
            with contextlib.ExitStack() as stack:
                made = stack.enter_context(contextlib.closing(_make(jobs, target / ENCODING, encoding, workers)))
                writer = stack.enter_context(_Writer(target, shard_bytes, shards, rows.notes(), places, done))
                for job, one in progress(made, total=len(jobs)):
                    writer.add(job, one)
                writer.finish()
        except OSError as error:  # also of what a full disk has left to be written when a tar is closed
            where = error.filename or target
            text = f"{where}: cannot be written: {error.strerror or error}; free space and start again"
            raise DataError(text) from error
        except BrokenExecutor as error:
            raise DataError("a worker process died (out of memory?): start again with fewer workers") from error
        shutil.rmtree(target / ENCODING, ignore_errors=True)
        rows.write(places)
        return done


# ------------------------------------------------------------------------------------------------------- what there is


def _owners(lists: Lists) -> dict[str, str]:
    """Return {file: the split of its shard}, in the order of the lists, training first.

    Raises:
        DataError: lists of another kind, files that are missing, folders of pictures.
    """
    if lists.kind != "clips" or any(manifest.frames for manifest in lists.source.values()):
        raise DataError(
            "only lists of clips with labels can be packed: a csv, folders of classes, SSv2, UCF101, HMDB51"
        )
    owners: dict[str, str] = {}
    for split in SPLITS:
        for clip in lists.clips.get(split, []):
            owners.setdefault(clip.path, split)
    problems = Problems()
    for path in owners:
        if os.path.isdir(path):
            problems.add("a folder of pictures: make a video of it first (ffmpeg), or train on it as it is", path)
        elif not is_there(path):
            problems.add("a file that is missing (relative paths: --path-prefix)", path)
    problems.raise_if_any(", ".join(manifest.source for manifest in lists.source.values()))
    return owners


def _read_tables(target: Path) -> tuple[dict[str, tuple[int, str]], Counter[str]]:
    """Return ({file: (its size, the member that holds it)}, shards of each split), of the shards that are whole."""
    places: dict[str, tuple[int, str]] = {}
    shards: Counter[str] = Counter()
    for path in sorted(target.glob("*-*.csv")):
        match = _TABLES.fullmatch(path.name)
        if match is None:
            continue
        if int(match[2]) != shards[match[1]]:
            raise DataError(
                f"{path}: the shard before it is not there: bring all of them back, or pack into a new folder"
            )
        shards[match[1]] += 1
        problems = Problems()
        table = read_table(path, problems)
        problems.raise_if_any(str(path))
        if tuple(table.header) != TABLE:
            raise DataError(f"{path}: is no table of a shard (columns {', '.join(TABLE)})")
        end = 0
        for _, _, cells in table.rows:
            member = member_of(cells["path"])
            if member is None or os.path.basename(member.shard) != member.shard or not cells["size"].isdecimal():
                raise DataError(f"{path}: names no part of a shard: {cells['path']}")
            places[cells["source"]] = int(cells["size"]), cells["path"]
            end = max(end, member.end)
        tar = path.with_suffix(".tar")
        if not tar.is_file() or end > tar.stat().st_size:
            raise DataError(f"{path}: its tar is not there, or was cut: bring it back, or pack into a new folder")
    return places, shards


def _plan(owners: Mapping[str, str], places: Mapping[str, tuple[int, str]], source: str) -> list[_Job]:
    """Return the files that are to be packed. DataError for one that is another than when it was packed."""
    jobs: list[_Job] = []
    problems = Problems()
    for path, split in owners.items():
        size, before = bytes_facts(path)[0], places.get(key_of(path))
        if before is None:
            jobs.append(_Job(path, size, split, len(places) + len(jobs)))
        elif before[0] != size:
            text = "a file that has changed since it was packed: give it another name, or pack into a new folder"
            problems.add(text, f"{path}: {before[0]} bytes then, {size} now")
    problems.raise_if_any(source)
    return jobs


# ------------------------------------------------------------------------------------------------------- what is packed


def _make(
    jobs: Sequence[_Job], folder: Path, encoding: Encoding | None, workers: int
) -> Generator[tuple[_Job, _Made], None, None]:
    """Yield each job with what is packed of it, in order; a few are made ahead."""
    if workers <= 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _made(job, folder, encoding)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))
    try:
        coming = deque((job, pool.submit(_made, job, folder, encoding)) for job in jobs[: _AHEAD * workers])
        for number in range(len(jobs)):
            job, future = coming.popleft()
            yield job, future.result()
            if number + _AHEAD * workers < len(jobs):
                later = jobs[number + _AHEAD * workers]
                coming.append((later, pool.submit(_made, later, folder, encoding)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _made(job: _Job, folder: Path, encoding: Encoding | None) -> _Made:
    member = member_of(job.source)
    path, size, odd = job.source, job.size, ""
    suffix = member.suffix if member is not None else os.path.splitext(job.source)[1].lower()
    if encoding is not None:
        suffix = encoded_suffix(suffix)
        name = hashlib.blake2b(job.source.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        coded = folder / f"{name}{suffix}"
        if not is_ready(Path(path), coded):
            odd = prepare_clip(Path(path), coded, encoding)
        path, size = str(coded), coded.stat().st_size
    try:
        index = get_index(path)
    except VideoError as error:
        return _Made(path, size, suffix, b"", error.reason)
    odd = odd or (index.report.reason if index.report.damaged else "")
    return _Made(path, size, suffix, pack_index(index, size), odd)


class _Writer:
    """Fills shards, one after the other, and keeps in ``places`` where each file went once its shard is whole."""

    def __init__(
        self,
        target: Path,
        shard_bytes: int,
        shards: Counter[str],
        notes: Mapping[str, Any],
        places: dict[str, tuple[int, str]],
        done: Packed,
    ) -> None:
        self.target, self.shard_bytes, self.shards, self.notes = target, shard_bytes, shards, notes
        self.places, self.done = places, done
        self.split, self.files = "", contextlib.ExitStack()
        self.tar: tarfile.TarFile | None = None
        self.rows: list[tuple[str, str, str, str]] = []
        self.used: list[str] = []

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: Any) -> None:
        self.files.__exit__(*error)

    @property
    def name(self) -> str:
        return f"{self.split}-{self.shards[self.split]:06d}"

    def add(self, job: _Job, made: _Made) -> None:
        """Put a file into the shard of its split, or into a new one where it would become too large."""
        if self.tar is not None and (job.split != self.split or self.tar.offset + made.size > self.shard_bytes):
            self.finish()
        if self.tar is None:
            self.split = job.split
            temporary = self.files.enter_context(replacing(self.target / f"{self.name}.tar"))
            tar = tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - closed by finish
            self.tar = self.files.enter_context(tar)
        key = f"{job.number:09d}"
        start = self.tar.offset + BLOCK
        sha256 = self._add_file(f"{key}{made.suffix}", made, job.source)
        self._add(f"{key}.{NOTE_SUFFIX}", make_note(sha256, made.index))
        rows = self.notes[job.source]
        said = {"file": printable(os.path.basename(job.source)), "clips": rows}
        self._add(f"{key}.json", json.dumps(said, sort_keys=True).encode())
        classes = {one for row in rows for one in row["classes"]}
        if len(classes) == 1 and all(len(row["classes"]) == 1 for row in rows):
            self._add(f"{key}.cls", str(*classes).encode())
        member = Member(f"{self.name}.tar", start, start + made.size, made.suffix)
        self.rows.append((key_of(job.source), str(job.size), member.path, sha256))
        if made.path != job.source:
            self.used.append(made.path)
        self.done.written += 1
        self.done.bytes += made.size
        if made.odd:
            self.done.odd[job.source] = made.odd

    def finish(self) -> None:
        """Give the shard that is being filled its name, and write its table."""
        if self.tar is None:
            return
        self.files.close()
        write_csv(self.target / f"{self.name}.csv", TABLE, self.rows)
        self.places |= {source: (int(size), path) for source, size, path, _ in self.rows}
        for path in self.used:
            os.unlink(path)
        self.shards[self.split] += 1
        self.done.shards += 1
        self.tar, self.rows, self.used = None, [], []

    def _add(self, name: str, data: bytes) -> None:
        assert self.tar is not None
        self.tar.addfile(_header(name, len(data)), io.BytesIO(data))

    def _add_file(self, name: str, made: _Made, source: str) -> str:
        """Copy a file into the tar; the SHA-256 of what went there. DataError if it changes meanwhile."""
        assert self.tar is not None
        with open_bytes(made.path) as file:
            reading = _Hashing(file)
            try:
                self.tar.addfile(_header(name, made.size), reading)  # type: ignore[arg-type]
            except OSError as error:
                if error.errno is None:  # tarfile's own: the file is shorter than it was
                    raise DataError(f"{source}: has changed while it was packed: start again") from error
                raise
        return reading.digest.hexdigest()


class _Hashing:
    """Reads a file, and hashes what was read."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data


def _header(name: str, size: int) -> tarfile.TarInfo:
    """Return a member's header, the same whoever packs it and when."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info
