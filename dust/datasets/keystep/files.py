"""Recordings of a procedure on disk: frames, completed steps and component states, in our own format.

A data folder holds ``recordings.csv``, ``states.csv``, ``steps.csv``, ``procedure.json``, and if somebody labelled them
``mistakes.csv``; DATASET.md describes them.
:mod:`dust.datasets.keystep.layouts` reads the public data sets into the same things. Reading is complete and right,
or there is one DataError with every problem, its file and line.

Frames count from 0 whatever their files are called. A step is (frame, step id), in the frame in which it is completed;
step id = 3 * component + 0 (install), 1 (install wrongly) or 2 (remove).
"""

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dust.datasets.keystep.data import ProcedureData, Recording, Step, read_procedure, text_of_procedure
from dust.datasets.manifest.columns import check_columns, column_name, find_group, to_number
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.manifest.table import read_lines, read_table
from dust.decode.clip import say_once
from dust.decode.folders import count_numbered
from dust.decode.reader import open_clip
from dust.procedure.mistakes import KINDS, WRONG
from dust.procedure.table import INSTALL, INSTALL_WRONGLY, REMOVE, State
from dust.utils.errors import DataError, Problems, VideoError
from dust.utils.files import like_missing, restored, write_csv, write_text
from dust.utils.text import whole_number

logger = logging.getLogger(__name__)

RECORDINGS, STATES, STEPS, PROCEDURE = "recordings.csv", "states.csv", "steps.csv", "procedure.json"
MISTAKES = "mistakes.csv"
COLUMNS = ("id", "split", "path", "fps", "procedure", "object_states", "group")
Row = tuple[str, list[str]]  # where it stands ("file: line 3"), and its cells


# ------------------------------------------------------------------------------------------------------- one folder


def read_own(
    root: str | os.PathLike,
    split: str,
    *,
    labels: bool = True,
    frames: bool = True,
    index_cache: str = "",
    pattern: str = "",
    group_column: str = "",
    corrections: str | os.PathLike = "",
    check_files: bool = True,
    extra_columns: Sequence[str] = (),
) -> ProcedureData:
    """Return one split of a folder in our own format.

    Args:
        labels: read states and steps; else recordings have none.
        frames: look for the frames and count them, so that labels beyond the last one are found.
        index_cache: folder that keeps the numbers of frames of video files between runs, or "".
        pattern: DATA.FRAME_PATTERN, which pictures of a folder are frames.
        group_column, corrections: DATA.GROUP_COLUMN and DATA.CORRECTIONS; a recording can be dropped, not relabelled.
        check_files: whether frames that are not there are an error.
        extra_columns: see :func:`dust.datasets.manifest.columns.check_columns`.

    Raises:
        DataError: with all problems.
    """
    folder, problems = Path(root), Problems()
    facts = read_procedure(folder / PROCEDURE)
    listed = list(_read_recordings(folder, facts, group_column, problems, extra=extra_columns))
    found = [one for one, where in listed if where == split]
    found = Corrections(corrections).apply(found, split, problems, others=lambda: [one.id for one, _ in listed])
    if not found and not problems.kinds:
        problems.add(
            f"no recording of the {split} split: the column split says which one a recording is of", RECORDINGS
        )
    if frames:
        options: dict[str, Any] = {"index_cache": index_cache, "pattern": pattern, "check_files": check_files}
        found = [count_frames(one, problems, **options) for one in found]
    if labels:
        states, steps = _read_labels(folder, facts, [one.id for one in found], problems)
        found = [
            with_labels(one, states.get(one.id, []), None if steps is None else steps.get(one.id, []), facts, problems)
            for one in found
        ]
        found = _with_mistakes(folder, found, {one.id for one, _ in listed}, len(facts.table), problems)
    problems.raise_if_any(str(folder))
    return replace(facts, recordings=found, source=str(folder))


def read_new_recordings(path: str | os.PathLike, facts: ProcedureData) -> list[Recording]:
    """Return the recordings of a ``recordings.csv`` that are to be predicted, those of the test split; without labels,
    and files that are missing are found when they are read. DataError with all problems of the list."""
    problems = Problems()
    folder, name = os.path.split(os.fspath(path))
    rows = _read_recordings(Path(folder), facts, "", problems, name)
    found = [one for one, split in rows if split == "test"]
    problems.raise_if_any(os.fspath(path))
    return found


def write_own(out: str | os.PathLike, splits: Mapping[str, ProcedureData]) -> None:
    """Write our four files for these splits. Paths inside ``out`` become relative to it; frames are not copied."""
    folder, facts = Path(out), next(iter(splits.values()))
    write_text(folder / PROCEDURE, text_of_procedure(facts))
    pairs = [(split, one) for split, data in splits.items() for one in data.recordings]
    rows = [
        (one.id, split, _relative(one.path, folder), f"{one.fps:g}" if one.fps else "", one.procedure,
         _relative(one.object_states, folder), one.group)
        for split, one in pairs
    ]  # fmt: skip
    states = [(one.id, frame, *state) for _, one in pairs for frame, state in one.states]
    names = [step["description"] for step in facts.table]
    steps = [(one.id, frame, step, names[step]) for _, one in pairs for frame, step in one.steps]
    write_csv(folder / STATES, ("recording", "frame", *facts.components), states)
    write_csv(folder / STEPS, ("recording", "frame", "step", "description"), steps)
    if any(one.mistakes is not None for _, one in pairs):
        mistakes = [(one.id, f, kind, s, names[s]) for _, one in pairs for f, kind, s in one.mistakes or ()]
        write_csv(folder / MISTAKES, ("recording", "frame", "kind", "step", "description"), mistakes)
    columns = len(COLUMNS) if any(one.group for _, one in pairs) else len(COLUMNS) - 1
    write_csv(folder / RECORDINGS, COLUMNS[:columns], [row[:columns] for row in rows])


def _relative(path: str, folder: Path) -> str:
    if not path:
        return ""
    absolute = os.path.abspath(path)
    inside = os.path.relpath(absolute, folder.absolute())
    return absolute if inside.startswith("..") else inside.replace(os.sep, "/")


# ------------------------------------------------------------------------------------------------------ csv of ours


def read_rows(path: Path, problems: Problems) -> list[Row]:
    """Return the lines of a csv file that are not empty; what cannot be read is a problem."""
    try:
        return [(where, cells) for where, _, cells in read_lines(path, problems, where=f"{path}: line {{}}")]
    except DataError as error:
        problems.add("a file that cannot be read", str(error))
        return []


def _named_rows(path: Path, required: Sequence[str], problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows below a header that has all of ``required``."""
    try:
        table = read_table(path, problems, where=f"{path}: line {{}}")
    except DataError as error:
        problems.add("a file that cannot be read", str(error))
        return
    absent = [name for name in required if name not in table.header]
    if absent or len(set(table.header)) < len(table.header):
        kind = f"the first line must be a header with {', '.join(required)}, each once"
        problems.add(kind, f"{path}: {table.header}")
        return
    for where, _, cells in table.rows:
        yield where, cells


def _read_recordings(
    folder: Path,
    facts: ProcedureData,
    group_column: str,
    problems: Problems,
    listed: str = RECORDINGS,
    *,
    extra: Sequence[str] = (),
) -> Iterator[tuple[Recording, str]]:
    """Yield every recording with its split. val and test may share recordings."""
    seen: dict[str, str] = {}
    paths: dict[str, str] = {}
    group: str | None = None
    for where, cells in _named_rows(folder / listed, ("id", "split", "path"), problems):
        if group is None:
            names = [column_name(name) for name in cells]
            found = find_group(names, group_column, problems)
            group = "" if found is None else list(cells)[found]
            check_columns(list(cells), [*COLUMNS, group], str(folder / listed), problems, extra)
        name, split, fps = cells["id"], cells["split"], cells.get("fps", "")
        procedure = cells.get("procedure") or next(iter(facts.start_states))
        shared = {"val", "test"} == {split, seen.get(name, paths.get(cells["path"], ""))}
        if not name or (name in seen and not shared):
            problems.add("a recording without an id, or with one that stands there already", f"{where}: {name!r}")
        if split not in SPLITS:
            problems.add(f"a split that is none of {', '.join(SPLITS)}", f"{where}: {split!r}")
        if procedure not in facts.start_states:
            known = ", ".join(facts.start_states)
            problems.add(f"a procedure without a start state in {PROCEDURE} ({known})", f"{where}: {procedure!r}")
        if fps and not _positive(fps):
            problems.add("fps must be a number above 0, or empty", f"{where}: {fps!r}")
            fps = ""
        if not cells["path"] or (cells["path"] in paths and not shared):
            problems.add("a recording without a path, or with that of another one", f"{where}: {cells['path']!r}")
            continue
        seen[name] = paths[cells["path"]] = split
        objects = cells.get("object_states", "")
        path, objects = restored(str(folder / cells["path"])), restored(str(folder / objects)) if objects else ""
        rate = to_number(fps) if fps else 0.0
        yield Recording(name, path, rate, procedure, object_states=objects, group=cells.get(group or "", "")), split


def _positive(text: str) -> bool:
    try:
        return 0 < to_number(text) < float("inf")
    except ValueError:
        return False


def _read_labels(
    folder: Path, facts: ProcedureData, ids: Sequence[str], problems: Problems
) -> tuple[dict[str, list[Row]], dict[str, list[Row]] | None]:
    """Return the rows [frame, states...] and [frame, step] of each recording; steps are None where there is no such
    file."""
    columns = ("recording", "frame", *(name.lower() for name in facts.components))
    known = {cells["id"] for _, cells in _named_rows(folder / RECORDINGS, ("id",), Problems())}
    states: dict[str, list[Row]] = {name: [] for name in ids}
    steps: dict[str, list[Row]] = {name: [] for name in ids}
    files = [(folder / STATES, columns, columns[1:], states)]
    if (folder / STEPS).exists():
        files.append((folder / STEPS, ("recording", "frame", "step"), ("frame", "step"), steps))
    for path, required, wanted, into in files:
        for where, cells in _named_rows(path, required, problems):
            if cells["recording"] not in known:
                problems.add(f"labels of a recording that {RECORDINGS} lacks", f"{where}: {cells['recording']!r}")
            elif cells["recording"] in into:
                into[cells["recording"]].append((where, [cells[name] for name in wanted]))
    return states, steps if len(files) == 2 else None


def _with_mistakes(
    folder: Path, found: list[Recording], known: set[str], count: int, problems: Problems
) -> list[Recording]:
    """Return the recordings with the mistakes that somebody labelled, where there is such a file."""
    path = folder / MISTAKES
    if not path.exists():
        return found
    labelled: dict[str, list[tuple[int, str, int]]] = {one.id: [] for one in found}
    numbered = {one.id: one for one in found}
    for where, cells in _named_rows(path, ("recording", "frame", "kind", "step"), problems):
        step, one = whole_number(cells["step"]), numbered.get(cells["recording"])
        if cells["kind"] not in KINDS:
            problems.add(f"a kind of mistake that is none of {', '.join(KINDS)}", f"{where}: {cells['kind']!r}")
        elif step is None or step >= count:
            problems.add(f"a step that the procedure table lacks: its ids are 0 to {count - 1}", where)
        elif (cells["kind"] == WRONG) != (step % 3 == INSTALL_WRONGLY):
            what = "a mistake of another step than its kind: wrong is 3 * component + 1, omitted and order are not"
            problems.add(what, f"{where}: {cells['kind']} {step}")
        elif cells["recording"] not in known:
            problems.add(f"labels of a recording that {RECORDINGS} lacks", f"{where}: {cells['recording']!r}")
        elif one is not None:
            frame = _frame(one, where, cells["frame"], problems)
            labelled[one.id].append((frame or 0, cells["kind"], step))
    return [replace(one, mistakes=tuple(sorted(labelled[one.id]))) for one in found]


# ------------------------------------------------------------------------------------------- labels of any layout


def with_labels(
    recording: Recording, states: Sequence[Row], steps: Sequence[Row] | None, facts: ProcedureData, problems: Problems
) -> Recording:
    """Return the recording with its labels: rows [frame, K states] and [frame, step id]. Without ``steps`` they follow
    from the states."""
    read = _read_states(recording, states, len(facts.components), problems)
    found = steps_of_states(read) if steps is None else _read_steps(recording, steps, len(facts.table), problems)
    return replace(recording, states=read, steps=tuple(step for step in found if step[1] % 3 != INSTALL_WRONGLY))


def steps_of_states(states: Sequence[tuple[int, State]]) -> tuple[Step, ...]:
    """Return what was done between the states: to 1 is an installation, to -1 a wrong one, from 1 to 0 a removal. To
    take a wrongly installed component off again completes no step."""
    steps = []
    for (_, before), (frame, after) in itertools.pairwise(states):
        for k, (old, new) in enumerate(zip(before, after, strict=True)):
            if old != new and (old, new) != (-1, 0):
                steps.append((frame, 3 * k + {1: INSTALL, -1: INSTALL_WRONGLY, 0: REMOVE}[new]))
    return tuple(steps)


def _read_states(
    recording: Recording, rows: Sequence[Row], count: int, problems: Problems
) -> tuple[tuple[int, State], ...]:
    states: list[tuple[int, State]] = []
    if not rows:
        problems.add("a recording without component states: its first row is the initial state", recording.id)
    for where, cells in rows:
        frame = _frame(recording, where, cells[0], problems)
        if len(cells) != 1 + count:
            kind = f"not the {count} states that the procedure table has components"
            problems.add(kind, f"{where}: {len(cells) - 1}")
        elif set(cells[1:]) - {"-1", "0", "1"}:
            wrong = ", ".join(repr(cell) for cell in cells[1:] if cell not in ("-1", "0", "1"))
            problems.add("a state is -1 (wrong), 0 (not done) or 1 (done)", f"{where}: {wrong}")
        elif frame is not None:
            if states and frame <= states[-1][0]:
                kind = "frames of states must rise: a frame twice, or out of order"
                problems.add(kind, f"{where}: {frame} after {states[-1][0]}")
            states.append((frame, tuple(map(int, cells[1:]))))
    return tuple(states)


def _read_steps(recording: Recording, rows: Sequence[Row], count: int, problems: Problems) -> list[Step]:
    steps: list[Step] = []
    for where, cells in rows:
        frame = _frame(recording, where, cells[0], problems)
        number = whole_number(cells[1]) if len(cells) > 1 else None
        if number is None or number >= count:
            kind = f"a step that the procedure table lacks: its ids are 0 to {count - 1}"
            problems.add(kind, f"{where}: {cells[1] if len(cells) > 1 else ''!r}")
        elif frame is not None:
            step = (frame, number)
            if step in steps:
                problems.add("the same step twice in one frame", f"{where}: frame {frame}, step {step[1]}")
            elif steps and frame < steps[-1][0]:
                problems.add("steps must stand in the order of their frames", f"{where}: {frame} after {steps[-1][0]}")
            steps.append(step)
    return steps


def _frame(recording: Recording, where: str, text: str, problems: Problems) -> int | None:
    number = whole_number(text)
    if number is None:
        problems.add("a frame is a whole number, from 0 on", f"{where}: {text!r}")
        return None
    if recording.num_frames and number >= recording.num_frames:
        kind = "a label beyond the last frame"
        problems.add(kind, f"{where}: frame {text}, but {recording.path} ends with frame {recording.num_frames - 1}")
        return None
    return number


# ------------------------------------------------------------------------------------------------------------ frames


def count_frames(
    recording: Recording,
    problems: Problems,
    *,
    first: int | None = None,
    index_cache: str = "",
    pattern: str = "",
    check_files: bool = True,
) -> Recording:
    """Return the recording with its number of frames, 0 for a video file that cannot be read, or is damaged, and
    without ``check_files`` for frames that are not there.

    A video file knows its own frames per second, whatever is written of it.

    A folder's pictures (those of ``pattern``, DATA.FRAME_PATTERN) are numbered without gaps, from ``first`` (None: 0 or
    1) on; anything else is a problem.
    """
    path = Path(recording.path)
    if path.is_dir():
        return replace(recording, num_frames=count_numbered(path, first, pattern, problems))
    if not path.exists():
        if check_files:
            problems.add("frames that are not there", f"{recording.id}: {path}{like_missing(str(path))}")
        return recording
    try:
        with open_clip(path, index_cache=index_cache or None) as reader:
            if reader.report.damaged:  # its later frames are lost: labels of them are not at fault
                logger.warning("%s: %s", path, reader.report.reason)
                return recording
            if recording.fps and abs(recording.fps - reader.fps) > 0.02 * reader.fps:
                text = f"fps {recording.fps:g} is written of it, its frames' own times say {reader.fps:.5g}"
                say_once("written rate", str(path), f"{text}: these are believed")
            return replace(recording, num_frames=len(reader), fps=reader.fps)
    except VideoError:
        return recording
