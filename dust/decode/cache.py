"""Keeps video indexes: a bounded memory per process, and, where a folder is given, one small file per clip.

An entry is good for one (path, size, modification time) and one PyAV version; anything else, a torn file too, counts
as absent. The files hold numbers and plain words only: reading one runs no code. What an entry says of the order of
frames is held against the timestamps here, and against the packets and frames themselves while they are read.
"""

import hashlib
import json
import logging
import os
import threading
import zlib
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

import numpy as np

from dust.decode.index import VideoIndex, VideoReport, build_index, checked
from dust.decode.members import bytes_facts, read_note, whole_path
from dust.decode.pixels import Orientation
from dust.utils.errors import VideoError
from dust.utils.files import read_bytes, refuse_special, write_atomically

logger = logging.getLogger(__name__)

_FORMAT = 4
_MEMORY = 32 << 20  # bytes of indexes that one process keeps
_ARRAYS = ("packet_pts", "order", "frame_pts", "entries", "disposable")
_TYPES = {"packet_pts": "<i8", "order": "<i4", "frame_pts": "<f8", "entries": "<i4", "disposable": "|b1"}
_memory: "OrderedDict[tuple, VideoIndex]" = OrderedDict()
_memory_bytes = 0
_lock = threading.Lock()  # several threads may read clips ahead


def get_index(path: str, threads: int = 1, folder: str | None = None, spare: list[Any] | None = None) -> VideoIndex:
    """Return the index of a file, from memory, from ``folder``, or built now and kept in both. Raises VideoError.

    ``spare`` may receive the open file, see ``build_index``.
    """
    key = _key(path)
    with _lock:
        index = _memory.get(key)
        if index is not None:
            _memory.move_to_end(key)
            return index
    index = _load(key, folder) if folder else None
    if index is None:
        index = _noted(path, key)
    if index is None:
        index = build_index(path, threads, spare)
        _store(key, index, folder)
    _remember(key, index)
    return index


def _noted(path: str, key: tuple) -> VideoIndex | None:
    """Return the index that stands behind a clip in its tar."""
    try:
        note = read_note(path)
    except OSError as error:
        raise VideoError(path, f"cannot be opened: {error.strerror or error}") from error
    return _unpack(note[1], _content(key[1])) if note else None


def put_index(path: str, index: VideoIndex, folder: str | None = None) -> None:
    """Replace what is kept for a file, after a decode has told more."""
    key = _key(path)
    _remember(key, index)
    _store(key, index, folder)


def forget_index(path: str) -> None:
    """Keep nothing in memory of a file that is about to go."""
    global _memory_bytes
    try:
        key = _key(path)
    except VideoError:  # never read
        return
    with _lock:
        index = _memory.pop(key, None)
        _memory_bytes -= index.nbytes if index is not None else 0


def _key(path: str) -> tuple[str, int, int]:
    try:
        refuse_special(path)
        size, changed = bytes_facts(path)
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not size:
        raise VideoError(path, "the file is empty")
    return whole_path(path), size, changed


def _remember(key: tuple, index: VideoIndex) -> None:
    global _memory_bytes
    with _lock:
        old = _memory.pop(key, None)
        _memory_bytes += index.nbytes - (old.nbytes if old is not None else 0)
        _memory[key] = index
        while _memory_bytes > _MEMORY and len(_memory) > 1:
            _memory_bytes -= _memory.popitem(last=False)[1].nbytes


def _file(key: tuple, folder: str) -> str:
    name = hashlib.blake2b(key[0].encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return os.path.join(folder, name[:2], name[2:] + ".idx")


def _identity(key: tuple) -> list[Any]:
    import av

    return [_FORMAT, av.__version__, os.fsencode(key[0]).hex(), key[1], key[2]]


def _content(size: int) -> list[Any]:
    """Tell who an index is of that travels with its clip, whatever the clip is called there."""
    import av

    return [_FORMAT, av.__version__, size]


def pack_index(index: VideoIndex, size: int) -> bytes:
    """Return an index as it travels with a clip of ``size`` bytes, see :mod:`dust.decode.members`."""
    return _pack(index, _content(size))


def _load(key: tuple, folder: str) -> VideoIndex | None:
    try:
        return _unpack(read_bytes(_file(key, folder)), _identity(key))
    except OSError:
        return None


def _unpack(data: bytes, identity: list[Any]) -> VideoIndex | None:
    try:
        head, _, body = data.partition(b"\n")
        facts = json.loads(head)
        if facts.pop("identity") != identity or facts.pop("crc32") != _checksum(facts, body):
            return None
        at = 0
        for name in _ARRAYS:
            kind = np.dtype(_TYPES[name])
            facts[name] = np.frombuffer(body, kind, facts[name], at)
            at += facts[name].nbytes
        facts["report"] = VideoReport(**facts["report"])
        facts["orientation"] = Orientation(*facts["orientation"])
        return checked(VideoIndex(**facts))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _checksum(facts: dict[str, Any], body: bytes) -> int:
    """Return the checksum of all that an entry says; against damage, not against somebody who means harm."""
    return zlib.crc32(body, zlib.crc32(json.dumps(facts, sort_keys=True).encode()))


def _store(key: tuple, index: VideoIndex, folder: str | None) -> None:
    """Write the file of an index. Not fsynced: the checksum finds a torn file, which is then rebuilt."""
    if not folder:
        return
    target = _file(key, folder)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write_atomically(target, _pack(index, _identity(key)), durable=False)
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        logger.warning("the index of %s is not kept in %s: %s", key[0], folder, error)


def _pack(index: VideoIndex, identity: list[Any]) -> bytes:
    arrays = {name: np.ascontiguousarray(getattr(index, name), _TYPES[name]) for name in _ARRAYS}
    body = b"".join(array.tobytes() for array in arrays.values())
    facts = {name: value for name, value in vars(index).items() if name not in _ARRAYS}
    facts |= {name: len(array) for name, array in arrays.items()}
    facts |= {"report": asdict(index.report)}
    facts = json.loads(json.dumps(facts))  # as they will be read
    facts |= {"crc32": _checksum(facts, body), "identity": identity}
    return json.dumps(facts).encode() + b"\n" + body
