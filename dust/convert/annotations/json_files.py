"""Annotations in JSON: Label Studio, VIA."""

from pathlib import Path

from dust.datasets.manifest.annotation import (
    Annotated,
    Annotation,
    checked,
    mapping,
    sequence,
    to_seconds,
    video_name,
)
from dust.utils.errors import DataError, Problems
from dust.utils.structured import read_json


def read_label_studio(path: Path) -> Annotated:
    """Label Studio's JSON and JSON-MIN exports: labels of a timeline (frames from 1, both ends included), and labels of
    a stretch of sound or video in seconds.

    Of several annotators of one video the first is taken; predictions and cancelled annotations are left out.
    """
    tasks = sequence(read_json(path))
    if not tasks:
        raise DataError(f"{path}: not a list of tasks: export JSON or JSON-MIN")
    found, problems, further, other = Annotated(), Problems(), 0, 0
    for number, task in enumerate(map(mapping, tasks), 1):
        made = [one for one in map(mapping, sequence(task.get("annotations"))) if not one.get("was_cancelled")]
        further += max(0, len(made) - 1)
        data = mapping(task.get("data")) or task
        address = next((data[key] for key in ("video", "video_url", "audio", "url") if data.get(key)), "")
        video = video_name(str(address))
        if "annotations" in task:
            results = [
                mapping(one.get("value")) for one in map(mapping, sequence(made[0].get("result") if made else []))
            ]
        else:  # JSON-MIN: lists of values beside the data
            results = [mapping(one) for value in task.values() for one in sequence(value)]
        for value in results:
            names = sequence(value.get("timelinelabels")) or sequence(value.get("labels"))
            ranges = sequence(value.get("ranges"))
            where = f"task {number} ({video})"
            if names and ranges:
                for one in map(mapping, ranges):
                    first, last = (to_seconds(one.get(key), where, problems) for key in ("start", "end"))
                    found.items += [Annotation(video, first - 1, last, str(name), in_frames=True) for name in names]
            elif names and "start" in value and "end" in value:
                start, end = (to_seconds(value[key], where, problems) for key in ("start", "end"))
                found.items += [Annotation(video, start, end, str(name)) for name in names]
            else:
                other += 1
    found.left_out(further, "annotations of further annotators of a video")
    found.left_out(other, "results that are no stretch of time (boxes, choices, texts)")
    return checked(found, path, problems)


def read_via(path: Path, attribute: str = "") -> Annotated:
    """A project of the VGG Image Annotator, version 3: its temporal segments.

    Args:
        attribute: name of the attribute that holds the label; "" where there is only one.
    """
    project = mapping(read_json(path))
    known = {str(number): mapping(one) for number, one in mapping(project.get("attribute")).items()}
    if "metadata" not in project or not known:
        raise DataError(f"{path}: not a project of VIA 3 (no metadata, or no attributes)")
    names = {number: str(one.get("aname", number)) for number, one in known.items()}
    wanted = [number for number, name in names.items() if not attribute or name == attribute]
    if len(wanted) != 1:
        listed = ", ".join(sorted(set(names.values())))
        raise DataError(f"{path}: its attributes are {listed}: say which one holds the label, --label NAME")
    options = mapping(known[wanted[0]].get("options"))
    files = {str(number): mapping(one) for number, one in mapping(project.get("file")).items()}
    views = {str(number): mapping(one) for number, one in mapping(project.get("view")).items()}
    found, problems, other = Annotated(), Problems(), 0
    for one in map(mapping, mapping(project["metadata"]).values()):
        times, chosen = sequence(one.get("z")), mapping(one.get("av")).get(wanted[0])
        if len(times) != 2 or chosen is None:
            other += 1
            continue
        view = views.get(str(one.get("vid")), {})
        file = files.get(str(next(iter(sequence(view.get("fid_list"))), one.get("vid"))), {})
        video = video_name(str(file.get("fname") or file.get("src") or ""))
        start, end = (to_seconds(value, video, problems) for value in times)
        for key in str(chosen).split(","):  # of check boxes several
            found.items.append(Annotation(video, start, end, str(options.get(key, key))))
    found.left_out(other, "regions and segments without this attribute")
    return checked(found, path, problems)
