"""Names to verified files: ``resolve("zoo://NAME")`` downloads once, checks size, format and hash, and keeps the file.

The files lie in ``$DUST_HOME/zoo`` (default ~/.cache/dust/zoo). ``$DUST_ZOO_MIRROR`` names a base URL from which all
files are taken instead, by the names that they have in that folder: any copy of it, served over HTTP, is a mirror.
"""

import errno
import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from urllib.parse import quote

from dust.utils.errors import DustError
from dust.utils.files import open_file, sha256_of_file, sync_folder
from dust.zoo import hashes
from dust.zoo.convert import convert
from dust.zoo.entries import ENTRIES, Entry, HubFile, get
from dust.zoo.transfer import MOST, Broken, Refused, discard, fetch

logger = logging.getLogger(__name__)

SCHEME = "zoo://"
PROGRAM = "openai_clip"  # the layout whose files are programs
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def resolve(path_or_name: str) -> str:
    """Return the local path of "zoo://NAME", downloaded if need be; any other text comes back unchanged.

    Of a published program (OpenAI's CLIP), whose whole hash the zoo knows, it is a file of its tensors beside it.
    """
    if not path_or_name.startswith(SCHEME):
        return path_or_name
    entry = get(path_or_name[len(SCHEME) :])
    path = download(entry.name)
    return str(_tensors_of(entry, path) if entry.key_map == PROGRAM else path)


def _tensors_of(entry: Entry, program: Path) -> Path:
    """Return the tensors of a program, written once; see :mod:`dust.zoo.convert` for how it is read."""
    tensors = program.with_suffix(".safetensors")
    with hashes.locked(tensors):
        if not tensors.exists():
            logger.info("%s: a program, whose tensors are taken out once, into %s", program, tensors)
            convert(program, tensors, sha256=entry.sha256, everything=True)
    return tensors


def cached_path(entry: Entry) -> Path:
    """Return where ``entry``'s file lies, or will."""
    return hashes.home() / "zoo" / entry.filename


def cached(entry: Entry) -> str:
    """Return "yes", "part" (a transfer that can continue) or "no"."""
    path = cached_path(entry)
    return "yes" if path.exists() else "part" if _part(path).exists() else "no"


def cached_names() -> list[str]:
    """Return names of all weights at hand."""
    return [name for name, entry in ENTRIES.items() if cached_path(entry).exists()]


def download(name: str, *, progress: bool = True, force: bool = False) -> Path:
    """Return the verified file of ``name``. Two processes that ask at once share one transfer.

    ``force`` fetches again what is there already. Raises DustError: unknown name, no connection, a page in place of
    weights, wrong size or hash, no room; an interrupted transfer stays and is continued by the next call.
    """
    entry = get(name)
    path = cached_path(entry)
    if not force and _verified_before(entry, path):
        return path  # Without the lock, so that a shared read-only cache serves.
    with hashes.locked(path):
        if path.exists() and not force:
            _check_cached(entry, path)
            return path
        part = _part(path)
        if force:
            discard(part)
        source = _bring(entry, part, progress)
        sha256 = _accept(entry, part, source)
        try:
            os.replace(part, path)
            discard(part)
            sync_folder(path.parent)
        except OSError as error:
            raise hashes.cannot_write(path, error) from error
        hashes.remember_verified(path, sha256)
    logger.info("%s: %s, sha256 %s, licence %s", name, path, sha256, entry.licence)
    return path


def verify(name: str) -> str:
    """Read the cached file of ``name`` in full and return its sha256; DustError if it is not what it should be."""
    entry = get(name)
    path = cached_path(entry)
    if not path.exists():
        raise DustError(f"{name!r} is not downloaded yet ({path}): run `dust zoo download {name}`.")
    return _check_cached(entry, path, trust_memo=False)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _verified_before(entry: Entry, path: Path) -> bool:
    """Tell whether the file is unchanged since a verification that still holds against what is known now."""
    sha256 = hashes.remembered_sha256(path)
    return bool(sha256) and not hashes.mismatch(entry, sha256)


def _check_cached(entry: Entry, path: Path, trust_memo: bool = True) -> str:
    if trust_memo and _verified_before(entry, path):
        return hashes.remembered_sha256(path)
    sha256, problem = _examine(entry, path)
    if problem:
        raise DustError(
            f"the cached file {path} is not {entry.name!r}: {problem}. "
            f"`dust zoo download {entry.name} --force` fetches it again."
        )
    hashes.record_first_use(entry, sha256, path.stat().st_size, f"found at {path}")
    hashes.remember_verified(path, sha256)
    return sha256


def _accept(entry: Entry, part: Path, source: str) -> str:
    """Return the sha256 of a complete part file that is what it should be; any other is removed, with an error."""
    sha256, problem = _examine(entry, part)
    if problem:
        discard(part)
        raise DustError(f"what {source} gave for {entry.name!r} was removed: {problem}.")
    hashes.record_first_use(entry, sha256, part.stat().st_size, source)
    return sha256


def _examine(entry: Entry, path: Path) -> tuple[str, str]:
    """Return (sha256 or "", what is wrong or "") of a complete file."""
    try:
        size = path.stat().st_size
        problem = _size_problem(entry, size) or _format_problem(path)
        if problem:
            return "", problem
        sha256 = sha256_of_file(path)
    except OSError as error:
        raise DustError(f"cannot read {path}: {error.strerror or error}.") from error
    return sha256, hashes.mismatch(entry, sha256)


def _size_problem(entry: Entry, size: int) -> str:
    if entry.size is None or abs(size - entry.size) <= entry.size_tolerance:
        return ""
    about = "about " if entry.size_tolerance else ""
    return f"it has {size:,} bytes, and the zoo's list says {about}{entry.size:,}"


def format_of(head: bytes) -> str:
    """Return the kind of weight file that begins so: "zip" (torch.save), "pickle" (before torch 1.6), "safetensors", or
    ""."""
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80\x02"):
        return "pickle"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return "safetensors"
    return ""


def _check_head(head: bytes) -> None:
    if not format_of(head):
        raise Refused(f"it gives no file of weights: what comes begins with {head[:40]!r}")


def _format_problem(path: Path) -> str:
    """Tell whether a file is of no known kind, or was cut off where its kind lets one see that."""
    with open_file(path) as handle:
        head = handle.read(16)
        kind = format_of(head)
        if not kind:
            return f"it is no file of weights: it begins with {head!r}"
        if kind == "safetensors":
            length = int.from_bytes(head[:8], "little")
            handle.seek(8)
            try:
                header = json.loads(handle.read(length))
                ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
                if not all(type(end) is int and 0 <= end < 1 << 62 for end in ends):
                    raise ValueError("offsets that are no numbers of bytes")
                end = max(ends, default=0)
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
                return "its safetensors header cannot be read"
            if path.stat().st_size != 8 + length + end:
                return f"it is cut off: {path.stat().st_size:,} of {8 + length + end:,} bytes"
    if kind == "zip" and not zipfile.is_zipfile(path):
        return "it is cut off: the zip archive's end is missing"
    return ""


def _bring(entry: Entry, part: Path, progress: bool) -> str:
    """Complete ``part`` from the first place that gives the file, and return that place."""
    mirror = os.environ.get("DUST_ZOO_MIRROR", "")
    urls = [f"{mirror.rstrip('/')}/{quote(entry.filename)}"] if mirror else list(entry.urls)
    problems = []
    for url in urls:
        try:
            fetch(
                url,
                part,
                check_total=lambda total: _check_total(entry, part, total),
                check_head=_check_head,
                label=entry.name,
                progress=progress,
                most=MOST if entry.size is None else entry.size + entry.size_tolerance,
            )
            return url
        except Refused as error:
            problems.append(f"{url}: {error}")
            if part.exists() and part.stat().st_size == 0:
                discard(part)
        except Broken as error:
            kept = "; what arrived is kept, and the same command continues from there" if part.exists() else ""
            problems.append(f"{url}: {error}{kept}")
    if entry.hub is not None and not mirror:
        try:
            _from_hub(entry.hub, part)
            return entry.hub.url
        except Refused as error:
            problems.append(f"{entry.hub.url}: {error}")
    mirror_hint = "DUST_ZOO_MIRROR is set, so nothing else was asked" if mirror else "DUST_ZOO_MIRROR can name a mirror"
    raise DustError(
        f"could not download {entry.name!r}:\n  "
        + "\n  ".join(problems)
        + f"\n  Behind a proxy set HTTPS_PROXY; {mirror_hint}; or put the file by hand at {cached_path(entry)}."
    )


def _check_total(entry: Entry, part: Path, total: int | None) -> None:
    """Refuse a file of the wrong size, or one that the disk cannot hold, before its bytes come."""
    if total is None:
        return
    problem = _size_problem(entry, total)
    if problem:
        raise Refused(problem)
    missing = total - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise DustError(
            f"no room for {entry.name!r}: {missing:,} bytes are to come and {part.parent} has {free:,} free. "
            "Free some space, or set DUST_HOME to another folder."
        )


def _from_hub(file: HubFile, part: Path) -> None:
    """Complete ``part`` from the Hugging Face hub, which resumes by itself in a folder of its own."""
    from huggingface_hub import errors, hf_hub_download

    folder = part.with_name(part.name + ".hub")
    # What the hub's HTTP library raises is an OSError in some versions only.
    http_error: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    try:
        arrived = hf_hub_download(file.repo, file.filename, revision=file.revision, local_dir=folder)
        discard(part)
        os.replace(arrived, part)
        shutil.rmtree(folder)
    except (OSError, ValueError, http_error) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise hashes.cannot_write(folder, error) from error
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        raise Refused(f"the Hugging Face hub does not give it: {first_line} ({type(error).__name__})") from error
