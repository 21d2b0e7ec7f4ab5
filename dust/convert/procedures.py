"""IndustReal's and MECCANO's recordings of procedures, checked and listed in our own format.

Frames stay where they are: what is written are ``recordings.csv``, ``states.csv``, ``steps.csv`` and
``procedure.json`` (see DATASET.md), which name them.
"""

import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dust.convert.splits import make_folder, refuse_overwriting
from dust.datasets.keystep.files import PROCEDURE, RECORDINGS, STATES, STEPS, ProcedureData, write_own
from dust.datasets.keystep.layouts import read_object_states, read_procedures
from dust.datasets.manifest.manifest import SPLITS
from dust.utils.errors import DataError, Problems


@dataclass
class ProcedureConversion:
    """``counts``: recordings per split. ``frames``: of all. ``components``: K. ``notes``: what a person should know."""

    counts: dict[str, int]
    frames: int
    components: int
    notes: list[str] = field(default_factory=list)


def convert_procedures(
    root: str | os.PathLike, out: str | os.PathLike, *, layout: str, table: str = "", force: bool = False
) -> ProcedureConversion:
    """Check every recording of every split, then write the four files into ``out``.

    Args:
        root: the data as downloaded; those of ``train``, ``val``, ``test`` that it has are read.
        layout: industreal | meccano.
        table: ``procedure_info.json``, where it is not in ``root``.
        force: replace the four files.

    Raises:
        DataError: with every problem of every split: gaps in the frames, labels outside the video, unknown states and
            steps, what stands there twice, with file and line. Nothing is written then.
    """
    out = Path(out)
    splits, failed = _read_splits(Path(os.path.expanduser(root)), layout, table)
    problems = Problems()
    for split, data in splits.items():
        _check(split, data, problems)
    _check_leaks(splits, problems)
    try:
        problems.raise_if_any(str(root))
    except DataError as error:
        failed.append(str(error))
    if failed:
        raise DataError("\n  ".join(failed))
    refuse_overwriting(out, [RECORDINGS, STATES, STEPS, PROCEDURE], force)
    make_folder(out)
    write_own(out, splits)
    first = next(iter(splits.values()))
    return ProcedureConversion(
        counts={split: len(data.recordings) for split, data in splits.items()},
        frames=sum(one.num_frames for data in splits.values() for one in data.recordings),
        components=len(first.components),
        notes=[note for split, data in splits.items() for note in _notes(split, data)],
    )


def _read_splits(root: Path, layout: str, table: str) -> tuple[dict[str, ProcedureData], list[str]]:
    """Return what can be read, and the errors of the splits that cannot."""
    there = [split for split in SPLITS if (root / split).is_dir() or (root / "recordings" / split).is_dir()]
    splits, failed = {}, []
    for split in there or SPLITS[:1]:  # reading train says what was looked for
        try:
            splits[split] = read_procedures(root, split, layout=layout, table=table)
        except DataError as error:
            if str(error) not in failed:
                failed.append(str(error))
    return splits, failed


def _check(split: str, data: ProcedureData, problems: Problems) -> None:
    for one in data.recordings:
        if not one.num_frames:
            problems.add("a video that cannot be read", f"{split}: {one.path}")
        elif one.object_states and data.state_names:
            try:
                read_object_states(one.object_states, one.num_frames, len(data.state_names))
            except DataError as error:
                problems.add("object states that cannot be used", str(error))


def _check_leaks(splits: dict[str, ProcedureData], problems: Problems) -> None:
    names = {split: {one.id for one in data.recordings} for split, data in splits.items()}
    for first, second in itertools.combinations(splits, 2):
        for name in sorted(names[first] & names[second]):
            problems.add("a recording in two splits", f"{name}: {first} and {second}")


def _notes(split: str, data: ProcedureData) -> list[str]:
    notes = []
    other = [
        one.id for one in data.recordings if "".join(map(str, one.states[0][1])) != data.start_states[one.procedure]
    ]
    if other:
        notes.append(f"{split}: {len(other)} recordings do not begin in their procedure's start state, e.g. {other[0]}")
    late = [one.id for one in data.recordings if one.states[0][0] > 0]
    if late:
        notes.append(f"{split}: {len(late)} recordings whose first state is not that of frame 0, e.g. {late[0]}")
    wrong = sum(any(-1 in state for _, state in one.states) for one in data.recordings)
    steps = Counter(step % 3 for one in data.recordings for _, step in one.steps)
    notes.append(
        f"{split}: {len(data.recordings)} recordings, {steps[0]} installations, {steps[2]} removals; {wrong} "
        "recordings with a wrong installation"
    )
    return notes
