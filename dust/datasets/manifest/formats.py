"""Readers of the layouts that public data comes in: class folders, SSv2's json, UCF101's and HMDB51's split files.

Each ``find_*`` says which files of that layout a folder holds (empty: none), each ``read_*`` returns a
:class:`~dust.datasets.manifest.table.RawSplit` whose labels are class names. ``split`` is train, val or test.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dust.datasets.manifest.table import SPLIT_NAMES, RawSplit, Row
from dust.decode.clip import say_once
from dust.decode.folders import Scan, is_file, is_folder, is_hidden, is_video, iter_clips, visible
from dust.utils.errors import DataError, Problems
from dust.utils.files import hash_order, read_text
from dust.utils.structured import read_json
from dust.utils.text import whole_number

logger = logging.getLogger(__name__)

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_LISTS = (".csv", ".tsv", ".txt", ".json", ".xls", ".xlsx", ".ods")
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}  # of each class, where class folders come without split folders


def _folders(folder: str) -> list[str]:
    return [entry.name for entry in visible(folder) if is_folder(entry)]


def _holds_clips(folder: str, *, frames: bool = True) -> bool:
    return next(iter_clips(folder, frames=frames), None) is not None


# --- one folder per class ---------------------------------------------------------------------------------------


def find_folders(root: str) -> list[str]:
    """Return ``train/<class>`` and so on if there are split folders, else the class folders."""
    splits, classes = _split_and_class_folders(root)
    return [f"{name}/<class>/" for name in splits.values()] or [f"{name}/" for name in classes]


def _split_and_class_folders(root: str) -> tuple[dict[str, str], list[str]]:
    """Return ({split: its folder}, [class folders]). A folder named train that holds videos itself is a class of that
    name."""
    splits: dict[str, str] = {}
    classes: list[str] = []
    for name in _folders(root):
        path = os.path.join(root, name)
        split = next((split for split, names in SPLIT_FOLDERS.items() if name.lower() in names), None)
        direct = any(is_video(entry.name) for entry in visible(path) if not is_folder(entry))
        if split is not None and _folders(path) and not direct:
            if split in splits:
                raise DataError(f"{root}: both {splits[split]}/ and {name}/ could be the {split} split: remove one")
            splits[split] = name
        elif _holds_clips(path):
            classes.append(name)
    if splits:  # pictures beside split folders are mostly of something else
        classes = [name for name in classes if _holds_clips(os.path.join(root, name), frames=False)]
    return splits, classes


def has_folder(root: str, split: str) -> bool:
    splits, classes = _split_and_class_folders(root)
    return split in splits or (not splits and bool(classes))


def read_folders(root: str, split: str) -> RawSplit:
    """Read ``root/<split>/<class>/**/clip``, or ``root/<class>/**/clip`` split 80/10/10 within each class by the clips'
    hashed ids."""
    splits, classes = _split_and_class_folders(root)
    if splits and classes:
        raise DataError(
            f"{root}: holds split folders ({', '.join(sorted(splits.values()))}) and other folders with videos "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}): keep either <split>/<class>/ or "
            "<class>/, or list the clips in csv files"
        )
    if splits and split not in splits:
        raise DataError(
            f"{root}: no folder for the {split} split (looked for {', '.join(SPLIT_FOLDERS[split])}; "
            f"found {', '.join(sorted(splits.values()))})"
        )
    if not splits and not classes:
        raise DataError(f"{root}: no folder with videos in it (looked for <split>/<class>/ and <class>/)")
    if not splits:
        _refuse_splits_below(root, classes)
    _say_lists(root)
    top = os.path.join(root, splits[split]) if splits else root
    raw = RawSplit(source=f"{top} (one folder per class)", rows=[], bases=[root])
    names = set(classes)
    for folder in [splits["train"]] if "train" in splits else splits.values():  # others' classes must be among train's
        names.update(_folders(os.path.join(root, folder)))
    raw.class_names = sorted(names)
    for entry in visible(top):
        if is_file(entry) and is_video(entry.name):
            raw.problems.add("a clip outside the class folders: move it into one", entry.path)
    scan = Scan()
    for name in _folders(top):
        found = iter_clips(os.path.join(top, name), scan)
        clips = [os.path.relpath(path, root).replace(os.sep, "/") for path in found]
        if not splits:
            clips = _share(clips, split, name, raw.problems) if name in names else []
        elif not clips:
            logger.warning("%s: class folder %s holds no video", top, name)
        raw.rows.extend(Row(clip, clip, name, clip, os.path.join(root, *clip.split("/"))) for clip in clips)
    if scan.left_out:
        level = logging.INFO if scan.only_hidden else logging.WARNING
        logger.log(level, "%s: left out: %s", top, scan.summary())
    if not splits:
        logger.info("%s has no split folders: 80/10/10 of each class by the hash of the clips' ids", root)
    return raw


def _refuse_splits_below(root: str, classes: Sequence[str]) -> None:
    """Raise DataError where split folders lie below what would be the class folders: nobody's splits are mixed."""
    for name in classes:
        below = [one for one in _folders(os.path.join(root, name)) if one.lower() in SPLIT_NAMES]
        if len({SPLIT_NAMES[one.lower()] for one in below}) > 1:
            raise DataError(
                f"{root}: {name}/ holds split folders ({', '.join(below)}), and would be a class: if the classes lie "
                f"below them, give {os.path.join(root, name)}; else put the splits above the classes (train/{name}/), "
                "or list the clips in csv files"
            )


def _say_lists(root: str) -> None:
    """Warn of what looks like a list of clips beside class folders, and is none that is read."""
    names = [entry.name for entry in visible(root) if is_file(entry) and entry.name.lower().endswith(_LISTS)]
    names = [name for name in names if not SPLIT_NAMES.keys().isdisjoint(re.split(r"[^a-z]+", name.lower()))]
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        remark = "not read, for lists are called train.csv, val.csv and test.csv"
        say_once("lists", root, f"{remark}: {shown} (clips are those of the folders)")


def _share(clips: list[str], split: str, name: str, problems: Problems) -> list[str]:
    """Return the part of one class that belongs to a split: the clips in the order of their ids' hashes, 80 % first,
    then 10 %, then the rest, at least one each. Independent of the machine and of every other class."""
    if len(clips) < len(SHARES):
        problems.add(
            "too few clips to split a class into train, val and test (3 needed): make split folders or csv files",
            f"{name}: {len(clips)}",
        )
        return []
    order = sorted(clips, key=hash_order)
    held_out = max(1, round(SHARES["val"] * len(clips)))
    parts = {"test": order[-held_out:], "val": order[-2 * held_out : -held_out], "train": order[: -2 * held_out]}
    return sorted(parts[split])


# --- Something-Something V2 -------------------------------------------------------------------------------------

_SSV2_NAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",), "labels": ("labels",)}


def ssv2_file(root: str, what: str) -> str | None:
    """Return the list of a split, or the class list ("labels"), wherever it lies."""
    for name in _SSV2_NAMES[what]:
        for folder in ("", "labels", "annotations"):
            for pattern in (f"something-something-v2-{name}.json", f"{name}.json"):
                path = os.path.join(root, folder, pattern)
                if os.path.isfile(path):
                    return path
    return None


def find_ssv2(root: str) -> list[str]:
    found = (ssv2_file(root, what) for what in ("train", "val", "test"))
    return [os.path.relpath(path, root) for path in found if path]


def strip_template(template: str) -> str:
    """Turn ``Pushing [something] off of [something]`` into ``Pushing something off of something``, as in the class
    list."""
    return template.replace("[", "").replace("]", "").strip()


def _ssv2_classes(path: str) -> list[str]:
    """Return the class names in the order of their ids."""
    table = read_json(path, "download it again")
    if isinstance(table, list):
        return [strip_template(str(name)) for name in table]
    try:
        ids = {strip_template(name): int(number) for name, number in table.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise DataError(f'{path}: must be {{"class name": "id", ...}}') from None
    if sorted(ids.values()) != list(range(len(table))):
        raise DataError(f"{path}: the ids must be 0 to {len(table) - 1}, each once; got {sorted(ids.values())[:10]}...")
    return sorted(ids, key=ids.__getitem__)


def read_ssv2(root: str, split: str, path_prefix: str, check_files: bool) -> RawSplit:
    """Read ``[{"id": "78687", "template": "Holding [something]"}, ...]`` over videos or frame folders named by id."""
    path = ssv2_file(root, split)
    if path is None:
        names = [f"{name}.json" for name in _SSV2_NAMES[split]]
        raise DataError(
            f"{root}: no list for the {split} split: looked for something-something-v2-{names[0]} and "
            f"{' and '.join(names)} there, in labels/ and in annotations/; found {', '.join(find_ssv2(root)) or 'none'}"
        )
    entries = read_json(path, "download it again")
    if not isinstance(entries, list):
        raise DataError(f'{path}: must be a list of {{"id": ..., "template": ...}}')
    labels = ssv2_file(root, "labels")
    raw = RawSplit(source=path, rows=[], class_names=_ssv2_classes(labels) if labels else None)
    folders = (
        [path_prefix]
        if path_prefix
        else [os.path.join(root, name) for name in ("videos", "20bn-something-something-v2", "frames", "rawframes", "")]
    )
    files = _by_stem(folders)
    for number, entry in enumerate(entries, 1):
        where = f"entry {number}"
        if not isinstance(entry, dict) or not str(entry.get("id", "")).strip():
            raw.problems.add("an entry without an id", where)
            continue
        clip = str(entry["id"]).strip()
        text = entry.get("template") or entry.get("label")
        named = isinstance(text, str) and bool(strip_template(text))
        if not named and (split != "test" or text is not None):
            raw.problems.add("an entry without template and label", f"{where}: id {clip}")
            continue
        if clip not in files and check_files:
            raw.problems.add(
                f"no video (<id>.webm, .mp4, ...) and no frame folder of that id in {' or '.join(folders)}",
                f"{where}: {clip}",
            )
            continue
        found = files.get(clip, os.path.join(folders[0], f"{clip}.webm"))
        raw.rows.append(Row(where, clip, None if text is None else strip_template(text), clip, found))
    return raw


def _by_stem(folders: Sequence[str]) -> dict[str, str]:
    """Return {name without suffix: path} of the videos and sub-folders of the folders; the first folder wins, then
    videos."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                names = sorted((is_folder(entry), entry.name) for entry in entries if not is_hidden(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for of_frames, name in names:
            if of_frames or is_video(name):
                stem = name if of_frames else os.path.splitext(name)[0]
                found.setdefault(stem, os.path.join(folder, name))
    return found


# --- UCF101 -----------------------------------------------------------------------------------------------------

_UCF_FOLDERS = (
    "",
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "splits",
    "annotations",
)


def ucf_file(root: str, name: str) -> str | None:
    paths = (os.path.join(root, folder, name) for folder in _UCF_FOLDERS)
    return next((path for path in paths if os.path.isfile(path)), None)


def ucf_list(split: str, split_number: int) -> str:
    return f"{'train' if split == 'train' else 'test'}list0{split_number}.txt"


def find_ucf101(root: str) -> list[str]:
    names = [f"{kind}list0{number}.txt" for number in (1, 2, 3) for kind in ("train", "test")]
    return [name for name in names if ucf_file(root, name)]


def read_ucf101(root: str, split: str, split_number: int, path_prefix: str) -> RawSplit:
    """Read ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`` in trainlist0N.txt (classes count from 1, classInd.txt
    names them); testlist0N.txt has no labels: the folder is the class. val and test are both the test list."""
    name = ucf_list(split, split_number)
    path, index = ucf_file(root, name), ucf_file(root, "classInd.txt")
    if path is None or index is None:
        missing = " and ".join(name for name, found in ((name, path), ("classInd.txt", index)) if found is None)
        raise DataError(
            f"{root}: no {missing} (looked there and in {', '.join(_UCF_FOLDERS[1:])}; DATA.SPLIT_NUMBER is "
            f"{split_number}; found {', '.join(find_ucf101(root)) or 'no list'})"
        )
    classes = _ucf_classes(index)
    _say_val_is_test(split, path)
    bases = [path_prefix] if path_prefix else [os.path.join(root, folder) for folder in ("", "videos", "UCF-101")]
    raw = RawSplit(source=path, rows=[], bases=bases, class_names=classes)
    known = {name.lower(): name for name in classes}
    for where, line in _lines(path, raw.problems):
        written, _, number = line.rpartition(" ") if re.search(r" \d+$", line) else (line, "", "")
        written = written.strip()
        folder = known.get(written.rpartition("/")[0].lower())
        place = whole_number(number) if number else None
        if number and (place is None or not 1 <= place <= len(classes)):
            raw.problems.add(f"class out of range 1..{len(classes)} of {index}", f"{where}: {line}")
        elif folder is None:
            raw.problems.add(f"the folder is no class of {index}", f"{where}: {line}")
        elif place is not None and classes[place - 1] != folder:
            raw.problems.add(
                f"the folder and the class number disagree by {index}", f"{where}: {line} ({classes[place - 1]})"
            )
        elif not number and split == "train":
            raw.problems.add("one column: a training list needs path and class number", f"{where}: {line}")
        else:
            raw.rows.append(Row(where, written, folder))
    return raw


def _ucf_classes(path: str) -> list[str]:
    problems = Problems()
    numbers: dict[int, str] = {}
    for where, line in _lines(path, problems):
        written, _, name = line.partition(" ")
        number = whole_number(written)
        if number is None or not name.strip() or number in numbers:
            problems.add("not '<number> <class>', or a number twice", f"{where}: {line}")
        else:
            numbers[number] = name.strip()
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        problems.add("the numbers must run from 1 without a gap", f"they are {sorted(numbers)[:10]}...")
    problems.raise_if_any(path)
    return [numbers[number] for number in sorted(numbers)]


def _lines(path: str, problems: Problems) -> Iterator[tuple[str, str]]:
    """Yield ("line 3", its text) of the lines that are not empty; an empty one is a problem, save at the very end."""
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", line.strip()
        else:
            problems.add("an empty line: remove it", f"line {number}")


def _say_val_is_test(split: str, path: str) -> None:
    if split == "val":
        logger.info("val is the test list %s: this data set has no validation list of its own", path)


# --- HMDB51 -----------------------------------------------------------------------------------------------------

_HMDB_FOLDERS = (
    "",
    "testTrainMulti_7030_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "splits",
    "annotations",
)
_HMDB_NAME = re.compile(r"(.+)_test_split(\d+)\.txt")


def hmdb_files(root: str, split_number: int) -> dict[str, str]:
    """Return {class: its split file} in the first folder that has any."""
    for folder in _HMDB_FOLDERS:
        matches = [(entry.path, _HMDB_NAME.fullmatch(entry.name)) for entry in visible(os.path.join(root, folder))]
        files = {match[1]: path for path, match in matches if match and whole_number(match[2]) == split_number}
        if files:
            return files
    return {}


def find_hmdb51(root: str) -> list[str]:
    return [os.path.basename(path) for number in (1, 2, 3) for path in list(hmdb_files(root, number).values())[:1]]


def read_hmdb51(root: str, split: str, split_number: int, path_prefix: str) -> RawSplit:
    """Read ``<class>_test_splitN.txt`` with lines ``name.avi 1``: 1 is train, 2 is test (and val), 0 is not used."""
    files = hmdb_files(root, split_number)
    if not files:
        raise DataError(
            f"{root}: no <class>_test_split{split_number}.txt (looked there and in {', '.join(_HMDB_FOLDERS[1:])}; "
            f"DATA.SPLIT_NUMBER is {split_number}; found {', '.join(find_hmdb51(root)) or 'none'})"
        )
    folder = str(Path(next(iter(files.values()))).parent)
    _say_val_is_test(split, folder)
    bases = (
        [path_prefix] if path_prefix else [os.path.join(root, name) for name in ("", "videos", "hmdb51_org", "HMDB51")]
    )
    raw = RawSplit(source=f"{folder} (split {split_number})", rows=[], bases=bases, class_names=sorted(files))
    wanted = "1" if split == "train" else "2"
    for name in sorted(files):
        for where, line in _lines(files[name], raw.problems):
            clip, _, use = line.rpartition(" ")
            where = f"{os.path.basename(files[name])} {where}"
            if use not in ("0", "1", "2") or not clip.strip():
                raw.problems.add("not '<clip> 0, 1 or 2'", f"{where}: {line}")
            elif use == wanted:
                raw.rows.append(Row(where, f"{name}/{clip.strip()}", name))
    return raw
