"""Files that are whole or not there, texts and tables in them, their hashes, and the order of numbered names."""

import codecs
import contextlib
import csv
import errno
import hashlib
import io
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dust.utils.errors import DataError

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
    """Write bytes, or text as UTF-8, through :func:`replacing`. Raises OSError."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


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
    """Write a comma-separated file with a header, quoted where a field needs it, atomically. Raises DataError."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=line_end)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


# ----------------------------------------------------------------------------------------------------------- reading


def read_text(path: str | os.PathLike) -> str:
    """Read a file's text, UTF-8 or UTF-16, with ``\\n`` line ends and without a byte order mark.

    Raises:
        DataError: it cannot be read, or is neither.
    """
    try:
        data = Path(path).read_bytes()
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


def _encoding(data: bytes) -> str:
    """utf-16 by its byte order mark, or by every second byte of a beginning in Latin letters being zero."""
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


_NUMBERS = re.compile(r"(?<![\d.])(\d+\.\d+)(?!\.?\d)|(\d+)")


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


def sha256_of_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 (hex) of a file's bytes. Raises OSError."""
    return sha256_of_files([path])


def sha256_of_files(paths: Iterable[str | os.PathLike]) -> str:
    """Return the SHA-256 (hex) of the bytes of several files, one after the other. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 (hex) of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
