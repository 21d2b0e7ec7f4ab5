"""Lists for tar files that somebody else has packed, in WebDataset's layout: the clips are read where they lie.

A sample is a run of neighbouring members whose names are alike up to the first dot after the last slash; it has one
video, and its label in ``.cls`` or in a field of ``.json`` (https://github.com/webdataset/webdataset).

Nothing of a tar is believed or unpacked: only headers are read, their sizes are held against the file, and a name is
a part of an id, whatever it says (``/etc/passwd``, ``../../x``). Headers are those of POSIX 1003.1 (ustar, pax) and of
GNU tar.
"""

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dust.convert.fixes import write_list
from dust.convert.splits import make_folder, refuse_overwriting, written_path
from dust.datasets.manifest.formats import SPLIT_FOLDERS
from dust.datasets.manifest.manifest import SPLITS
from dust.decode.folders import is_video
from dust.decode.members import BLOCK, Member, length
from dust.utils.errors import DataError, Problems
from dust.utils.files import natural_order, open_file
from dust.utils.structured import parse_json
from dust.utils.text import printable

LONGEST = 1 << 20  # bytes of a name, of a label, of what is said of a clip
_LONG_NAME, _PAX = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK), (tarfile.XHDTYPE, tarfile.XGLTYPE)
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")  # gzip, bzip2, xz, zstd, zip


class Entry(NamedTuple):
    """A member that is a file: its name, and where its bytes begin and end."""

    name: str
    start: int
    end: int


@dataclass
class _Sample:
    """What a key has: its video, and its label's place."""

    video: Entry | None = None
    others: dict[str, Entry] = field(default_factory=dict)


def read_entries(file: BinaryIO, source: str) -> Iterator[Entry]:
    """Yield the members of a tar that are files, in their order.

    Args:
        source: names the tar in errors.

    Raises:
        DataError: it is no tar, is compressed or cut, or a header is damaged or longer than any that tar writes.
    """
    total, at, said = length(file), 0, dict[str, str]()
    head = file.read(BLOCK)
    if head.startswith(_PACKED) and head[257:262] != b"ustar":  # a tar begins with the name of its first member
        raise DataError(
            f"{source}: is compressed, so that no part of it can be read alone: unpack it first (gunzip, unzip)"
        )
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if not header.strip(b"\0"):
            if at == 0 or (len(header) < BLOCK and at != total):
                raise DataError(f"{source}: is no tar file")
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            size = int(said.pop("size", str(info.size))[:30])  # no more digits than a size can have
        except (tarfile.HeaderError, ValueError) as error:
            raise DataError(f"{source}: no header of a tar at byte {at}: {error}") from error
        start = at + BLOCK
        if size < 0 or start + size > total:
            raise DataError(f"{source}: the member at byte {at} has {size} bytes and ends behind the file: it was cut")
        at = start + -(-size // BLOCK) * BLOCK
        if info.type in (*_LONG_NAME, *_PAX):
            if size > LONGEST:
                raise DataError(f"{source}: a header of {size} bytes at byte {start - BLOCK}: too long, it is damaged")
            content = file.read(size)
            if info.type in _PAX:
                said |= _records(content)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                said["path"] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        name, sparse, said = said.get("path", info.name), info.type == tarfile.GNUTYPE_SPARSE or "sparse" in said, {}
        if is_video(name) and (sparse or info.issym() or info.islnk()):
            what = "a sparse file, which has gaps" if sparse else "a link to another file"
            way_out = "pack it again with tar --dereference --hard-dereference, and without --sparse"
            raise DataError(f"{source}: the clip {name} is {what}: {way_out}")
        if info.isreg() and not sparse:
            yield Entry(name, start, start + size)


def _records(content: bytes) -> dict[str, str]:
    """Return the path and the size that an extended header of pax states, as ``LENGTH KEY=VALUE``, and whether its file
    is sparse."""
    found: dict[str, str] = {}
    while content:
        count, _, rest = content.partition(b" ")
        size = int(count) if count.isdigit() and len(count) < 9 else 0
        if size <= len(count) + 1:
            break
        key, _, value = rest[: size - len(count) - 1].rstrip(b"\n").partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        elif key.startswith(b"GNU.sparse."):
            found["sparse"] = ""
        content = content[size:]
    return found


def convert_webdataset(
    root: str | os.PathLike, out: str | os.PathLike, *, label: str = "label", force: bool = False
) -> dict[str, int]:
    """Write a list for each split of a folder of tars; {split: samples}.

    Args:
        root: a folder of tars, or one. ``train-0001.tar`` and ``train/0001.tar`` are of training, others of the test.
        label: the field of ``.json`` that is the label, where there is no ``.cls``.

    Raises:
        DataError: no tar, one that cannot be used, samples without a label or with several videos.
    """
    top, target = Path(os.path.expanduser(root)), Path(os.path.expanduser(out))
    tars = [top] if top.is_file() else sorted(top.rglob("*.tar"), key=natural_order)
    if not tars or (top.is_file() and top.suffix != ".tar"):
        raise DataError(f"{root}: there is no .tar file")
    refuse_overwriting(target, [f"{split}.csv" for split in SPLITS], force)
    rows: dict[str, list[tuple[str, str, str]]] = {}
    problems = Problems()
    for tar in tars:
        inside = tar.relative_to(top) if tar != top else Path(tar.name)
        place, found = written_path(str(tar), target), rows.setdefault(_split_of(inside), [])
        with _opened(tar) as file:
            for key, sample in _samples(file, str(tar), problems):
                if sample.video is not None:
                    video, name = sample.video, f"{inside.with_suffix('').as_posix()}/{key}"
                    suffix = os.path.splitext(video.name)[1].lower()
                    path = Member(place, video.start, video.end, suffix).path
                    found.append((printable(name), path, _label_of(file, sample, label, str(tar)) or ""))
    for split, found in rows.items():
        twice = [name for name, count in Counter(name for name, *_ in found).items() if count > 1]
        for name in twice:
            problems.add("a name of several samples, which do not lie one behind the other", name)
        bare = [name for name, _, word in found if not word]
        for name in bare if split != "test" or len(bare) < len(found) else ():  # a test without any labels may be
            problems.add(f"a sample without a label: no .cls, and no {label!r} in .json (--label FIELD)", name)
    problems.raise_if_any(str(root))
    counts = {split: len(rows[split]) for split in SPLITS if rows.get(split)}
    if not counts:
        raise DataError(f"{root}: no tar of it holds a video")
    make_folder(target)
    for split in counts:
        write_list(target, split, ("id", "path", "label"), rows[split])
    return counts


def _opened(tar: Path) -> BinaryIO:
    try:
        return open_file(tar)
    except OSError as error:
        raise DataError(f"{tar}: cannot be read: {error.strerror or error}") from error


def _split_of(inside: Path) -> str:
    """Return the split by a folder's name, or by what the tar's begins with."""
    words = [*(part.lower() for part in inside.parts[:-1]), inside.stem.lower()]
    for split, names in SPLIT_FOLDERS.items():
        if any(word == name or word.startswith((f"{name}-", f"{name}_")) for word in words for name in names):
            return split
    return "test"


def _samples(file: BinaryIO, source: str, problems: Problems) -> Iterator[tuple[str, _Sample]]:
    """Yield (key, sample) of neighbouring members of one name."""
    before, sample = None, _Sample()
    for entry in read_entries(file, source):
        folder, slash, name = entry.name.rpartition("/")
        stem, _, kind = name.partition(".")
        key = folder + slash + stem
        if key != before:
            if before is not None:
                yield before, sample
            before, sample = key, _Sample()
        if is_video(name):
            if sample.video is not None:
                problems.add("a sample with several videos: which one is meant?", f"{source}: {key}")
            sample.video = entry
        else:
            sample.others[kind.lower()] = entry
    if before is not None:
        yield before, sample


def _label_of(file: BinaryIO, sample: _Sample, field_name: str, source: str) -> str | None:
    """Return the label in ``.cls``, or in a field of ``.json``; None where neither says one."""
    for kind in ("cls", "json"):
        entry = sample.others.get(kind)
        if entry is None or entry.end - entry.start > LONGEST:
            continue
        file.seek(entry.start)
        text = file.read(entry.end - entry.start).decode("utf-8", "replace").strip()
        value: Any = text
        if kind == "json":
            said = parse_json(text, f"{source}: {entry.name}")
            value = said.get(field_name) if isinstance(said, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return str(value)
    return None
