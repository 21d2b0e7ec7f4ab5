"""Fetch one URL into a part file; continue from there where the server can prove that the file is still the same.

Beside ``<part>`` lies ``<part>.json`` with the URL, the server's validator (ETag or Last-Modified) and the total size;
a resume asks for the rest with Range and If-Range, so that a file that changed meanwhile comes whole. That is why no
library does this: torch.hub's and pooch's downloads begin again, and huggingface_hub's knows the hub only.
"""

import contextlib
import http.client
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from dust import __version__
from dust.utils.errors import DataError
from dust.utils.structured import read_json
from dust.zoo.hashes import cannot_write, write_json

logger = logging.getLogger(__name__)

CHUNK = 1 << 17  # bytes read at once; what a broken connection can lose
MOST = 1 << 36  # bytes of a file whose size nobody knows
TIMEOUT_S = 30.0  # without any byte
RETRIES = 3  # in a row without a new byte
BACKOFF_S = 1.0  # before the first retry; doubles
SCHEMES = ("http://", "https://")
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
PAGE_TYPES = {"text/html", "application/xhtml+xml", "application/json", "text/xml", "application/xml"}


class Broken(Exception):
    """The transfer ended early. What arrived is kept, and another try can continue from there."""


class Refused(Exception):
    """This URL does not give the file, now or on another try."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http: whoever is in between could then give any file. Nor to ftp,
    which urllib would follow."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(SCHEMES):
            raise Refused(f"it redirects to {newurl}, and only http and https URLs are fetched")
        if req.full_url.startswith("https:") and not newurl.lower().startswith("https:"):
            raise Refused(f"it redirects from https to {newurl}, which is not secure")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    url: str,
    part: Path,
    *,
    check_total: Callable[[int | None], None],
    check_head: Callable[[bytes], None],
    label: str,
    progress: bool = True,
    most: int = MOST,
) -> None:
    """Bring the whole file at ``url`` into ``part``; not more than ``most`` bytes, whatever the server announces.

    ``check_total`` sees the size that the server announces (bytes or None) before the first byte, ``check_head`` the
    first bytes before they are written; either raises to refuse. Raises Broken or Refused; DustError if the disk does.
    """
    furthest, failures = _size(part), 0
    while True:
        try:
            _fetch_once(url, part, check_total, check_head, label, progress, most)
            return
        except Broken as error:
            # A server that breaks off again and again at the same place must not keep us for ever.
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures > RETRIES:
                raise
            pause = BACKOFF_S * 2 ** max(failures - 1, 0)
            logger.warning("%s: %s; trying again in %g s", label, error, pause)
            time.sleep(pause)


def discard(part: Path) -> None:
    """Remove a part file and what is known about it."""
    part.unlink(missing_ok=True)
    _meta_path(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _meta_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _resumable(url: str, part: Path) -> tuple[int, str, int | None]:
    """Return (bytes at hand, validator, total) if the part file came from ``url`` and can be continued, else (0, "",
    None)."""
    have = _size(part)
    try:
        meta = read_json(_meta_path(part))
        known = type(meta["total"]) is int or meta["total"] is None
        if have and meta["url"] == url and meta["validator"] and isinstance(meta["validator"], str) and known:
            return have, meta["validator"], meta["total"]
    except (DataError, KeyError, TypeError):
        pass  # Without its description a part file is of no use: start again.
    return 0, "", None


def _validator(headers: http.client.HTTPMessage) -> str:
    """Return what If-Range may hold: a strong ETag, else a date; "" if there is neither (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified", "")


def _open(url: str, have: int, validator: str) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"dust/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    if not url.startswith(SCHEMES):
        raise Refused("only http and https URLs are fetched")
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            raise _CannotResume from None
        if error.code in RETRY_STATUS:
            raise Broken(f"the server answers {error.code} {error.reason}") from None
        raise Refused(f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise Refused(f"no secure connection: {error.reason}") from None
        raise Broken(f"no connection: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"no connection: {error!r}") from None
    except (ValueError, OverflowError) as error:  # a URL, of a redirect say, that is none
        raise Refused(f"it leads to no address: {error}") from None


class _CannotResume(Exception):
    """The server does not give the rest of what we have."""


def _fetch_once(
    url: str,
    part: Path,
    check_total: Callable[[int | None], None],
    check_head: Callable[[bytes], None],
    label: str,
    progress: bool,
    most: int,
) -> None:
    have, validator, total = _resumable(url, part)
    if have and have == total:
        return  # Stopped between the last byte and the check.
    try:
        response = _open(url, have, validator)
    except _CannotResume:
        discard(part)
        raise Broken("the server refused to continue, so it starts from the beginning") from None
    with response:
        media_type = response.headers.get_content_type()
        if media_type in PAGE_TYPES:
            raise Refused(f"it gives a page ({media_type}), not a file of weights")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise Refused(f"it gives the file in another encoding ({encoding})")
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            if not have or start != have:
                discard(part)
                raise Broken(f"the server gave bytes from {start} when asked for those from {have}")
        else:
            if have:
                logger.info("%s: the server does not continue a transfer; it starts from the beginning", label)
            have = 0
            length = response.headers.get("Content-Length", "")
            total = _number(length) if length else None
        check_total(total)
        # A 206 may leave out what the first answer said of the file.
        _describe(part, url, _validator(response.headers) or (validator if have else ""), total, have)
        with _bar(label, have, total, progress) as bar:
            _receive(response, part, have, total, most, check_head, bar)


def _content_range(value: str) -> tuple[int, int | None]:
    """Return (first byte, total or None) of "bytes 10-99/100"."""
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", value.strip())
    if match is None:
        raise Broken(f"the server's Content-Range {value[:100]!r} cannot be read")
    return _number(match[1]), None if match[2] == "*" else _number(match[2])


def _number(text: str) -> int:
    """Return a number of bytes in a header. Refused if it is none, or one that no disk holds."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise Refused(f"the server announces {text[:100]!r} as a number of bytes")
    return int(text)


def _describe(part: Path, url: str, validator: str, total: int | None, have: int) -> None:
    """Say what the part file is before its bytes come, so that they are never taken for another file's."""
    if have == 0:
        discard(part)
    write_json(_meta_path(part), {"url": url, "validator": validator, "total": total})


def _receive(
    response: IO[bytes],
    part: Path,
    have: int,
    total: int | None,
    most: int,
    check_head: Callable[[bytes], None],
    bar: Any,
) -> None:
    too_long = ""
    try:
        with open(part, "ab" if have else "wb") as handle:
            while chunk := _read(response):
                if have == 0:
                    check_head(chunk)
                if have + len(chunk) > (most if total is None else total):
                    too_long = f"{have + len(chunk):,} bytes and more"
                    break
                handle.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise cannot_write(part, error) from error
    if too_long:
        discard(part)
        if total is None:
            raise Refused(f"the server sent {too_long}, where the file has at most {most:,}")
        raise Broken(f"the server sent {too_long}, and had announced {total:,}")
    if total is not None and have < total:
        raise Broken(f"the connection broke after {have:,} of {total:,} bytes")


def _read(response: IO[bytes]) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"the connection broke: {error!r}") from None


@contextlib.contextmanager
def _bar(label: str, have: int, total: int | None, progress: bool) -> Iterator[Any]:
    """Show a tqdm bar on a terminal; silent elsewhere."""
    from tqdm import tqdm

    disable = None if progress else True  # None: tqdm looks whether it writes to a terminal
    with tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=label, disable=disable) as bar:
        yield bar
