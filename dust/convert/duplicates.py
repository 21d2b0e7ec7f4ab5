"""Clips with the same content under several names."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from dust.datasets.arrays import ArrayFiles, is_row, split_reference
from dust.decode.folders import scan_pictures
from dust.decode.members import bytes_facts, member_of, sha256_of_member
from dust.utils.arrays import open_npz
from dust.utils.errors import DataError
from dust.utils.files import sha256_of_files, sha256_of_text

_ARRAYS = ArrayFiles()


def _files(path: str) -> list[str]:
    """Return the file, or the files of a folder of frames, by name."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in scan_pictures(path).found]


def content_sha256(path: str) -> str:
    """Return the hash of the bytes of a file, or of a part of a tar, of all pictures of a folder in their order, or of
    the numbers, shape and type of an array within a file (``file.npy#7``, ``file.npz#name``)."""
    file, key = split_reference(path)
    if key and not file.lower().endswith((".npy", ".npz")):  # columns of a table
        return sha256_of_text(f"{key}#{sha256_of_files([file])}")
    if key:
        array = _array(path)
        return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()
    return sha256_of_member(path) if member_of(path) else sha256_of_files(_files(path))


def _array(reference: str) -> np.ndarray:
    path, key = split_reference(reference)
    if is_row(reference):
        return _ARRAYS.row(path, int(key))
    with open_npz(path) as archive:
        return archive.read(key)


def _size(path: str) -> tuple[int, int]:
    """Return how many files, and their bytes."""
    file, key = split_reference(path)
    if key:
        whole = not file.lower().endswith((".npy", ".npz"))
        return 0, os.path.getsize(file) if whole else _array(path).nbytes
    files = _files(path)
    return len(files), sum(bytes_facts(name)[0] for name in files)


def same_content(paths: Iterable[str]) -> list[list[str]]:
    """Return groups of two or more paths whose contents are equal, in the order of the first of each.

    Only clips of equal size are read: others cannot be equal.
    """
    by_size: dict[tuple[int, int], list[str]] = defaultdict(list)
    try:
        for path in dict.fromkeys(paths):
            by_size[_size(path)].append(path)
        candidates = [path for group in by_size.values() if len(group) > 1 for path in group]
        by_hash: dict[str, list[str]] = defaultdict(list)
        for path in tqdm(candidates, unit="clip", desc="hashing", disable=None):
            by_hash[content_sha256(path)].append(path)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
    return [group for group in by_hash.values() if len(group) > 1]


def shared_between(
    splits: Mapping[str, Sequence[str]],
) -> tuple[list[dict[str, list[str]]], dict[str, list[list[str]]]]:
    """Return contents that several splits share, and contents that one split has more than once.

    Args:
        splits: {split: paths of its clips}.

    Returns:
        ([{split: paths}] for each content that is in two or more splits, {split: [groups of paths]}).
    """
    places: dict[str, set[str]] = defaultdict(set)
    for split, paths in splits.items():
        for path in paths:
            places[path].add(split)
    groups = same_content(places)
    grouped = {path for group in groups for path in group}
    groups += [[path] for path in places if path not in grouped]
    shared: list[dict[str, list[str]]] = []
    repeated: dict[str, list[list[str]]] = {split: [] for split in splits}
    for group in groups:
        owners = {split: [path for path in group if split in places[path]] for split in splits}
        owners = {split: paths for split, paths in owners.items() if paths}
        if len(owners) > 1:
            shared.append(owners)
        for split, paths in owners.items():
            if len(paths) > 1:
                repeated[split].append(paths)
    return shared, repeated
