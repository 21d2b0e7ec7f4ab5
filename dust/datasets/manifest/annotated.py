"""Annotation files of public sets as they are, read as lists of segments (DATA.FORMAT activitynet, kinetics, epic).

The same samples as those of the lists that ``dust convert-data`` writes of the same files.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dust.datasets.manifest.annotation import Annotated, Annotation, require_items
from dust.datasets.manifest.annotation_files import read_activitynet, read_epic, read_kinetics
from dust.datasets.manifest.table import RawSplit, Row
from dust.decode.folders import is_video, iter_clips
from dust.decode.segment import Segment
from dust.utils.errors import DataError, Problems
from dust.utils.files import natural_order

#: Format -> its reader, and the ending of its files.
READERS: dict[str, tuple[Callable[..., Annotated], str]] = {
    "activitynet": (read_activitynet, ".json"),
    "kinetics": (read_kinetics, ".csv"),
    "epic": (read_epic, ".csv"),
}
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that was uploaded
DIGITS = 6  # of seconds behind the point: what lists write


def annotation_files(source: Path, endings: Iterable[str]) -> list[Path]:
    """Return the file itself, or those of a folder with one of these endings, in natural order. DataError without
    any."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: there is no such file or folder")
    ends = tuple(endings)
    names = (one for one in source.iterdir() if one.name.lower().endswith(ends) and not one.name.startswith("."))
    files = sorted(names, key=natural_order)
    if not files:
        raise DataError(f"{source}: no file that ends in {' or '.join(ends)}")
    return files


def videos_below(folder: Path) -> dict[str, list[str]]:
    """Name, with and without its ending -> the paths of the videos below a folder that have it; behind a slash as Label
    Studio calls an uploaded file of that name: blanks are _, and signs are left out."""
    known: dict[str, list[str]] = {}
    for path in iter_clips(folder):
        name = os.path.basename(path)
        for key in {name, os.path.splitext(name)[0], "/" + re.sub(r"[^-\w.]", "", name.replace(" ", "_"))}:
            known.setdefault(key, []).append(path)
    return known


def without_upload(name: str) -> str:
    """Return the name that a file had before Label Studio stored it: ``1a2b3c4d-abc.mp4`` -> ``abc.mp4``."""
    return _UPLOADED.sub("", name)


def find_video(one: Annotation, known: dict[str, list[str]], problems: Problems) -> tuple[str, bool]:
    """Return the video's path ("" where it is not there), and whether it is the whole video."""
    cut = f"{one.video}_{int(one.start):06d}_{int(one.end):06d}"  # as Kinetics' downloaders name a clip
    stem = os.path.splitext(one.video)[0] if is_video(one.video) else one.video  # P01.02 is a name without ending
    own = without_upload(one.video)
    names = (one.video, stem, f"v_{one.video}", own, without_upload(stem), *([f"/{own}"] if own != one.video else []))
    for name, whole in (*((name, True) for name in names), (cut, False)):
        paths = known.get(name, [])
        paths = _nearest(paths, one.folder) if len(paths) > 1 else paths
        if len(paths) > 1:
            problems.add("several videos have the name", f"{one.video}: {paths[0]}, {paths[1]}")
            return "", True
        if paths:
            return paths[0], whole
    problems.add("the video is not there", one.video)
    return "", True


def _nearest(paths: list[str], folder: str) -> list[str]:
    """Return those whose folders end most as this one does; all of them if none does."""
    shared = [shared_end(os.path.dirname(path), folder) for path in paths]
    return [path for path, many in zip(paths, shared, strict=True) if many == max(shared)]


def shared_end(one: str, other: str) -> int:
    """Tell how many folders the ends of two paths of folders have in common."""
    pairs = zip(*(path.replace(os.sep, "/").strip("/").split("/")[::-1] for path in (one, other)), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1] != "", pairs))


@dataclass(frozen=True)
class AnnotatedFolder:
    """Videos with annotation files.

    Attributes:
        format: a key of READERS.
        source: DATA.ANNOTATIONS, the file, or a folder of files; "" is the data folder.
        root: the data folder.
        videos: folder of the videos; "" is the data folder.
        label: verb | noun | action, of EPIC-KITCHENS.
        check_files: a video that is not there is a problem; else a clip that cannot be read.
    """

    format: str
    root: str
    source: str = ""
    videos: str = ""
    label: str = "action"
    check_files: bool = True

    @cached_property
    def path(self) -> Path:
        """Where the annotations are: below the data folder, else as written."""
        below = Path(self.root, Path(self.source).expanduser())
        return below if below.exists() else Path(self.source).expanduser()

    @cached_property
    def items(self) -> list[Annotation]:
        """All stretches of all files. DataError for files that cannot be read, and if they say no splits."""
        read, ending = READERS[self.format]
        items: list[Annotation] = []
        notes: list[str] = []
        for file in annotation_files(self.path, (ending,)):
            found = read(file, self.label) if self.format == "epic" else read(file)
            items += found.items
            notes += found.notes
        if not items:
            require_items(Annotated(notes=notes), self.path)
        bare = sum(not one.split for one in items)
        if bare:
            raise DataError(
                f"{self.path}: {bare} of {len(items)} stretches are of no split: write lists by `dust convert-data "
                f"{self.format}` and cut them by `dust split`"
            )
        return items

    def has(self, split: str) -> bool:
        """Tell whether a stretch with a label is of that split."""
        return any(one.split == split for one in self.items)

    def read(self, split: str) -> RawSplit:
        """Return the segments of one split. DataError if there is none; videos that are not there are among the
        problems."""
        raw = RawSplit(str(self.path), [], [self.root], sorted({one.label for one in self.items}))
        if not self.has(split):
            found = ", ".join(sorted({one.split for one in self.items}))
            hint = "; TEST.SPLIT val measures on val" if split == "test" and self.has("val") else ""
            raise DataError(f"{self.path}: no stretch with a label is of the {split} split (found {found}){hint}")
        folder = Path(self.videos or self.root)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of videos")
        known, missing = videos_below(folder), Problems()
        for one in self.items:
            if one.split != split:
                continue
            path, whole = find_video(one, known, missing)
            path = path or os.path.join(folder, one.video if is_video(one.video) else f"{one.video}.mp4")
            times = Segment(round(one.start, DIGITS), round(one.end, DIGITS)) if whole else None
            written = os.path.relpath(path, folder).replace(os.sep, "/")
            where = f"{one.video} {one.start:g}-{one.end:g}"
            raw.rows.append(Row(where, written, one.label, path=path, group=one.group, segment=times))
        for kind, cases in missing.kinds.items() if self.check_files else ():
            for case in cases:
                raw.problems.add(f"{kind} (`dust convert-data {self.format} --skip-missing` leaves such out)", case)
        return raw
