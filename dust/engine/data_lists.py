"""What a run was trained on, and what is cheap to see of lists that contradict themselves: by paths alone.

Training writes ``train_list.json`` into OUTPUT_DIR; a test compares its own list with that, whatever data folder it
reads. ``dust check`` looks deeper, at contents too.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dust.datasets.manifest.conflicts import Sample, find_conflicts, samples_of, shared_ids
from dust.datasets.protocol import ClipDataset, HasIdentity
from dust.utils.errors import DataError
from dust.utils.files import write_text
from dust.utils.structured import read_json

logger = logging.getLogger(__name__)

TRAIN_LIST = "train_list.json"


def record_training_list(folder: Path, clips: Iterable[Any], val: Any) -> list[str]:
    """Warn of contradictions in the lists of training and validation, and keep the training's list in ``folder``.

    Args:
        clips: the training dataset's.
        val: the validation dataset; None for none.

    Returns:
        The warnings.
    """
    train = _samples(clips)
    splits = {"train": train} | ({"val": _samples(val.clips)} if isinstance(val, ClipDataset) else {})
    warnings = _warnings(splits)
    for text in warnings:
        logger.warning("%s (`dust check` lists them all)", text)
    rows = [(one.id, one.label, one.group, one.sources) for one in train]
    write_text(folder / TRAIN_LIST, json.dumps({"warnings": warnings, "samples": rows}) + "\n")
    return warnings


def warnings_of_test(folder: Path, dataset: Any, split: str = "test") -> list[str]:
    """The training's warnings, and what its list and that of the tested ``split`` have in common.

    A run that was not trained here (published weights) has no list: then only the test's own contradictions are known.
    """
    warnings: list[str] = []
    splits: dict[str, list[Sample]] = {}
    path = folder / TRAIN_LIST
    if path.is_file():
        try:
            saved = read_json(path)
            splits["train"] = [
                Sample(str(name), _hashable(label), str(group), tuple((str(file), str(part)) for file, part in sources))
                for name, label, group, sources in saved["samples"]
            ]
            warnings += [str(text) for text in saved["warnings"]]
        except (DataError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s): the lists of training and test are not compared", path, error)
    if isinstance(dataset, ClipDataset):
        splits[split] = _samples(dataset.clips)
        found = [text for text in _warnings(splits) if text not in warnings]
        for text in found:
            logger.warning("%s (`dust check` lists them all)", text)
        warnings += found
    return warnings


def shared_clips(one: Any, other: Any) -> list[str]:
    """The ids of the samples of dataset ``one`` that have some moment of a file in common with one of ``other``."""
    if not (isinstance(one, ClipDataset) and isinstance(other, ClipDataset)):
        return []
    return shared_ids(_samples(one.clips), _samples(other.clips))


def _samples(clips: Iterable[Any]) -> list[Sample]:
    """The clips with absolute paths: a test may begin in another working folder."""
    return [
        replace(one, sources=tuple((os.path.abspath(file), part) for file, part in one.sources))
        for one in samples_of(clips)
    ]


def _warnings(splits: dict[str, list[Sample]]) -> list[str]:
    return [conflict.summary() for conflict in find_conflicts(splits)]


def _hashable(label: Any) -> Any:
    return tuple(map(_hashable, label)) if isinstance(label, list) else label


def fingerprint(dataset: Any, fitted: dict[str, Any]) -> str:
    """Identity of the training samples and labels, wherever they lie on disk, and of what was learnt of them."""
    digest = hashlib.sha256()
    for clip in dataset.clips:
        digest.update(f"{clip.id}\x1f{clip.label}\x1e".encode(errors="surrogateescape"))
    identity = dataset.identity if isinstance(dataset, HasIdentity) else None  # what else it says of its samples
    for extra in (fitted, identity):
        digest.update(json.dumps(extra, sort_keys=True).encode() if extra else b"")
    return digest.hexdigest()
