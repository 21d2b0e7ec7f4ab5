"""Annotations in XML: CVAT's tracks and tags of videos, ELAN's tiers."""

from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

from dust.datasets.manifest.annotation import Annotated, Annotation, checked, read_xml, to_seconds, video_name
from dust.utils.errors import DataError, Problems


def read_cvat(path: Path, attribute: str = "") -> Annotated:
    """CVAT for video 1.1: a track is a stretch for each time that it is on screen; and CVAT for images 1.1: tags of
    frames, equal neighbours joined. Frames count from 0.

    Args:
        attribute: of a track, which holds the label; "" takes the track's own label.
    """
    root = read_xml(path)
    if root.tag != "annotations":
        raise DataError(f"{path}: not CVAT's XML (its root is {root.tag})")
    names = {number: video_name(name) for number, name in _tasks(root)}
    only = next(iter(names.values()), "")
    found, problems = Annotated(), Problems()
    for track in root.iter("track"):
        video = names.get(track.get("task_id", ""), only)
        timed = [(int(shape.get("frame", 0)), shape) for shape in track if shape.get("frame", "").isdecimal()]
        shapes = sorted(timed, key=lambda pair: pair[0])
        found.items += _stretches(shapes, track.get("label", ""), attribute, video, _stop(root))
    found.items += _tags(root, only)
    return checked(found, path, problems)


def _tasks(root: Element) -> list[tuple[str, str]]:
    """(number, name of the video) of each task; a task is called like its video where that is not said."""
    tasks = list(root.iter("task")) + list(root.iter("job"))
    return [
        (
            task.findtext("id") or "",
            task.findtext("source") or root.findtext(".//source") or task.findtext("name") or "",
        )
        for task in tasks
    ]


def _stop(root: Element) -> int:
    """Frames of the task; 0 where it does not say."""
    size = root.findtext(".//task/size") or root.findtext(".//job/size") or ""
    return int(size) if size.isdecimal() else 0


def _stretches(shapes: list, label: str, attribute: str, video: str, stop: int) -> list[Annotation]:
    """A track's stretches between ``outside`` marks, cut where the attribute changes."""
    found: list[Annotation] = []
    start: int | None = None
    name = label
    for frame, shape in shapes:
        own = next((one.text or "" for one in shape.findall("attribute") if one.get("name") == attribute), "")
        own = own if attribute else label
        outside = shape.get("outside") == "1"
        if start is not None and (outside or own != name):
            found.append(Annotation(video, start, frame, name, in_frames=True))
            start = None
        if not outside and start is None:
            start, name = frame, own
    if start is not None:
        last = shapes[-1][0] + 1
        found.append(
            Annotation(video, start, max(last, stop) if len(shapes) == 1 and stop else last, name, in_frames=True)
        )
    return [one for one in found if one.end > one.start]


def _tags(root: Element, video: str) -> list[Annotation]:
    frames: dict[str, list[int]] = {}
    for image in root.iter("image"):
        for tag in image.findall("tag"):
            if image.get("id", "").isdecimal():
                frames.setdefault(tag.get("label", ""), []).append(int(image.get("id", 0)))
    found = []
    for label, numbers in frames.items():
        numbers.sort()
        breaks = [0, *(place for place, (a, b) in enumerate(pairwise(numbers), 1) if b > a + 1), len(numbers)]
        for begin, end in pairwise(breaks):
            found.append(Annotation(video, numbers[begin], numbers[end - 1] + 1, label, in_frames=True))
    return found


def read_elan(path: Path, tier: str = "") -> Annotated:
    """An ELAN document (.eaf): the annotations of a tier with times of its own.

    Args:
        tier: its name; "" where only one has such annotations.
    """
    root = read_xml(path)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise DataError(f"{path}: not an ELAN document (its root is {root.tag})")
    problems = Problems()
    head = root.find("HEADER")
    unit = (head.get("TIME_UNITS") if head is not None else None) or "milliseconds"
    if unit != "milliseconds":
        raise DataError(f"{path}: its times are in {unit}; only milliseconds are read")
    slots = {one.get("TIME_SLOT_ID", ""): one.get("TIME_VALUE") for one in root.iter("TIME_SLOT")}
    media = next(iter(root.iter("MEDIA_DESCRIPTOR")), None)
    video = video_name((media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") or "") if media is not None else "")
    origin = (
        to_seconds((media.get("TIME_ORIGIN") if media is not None else None) or 0, str(path), problems) / 1000
    )  # where in the video the times begin
    tiers = {one.get("TIER_ID", ""): one for one in root.iter("TIER")}
    timed = [name for name, one in tiers.items() if one.find("ANNOTATION/ALIGNABLE_ANNOTATION") is not None]
    chosen = [tier] if tier else timed
    if (tier and tier not in timed) or len(chosen) != 1:
        raise DataError(f"{path}: its tiers with times are {', '.join(timed) or 'none'}: say which one, --label TIER")
    found, open_ended = Annotated(), 0
    for one in tiers[chosen[0]].iter("ALIGNABLE_ANNOTATION"):
        times = [slots.get(one.get(f"TIME_SLOT_REF{end}", "")) for end in (1, 2)]
        if any(time is None for time in times):
            open_ended += 1
            continue
        start, end = (to_seconds(time, str(path), problems) / 1000 + origin for time in times)
        person = tiers[chosen[0]].get("PARTICIPANT", "")
        found.items.append(
            Annotation(video, start, end, (one.findtext("ANNOTATION_VALUE") or "").strip(), group=person)
        )
    if origin:
        found.notes.append(f"times count from {origin:g} s of the video on (TIME_ORIGIN)")
    found.left_out(open_ended, "annotations whose times are not set")
    return checked(found, path, problems)
