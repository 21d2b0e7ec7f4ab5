"""Lists of EPIC-KITCHENS: clip_id, verb and noun of each clip."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dust.datasets.manifest.columns import check_columns, column_name, find_group
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.manifest import SPLITS, Clip, Manifest
from dust.datasets.manifest.table import Row, read_lines, read_table
from dust.utils.errors import DataError, Problems
from dust.utils.text import whole_number

logger = logging.getLogger(__name__)

SUFFIXES = (".MP4", ".mp4")
HEADER = ["clip_id", "verb", "noun"]
NAMES = {"verb": "EPIC_100_verb_classes.csv", "noun": "EPIC_100_noun_classes.csv"}  # id,key,..., as published


def read_epic(
    root: str,
    split: str,
    *,
    num_verbs: int,
    num_nouns: int,
    path_prefix: str = "",
    class_names: Sequence[str] | None = None,
    check_files: bool = True,
    group_column: str = "",
    corrections: str | os.PathLike = "",
    extra_columns: Sequence[str] = (),
) -> Manifest:
    """Return the clips of a split, labels (verb, num_verbs + noun). In "test" a row of a clip_id alone has no label.

    A header may name further columns; ``group`` (or ``group_column``) among them is read. A correction's label is
    ``verb,noun``, two numbers.

    Raises:
        DataError: all problems of the file, with line numbers.
    """
    folder = Path(os.path.expanduser(root))
    path = folder / f"{split}.csv"
    names = _class_names(folder, num_verbs, num_nouns)
    problems, clips = Problems(), []
    if class_names is not None and list(class_names) != names:
        problems.add("other verbs or nouns than in training", f"{len(names)} names here, {len(class_names)} there")
    seen: dict[str, str] = {}
    bases = [path_prefix] if path_prefix else [str(folder), str(folder / "videos")]
    rows = []
    for where, group, cells in _rows(path, group_column, problems, extra_columns):
        if not (len(cells) == 3 or (split == "test" and len(cells) == 1)) or not cells[0]:
            problems.add("not clip_id,verb,noun", f"{where}: {','.join(cells)}")
            continue
        if cells[0] in seen:
            problems.add("a clip named twice", f"{where}: {cells[0]} (before: {seen[cells[0]]})")
        seen[cells[0]] = where
        rows.append(Row(where, cells[0], ",".join(cells[1:]) or None, cells[0], group=group))

    def others() -> list[str]:
        beside = [folder / f"{name}.csv" for name in SPLITS if name != split and (folder / f"{name}.csv").is_file()]
        return [cells[0] for one in beside for _, _, cells in _rows(one, "", Problems(), extra_columns) if cells]

    for row in Corrections(corrections).apply(rows, split, problems, _relabelled, others=others):
        words = row.label.split(",") if row.label else []
        label = _label(words, (num_verbs, num_nouns), problems, row.where) if words else None
        file = find_clip(row.written, bases, check_files)
        if file is None:
            problems.add(
                f"a file that is missing (looked for in {', then '.join(bases)})", f"{row.where}: {row.written}.MP4"
            )
        else:
            clips.append(Clip(row.written, file, label, row.group))
    problems.raise_if_any(str(path))
    if not clips:
        raise DataError(f"{path}: holds no clip")
    logger.info("%s: %d clips of %d verbs and %d nouns for %s", path, len(clips), num_verbs, num_nouns, split)
    return Manifest(clips, names, str(path), True)


def _rows(
    path: Path, group_column: str, problems: Problems, extra_columns: Sequence[str] = ()
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield where each row stands, its group, and clip_id, verb, noun as far as they are there."""
    lines = read_lines(path, problems, empty=False)
    names = [column_name(cell) for cell in lines[0].cells] if lines else []
    if HEADER[0] not in names:
        find_group((), group_column, problems)
        yield from ((line.where, "", line.cells) for line in lines)
        return
    group = find_group(names, group_column, problems)
    wanted = [names.index(name) for name in HEADER if name in names]
    used = [*HEADER, *([] if group is None else [names[group]])]
    check_columns(names, used, str(path), problems, extra_columns)
    for line in lines[1:]:
        if len(line.cells) in (len(names), 1):
            cells = [line.cells[column] for column in wanted] if len(line.cells) > 1 else line.cells
            yield line.where, "" if group is None or len(line.cells) == 1 else line.cells[group], cells
        else:
            yield line.where, "", line.cells  # said to be none


def _relabelled(row: Row, label: str) -> Row:
    row.label = label
    return row


def _label(cells: Sequence[str], sizes: tuple[int, int], problems: Problems, where: str) -> tuple[int, ...] | None:
    if len(cells) != 2:
        problems.add("a label that is not verb,noun", f"{where}: {','.join(cells)}")
        return None
    for kind, cell, size in zip(("verb", "noun"), cells, sizes, strict=True):
        number = whole_number(cell)
        if number is None or number >= size:
            problems.add(
                f"a {kind} that is no number from 0 to {size - 1} (CAST.NUM_{kind.upper()}S)", f"{where}: {cell}"
            )
            return None
    return int(cells[0]), sizes[0] + int(cells[1])


def find_clip(clip_id: str, bases: Sequence[str], check: bool) -> str | None:
    """Return the file of a clip in the first folder that has one; None, or without ``check`` where it would be."""
    paths = [os.path.join(base, clip_id + suffix) for base in bases for suffix in SUFFIXES]
    found = next((path for path in paths if os.path.exists(path)), None)
    return paths[0] if found is None and not check else found


def _class_names(folder: Path, num_verbs: int, num_nouns: int) -> list[str]:
    """Return ``verb:cut``, ..., ``noun:knife``, ..., by the published lists where they lie in the folder, else by
    number."""
    names = []
    for kind, count in (("verb", num_verbs), ("noun", num_nouns)):
        own = [str(number) for number in range(count)]
        path = folder / NAMES[kind]
        if path.exists():
            rows = [cells for _, _, cells in read_table(path, Problems()).rows]
            listed = {row.get("id", ""): row.get("key", "") for row in rows}
            if sorted(listed) != sorted(own) or not all(listed.values()):
                raise DataError(f"{path}: must give each id from 0 to {count - 1} a key; it has {len(rows)} rows")
            own = [listed[number] for number in own]
        names += [f"{kind}:{name}" for name in own]
    return names
