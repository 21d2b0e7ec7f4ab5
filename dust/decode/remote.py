"""Parts of files with an address (https://, s3://): fetched by range, checked, and kept in a folder of limited size.

fsspec asks the servers (extra ``remote``). What fails for the moment is tried again, at growing pauses; what does not
end is an error of the run, not of a clip: a clip counts as damaged only where its bytes came and are wrong.

The folder and its limit are DATA.SHARD_CACHE and DATA.SHARD_CACHE_GB, see :func:`keep_in`.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dust.utils.errors import ConfigError, DataError, VideoError
from dust.utils.files import file_problem, replacing, write_atomically, write_text
from dust.utils.package import import_extra

logger = logging.getLogger(__name__)

T = TypeVar("T")
SCHEMES = ("http", "https", "s3")
OLDEST = [2025, 7]  # of fsspec
TRIES = 6  # of one request
PAUSE_S = 0.5  # before the second try; doubles
TIMEOUT_S = 60  # without a byte
TAIL = 1 << 13  # bytes that are fetched behind a clip at once, for its note
WRONG_BYTES = "its bytes are not those that were packed (SHA-256)"
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://[^/]", re.IGNORECASE)
_CREDENTIALS = (
    "Give credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or for a bucket that everybody "
    "may read FSSPEC_S3_ANON=true"
)
_FOR_EVER = (400, 401, 403, 404, 405, 410, 416, 501)  # answers of a server that do not change by waiting


class RemoteError(DataError):
    """An address that cannot be read from. No clip is at fault: started again, the run continues."""


def is_remote(path: str | os.PathLike) -> bool:
    """Tell whether this is an address, and not the path of a file."""
    return _ADDRESS.match(os.fspath(path)) is not None


def _is_s3(address: str) -> bool:
    return address[:5].lower() == "s3://"


def under(folder: str, name: str) -> str:
    """Return the path of a file below a folder or an address; ``name`` itself where it is a whole path or an
    address."""
    return name if is_remote(name) else os.path.join(folder, name)


# ---------------------------------------------------------------------------------------------------------- requests


def _system(address: str) -> Any:
    """Return fsspec's file system for an address."""
    fsspec = import_extra("fsspec", "remote", address)
    if [int(part) for part in fsspec.__version__.split(".")[:2]] < OLDEST:  # they hang in a forked loader worker
        raise ConfigError(f"{address}: fsspec {fsspec.__version__} is too old: pip install -U 'dust-video[remote]'")
    scheme = address.partition("://")[0].lower()
    options: dict[str, Any] = {}
    if scheme != "s3":
        http = import_extra("aiohttp", "remote", address)
        options = {"client_kwargs": {"timeout": http.ClientTimeout(total=None, connect=TIMEOUT_S, sock_read=TIMEOUT_S)}}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise ConfigError(f"{address}: {error}: pip install 'dust-video[remote]'") from error


def _insist(address: str, ask: Callable[[Any], T]) -> T:
    """Return ``ask(file system)``, tried again as long as that may help.

    Raises:
        RemoteError: the file is not there, may not be read, or every try has failed.
    """
    system = _system(address)
    lasting: tuple[type[Exception], ...] = ()
    if _is_s3(address):
        boto = import_extra("botocore.exceptions", "remote", address)
        own = boto.BotoCoreError
        lasting = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)
    else:
        own = import_extra("aiohttp", "remote", address).ClientError
    passing: tuple[type[Exception], ...] = (OSError, TimeoutError, own)
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_S * 2 ** (number - 1))
        try:
            return ask(system)
        except PermissionError as error:
            raise RemoteError(f"{address}: may not be read: {_words(error)}") from error
        except lasting as error:
            raise RemoteError(f"{address}: {_words(error)}. {_CREDENTIALS}") from error
        except passing as error:
            # fsspec says of every answer to a question for facts that the file is not there, and why behind it
            why = error.__cause__ if isinstance(error.__cause__, passing) else error
            status = getattr(why, "status", None)
            if isinstance(why, FileNotFoundError) or status in (404, 410):
                raise RemoteError(f"{address}: is not there") from FileNotFoundError(address)
            if status in _FOR_EVER:
                raise RemoteError(f"{address}: the server refuses it: {_words(why)}") from why
            last = _words(why)
            logger.debug("%s: try %d of %d: %s", address, number + 1, TRIES, last)
    raise RemoteError(f"{address}: cannot be fetched, {TRIES} tries failed; the last: {last}")


def _words(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())


@functools.lru_cache(maxsize=4096)
def size_of(address: str) -> int:
    """Return the bytes of a file, asked once in a process. Raises RemoteError."""
    facts = _insist(address, lambda system: system.info(address))
    size = facts.get("size")
    if size is None or not facts.get("partial", True):
        raise _no_parts(address)
    return int(size)


def _no_parts(address: str) -> RemoteError:
    return RemoteError(
        f"{address}: its server gives whole files only (no range requests, or no sizes): copy the shards to a disk, or "
        "to a server that knows ranges (nginx, an object store)"
    )


def read_range(address: str, start: int, end: int) -> bytes:
    """Return bytes ``start`` to ``end`` of a file. Raises RemoteError."""
    total = size_of(address)
    if end > total:
        raise RemoteError(
            f"{address}: has {total} bytes, and {end} are needed: the shard is cut, or the list not its own"
        )

    def ask(system: Any) -> bytes:
        try:
            if _is_s3(address):  # to open a file there is a request more
                data = system.cat_file(address, start=start, end=end)
            else:
                with system.open(address, "rb", cache_type="none", size=total) as file:
                    file.seek(start)
                    data = file.read(end - start)
        except ValueError as error:  # fsspec's answer to a server that sends the whole file
            raise _no_parts(address) from error
        if len(data) != end - start:
            raise OSError(5, f"{len(data)} bytes came of {end - start}")
        return data

    return _insist(address, ask)


# ------------------------------------------------------------------------------------------------------------- cache


CACHE_GB = 20.0  # what is kept where nobody says how much
_FOLDER, _LIMIT = "_DUST_SHARD_CACHE", "_DUST_SHARD_CACHE_GB"  # in the environment, which every process inherits


def keep_in(folder: str, gigabytes: float) -> None:
    """Say for this process, and those that it starts from now on, where fetched parts are kept, and how much of them.

    Args:
        folder: "" for shards/ below $DUST_HOME (~/.cache/dust).
        gigabytes: of clips, above 0.
    """
    os.environ.update({_FOLDER: folder, _LIMIT: str(gigabytes)})


def cache_folder() -> Path:
    """Return where fetched parts are kept."""
    home = os.environ.get("DUST_HOME") or "~/.cache/dust"
    return Path(os.environ.get(_FOLDER) or os.path.join(home, "shards")).expanduser()


def cache_bytes() -> int:
    """Return how many bytes of them may be kept."""
    return int(float(os.environ.get(_LIMIT, CACHE_GB)) * 1e9)


def bring(
    address: str,
    start: int,
    end: int,
    extent: Callable[[bytes, int], int],
    is_whole: Callable[[bytes, int], bool],
) -> str:
    """Return the file in the cache that begins with bytes ``start`` to ``end`` of a file with an address; fetched if
    need be.

    Args:
        extent: (these bytes and what follows them, end - start) -> how many of them all belong together and are kept.
        is_whole: (what is kept, end - start) -> whether it is right.

    Raises:
        RemoteError: they cannot be had, or not be kept. VideoError: they came and are wrong, each time.
    """
    name = hashlib.blake2b(f"{address}\n{start}\n{end}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    path, size = cache_folder() / "clips" / name[:2] / name[2:], end - start
    try:
        os.utime(path)  # the oldest go first
        if os.path.getsize(path) >= size:  # what a power cut has shortened comes again
            return os.fspath(path)
    except OSError:
        pass
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_S * 2 ** (number - 1))
        total = size_of(address)
        data = read_range(address, start, max(end, min(end + TAIL, total)))
        kept = extent(data, size)
        if kept > len(data) and start + kept <= total:
            data += read_range(address, start + len(data), start + kept)
        data = data[:kept]
        if is_whole(data, size):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data, durable=False)
                _make_room(path, len(data))
            except OSError as error:
                raise _cannot_keep(error, path) from error
            return os.fspath(path)
    raise VideoError(f"{address}[{start}:{end}]", WRONG_BYTES)


def _cannot_keep(error: OSError, path: Path) -> RemoteError:
    return RemoteError(f"{file_problem(error, path.parent)}: it belongs to the cache of shards, DATA.SHARD_CACHE")


_since_look = 0  # bytes that this process has kept since it last looked what the cache holds


#: Seconds after which what another process writes to the cache is none that it still writes, but left by one that died.
LEFT_OVER_S = 3600.0


def _make_room(newest: Path, added: int) -> None:
    """Remove what was not used for longest, down to 90 % of the limit.

    Looked for once in a thousandth of the limit for each process, so that a hundred of them together stay within it.
    """
    global _since_look
    limit = cache_bytes()
    _since_look += added
    if _since_look < limit // 1000:
        return
    _since_look = 0
    found, total = [], 0
    for folder in os.scandir(cache_folder() / "clips"):
        for entry in os.scandir(folder.path) if folder.is_dir() else ():
            try:
                facts = entry.stat()
            except OSError:
                continue
            total += facts.st_size
            if not entry.name.startswith(".") or time.time() - facts.st_mtime > LEFT_OVER_S:
                found.append((facts.st_mtime_ns, facts.st_size, entry.path))
    if total <= limit:
        return
    for _, size, name in sorted(found):
        if total <= 0.9 * limit:
            break
        if name != os.fspath(newest):
            try:
                os.unlink(name)
            except OSError:
                continue
            total -= size


# ------------------------------------------------------------------------------------------------------- whole files


@functools.cache
def mirror(root: str, names: Sequence[str]) -> str:
    """Return a folder with the files ``names`` below an address, as they are there now; those that are not there are
    left out.

    Small files, lists: they do not count in the cache's limit. Asked once in a process.
    """
    folder = cache_folder() / "lists" / hashlib.blake2b(root.encode(), digest_size=16).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            _mirror_one(under(root, name), folder / name)
    except OSError as error:
        raise _cannot_keep(error, folder) from error
    return os.fspath(folder)


def _mirror_one(address: str, path: Path) -> None:
    record = path.with_name(f".{path.name}.json")
    try:
        facts = _insist(address, lambda system: system.info(address))
    except RemoteError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        path.unlink(missing_ok=True)
        return
    known = {
        name: str(value) for name, value in facts.items() if name in ("size", "ETag", "Last-Modified", "LastModified")
    }
    with contextlib.suppress(OSError):  # another process may just remove it
        if len(known) > 1 and path.is_file() and record.read_bytes() == json.dumps(known).encode():
            return

    def ask(system: Any) -> None:
        with replacing(path) as temporary:
            system.get_file(address, os.fspath(temporary))
            size = temporary.stat().st_size
            if facts.get("size") not in (None, size):
                raise OSError(5, f"{size} bytes came of {facts['size']}")

    record.unlink(missing_ok=True)
    _insist(address, ask)
    write_text(record, json.dumps(known))
