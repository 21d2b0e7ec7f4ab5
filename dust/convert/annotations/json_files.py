"""Annotations in JSON: Label Studio, VIA."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dust.convert.annotations.annotators import People, of_annotators, works_of
from dust.datasets.manifest.annotated import without_upload
from dust.datasets.manifest.annotation import (
    Annotated,
    Annotation,
    checked,
    mapping,
    sequence,
    to_seconds,
    video_name,
    video_place,
)
from dust.decode.folders import is_video
from dust.utils.errors import DataError, Problems
from dust.utils.structured import read_json
from dust.utils.text import counted


def read_label_studio(path: Path, *, soft_labels: bool = False) -> Annotated:
    """Read Label Studio's JSON and JSON-MIN exports: labels of a timeline (frames from 1, both ends included), and
    labels of a stretch of sound or video in seconds. Predictions and cancelled annotations are left out.

    Several tasks of one video are several annotators' words as those of one task are, where times of both overlap; else
    they are parts of the work, and all are taken.

    Args:
        soft_labels: what is made of several annotators, see :func:`of_annotators`; the first of them is the one whose
            annotation is marked as the ground truth, where one is.
    """
    tasks = sequence(read_json(path))
    if not tasks:
        raise DataError(f"{path}: not a list of tasks: export JSON or JSON-MIN")
    found, problems, other, more, cancelled = Annotated(), Problems(), 0, 0, 0
    tasks_of: dict[tuple[str, str], dict[str, People]] = {}
    numbered = list(enumerate(map(mapping, tasks), 1))
    numbered.sort(key=lambda pair: not any(mapping(one).get("ground_truth") for one in _made(pair[1])))
    for number, task in numbered:
        data = mapping(task.get("data")) or task
        named = [str(data[key]) for key in ("video", "video_url", "audio", "url") if data.get(key)]
        named += [value for value in data.values() if isinstance(value, str) and is_video(video_name(value))]
        folder, video = video_place(named[0]) if named else ("", "")
        folder = "" if without_upload(video) != video else folder  # of an upload Label Studio's own
        more += len({video_name(one) for one in named if is_video(video_name(one))}) > 1
        cancelled += sum(bool(mapping(one).get("was_cancelled")) for one in _made(task))
        people = tasks_of.setdefault((folder, without_upload(video)), {}).setdefault(
            str(task.get("id", f"no {number}")), {}
        )
        for who, values in _said(task):
            for value in values:
                stretches = _stretches(value, video, f"task {number} ({video})", problems)
                people.setdefault(who, []).extend(replace(one, folder=folder) for one in stretches)
                other += not stretches
            people.setdefault(who, [])
    works = [work for tasks in tasks_of.values() for work in works_of(tasks.values())]
    of_annotators(works, found, problems, soft_labels=soft_labels)
    found.left_out(
        other, "results without a label, or that are no stretch of time (boxes, choices, texts, parts of a series)"
    )
    found.left_out(cancelled, "annotations that were cancelled")
    if more:
        found.notes.append(f"{counted(more, 'task shows', 'tasks show')} several videos, of which the first is taken")
    return checked(found, path, problems)


_MADE = {"annotations", "completions"}  # the latter before version 1.0


def _made(task: dict[str, Any]) -> Sequence[Any]:
    """Return the annotations of a task."""
    return next((sequence(task[key]) for key in sorted(_MADE) if key in task), [])


def _said(task: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (annotator, values of the results) of each annotation of a task."""
    if not _MADE & task.keys():  # JSON-MIN: lists of values beside the data, a task for each annotation
        return [(str(task.get("annotator", "")), [mapping(one) for value in task.values() for one in sequence(value)])]
    made = [one for one in map(mapping, _made(task)) if not one.get("was_cancelled")]
    made.sort(key=lambda one: not one.get("ground_truth"))
    names = [str(one.get("completed_by")) for one in made]
    values = [[mapping(mapping(two).get("value")) for two in sequence(one.get("result"))] for one in made]
    # who annotated a task twice said two things of it
    return [(f"{name} {names[:place].count(name)}", values[place]) for place, name in enumerate(names)]


def _stretches(value: dict[str, Any], video: str, where: str, problems: Problems) -> list[Annotation]:
    """Return the stretches of one result, a label each; none of what is no stretch of time."""
    names = sequence(value.get("timelinelabels")) or sequence(value.get("labels"))
    found: list[Annotation] = []
    for one in map(mapping, sequence(value.get("ranges"))):
        first, last = (to_seconds(one.get(key), where, problems) for key in ("start", "end"))
        if first < 1:
            problems.add("frames of a timeline count from 1", f"{where}: {first:g}-{last:g}")
        found += [Annotation(video, first - 1, last, str(name), in_frames=True) for name in names]
    if (
        not found and "start" in value and "end" in value and not isinstance(value.get("text"), str)
    ):  # letters of a text
        start, end = (to_seconds(value[key], where, problems) for key in ("start", "end"))
        found = [Annotation(video, start, end, str(name)) for name in names]
    return found


_TEXT = 1  # the type of an attribute of VIA's whose value is what was typed


def read_via(path: Path, attribute: str = "") -> Annotated:
    """Read a project of the VGG Image Annotator, version 3: its temporal segments.

    Args:
        attribute: name of the attribute that holds the label; "" where there is only one.
    """
    project = mapping(read_json(path))
    if "_via_img_metadata" in project:
        raise DataError(f"{path}: a project of VIA 2, which has no stretches of time: annotate videos in VIA 3")
    known = {str(number): mapping(one) for number, one in mapping(project.get("attribute")).items()}
    if "metadata" not in project or not known:
        raise DataError(f"{path}: not a project of VIA 3 (no metadata, or no attributes)")
    names = {number: str(one.get("aname", number)) for number, one in known.items()}
    wanted = [number for number, name in names.items() if not attribute or name == attribute]
    if len(wanted) != 1:
        listed = ", ".join(sorted(set(names.values())))
        raise DataError(f"{path}: its attributes are {listed}: say which one holds the label, --label NAME")
    facts = known[wanted[0]]
    options = {} if facts.get("type") == _TEXT else mapping(facts.get("options"))
    files = {str(number): mapping(one) for number, one in mapping(project.get("file")).items()}
    views = {str(number): mapping(one) for number, one in mapping(project.get("view")).items()}
    found, problems, other, several = Annotated(), Problems(), 0, 0
    for one in map(mapping, mapping(project["metadata"]).values()):
        times, chosen = sequence(one.get("z")), mapping(one.get("av")).get(wanted[0])
        if len(times) != 2 or chosen is None or not str(chosen).strip():
            other += 1
            continue
        shown = sequence(views.get(str(one.get("vid")), {}).get("fid_list"))
        file = files.get(str(next(iter(shown), one.get("vid"))), {})
        several += len(shown) > 1
        video = video_name(str(file.get("fname") or file.get("src") or ""))
        start, end = (to_seconds(value, video, problems) for value in times)
        keys = str(chosen).split(",") if options else [str(chosen)]  # of check boxes several
        for key in (key for key in keys if options and key not in options):
            listed = ", ".join(f"{name} {label}" for name, label in options.items())
            problems.add(f"an option that the attribute does not have (it has {listed})", f"{video}: {key!r}")
        found.items += [Annotation(video, start, end, str(options.get(key, key))) for key in keys]
    found.left_out(other, "regions and segments without this attribute")
    if several:
        are = counted(several, "segment is", "segments are")
        found.notes.append(f"{are} of several videos at once, of which the first is taken")
    return checked(found, path, problems)
