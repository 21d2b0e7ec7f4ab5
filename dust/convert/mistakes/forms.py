"""The readers of four annotation forms, each from its public description; what was compared with what stands in
KEYSTEP.md."""

import re
from pathlib import Path
from typing import Any

from dust.convert.mistakes.session import DONE, OMITTED, UNDONE, WRONG, Event, Session, Sessions
from dust.datasets.manifest.annotated import annotation_files
from dust.datasets.manifest.annotation import sequence, to_seconds, to_split
from dust.datasets.manifest.table import read_lines
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text
from dust.utils.structured import read_json

ASSEMBLY101_FPS = 30.0  # of its annotated frames
_TOY = re.compile(r"_\d+-([a-z]\d+[a-z]?)_", re.IGNORECASE)
_ACTOR = re.compile(r"_(\d{4})-")
_BACKGROUND = ("bg", "background", "sil", "none", "null")


def read_assembly101(root: Path) -> Sessions:
    """Read a folder of csv files without a header: start, end (frames, 30 a second), verb, this, that, label, remark.

    A step is "this - that", attached or detached. A mistake with a remark of a wrong position is a wrong one, any other
    ("wrong order", "previous one is mistake", "shouldn't have happened") is out of order. The toy is the procedure.
    """
    found, problems = Sessions(), Problems()
    for path in annotation_files(root, (".csv",)):
        toy, actor = _TOY.search(path.stem), _ACTOR.search(path.stem)
        one = Session(path.stem, toy[1] if toy else "toy", group=actor[1] if actor else "")
        for row, _, cells in read_lines(path, problems, where="row {}", separator=","):
            where = f"{path.name}: {row}"
            if not any(cells):
                continue
            if len(cells) not in (6, 7) or cells[5] not in ("correct", "mistake", "correction"):
                what = (
                    "a row is start, end, verb, this, that, label (correct, mistake, correction) and perhaps a remark"
                )
                problems.add(what, f"{where}: {', '.join(cells)}")
                continue
            end = to_seconds(cells[1], where, problems) / ASSEMBLY101_FPS
            remark = cells[6].lower() if len(cells) == 7 else ""
            mistake, what = cells[5] == "mistake", UNDONE if cells[2] == "detach" else DONE
            wrong = mistake and what == DONE and "position" in remark
            in_order = wrong or not mistake
            one.events.append(Event(end, clean(f"{cells[3]} - {cells[4]}"), WRONG if wrong else what, in_order))
        found.items.append(one)
    problems.raise_if_any(str(root))
    return found


def read_egoper(root: Path) -> Sessions:
    """Read ``annotation.json``: task -> segments (video_id, labels: time_stamp, action, action_type), action2idx and
    actiontype2idx; splits in ``<task>/training.txt``, ``validation.txt``, ``test.txt`` beside it.

    An action of a type that is neither normal nor a correction is a wrong one; one that is no step of the task, an
    addition, is left out. What of a task's steps never comes was left out.
    """
    path = root / "annotation.json" if root.is_dir() else root
    found, problems, added = Sessions(), Problems(), 0
    for task, said in _mapping(read_json(path), path, "an object of tasks").items():
        try:
            actions = {int(number): str(name) for name, number in said["action2idx"].items()}
            types = {int(number): str(name).lower() for name, number in said["actiontype2idx"].items()}
            segments = list(said["segments"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{path}: {task}: no segments, action2idx and actiontype2idx ({error!r})") from None
        found.steps[task] = [name for _, name in sorted(actions.items()) if name.lower() not in _BACKGROUND]
        splits = _egoper_splits(path.parent / task)
        for segment in segments:
            try:
                name, labels = str(segment["video_id"]), segment["labels"]
                said_of = zip(labels["time_stamp"], labels["action"], labels["action_type"], strict=True)
                rows = [(end, int(action), int(kind)) for (_, end), action, kind in said_of]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                problems.add(
                    "a segment has video_id and labels of one length each: [start, end], numbers, numbers",
                    f"{task}: {error!r}",
                )
                continue
            one = Session(name, task, split=splits.get(name, ""))
            for end, action, number in rows:
                step = actions.get(action, "")
                if step.lower() in _BACKGROUND:
                    continue
                kind = types.get(number, "error" if number else "normal")
                if not step or "addition" in kind:
                    added += 1
                    continue
                right = "normal" in kind or "correction" in kind
                one.events.append(Event(to_seconds(end, name, problems), step, DONE if right else WRONG))
            found.items.append(one)
    problems.raise_if_any(str(path))
    found.left_out(added, "additions: actions that are no step of their task")
    return found


def _egoper_splits(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for split, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        path = folder / f"{name}.txt"
        if path.is_file():
            found |= {line.strip(): split for line in read_text(path).splitlines() if line.strip()}
    return found


def read_captaincook4d(root: Path) -> Sessions:
    """Read the repository of its annotations: ``annotation_json/error_annotations.json`` (recordings with their steps
    and the errors of each), ``complete_step_annotations.json`` (recipe and person), ``task_graphs/<recipe>.json``
    (steps, edges), and ``data_splits/recordings_data_split_combined.json``.

    A missing step was left out, an order error is out of order, every other error is a wrong one.
    """
    path = root / "annotation_json" / "error_annotations.json"
    listed = read_json(path)
    if not isinstance(listed, list):
        raise DataError(f"{path}: a list of recordings is expected, it is a {type(listed).__name__}")
    about = root / "annotation_json" / "complete_step_annotations.json"
    facts = _mapping(read_json(about), about, "an object of recordings")
    splits: dict[str, str] = {}
    where = root / "data_splits" / "recordings_data_split_combined.json"
    if where.is_file():
        listed_in = _mapping(read_json(where), where, "an object of splits")
        splits = {str(name): to_split(split) for split, names in listed_in.items() for name in sequence(names)}
    found, problems = Sessions(), Problems()
    numbers, steps_of, tried = _numbers_of_names(listed, problems), found.steps, set[str]()
    for recording in listed:
        try:
            name = str(recording["recording_id"])
            said = facts.get(name, {})
            recipe = str(said.get("activity_name") or f"activity {recording['activity_id']}")
            if recipe not in tried:
                _captaincook_graph(root, recipe, found)
                tried.add(recipe)
            one = Session(name, recipe, split=splits.get(name, ""), group=str(said.get("person_id", "")))
            for step in recording["step_annotations"]:
                tags = {str(error["tag"]) for error in step.get("errors", ())}
                end = to_seconds(step["end_time"], name, problems)
                what = OMITTED if "Missing Step" in tags or end < 0 else WRONG if tags - {"Order Error"} else DONE
                in_order = what == OMITTED or "Order Error" not in tags
                same = numbers[recording["activity_id"], clean(step["description"])]
                known = [_nth(clean(step["description"]), n) for n in range(len(same))]
                known = [one for one in known if one in steps_of.get(recipe, known)] or known[:1]
                called = known[min(same.index(step["step_id"]), len(known) - 1)]
                one.events.append(Event(max(end, 0.0), called, what, in_order))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.add("a recording has recording_id and step_annotations with description and times", repr(error))
            continue
        last = max((event.time for event in one.events if event.what != OMITTED), default=0.0)
        one.events = [Event(last, e.step, OMITTED) if e.what == OMITTED else e for e in one.events]
        one.events.sort(key=lambda event: event.time)
        found.items.append(one)
    problems.raise_if_any(str(path))
    return found


def _numbers_of_names(listed: Any, problems: Problems) -> dict[tuple[Any, str], list[Any]]:
    """Map (recipe, description) -> the numbers of the steps that are called so, rising: some recipes stir twice."""
    found: dict[tuple[Any, str], set[Any]] = {}
    for recording in listed:
        try:
            for step in recording["step_annotations"]:
                found.setdefault((recording["activity_id"], clean(step["description"])), set()).add(step["step_id"])
        except (KeyError, TypeError, AttributeError) as error:
            problems.add("a recording has an activity_id, and steps with step_id and description", repr(error))
    return {key: sorted(numbers) for key, numbers in found.items()}


def _nth(name: str, number: int) -> str:
    return f"{name} ({number + 1})" if number else name


def _captaincook_graph(root: Path, recipe: str, found: Sessions) -> None:
    path = root / "task_graphs" / f"{re.sub('[^a-z0-9]', '', recipe.lower())[:200]}.json"
    if not path.is_file():
        found.notes.append(f"{recipe}: no task graph, so its steps have no order")
        return
    said = _mapping(read_json(path), path, "an object of steps and edges")
    try:
        names: dict[int, str] = {}
        for number, name in sorted((int(number), clean(name)) for number, name in said["steps"].items()):
            if name not in ("START", "END"):
                names[number] = next(_nth(name, n) for n in range(99) if _nth(name, n) not in names.values())
        edges = [(int(a), int(b)) for a, b in said["edges"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: steps (number: text) and edges (pairs of numbers) are expected ({error!r})") from None
    found.steps[recipe] = list(dict.fromkeys(names.values()))
    after: dict[str, list[str]] = {name: [] for name in found.steps[recipe]}
    for a, b in edges:
        if a in names and b in names and names[a] not in after[names[b]]:
            after[names[b]].append(names[a])
    found.graphs[recipe] = [{"step": name, "after": before, "repeat": True} for name, before in after.items()]


def read_ata(root: Path) -> Sessions:
    """Read ``groundTruth/<video>.txt``, the label of a frame in each line, as in Breakfast; splits in
    ``splits/<train|test>.split1.bundle``. A run of one label is a step, done at its last frame; background is none.

    What is wrong in these videos is what is missing or out of order: the steps of training say what there should be.
    A procedure is the part of a name before its first _ .
    """
    folder = root / "groundTruth" if (root / "groundTruth").is_dir() else root
    found, splits, problems = Sessions(), _bundles(root), Problems()
    for path in annotation_files(folder, (".txt",)):
        labels = [line.strip() for line in read_text(path).rstrip().split("\n")]
        if labels == [""]:
            problems.add("a file without labels", path.name)
            continue
        if "" in labels:
            line = labels.index("") + 1
            problems.add("an empty line among the labels, where every frame has one", f"{path.name}: line {line}")
            continue
        one = Session(path.stem, path.stem.split("_")[0], split=splits.get(path.stem, ""), in_frames=True)
        for frame, (label, after) in enumerate(zip(labels, [*labels[1:], ""], strict=True)):
            if label != after and label.lower() not in _BACKGROUND:
                one.events.append(Event(frame, clean(label)))
        found.items.append(one)
    problems.raise_if_any(str(folder))
    return found


def _bundles(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for path in sorted((root / "splits").glob(f"{split}*.bundle"))[:1]:
            found |= {Path(line.strip()).stem: split for line in read_text(path).splitlines() if line.strip()}
    return found


def clean(text: Any) -> str:
    """Return a step's name as a column of csv has it."""
    return " ".join(str(text).replace(",", " ").split())


def _mapping(value: Any, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {what or 'an object'} is expected, it is a {type(value).__name__}")
    return value
