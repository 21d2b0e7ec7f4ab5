"""Files that are whole or not there, texts and tables in them, their hashes, and the order of numbered names.

A file that somebody names is opened by :func:`open_file` alone: a pipe or a device in its place is refused, and not
waited for.
"""

import codecs
import contextlib
import csv
import errno
import hashlib
import io
import itertools
import os
import re
import stat
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from dust.utils.errors import DataError
from dust.utils.text import csv_cell, unescaped

_FILE_ADDRESS = re.compile(r"file://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
LONGEST_TEXT = 1 << 30  # bytes of a text that is read whole
#: A disk to which nothing more can be written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: A full, failing or read-only disk, a missing right: the user's to mend, wherever it is met.
FILE_PROBLEMS = (
    *NO_ROOM, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENAMETOOLONG,
)  # fmt: skip


def is_file_problem(error: OSError) -> bool:
    """Tell whether an error is about the user's disk or rights, and not about dust's code."""
    return error.errno in FILE_PROBLEMS


def file_problem(error: OSError, folder: object = "") -> str:
    """Return what is wrong with which file; of one without a name, with a file in ``folder``."""
    where = f"a file in {folder}" if folder else "a file"
    return f"{error.filename or where}: {error.strerror or error}"


# ----------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, durable: bool = True, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path in the same folder; what the caller writes there gets the name ``path`` at the end.

    After an error, or when nothing was written there, the temporary file is removed and ``path`` is as it was.

    Args:
        durable: sync the file and its folder, so that the file survives a power cut.
        suffix: of the temporary name, for a writer that takes the format from it.

    Raises OSError.
    """
    path = Path(path)
    # file systems allow 255 bytes, of which a character may take four
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.{threading.get_ident()}.tmp{suffix}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: bytes | str, *, durable: bool = True) -> None:
    """Write bytes, or text as UTF-8, through :func:`replacing`. Raises OSError.

    A character that stands for a byte of a file's name that is not UTF-8 is written as ``\\udcff``.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` last. Some network file systems cannot, and then do it themselves. Raises OSError."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically. Raises DataError, naming the file, if the disk is full or cannot be written."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_csv(
    path: str | os.PathLike, header: Iterable[object], rows: Iterable[Sequence[object]], *, line_end: str = "\n"
) -> None:
    """Write a comma-separated file with a header, quoted where a field needs it, atomically. Raises DataError.

    Texts become what :func:`dust.utils.text.csv_cell` makes of them: no formula, and nothing that steers a terminal.
    Rows are written as they come: there may be more of them than memory.
    """
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            for some in _batched(itertools.chain([list(header)], rows), 1000):
                file.write(csv_text(some, line_end=line_end).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _batched(rows: Iterable[Iterable[object]], count: int) -> Iterator[list[Iterable[object]]]:
    """Yield lists of ``count`` rows; the last may be shorter."""
    ahead = iter(rows)
    while some := list(itertools.islice(ahead, count)):
        yield some


def csv_text(rows: Iterable[Iterable[object]], *, line_end: str = "\n") -> str:
    """Return rows as comma-separated lines, see :func:`write_csv`."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=line_end).writerows([csv_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


# ----------------------------------------------------------------------------------------------------------- reading


class AddressError(DataError):
    """An address that names no file of this machine."""


def plain_path(name: str) -> str:
    """Return the path that a file's address names, ``file:///home/a%20b.mp4`` (RFC 8089); anything else as it is.

    Raises:
        AddressError: it names a file of another machine, or no whole path.
    """
    match = _FILE_ADDRESS.fullmatch(name)
    if match is None:
        return name
    host, path = match[1], match[2]
    if host.lower() not in ("", "localhost") or not path:
        where = f"a file of the machine {host!r}" if host else "no file"
        raise AddressError(f"{name}: names {where}; the address of one here is like file:///home/me/clip.mp4")
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def refuse_special(path: str | os.PathLike) -> None:
    """Raise OSError if ``path`` is a pipe, a socket or a device. A folder, or what is not there, is let pass."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # whoever opens it says so better
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device, and not a file", os.fspath(path))


def refuse_in_place(path: str | os.PathLike) -> None:
    """Raise OSError if ``path`` is anything but a file of its own, or nothing: before it is written into.

    In a folder that somebody else has made, a link there leads to a file that is none of its business. What
    :func:`replacing` writes takes the place of the link itself.
    """
    refuse_special(path)
    if os.path.islink(path):
        target = os.readlink(os.fspath(path))
        said = f"{os.path.basename(path)} is a link to {target}, which is not written through: remove the link"
        raise OSError(errno.ELOOP, said, os.fspath(path))


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, a socket or a device; none of these is waited for.
    """
    refuse_special(path)  # before it is opened: a device may do something then
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a NUL byte in the name
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            what = "directory" if stat.S_ISDIR(mode) else "pipe or a device"  # put there since
            raise OSError(errno.EISDIR, f"it is a {what}, and not a file", os.fspath(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: str | os.PathLike, *, longest: int = LONGEST_TEXT) -> bytes:
    """Read a whole file of at most ``longest`` bytes. Raises OSError as :func:`open_file`, and for a longer one."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > longest else file.read(longest + 1)
    if max(size, len(data)) > longest:
        raise OSError(errno.EFBIG, f"it has more than {longest:,} bytes, far too many for such a file", os.fspath(path))
    return data


def read_text(path: str | os.PathLike, *, longest: int = LONGEST_TEXT) -> str:
    """Read a file's text, UTF-8 or UTF-16, with ``\\n`` line ends and without a byte order mark.

    Raises:
        DataError: it cannot be read, is far too long, or is neither.
    """
    try:
        data = read_bytes(path, longest=longest)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 (byte 0x{data[error.start]:02X}): save the file as UTF-8 text "
            "(in a spreadsheet: as 'CSV UTF-8')"
        ) from None
    if "\0" in text:
        raise DataError(
            f"{path}: line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL byte: not a text file"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def file_stems(names: Sequence[str]) -> list[str]:
    """Return a name for a file of each of ``names``, readable and each once: ``a/b`` is ``a_b``.

    Where two would share one, or differ in upper and lower case only, both get the beginning of their hash.
    """
    plain = [re.sub(r"[^\w.-]", "_", name).encode()[:150].decode(errors="ignore") or "_" for name in names]
    counts = Counter(stem.casefold() for stem in plain)
    stems = [
        stem if counts[stem.casefold()] == 1 else f"{stem}-{sha256_of_text(name)[:8]}"
        for stem, name in zip(plain, names, strict=True)
    ]
    if len({stem.casefold() for stem in stems}) < len(set(names)):  # somebody chose a name that ends in a hash
        return [sha256_of_text(name) for name in names]
    return stems


def restored(path: str) -> str:
    """Return the path that is there: ``path``, or what it stands for where a list of ours had to escape it."""
    if "\\" in path and not os.path.exists(path):
        name = unescaped(path)
        return name if os.path.exists(name) else path
    return path


def like_missing(path: str) -> str:
    r"""Return what to say of a path that is not there: the one that is, if they differ only in case, in the form of
    their letters (Unicode's composed and decomposed ones), in spaces at their ends or in Windows' ``\``; else ""."""
    if "://" in path:
        return ""
    here = os.sep if path.startswith(("/", "\\")) else ""
    for part in filter(None, path.replace("\\", "/").split("/")):
        if not os.path.exists(os.path.join(here, part)):
            part = _alike(here or os.curdir).get(_bare_name(part), "")
        if not part:
            return " (folders are parted by / here, not by \\)" if "\\" in path else ""
        here = os.path.join(here, part)
    return f"; is {here} meant?"


@lru_cache(maxsize=64)
def _alike(folder: str) -> dict[str, str]:
    """Map the bare names of what a folder holds to their names."""
    try:
        return {_bare_name(name): name for name in sorted(os.listdir(folder), reverse=True)}
    except OSError:
        return {}


def _bare_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _encoding(data: bytes) -> str:
    """Return utf-16 by its byte order mark, or by every second byte of a beginning in Latin letters being zero."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    begin = data[:200]
    if len(begin) >= 4 and len(data) % 2 == 0:
        even, odd = set(begin[::2]), set(begin[1::2])
        if odd == {0} and 0 not in even:
            return "utf-16-le"
        if even == {0} and 0 not in odd:
            return "utf-16-be"
    return "utf-8-sig"


_NUMBERS = re.compile(r"(?<![\d.])(\d+\.\d+)(?!\.?\d)|(\d{1,300})")


def natural_order(name: str | os.PathLike) -> list[tuple[int, float, str]]:
    """Return a sort key that puts img_2 before img_10, and t0.25 before t0.5: a single point makes a decimal number."""
    key: list[tuple[int, float, str]] = []
    end = 0
    for match in _NUMBERS.finditer(text := os.fspath(name)):
        if text[end : match.start()]:
            key.append((1, 0, text[end : match.start()]))
        key.append((0, float(match[1]) if match[1] else int(match[2]), ""))
        end = match.end()
    return [*key, (1, 0, text[end:])]


# ------------------------------------------------------------------------------------------------------------ hashes


#: SHA-256 of files that this process has read, by what changes with every write.
_HASHES: dict[tuple[int, ...], str] = {}
_COARSEST_CLOCK_NS = 3_000_000_000  # ns: no file system's clock is coarser


def is_settled(times: Iterable[int], moment: int) -> bool:
    """Tell whether whatever is written to a file after a moment has other times (ns) than these: what was written just
    before it may have been written again within a tick of the clock."""
    return moment - max(times) > _COARSEST_CLOCK_NS


def sha256_of_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 (hex) of a file's bytes, which are read again only after somebody wrote there. Raises
    OSError."""
    with open_file(path) as file:
        before, began = _stamp(file), time.time_ns()
        if before in _HASHES:
            return _HASHES[before]
        digest = hashlib.sha256()
        _feed(file, digest)
        if _stamp(file) == before and is_settled(before[-2:], began):
            if len(_HASHES) >= 1000:
                _HASHES.clear()
            _HASHES[before] = digest.hexdigest()
    return digest.hexdigest()


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    """Return what tells a file's content from any other that was written since. The last of these times no program can
    set."""
    facts = os.fstat(file.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _feed(file: BinaryIO, digest: Any) -> None:
    while block := file.read(1 << 20):
        digest.update(block)


def sha256_of_files(paths: Iterable[str | os.PathLike]) -> str:
    """Return the SHA-256 (hex) of the bytes of several files, one after the other. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path) as file:
            _feed(file, digest)
    return digest.hexdigest()


def hash_order(name: str) -> bytes:
    """Return a sort key that mixes names in the same way on every machine, whatever other names there are."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 (hex) of a text as UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
