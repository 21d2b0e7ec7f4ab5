"""The files of a multipart/form-data request, written to a folder while they come in; nothing is held in memory."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dust.deploy.serve.limits import Limits, Refused
from dust.utils.text import printable

FILE, PATH = "file", "path"
MOST_FILES = 16  # of one sample: a video and its series, or the cameras of point tracks
LONGEST_FIELD = 4096  # bytes of a field that is no file
LONGEST_NAME = 200  # bytes of a file's name that are kept; file systems allow 255
SPARE = 1 << 16  # bytes of a body that are not its files'


@dataclass
class Upload:
    """What a request has brought: ``files``, (name as given, path in the folder), and its other ``fields``."""

    files: list[tuple[str, str]] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


def stored_name(name: str) -> str:
    """Return the name under which an upload is kept: what its sample's other files are found by, and nothing that leads
    elsewhere."""
    stem, ending = os.path.splitext(re.sub(r"[^\w.-]", "_", re.split(r"[/\\]", name)[-1]))
    while len(stem.encode()) > LONGEST_NAME:  # its end says which camera it is
        stem = stem[1:]
    return f"{stem.lstrip('.') or 'clip'}{ending[:8]}"


class _Parts:
    """What the parser calls: one part after the other becomes a file or a field."""

    def __init__(self, folder: str) -> None:
        self.folder, self.upload, self.complete = folder, Upload(), False
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name = ""
        self._file: BinaryIO | None = None
        self._text = b""

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin, "on_header_field": self._add_header, "on_header_value": self._add_value,
            "on_header_end": self._end_header, "on_headers_finished": self._open, "on_part_data": self._add,
            "on_part_end": self.close, "on_end": self._finish,
        }  # fmt: skip

    def _begin(self) -> None:
        self._header = self._value = self._disposition = self._text = b""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name != FILE:
            if self._name != PATH:
                raise Refused(400, f"field {printable(self._name)!r} is unknown: a video comes in {FILE!r}")
            return
        if len(self.upload.files) >= MOST_FILES:
            raise Refused(400, f"more than {MOST_FILES} files: one request is one sample")
        given = re.split(r"[/\\]", options.get(b"filename", b"").decode("utf-8", "replace"))[-1]
        path = os.path.join(self.folder, stored_name(given))
        try:
            self._file = open(path, "xb")  # noqa: SIM115 - closed at the part's end
        except FileExistsError as error:
            raise Refused(400, f"two files are called {printable(given)!r}") from error
        self.upload.files.append((printable(given) or "clip", path))

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > LONGEST_FIELD:
            raise Refused(400, f"field {printable(self._name)!r} is too long")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._name:
            self.upload.fields[self._name] = self._text.decode("utf-8", "replace")
        self._name = ""

    def _finish(self) -> None:
        self.complete = True


async def _done(work: Coroutine[Any, Any, Any]) -> None:
    """Wait for work in a thread, also where this task is cancelled: nothing is written once the folder is removed."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def receive(headers: Mapping[str, str], chunks: AsyncIterator[bytes], folder: str, limits: Limits) -> Upload:
    """Write the files of a request's body into ``folder``.

    Args:
        headers: of the request, names in lower case.
        chunks: the body as it comes in.
        folder: empty, and this request's alone; the caller removes it, whatever happens here.

    Raises:
        Refused: it is no form, breaks off, or is larger than is taken; OSError, as by a full disk.
    """
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Refused(415, f"send a form (multipart/form-data) with the video in its field {FILE!r}")
    too_large = Refused(413, f"more than {limits.max_mb:g} MB: no larger upload is taken here (--max-mb)")
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limits.max_bytes + SPARE:
        raise too_large
    parts, size = _Parts(folder), 0
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        async for chunk in chunks:
            size += len(chunk)
            if size > limits.max_bytes + SPARE:
                raise too_large
            await _done(asyncio.to_thread(parser.write, chunk))
    except ValueError as error:  # every error of the parser is one
        raise Refused(400, f"the form cannot be read: {error}") from error
    finally:
        parts.close()
    if not parts.complete:
        raise Refused(400, "the form breaks off before its end")
    return parts.upload
