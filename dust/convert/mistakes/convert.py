"""From annotations of procedures with mistakes and a folder of videos to recordings in our own form."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dust.convert.mistakes import forms
from dust.convert.mistakes.session import DONE, OMITTED, UNDONE, WRONG, Session, Sessions
from dust.convert.procedures import ProcedureConversion
from dust.convert.splits import make_folder, refuse_overwriting
from dust.datasets.keystep.data import ProcedureData, Recording, check_procedure
from dust.datasets.keystep.files import MISTAKES, PROCEDURE, RECORDINGS, STATES, STEPS, write_own
from dust.datasets.manifest.manifest import SPLITS
from dust.decode.folders import iter_clips
from dust.decode.reader import open_clip
from dust.procedure import mistakes as kinds
from dust.procedure.mistakes import true_mistakes
from dust.procedure.table import INSTALL, INSTALL_WRONGLY, REMOVE, State
from dust.utils.errors import DataError, Problems, VideoError

MISTAKES_SAID = {WRONG: kinds.WRONG, OMITTED: kinds.OMITTED}


@dataclass(frozen=True)
class Form:
    """A form: what it is, its reader, and whether steps that never come were left out, although it does not say so."""

    title: str
    read: Callable[[Path], Sessions]
    omissions_follow: bool = False


READERS = {
    "assembly101": Form("Assembly101's csv of mistakes, a file for each sequence", forms.read_assembly101),
    "ata": Form("ATA's frame-wise labels (groundTruth/*.txt)", forms.read_ata, True),
    "captaincook4d": Form("CaptainCook4D's repository of annotations", forms.read_captaincook4d),
    "egoper": Form("EgoPER's annotation.json", forms.read_egoper, True),
}


def convert_mistakes(
    form: str,
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    videos: str = "",
    procedure: str = "",
    view: str = "",
    skip_missing: bool = False,
    force: bool = False,
) -> ProcedureConversion:
    """Write the files of our own form into ``out``, with ``mistakes.csv`` and the graphs that the form has.

    A step is a component: done is 1, done wrongly -1, in the frame in which its annotation ends. Frames stay where they
    are. Where the form says no split, all recordings are of train.

    Args:
        form: a key of READERS.
        root: the annotations.
        videos: folder of the videos (or folders of pictures); "" for ``root``.
        procedure: take this one only (a recipe, a task, a toy); "" for all, with the steps of all as components.
        view: where a recording is a folder with a video for each camera, the name of one.
        skip_missing: leave out recordings whose video is not there; else that is an error.

    Raises:
        DataError: with all problems: files that cannot be read, videos that are not there, times behind their end.
    """
    out, found, problems = Path(out), READERS[form].read(Path(root).expanduser()), Problems()
    items = [one for one in found.items if procedure in ("", one.procedure)]
    if not items:
        known = ", ".join(sorted({one.procedure for one in found.items})[:12])
        raise DataError(f"--procedure {procedure}: {root} has none of this name; there are {known}")
    refuse_overwriting(out, [RECORDINGS, STATES, STEPS, PROCEDURE, MISTAKES], force)
    facts = _facts(items, found)
    places = _videos(Path(videos or root).expanduser(), view)
    splits: dict[str, ProcedureData] = {}
    for one in items:
        recording = _recording(one, facts, places, READERS[form].omissions_follow, problems)
        if recording is not None:
            split = one.split or "train"
            splits.setdefault(split, replace(facts, recordings=[])).recordings.append(recording)
    notes = list(found.notes)
    if skip_missing:
        notes += [f"left out: {len(cases)} with {kind}" for kind, cases in problems.kinds.items()]
    else:
        problems.raise_if_any(f"{videos or root} (--skip-missing leaves these recordings out)")
    if not splits:
        raise DataError(f"{videos or root}: none of the {len(items)} recordings' videos is there; see --videos")
    unsaid = sum(not one.split for one in items)
    if unsaid:
        notes.append(f"{unsaid} recordings have no split, they are of train: see the column split of {RECORDINGS}")
    make_folder(out)
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    write_own(out, ordered)
    every = [one for data in ordered.values() for one in data.recordings]
    for kind in kinds.KINDS:
        count = sum(said[1] == kind for one in every for said in one.mistakes or ())
        notes.append(f"{count} mistakes of the kind {kind}")
    counts = {split: len(data.recordings) for split, data in ordered.items()}
    return ProcedureConversion(counts, sum(one.num_frames for one in every), len(facts.components), notes)


def _facts(items: Sequence[Session], found: Sessions) -> ProcedureData:
    """Return components, table and graphs of these recordings' procedures."""
    steps: dict[str, list[str]] = {}
    for one in items:
        named = steps.setdefault(one.procedure, list(found.steps.get(one.procedure, ())))
        named += [step for step in dict.fromkeys(event.step for event in one.events) if step not in named]
    components = list(dict.fromkeys(step for named in steps.values() for step in named))
    table = [
        {"id": 3 * k + kind, "description": f"{verb}{name}", "install": kind != REMOVE, "state_idx": k}
        | {f"expected_in_{task}": kind != INSTALL_WRONGLY and name in named for task, named in steps.items()}
        for k, name in enumerate(components)
        for kind, verb in ((INSTALL, ""), (INSTALL_WRONGLY, "Wrongly: "), (REMOVE, "Undo: "))
    ]
    graphs = {task: entries for task, entries in found.graphs.items() if task in steps}
    start = {task: "0" * len(components) for task in steps}
    data = ProcedureData([], components, table, start, "the annotations", graphs=graphs)
    check_procedure(data)
    return data


def _videos(folder: Path, view: str) -> dict[str, list[str]]:
    """Name of a recording -> the paths that may be its video."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of videos")
    found: dict[str, list[str]] = {}
    for path in iter_clips(folder):
        stem = os.path.splitext(os.path.basename(path))[0]
        name = os.path.basename(os.path.dirname(path)) if view and stem == view else stem
        found.setdefault(name, []).append(path)
    return found


def _recording(
    one: Session, facts: ProcedureData, places: dict[str, list[str]], omissions_follow: bool, problems: Problems
) -> Recording | None:
    paths = places.get(one.video, [])
    if len(paths) != 1:
        problems.add("not one video of its name below the folder of videos", f"{one.video}: {len(paths)}")
        return None
    try:
        with open_clip(paths[0]) as reader:
            frames, fps = len(reader), reader.fps
    except VideoError as error:
        problems.add("a video that cannot be read", f"{paths[0]}: {error.reason}")
        return None
    early, late = (f((event.time for event in one.events), default=0.0) for f in (min, max))
    if early < 0:
        problems.add("annotations that end before their video begins", f"{one.video}: {early:g}")
        return None
    if late > (frames if one.in_frames else frames / fps) + (0 if one.in_frames else 1.0):
        problems.add("annotations that end behind their video", f"{one.video}: {late:g}, {frames} frames at {fps:g}")
        return None
    number = {name: k for k, name in enumerate(facts.components)}
    state, states = [0] * len(number), {0: (0,) * len(number)}
    steps, labelled = set(), []
    for event in sorted(one.events, key=lambda event: event.time):  # by their ends, while files go by beginnings
        frame = min(round(event.time if one.in_frames else event.time * fps), frames - 1)
        k = number[event.step]
        step = 3 * k + (REMOVE if event.what == UNDONE else INSTALL)
        if event.what == DONE or (event.what == UNDONE and state[k] == 1):
            steps.add((frame, step))
        if event.what in MISTAKES_SAID:
            kind = INSTALL_WRONGLY if event.what == WRONG else INSTALL
            labelled.append((frame, MISTAKES_SAID[event.what], 3 * k + kind))
        if not event.in_order:
            labelled.append((frame, kinds.ORDER, step))
        state[k] = {DONE: 1, WRONG: -1, UNDONE: 0, OMITTED: state[k]}[event.what]
        states[max(frame, 1)] = tuple(state)
    rows = _changes(states)
    recording = Recording(one.video, paths[0], fps, one.procedure, rows, tuple(sorted(steps)), frames, group=one.group)
    if omissions_follow:
        graph, start = facts.graph(one.procedure), facts.procedure(one.procedure).start_state
        wrong = {k for _, kind, step in labelled if kind == kinds.WRONG for k in [step // 3]}
        missing = [m for m in true_mistakes(recording.steps, rows, graph, start) if m.kind == kinds.OMITTED]
        labelled += [(m.frame, m.kind, m.step) for m in missing if m.step // 3 not in wrong]
    return replace(recording, mistakes=tuple(sorted(labelled)))


def _changes(states: dict[int, State]) -> tuple[tuple[int, State], ...]:
    """Return the initial states and each that differs from the one before."""
    found: list[tuple[int, State]] = []
    for frame, state in sorted(states.items()):
        if not found or state != found[-1][1]:
            found.append((frame, state))
    return tuple(found)
