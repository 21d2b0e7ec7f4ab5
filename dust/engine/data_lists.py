"""What a run was trained on, and what is cheap to see of lists that contradict themselves: by paths alone.

Training writes ``train_list.json`` into OUTPUT_DIR, the clips of a very long list as columns beside it; a test compares
its own list with that, whatever data folder it reads. ``dust check`` looks deeper, at contents too.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.manifest.clips import ClipList, Clips, checked, coded
from dust.datasets.manifest.column_file import TEXT, Columns, Texts, open_columns, write_columns
from dust.datasets.manifest.conflicts import Sample, absolute, find_conflicts, samples_of, shared_ids, suspects
from dust.datasets.protocol import ClipDataset, HasIdentity
from dust.utils.errors import DataError
from dust.utils.files import write_text
from dust.utils.structured import parse_json, read_json

logger = logging.getLogger(__name__)

TRAIN_LIST = "train_list.json"
TRAIN_COLUMNS = "train_list.npz"  # of very many clips
KIND = "a training's list of clips"
MANY = 100_000  # clips that are looked at one by one


def record_training_list(folder: Path, clips: Iterable[Any], val: Any) -> list[str]:
    """Warn of contradictions in the lists of training and validation, and keep the training's list in ``folder``.

    Args:
        clips: the training dataset's.
        val: the validation dataset; None for none.

    Returns:
        The warnings.
    """
    splits = {"train": clips} | ({"val": val.clips} if isinstance(val, ClipDataset) else {})
    warnings = _warnings(_looked_at(splits))
    for text in warnings:
        logger.warning("%s (`dust check` lists them all)", text)
    rows: list[Any] = []
    if isinstance(clips, Clips) and len(clips) > MANY:
        _write_many(folder / TRAIN_COLUMNS, clips)
    else:
        rows = [(one.id, one.label, one.group, one.sources) for one in _samples(clips)]
    kept = {"warnings": warnings, "samples": rows, "columns": not rows, "val_labels": _count_labels(splits.get("val"))}
    text = json.dumps(kept)
    write_text(folder / TRAIN_LIST, text + "\n")
    return warnings


def warnings_of_test(folder: Path, dataset: Any, split: str = "test") -> list[str]:
    """Return the training's warnings, and what its list and that of the tested ``split`` have in common.

    A run that was not trained here (published weights) has no list: then only the test's own contradictions are known.
    """
    warnings: list[str] = []
    splits: dict[str, Any] = {}
    try:
        saved, train = read_training_list(folder)
        if train is not None:
            splits["train"] = train
            warnings += [str(text) for text in saved["warnings"]]
    except DataError as error:
        logger.warning("%s: the lists of training and test are not compared", error)
    if isinstance(dataset, ClipDataset):
        splits[split] = dataset.clips
        found = [text for text in _warnings(_looked_at(splits)) if text not in warnings]
        for text in found:
            logger.warning("%s (`dust check` lists them all)", text)
        warnings += found
    return warnings


def read_training_list(folder: Path) -> tuple[dict[str, Any], Any]:
    """Return what a training in ``folder`` kept: ``warnings``, ``val_labels`` ([label, clips] of each), and its
    samples, as :class:`Clips` where these are very many; an empty dict and None where it kept nothing. DataError if
    damaged."""
    path = folder / TRAIN_LIST
    if not path.is_file():
        return {}, None
    try:
        saved = read_json(path)
        many = saved.get("columns")
        samples = _read_many(folder / TRAIN_COLUMNS) if many else list(map(_sample, saved["samples"]))
        return {"warnings": list(saved["warnings"]), "val_labels": saved.get("val_labels")}, samples
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def shared_clips(one: Any, other: Any) -> list[str]:
    """Return the ids of the samples of dataset ``one`` that have some moment of a file in common with one of
    ``other``."""
    if not (isinstance(one, ClipDataset) and isinstance(other, ClipDataset)):
        return []
    samples = _looked_at({"one": one.clips, "other": other.clips})
    return shared_ids(samples["one"], samples["other"])


def _looked_at(splits: Mapping[str, Any]) -> dict[str, list[Sample]]:
    """Return the samples that can contradict each other: of very many only those that have something in common."""
    lists = {split: clips for split, clips in splits.items() if isinstance(clips, Clips)}
    if len(lists) == len(splits) and sum(map(len, lists.values())) > MANY:
        splits = suspects(lists)
    return {split: clips if _are_samples(clips) else _samples(clips) for split, clips in splits.items()}


def _are_samples(clips: Any) -> bool:
    return isinstance(clips, list) and isinstance(next(iter(clips), None), Sample)


def _samples(clips: Iterable[Any]) -> list[Sample]:
    """Return the clips with absolute paths: a test may begin in another working folder."""
    return [
        replace(one, sources=tuple((absolute(file), part) for file, part in one.sources)) for one in samples_of(clips)
    ]


def _warnings(splits: dict[str, list[Sample]]) -> list[str]:
    return [conflict.summary() for conflict in find_conflicts(splits)]


def _count_labels(clips: Any) -> list[tuple[Any, int]]:
    """Return each label, and how many clips have it."""
    if clips is None:
        return []
    labels = clips.labels() if isinstance(clips, Clips) else (one.label for one in samples_of(clips))
    return list(Counter(labels).items())


def _ids_and_labels(clips: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((clip.id, clip.label) for clip in clips)


def _sample(row: Any) -> Sample:
    """Return a sample as train_list.json has it. ValueError, TypeError."""
    name, label, group, sources = row
    return Sample(str(name), _hashable(label), str(group), tuple((str(file), str(part)) for file, part in sources))


def _write_many(path: Path, clips: Clips) -> None:
    """Keep a list as columns. DataError if it cannot be written."""
    labels, label = coded(clips.labels())
    groups, group = coded(clips.groups())
    columns: dict[str, Any] = {"path": Texts.of(map(absolute, clips.paths())), "id": Texts.of(clips.ids())}
    columns |= {"label": label, "group": group}
    if clips.has_segments:
        for name in ("start", "end"):
            bounds = (getattr(one, name, None) for one in clips.segments())
            columns[name] = np.fromiter((np.nan if bound is None else bound for bound in bounds), "<f8")
    unit = next((one.unit for one in clips.lists if one.has_segments), "")
    tables: dict[str, Any] = {"labels": Texts.of(map(json.dumps, labels)), "groups": Texts.of(groups)}
    try:
        write_columns(path, Columns(columns, tables, {"unit": unit}), KIND)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read_many(path: Path) -> Clips:
    """Return what :func:`_write_many` kept. DataError."""
    columns = {"path": TEXT, "id": TEXT, "label": "<i4", "group": "<i4", "start": "<f8", "end": "<f8"}
    found = open_columns(path, KIND, columns, tables={"labels": TEXT, "groups": TEXT}, optional=("start", "end"))
    tables: dict[str, Any] = found.tables
    labels = [_hashable(parse_json(text, path)) for text in tables["labels"]]
    checked(found, {"label": len(labels), "group": len(tables["groups"])})
    return Clips([ClipList(found, [*labels, None], tables["groups"], unit=str(found.facts.get("unit")))])


def _hashable(label: Any) -> Any:
    return tuple(map(_hashable, label)) if isinstance(label, list) else label


def fingerprint(dataset: Any, fitted: dict[str, Any]) -> str:
    """Return the identity of the training samples and labels, wherever they lie on disk, and of what was learnt of
    them."""
    digest = hashlib.sha256()
    clips = dataset.clips
    pairs = zip(clips.ids(), clips.labels(), strict=True) if isinstance(clips, Clips) else _ids_and_labels(clips)
    while some := [f"{name}\x1f{label}\x1e" for name, label in islice(pairs, 4096)]:
        digest.update("".join(some).encode(errors="surrogateescape"))
    identity = dataset.identity if isinstance(dataset, HasIdentity) else None  # what else it says of its samples
    for extra in (fitted, identity):
        digest.update(json.dumps(extra, sort_keys=True).encode() if extra else b"")
    return digest.hexdigest()
