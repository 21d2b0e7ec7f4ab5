"""The lists of a folder of shards: what is there already, and the clips that are packed now, in one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dust.convert.fixes import write_list
from dust.convert.lists import ListOptions, Lists, read_lists
from dust.datasets.manifest.clips import classes_of
from dust.datasets.manifest.labels import CLASS_LIST, write_class_list
from dust.datasets.manifest.manifest import SPLITS
from dust.decode.members import whole_path
from dust.utils.errors import DataError, Problems
from dust.utils.text import printable

COLUMNS = ("id", "path", "label", "group", "start", "end")


def key_of(path: str) -> str:
    """Return a file's name in the tables."""
    return printable(whole_path(path))


class Rows:
    """The lists that are written in the end: those that are there already, and those that are packed now."""

    def __init__(self, target: Path, lists: Lists, options: ListOptions) -> None:
        self.target, self.lists = target, lists
        self.old = Lists("clips", [])
        if any((target / f"{split}.csv").is_file() for split in SPLITS):
            said = {name: getattr(options, name) for name in ("multi_label", "soft_labels", "segment_unit")}
            there = ListOptions("clips", "shards", **said)
            self.old = read_lists(str(target), there)
        before, now = self.old.class_names, lists.class_names
        if before and now and all(map(str.isdecimal, before)) != all(map(str.isdecimal, now)):
            raise DataError(
                f"{target}: its classes are {', '.join(before[:5])}, ..., those of the new clips {', '.join(now[:5])}, "
                "...: name the classes alike, in a classes.txt beside the lists"
            )
        self.class_names = list(dict.fromkeys([*before, *now]))

    def refuse_doubles(self, places: Mapping[str, tuple[int, str]]) -> None:
        """Raise DataError for an id that is one clip there and another one now."""
        problems = Problems()
        for split, clips in self.old.clips.items():
            before = {clip.id: self._member(clip.path) for clip in clips}
            for clip in self.lists.clips.get(split, []):
                if before.get(clip.id, "") not in ("", places.get(key_of(clip.path), (0, "-"))[1]):
                    problems.add(
                        "an id that another clip has there: ids must differ", f"{split}: {clip.id}: {clip.path}"
                    )
            labelled = {clip.label is None for clip in [*clips, *self.lists.clips.get(split, [])]}
            if len(labelled) > 1:
                problems.add(
                    "clips with and without labels in one split", f"{split}: {self.lists.source[split].source}"
                )
        problems.raise_if_any(str(self.target))

    def _member(self, path: str) -> str:
        return os.path.relpath(path, self.target)

    def notes(self) -> dict[str, list[dict[str, Any]]]:
        """Return {file: what the lists say of it, a row for each time that they name it}."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        found: dict[str, list[dict[str, Any]]] = {}
        for split, clips in self.lists.clips.items():
            for clip in clips:
                words = [self.lists.class_names[one] for one in classes_of(clip.label)]
                row: dict[str, Any] = {"split": split, "id": clip.id, "labels": words}
                row |= {"classes": [numbers[word] for word in words], "group": clip.group}
                if clip.segment is not None:
                    segment = clip.segment
                    row |= {"start": segment.start, "end": segment.end, "unit": segment.unit}
                found.setdefault(clip.path, []).append(row)
        return found

    def write(self, places: Mapping[str, tuple[int, str]]) -> None:
        """Write the lists of all splits, and the classes."""
        write_class_list(self.target / CLASS_LIST, self.class_names)
        for split in SPLITS:
            rows = {
                clip.id: self._row(self.old, clip, self._member(clip.path)) for clip in self.old.clips.get(split, [])
            }
            for clip in self.lists.clips.get(split, []):
                rows[clip.id] = self._row(self.lists, clip, places[key_of(clip.path)][1])
            if rows:
                write_list(self.target, split, COLUMNS, list(rows.values()))

    @staticmethod
    def _row(lists: Lists, clip: Any, member: str) -> tuple[str, ...]:
        cells = clip.segment.cells if clip.segment is not None else ("", "")
        return clip.id, member, lists.words(clip), clip.group, *cells
