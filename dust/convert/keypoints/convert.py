"""From files of keypoints to point tracks (``tracks.csv``) or series (``manifest.csv``) of ours."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dust.convert.keypoints import json_files, tables
from dust.convert.keypoints.poses import (
    KEEP,
    PLANE,
    Recording,
    check_frames,
    choose_people,
    in_order,
    link_people,
    stacked,
)
from dust.convert.splits import make_folder, refuse_overwriting
from dust.datasets.manifest.labels import CLASS_LIST, write_class_list
from dust.datasets.manifest.table import SPLIT_NAMES, read_table
from dust.datasets.tracks.files import Tracks, find_problems
from dust.datasets.tracks.manifest import deal_sequences
from dust.datasets.tracks.skeletons import find_pairs
from dust.utils.errors import ConfigError, DataError, Problems
from dust.utils.files import file_stems, natural_order, replacing, write_csv
from dust.utils.text import whole_number

VIEW_REGEX = r"(?:^|[_\-./ ])(?:view|camera|cam)[_\-]?(\d+)(?=$|[_\-./ ])"
KINDS = ("tracks", "series")
LABEL_COLUMNS = ("clip", "label", "split", "sequence", "sample", "view")


@dataclass(frozen=True)
class Form:
    """A form of keypoints: what it is, its reader, and the endings of its files."""

    title: str
    read: Callable[[Path, str], list[Recording]]
    endings: tuple[str, ...]


def _mediapipe(path: Path, name: str) -> list[Recording]:
    return (tables.read_mediapipe_csv if path.suffix == ".csv" else json_files.read_mediapipe_json)(path, name)


def _openpose(path: Path, name: str) -> list[Recording]:
    """Read all files of a recording; ``path`` is its first."""
    stem = json_files.openpose_stem(path)
    files = [one for one in path.parent.iterdir() if one.suffix == ".json" and json_files.openpose_stem(one) == stem]
    return json_files.read_openpose(sorted(files, key=natural_order), name)


READERS = {
    "coco": Form("COCO's results or annotations, AlphaPose's, MMPose's", json_files.read_coco, (".json",)),
    "csv": Form("a column or a row for each joint, in pixels", tables.read_csv, (".csv",)),
    "h36m": Form("arrays of Human3.6M's 17 joints", tables.read_h36m, (".npz", ".npy", ".pkl")),
    "mediapipe": Form("MediaPipe's landmarks, shares of the frame", _mediapipe, (".json", ".csv")),
    "ntu": Form("NTU RGB+D's .skeleton", tables.read_ntu, (".skeleton",)),
    "openpose": Form("OpenPose's *_keypoints.json, one for each frame", _openpose, ("_keypoints.json",)),
    "pyskl": Form("arrays of mmaction and pyskl, one recording a file", tables.read_pyskl, (".npz", ".npy", ".pkl")),
}


@dataclass
class Converted:
    """``counts``: clips of each split ("" where none is said). ``classes``: their names, ``points`` and ``views`` of a
    clip, ``channels`` of a series. ``notes``: what a person should know."""

    counts: dict[str, int] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    points: int = 0
    views: int = 1
    channels: int = 0
    notes: list[str] = field(default_factory=list)


def convert_keypoints(
    form: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    kind: str = "tracks",
    labels: str = "",
    size: Sequence[int] = (),
    fps: float = 0.0,
    threshold: float = 0.3,
    people: int = 1,
    keep: str = "largest",
    plane: str = "",
    view_regex: str = VIEW_REGEX,
    force: bool = False,
) -> Converted:
    """Write ``out/tracks.csv`` and ``out/tracks/*.npz``, or ``out/manifest.csv`` and ``out/series/*.npz``.

    Args:
        form: a key of READERS.
        source: a file, or a folder with files at any depth, of which each is a recording of one camera.
        kind: tracks | series. A series has x and y of each joint as channels, in [-1, 1] over the frame, NaN where it
            was not seen; of several cameras one behind the other.
        labels: a csv with the columns clip, label and, if need be, split, sequence, sample and view. "": the folders
            ``[split/]label/clip`` say it.
        size: height and width of the frames, pixels, for files that do not say them.
        fps: frames per second, for files that do not say them; 0 is not known.
        threshold: a joint of a higher confidence is visible.
        people, keep: how many people are kept, and which, see :func:`choose_people`.
        plane: of positions in space, see :meth:`Recording.project`.
        view_regex: where a name says the camera; the first group is its number.

    Raises:
        ConfigError: options that cannot be.
        DataError: files that cannot be read, with all of them; files in the way.
    """
    pattern = _check_options(kind, size, threshold, people, keep, plane, view_regex)
    source, out = Path(source).expanduser(), Path(out)
    refuse_overwriting(out, ["tracks.csv", "manifest.csv", CLASS_LIST], force)
    recordings = _read(form, source, pattern, labels)
    problems, result = Problems(), Converted()
    frame = (int(size[0]), int(size[1])) if size else None
    samples = _samples(recordings, problems, result)
    made: dict[str, dict[int, Tracks]] = {}
    for sample, cameras in samples.items():
        first = min(min(one.frames) for one in cameras.values())
        last = max(max(one.frames) for one in cameras.values())
        for view, one in cameras.items():
            try:
                one.project(plane)
                one.to_pixels(frame)
                tracks = _tracks(one, in_order(one, first, last), one.fps or fps, threshold, people, keep, result)
                wrong = find_problems(tracks)
            except DataError as error:
                wrong = [str(error)]
            for text in wrong:
                problems.add("recordings that cannot be used", f"{one.name}: {text}")
            if not wrong:
                made.setdefault(sample, {})[view] = tracks
    problems.raise_if_any(str(source))
    make_folder(out)
    facts = {sample: next(iter(cameras.values())) for sample, cameras in samples.items()}
    result.classes = sorted({one.label for one in facts.values() if one.label})
    if len(samples) < 1 or not result.classes:
        result.notes.append("no labels: neither folders [split/]label/clip nor --labels say them")
    (_write_tracks if kind == "tracks" else _write_series)(made, facts, out, result)
    if result.classes:
        write_class_list(out / CLASS_LIST, result.classes)
    for one in facts.values():
        result.counts[one.split] = result.counts.get(one.split, 0) + 1
    return result


def _check_options(
    kind: str, size: Sequence[int], threshold: float, people: int, keep: str, plane: str, view_regex: str
) -> re.Pattern[str]:
    problems = [f"{name} {value!r}: one of {', '.join(known)}" for name, value, known in (
        ("--as", kind, KINDS), ("--keep", keep, KEEP)) if value not in known]  # fmt: skip
    if len(size) not in (0, 2) or any(side < 1 for side in size):
        problems.append(f"--size {list(size)}: height and width in pixels, 1080,1920")
    if not 0 <= threshold < 1:
        problems.append(f"--threshold {threshold:g}: from 0 to below 1")
    if plane and (not PLANE.fullmatch(plane) or plane[-1] in plane[:-2]):
        problems.append(f"--plane {plane!r}: two axes, the first to the right and the second down: x,-z")
    if people < 1:
        problems.append(f"--people {people}: at least 1")
    try:
        pattern = re.compile(view_regex, re.IGNORECASE)
        if pattern.groups < 1:
            problems.append(f"--view-regex {view_regex!r}: put the camera's number in brackets")
    except re.error as error:
        problems.append(f"--view-regex {view_regex!r} is no regular expression: {error}")
    if problems:
        raise ConfigError("; ".join(problems))
    return pattern


# --- reading --------------------------------------------------------------------------------------------------------


def _read(form: str, source: Path, pattern: re.Pattern[str], labels: str) -> list[Recording]:
    """Return all recordings; DataError with every file that cannot be read."""
    problems, recordings = Problems(), []
    for path, name in _files(source, form):
        try:
            for one in READERS[form].read(path, name):
                check_frames(one, str(path))
                if one.frames and one.names:
                    recordings.append(one)
                else:
                    problems.add("nobody is in it: take it away", str(path))
        except DataError as error:
            problems.add("files that cannot be used", str(error))
    problems.raise_if_any(str(source))
    said = _read_labels(Path(labels).expanduser()) if labels else {}
    for one in recordings:
        row = said.get(one.name) or said.get(one.name.rpartition("/")[2]) or {}
        if labels and not row:
            problems.add(f"a recording that {labels} does not name", one.name)
        for key in ("label", "split", "sequence", "sample"):
            setattr(one, key, row.get(key) or getattr(one, key))
        if row.get("view"):
            one.view = whole_number(row["view"])
        one.split_name(pattern)
    problems.raise_if_any(str(source))
    return recordings


def _files(source: Path, form: str) -> list[tuple[Path, str]]:
    """Return each recording's (first) file, and its name: the path below the source without suffix."""
    endings = READERS[form].endings
    if source.is_file():
        return [(source, source.stem)]
    if not source.is_dir():
        raise DataError(f"{source}: there is no such file or folder")
    found = [
        path
        for path in source.rglob("*")
        if path.name.endswith(endings) and not path.name.startswith(".") and path.is_file()
    ]
    found.sort(key=lambda path: natural_order(path.relative_to(source)))
    if not found:
        raise DataError(f"{source}: no file that ends in {' or '.join(endings)}")
    if form != "openpose":
        return [(path, str(path.relative_to(source).with_suffix("")).replace(os.sep, "/")) for path in found]
    first: dict[tuple[Path, str], Path] = {}
    for path in found:
        first.setdefault((path.parent, json_files.openpose_stem(path) or ""), path)
    folders = [folder for folder, _ in first]
    named = []
    for (folder, stem), path in first.items():
        parts = list(folder.relative_to(source).parts)
        alone = folders.count(folder) == 1
        named.append((path, "/".join(parts) if alone and parts else "/".join([*parts, stem or source.name])))
    return named


def _read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Return {clip: what its row says}."""
    problems = Problems()
    table = read_table(path, problems)
    unknown = [name for name in table.header if name not in LABEL_COLUMNS]
    if unknown or "clip" not in table.header:
        raise DataError(f"{path}: the columns are {', '.join(LABEL_COLUMNS)}, and clip must be there: {table.header}")
    rows: dict[str, dict[str, str]] = {}
    for where, _, cells in table.rows:
        row = {name: cell.strip() for name, cell in cells.items()}
        if row.get("split"):
            if row["split"].lower() not in SPLIT_NAMES:
                problems.add("a split that is none of train, val, test", f"{where}: {row['split']!r}")
            row["split"] = SPLIT_NAMES.get(row["split"].lower(), "")
        if row.get("view") and whole_number(row["view"]) is None:
            problems.add("a view that is not a camera's number (0, 1, ...)", f"{where}: {row['view']!r}")
        if row["clip"] in rows:
            problems.add("a clip that stands there twice", f"{where}: {row['clip']}")
        rows[row["clip"]] = row
    problems.raise_if_any(str(path))
    return rows


# --- one clip -------------------------------------------------------------------------------------------------------


def _samples(recordings: Sequence[Recording], problems: Problems, result: Converted) -> dict[str, dict[int, Recording]]:
    """Return {sample: {camera from 0: recording}}. Cameras are the numbers that occur, in their order."""
    numbers = sorted({one.view for one in recordings if one.view is not None})
    order = {number: place for place, number in enumerate(numbers)}
    if numbers and numbers != list(range(len(numbers))):
        result.notes.append("cameras " + ", ".join(f"{number} is view {place}" for number, place in order.items()))
    result.views = max(len(numbers), 1)
    samples: dict[str, dict[int, Recording]] = {}
    for one in recordings:
        cameras = samples.setdefault(one.sample, {})
        view = order.get(one.view, 0) if one.view is not None else 0
        first = next(iter(cameras.values()), one)
        if view in cameras:
            problems.add("two recordings of one sample and camera", f"{one.name} and {cameras[view].name}")
        for name in ("label", "split", "sequence", "names"):
            if getattr(first, name) != getattr(one, name):
                problems.add(f"recordings of one sample that differ in {name}", f"{first.name} and {one.name}")
        cameras[view] = one
    every = [next(iter(cameras.values())) for cameras in samples.values()]
    for name in ("label", "split"):
        lacking = [one.name for one in every if not getattr(one, name)]
        if lacking and len(lacking) < len(every):
            problems.add(f"no {name}, where others have one", lacking[0])
    if len({one.names for one in every}) > 1:
        names = sorted({len(one.names) for one in every})
        problems.add("recordings with different joints: convert them one kind at a time", f"{names} joints")
    problems.raise_if_any("the recordings")
    return samples


def _tracks(
    recording: Recording, frames: list, fps: float, threshold: float, people: int, keep: str, result: Converted
) -> Tracks:
    found = link_people(frames, threshold)
    kept = choose_people(found, people, keep, threshold)
    joints = stacked(kept, len(frames), len(recording.names), people)
    if len(found) > len(kept):
        result.notes.append(f"{recording.name}: {len(found)} people, of whom the {keep} {len(kept)} are kept")
    names = recording.names
    if people > 1:
        names = tuple(f"{number}:{name}" for number in range(1, people + 1) for name in recording.names)
    visible = joints[..., 2] > threshold
    xy = np.where(visible[..., None], joints[..., :2], 0.0).astype(np.float32)
    return Tracks(xy, visible, recording.size, fps, names, find_pairs(names))


# --- writing --------------------------------------------------------------------------------------------------------


def _write_tracks(
    made: dict[str, dict[int, Tracks]], facts: dict[str, Recording], out: Path, result: Converted
) -> None:
    make_folder(out / "tracks")
    splits = any(one.split for one in facts.values())
    rows = []
    for (sample, cameras), stem in zip(made.items(), file_stems(list(made)), strict=True):
        one = facts[sample]
        for view, tracks in sorted(cameras.items()):
            file = f"tracks/{stem}_view_{view}.npz"
            arrays = {"tracks": tracks.xy, "visibility": tracks.visible, "size": np.array(tracks.size)}
            arrays |= {"fps": np.array(tracks.fps), "names": np.array(tracks.names), "pairs": tracks.pairs}
            _save(out / file, arrays)
            rows.append([sample, view, one.label, file, one.sequence, *([one.split] if splits else [])])
            result.points = tracks.xy.shape[1]
    write_csv(out / "tracks.csv", ["sample", "view", "label", "file", "sequence", *(["split"] if splits else [])], rows)


def _write_series(
    made: dict[str, dict[int, Tracks]], facts: dict[str, Recording], out: Path, result: Converted
) -> None:
    make_folder(out / "series")
    if not any(one.split for one in facts.values()):
        dealt = deal_sequences({one.sequence for one in facts.values()})
        for one in facts.values():
            one.split = dealt[one.sequence]
        result.notes.append("no splits: 80/10/10 of the sequences by the hash of their names")
    rows = []
    for (sample, cameras), stem in zip(made.items(), file_stems(list(made)), strict=True):
        one, like = facts[sample], next(iter(cameras.values()))
        parts = [_channels(cameras.get(view), like) for view in range(result.views)]
        arrays = {"series": np.concatenate(parts)}
        if like.fps:
            arrays["time"] = np.arange(len(like.xy)) / like.fps
        _save(out / f"series/{stem}.npz", arrays)
        rows.append([sample, one.label, f"series/{stem}.npz", one.split, one.sequence])
        result.channels, result.points = len(arrays["series"]), like.xy.shape[1]
    write_csv(out / "manifest.csv", ["id", "label", "series", "split", "group"], rows)
    names = next(iter(next(iter(made.values())).values())).names
    listed = [f"{view}:{name}_{axis}" if result.views > 1 else f"{name}_{axis}"
              for view in range(result.views) for name in names for axis in "xy"]  # fmt: skip
    write_csv(out / "channels.csv", ["channel", "name"], enumerate(listed))


def _channels(tracks: Tracks | None, like: Tracks) -> np.ndarray:
    """Return (2 P, T) float32: x and y of each point in turn, [-1, 1] over the frame; NaN where it was not seen."""
    if tracks is None:
        return np.full((2 * like.xy.shape[1], len(like.xy)), np.nan, np.float32)
    assert tracks.size is not None
    xy = 2 * tracks.xy / np.array(tracks.size[::-1], np.float32) - 1
    xy = np.where(tracks.visible[..., None], xy, np.nan)
    return xy.reshape(len(xy), -1).T.astype(np.float32)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
