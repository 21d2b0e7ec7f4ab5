"""Folders of shards as lists: tar files of clips, and the same train.csv, val.csv and test.csv as of loose clips, whose
paths name parts of the tars (:mod:`dust.decode.members`). The folder may have an address.

``shards.json`` says how it was packed (:mod:`dust.convert.shards`). Docs: SHARDS.md.
"""

import functools
import os
from typing import Any

from dust.datasets.manifest.labels import CLASS_LIST
from dust.decode import remote
from dust.decode.members import member_of
from dust.utils.errors import DataError
from dust.utils.structured import read_json

SETTINGS = "shards.json"
VERSION = 1


def lists_of(root: str) -> str:
    """Return the folder that holds the lists of a data folder: itself; of one with an address, a copy of its lists.
    What is known of the sizes of shards is forgotten: they are looked at again.

    Raises:
        DataError: an address without shards, or that cannot be read from.
    """
    _size_of_shard.cache_clear()
    if not remote.is_remote(root):
        return root
    folder = remote.mirror(root, (SETTINGS, CLASS_LIST, "train.csv", "val.csv", "test.csv"))
    if not os.path.isfile(os.path.join(folder, SETTINGS)):
        raise DataError(f"{root}: there is no {SETTINGS}: only shards are read from an address (dust prepare --shards)")
    return folder


def build_shard_cache(cfg: Any) -> None:
    """Keep what is fetched of shards with an address as the configuration says, also in loader workers."""
    remote.keep_in(cfg.DATA.SHARD_CACHE, cfg.DATA.SHARD_CACHE_GB)


def is_sharded(root: str) -> bool:
    """Tell whether a folder holds shards."""
    return os.path.isfile(os.path.join(root, SETTINGS))


def read_settings(folder: str) -> dict[str, Any]:
    """Return how the shards of a folder were packed.

    Raises:
        DataError: there is no such record, or it is another version's.
    """
    path = os.path.join(folder, SETTINGS)
    if not os.path.isfile(path):
        raise DataError(f"{folder}: holds no shards, there is no {SETTINGS} (dust prepare --shards makes them)")
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("version") != VERSION:
        raise DataError(f"{path}: is no record of shards of version {VERSION}, which this dust reads")
    return settings


def agree_on_unit(folder: str, unit: str) -> None:
    """Refuse a DATA.SEGMENT_UNIT that is not that of the shards' lists. DataError."""
    own = read_settings(folder).get("segment_unit")
    if own != unit:
        raise DataError(f"{folder}: start and end are in {own} there, and DATA.SEGMENT_UNIT is {unit}: set it to {own}")


def is_there(path: str) -> bool:
    """Tell whether a file exists, or a tar with the part that the path names.

    Raises:
        DataError: a tar with an address that cannot be asked for.
    """
    member = member_of(path)
    if member is None:
        return os.path.exists(path)
    return member.end <= _size_of_shard(member.shard)


@functools.lru_cache(maxsize=4096)
def _size_of_shard(shard: str) -> int:
    """Return the bytes of a tar; -1 where there is none."""
    if remote.is_remote(shard):
        return remote.size_of(shard)
    return os.path.getsize(shard) if os.path.isfile(shard) else -1
