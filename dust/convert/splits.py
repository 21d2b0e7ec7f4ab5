"""Writes train.csv, val.csv, test.csv and classes.txt from manifests, after checking the clips that they list."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dust.convert.duplicates import shared_between
from dust.convert.health import examine_all
from dust.datasets.manifest.clips import classes_of
from dust.datasets.manifest.labels import CLASS_LIST, write_class_list
from dust.datasets.manifest.manifest import SPLITS, Clip, Manifest, available_splits, read_manifest
from dust.decode.remote import is_remote
from dust.utils.errors import SHOWN, DataError
from dust.utils.files import write_csv
from dust.utils.text import counted

BAD_CLIPS = "bad_clips.csv"
ARE = ("clip is", "clips are")


@dataclass
class Conversion:
    """``counts``: clips per split. ``dropped``: clips left out. ``notes``: what a person should know."""

    counts: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    notes: list[str] = field(default_factory=list)


def read_public(root: str, format: str, *, split_number: int = 1, path_prefix: str = "") -> dict[str, Manifest]:
    """Return the splits of a public data set or of class folders; val and test have train's classes.

    SSv2's test list, which has no labels, is left aside: its published numbers are of the validation list.
    """
    found = available_splits(root, format, split_number)
    if "train" not in found:
        found = ["train"]  # reading it says what was looked for
    manifests: dict[str, Manifest] = {}
    for split in found:
        manifest = read_manifest(
            root=root,
            split=split,
            format=format,
            path_prefix=path_prefix,
            split_number=split_number,
            class_names=manifests["train"].class_names if manifests else None,
        )
        if all(clip.label is not None for clip in manifest.clips):
            manifests[split] = manifest
    return manifests


def write_splits(
    manifests: dict[str, Manifest],
    out: str | os.PathLike,
    *,
    relative_to: str = "",
    workers: int = 0,
    force: bool = False,
    skip_bad: bool = False,
    drop_leaks: bool = False,
) -> Conversion:
    """Check the clips, then write ``out/{train,val,test}.csv`` (``path,label`` with class names) and ``classes.txt``.

    Where only one of val and test is given, the other is a copy of it.

    Args:
        manifests: {split: manifest}, "train" among them, all with the same class names.
        relative_to: write paths relative to this folder (DATA.PATH_PREFIX is then set to it); "" writes paths relative
            to ``out`` for clips below it, and absolute ones otherwise.
        workers: processes that open the clips; 0 works in this one.
        force: replace files of these names.
        skip_bad: leave clips out that cannot be opened, and list them in ``out/bad_clips.csv``; else they are an error.
        drop_leaks: leave train clips out whose content is in val or test too; else they are an error.

    Raises:
        DataError: a file in the way; classes that do not agree; bad clips; leaks. Nothing is written then, save the
            list of bad clips.
    """
    out = Path(out)
    result = Conversion()
    refuse_overwriting(out, [*(f"{split}.csv" for split in SPLITS), CLASS_LIST, BAD_CLIPS], force)
    names = manifests["train"].class_names
    _check_classes(manifests, names, result)
    clips = {split: list(manifest.clips) for split, manifest in manifests.items()}
    bad = examine_all([clip.path for part in clips.values() for clip in part], decode=False, workers=workers)
    if bad:
        _handle_bad(clips, bad, out, skip_bad, result)
    _handle_leaks(clips, drop_leaks, result)
    empty = [split for split, part in clips.items() if not part]
    if empty:
        raise DataError(f"no clip is left in {', '.join(empty)}")
    for split, other in (("val", "test"), ("test", "val")):
        if split not in clips and other in clips:
            clips[split] = clips[other]
            result.notes.append(f"{split}.csv is a copy of {other}.csv: there is no list of its own")
    make_folder(out)
    for split in SPLITS:
        if split in clips:
            rows = [
                (written_path(clip.path, out, relative_to), ",".join(names[label] for label in classes_of(clip.label)))
                for clip in clips[split]
            ]
            write_csv(out / f"{split}.csv", ("path", "label"), rows)
            result.counts[split] = len(rows)
    write_class_list(out / CLASS_LIST, names)
    return result


def refuse_overwriting(folder: Path, names: Sequence[str], force: bool) -> None:
    """Raise DataError if any of the files is there already and ``force`` is not set."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give a folder")
    present = [name for name in names if (folder / name).exists()]
    if present and not force:
        raise DataError(f"{folder} already holds {', '.join(present)}: give another place, or --force to replace them")


def make_folder(folder: Path) -> None:
    """Make it, where it is not there. DataError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror or error}") from error


def write_bad_clips(folder: Path, rows: Sequence[tuple[str, str, str, str]]) -> Path:
    """Write (split, id, path, reason) of every bad clip, and return the file's path."""
    make_folder(folder)
    path = folder / BAD_CLIPS
    write_csv(path, ("split", "id", "path", "reason"), rows)
    return path


def bad_rows(clips: dict[str, list[Clip]], bad: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """Return the rows of :func:`write_bad_clips`, from {path: reason}."""
    return [(split, c.id, c.path, bad[c.path]) for split, part in clips.items() for c in part if c.path in bad]


def _listed(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(f"\n      {line}" for line in [*lines[:SHOWN], *more])


def _check_classes(manifests: dict[str, Manifest], names: list[str], result: Conversion) -> None:
    used: dict[str, set[int]] = {}
    for split, manifest in manifests.items():
        if manifest.class_names != names:
            raise DataError(f"the classes of {split} and train differ: {manifest.class_names[:10]} and {names[:10]}")
        used[split] = {label for clip in manifest.clips for label in classes_of(clip.label)}
    for split in manifests:
        unseen = [names[label] for label in sorted(used[split] - used["train"])]
        if unseen:
            raise DataError(
                f"{len(unseen)} classes of {split} have no clip in train, so they cannot be learnt:{_listed(unseen)}"
            )
        absent = [names[label] for label in sorted(set(range(len(names))) - used[split])]
        if absent:
            result.notes.append(f"{len(absent)} of {len(names)} classes have no clip in {split}:{_listed(absent)}")


def _handle_bad(
    clips: dict[str, list[Clip]], bad: dict[str, str], out: Path, skip_bad: bool, result: Conversion
) -> None:
    path = write_bad_clips(out, bad_rows(clips, bad))
    lines = [f"{name}: {reason}" for name, reason in bad.items()]
    if not skip_bad:
        unread = f"{counted(len(bad), 'clip')} cannot be read"
        raise DataError(f"{unread} ({path}); --skip-bad leaves such out:{_listed(lines)}")
    for split, part in clips.items():
        clips[split] = [clip for clip in part if clip.path not in bad]
        result.dropped += len(part) - len(clips[split])
    out_of = counted(len(bad), "clip cannot be read and is left out", "clips cannot be read and are left out")
    result.notes.append(f"{out_of}, see {path}:{_listed(lines)}")


def _handle_leaks(clips: dict[str, list[Clip]], drop_leaks: bool, result: Conversion) -> None:
    paths = {split: [clip.path for clip in part] for split, part in clips.items()}
    if paths.get("val") == paths.get("test"):
        paths.pop("val", None)  # one list under two names, as with UCF101
    shared, repeated = shared_between(paths)
    leaks = [owners for owners in shared if "train" in owners]
    lines = ["; ".join(f"{split}: {', '.join(names)}" for split, names in owners.items()) for owners in leaks]
    if leaks and not drop_leaks:
        raise DataError(
            f"{counted(len(leaks), *ARE)} in train and in val or test, with the same content; --drop-leaks leaves such "
            f"out of train:{_listed(lines)}"
        )
    if leaks:
        leaked = {path for owners in leaks for path in owners["train"]}
        kept = [clip for clip in clips["train"] if clip.path not in leaked]
        result.dropped += len(clips["train"]) - len(kept)
        gone = counted(len(leaks), "clip was in val or test too and is", "clips were in val or test too and are")
        result.notes.append(f"{gone} left out of train:{_listed(lines)}")
        clips["train"] = kept
    both = [
        ", ".join(name for names in owners.values() for name in names) for owners in shared if "train" not in owners
    ]
    if both:
        result.notes.append(f"{counted(len(both), *ARE)} in val and in test, with the same content:{_listed(both)}")
    for split, groups in repeated.items():
        if groups:
            shown = _listed([", ".join(group) for group in groups])
            result.notes.append(f"{counted(len(groups), *ARE)} in {split} more than once, under several names:{shown}")


def written_path(path: str, out: Path, relative_to: str = "") -> str:
    """Return a path as a list in ``out`` writes it: relative to ``relative_to``, or to ``out`` if it lies below."""
    if is_remote(path):
        return path
    full = os.path.abspath(path)
    base = os.path.abspath(relative_to or out)
    inside = os.path.commonpath([full, base]) == base
    if relative_to and not inside:
        raise DataError(f"{path} is not below {relative_to}, to which paths should be relative")
    return os.path.relpath(full, base).replace(os.sep, "/") if inside else full
