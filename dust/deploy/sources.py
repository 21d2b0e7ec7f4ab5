"""What a person names, and which clips that means: files, folders, patterns, csv lists."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dust.datasets.manifest.shards import is_there
from dust.decode.live import CAMERA
from dust.deploy.reading import Reader
from dust.utils.errors import DataError
from dust.utils.files import AddressError, natural_order, plain_path

LISTS = frozenset({".csv", ".txt"})


def local(source: Any) -> Any:
    """Return a source with the paths of files that were given as addresses (``file:///...``); others as they are.
    DataError for the address of a file on another machine."""
    if isinstance(source, Mapping):
        return {name: local(one) for name, one in source.items()}
    return plain_path(source) if isinstance(source, str) else source


def is_single(source: str | os.PathLike[str], reader: Reader) -> bool:
    """Tell whether a text names one clip: a file, a web address, or a folder that is one; not a pattern, a list or a
    folder of clips."""
    if "://" in os.fspath(source):
        return True
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return reader.is_clip(path)
    if is_there(path):
        return Path(path).suffix.lower() not in LISTS
    return not glob.has_magic(path)


def find_sources(words: Sequence[str], reader: Reader) -> list[Any]:
    """Return the clips that words name, each word's in natural order.

    Args:
        words: files; parts of tars; web addresses; folders of pictures; folders, in which videos and folders of
            pictures are looked for at any depth; patterns (``**`` for any depth); csv lists, read as a test's.

    Raises:
        DataError: all words that name nothing.
    """
    found: list[Any] = []
    problems = []
    for word in words:
        try:
            here = list(_sources_of(plain_path(word), reader))
        except AddressError as error:
            problems.append(str(error))
            continue
        if not here:
            problems.append(_nothing(word))
        found += here
    if problems:
        raise DataError("\n  ".join(problems))
    return found


def _sources_of(word: str, reader: Reader) -> Iterator[Any]:
    path = os.path.expanduser(word)
    if "://" in word:
        yield word  # a question mark in it is no pattern
    elif os.path.isdir(path):
        yield from reader.in_folder(path)
    elif Path(path).suffix.lower() in LISTS and os.path.isfile(path):
        yield from reader.read_list(path)
    elif is_there(path) or not glob.has_magic(path):
        yield path  # one that is missing is said in its own line
    else:
        for one in sorted(glob.glob(path, recursive=True), key=natural_order):
            yield from reader.in_folder(one) if os.path.isdir(one) else [one]


def missing(words: Sequence[str]) -> list[str]:
    """Return what is wrong with words that name no file, folder or pattern that is there; web addresses and cameras are
    let pass. No model is needed for that."""
    problems = []
    for word in words:
        try:
            path = os.path.expanduser(plain_path(word))
        except AddressError as error:
            problems.append(str(error))
            continue
        if "://" in path or path.startswith(CAMERA) or is_there(path) or glob.glob(path, recursive=True):
            continue
        problems.append(_nothing(word) if glob.has_magic(word) else f"{word}: there is no such file or folder")
    return problems


def _nothing(word: str) -> str:
    if os.path.isdir(os.path.expanduser(word)):
        return f"{word}: the folder holds nothing that this model reads"
    if glob.has_magic(word):
        return f"{word}: no file matches this pattern"
    return f"{word}: names no clip"
