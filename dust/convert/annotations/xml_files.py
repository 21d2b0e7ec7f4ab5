"""Annotations in XML: CVAT's tracks and tags of videos, ELAN's tiers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

from dust.datasets.manifest.annotation import (
    Annotated,
    Annotation,
    checked,
    read_xml,
    to_seconds,
    video_name,
    video_place,
)
from dust.decode.folders import is_picture, is_video
from dust.utils.errors import DataError, Problems
from dust.utils.text import counted, whole_number


def read_cvat(path: Path, attribute: str = "") -> Annotated:
    """Read CVAT for video 1.1: a track is a stretch for each time that it is on screen; and CVAT for images 1.1: tags
    of frames, equal neighbours joined. Frames count from 0.

    CVAT writes every frame of a track. One that is written as keyframes alone is there between them too, and after the
    last one to the end of its task, as CVAT shows it.

    Args:
        attribute: of a track, which holds the label; "" takes the track's own label.
    """
    root = read_xml(path)
    if root.tag != "annotations":
        raise DataError(f"{path}: not CVAT's XML (its root is {root.tag})")
    tasks, found, problems = _tasks(root), Annotated(), Problems()
    known = {one.get("name") for track in root.iter("track") for one in track.iter("attribute")}
    if attribute and attribute not in known:
        listed = ", ".join(sorted(name for name in known if name)) or "none"
        raise DataError(f"{path}: no track has an attribute {attribute}; there are {listed}: --label NAME")
    endless = unknown = 0
    for number, track in enumerate(root.iter("track")):
        where = f"track {track.get('id', number)}"
        task = _task_of(track, tasks, where, problems)
        written = [(shape.get("frame"), shape) for shape in track]
        timed = [(frame, shape) for text, shape in written if (frame := _whole(text)) is not None]
        for text, _ in written:
            if text is not None and _whole(text) is None:
                problems.add("has a frame that is no number", f"{where}: {text[:20]}")
        shapes = sorted(timed, key=lambda pair: pair[0])
        found.items += _stretches(shapes, track.get("label", ""), attribute, task)
        if shapes and not _outside(shapes[-1][1]) and _keyframes_alone(shapes, task.step):
            endless, unknown = endless + 1, unknown + (not task.stop)
    found.items += _tags(root, tasks, problems)
    if endless:
        has = counted(endless, "track of keyframes alone has", "tracks of keyframes alone have")
        until = (
            "its task's end, as in CVAT"
            if not unknown
            else "its last keyframe, since the file says no size of the task"
        )
        found.notes.append(f"{has} no end (outside): it is taken to last to {until}")
    found.left_out(sum(one.tag != "tag" for image in root.iter("image") for one in image),
                   "shapes of single pictures (export tracks as CVAT for video)")  # fmt: skip
    return checked(found, path, problems)


@dataclass(frozen=True)
class _Task:
    """``video``: its name, that of the task where no other is said. ``stop``: the frame behind its last one, 0 where it
    does not say; ``step``: frames of the video from one annotated frame to the next."""

    video: str = ""
    stop: int = 0
    step: int = 1


def _tasks(root: Element) -> dict[str, _Task]:
    """Map number -> task."""
    found: dict[str, _Task] = {}
    for task in (*root.iter("task"), *root.iter("job")):
        video = task.findtext("source") or root.findtext(".//source") or task.findtext("name") or ""
        filtered = re.fullmatch(r"step=(\d+)", (task.findtext("frame_filter") or "").strip())
        step = max(1, _whole(filtered[1]) or 1) if filtered else 1
        first, last, size = (_whole(task.findtext(name)) for name in ("start_frame", "stop_frame", "size"))
        stop = last + 1 if last is not None else (first or 0) + (size - 1) * step + 1 if size else 0
        found[task.findtext("id") or ""] = _Task(video_name(video), stop, step)
    return found


def _whole(text: str | None) -> int | None:
    return whole_number(text.strip()) if text else None


def _task_of(element: Element, tasks: Mapping[str, _Task], where: str, problems: Problems) -> _Task:
    """Return the task that a track or picture names, else the only one."""
    number = element.get("task_id", "")
    if number not in tasks and len(tasks) > 1:
        problems.add(f"is of none of the tasks {', '.join(tasks)} (task_id)", f"{where}: {number or 'none is said'}")
    return tasks.get(number) or next(iter(tasks.values()), _Task())


#: (frame, shape) of a track, in their order.
Shapes = Sequence[tuple[int, Element]]


def _outside(shape: Element) -> bool:
    """Tell whether the track has left the screen there; of a skeleton whether all its points have."""
    parts = [one.get("outside") for one in shape if one.get("outside") is not None]
    return shape.get("outside") == "1" or (shape.get("outside") is None and bool(parts) and set(parts) == {"1"})


def _keyframes_alone(shapes: Shapes, step: int) -> bool:
    """Tell whether frames are missing in which the track is there; frames that were deleted stand beside those that
    CVAT put between keyframes."""
    between = any(shape.get("keyframe") == "0" for _, shape in shapes)
    gaps = any(b > a + step and not _outside(shape) for (a, shape), (b, _) in pairwise(shapes))
    return len(shapes) == 1 or (gaps and not between)


def _stretches(shapes: Shapes, label: str, attribute: str, task: _Task) -> list[Annotation]:
    """Return a track's stretches between ``outside`` marks, cut where the attribute changes."""
    video = task.video
    found: list[Annotation] = []
    start: int | None = None
    name = label
    for frame, shape in shapes:
        own = next((one.text or "" for one in shape.findall("attribute") if one.get("name") == attribute), "")
        own = own if attribute else label
        outside = _outside(shape)
        if start is not None and (outside or own != name):
            found.append(Annotation(video, start, frame, name, in_frames=True))
            start = None
        if not outside and start is None:
            start, name = frame, own
    if start is not None:
        last = shapes[-1][0] + task.step
        end = max(last, task.stop) if _keyframes_alone(shapes, task.step) else last
        found.append(Annotation(video, start, end, name, in_frames=True))
    return [one for one in found if one.end > one.start]


def _tags(root: Element, tasks: Mapping[str, _Task], problems: Problems) -> list[Annotation]:
    """Join neighbours of one label. Pictures in folders (``take_1/0007.jpg``) are videos of their own: the frames of
    each count from its pictures, for those of a task count through all its folders."""
    frames: dict[tuple[_Task, str, str], dict[int, str]] = {}
    for image in root.iter("image"):
        number, (folder, picture) = _whole(image.get("id")), video_place(image.get("name", ""))
        folder = folder if is_picture(picture) else ""
        for tag in image.findall("tag"):
            if number is not None:
                task = _task_of(image, tasks, f"image {image.get('id')}", problems)
                frames.setdefault((task, folder, tag.get("label", "")), {})[number] = picture
    found = []
    for (task, folder, label), pictures in frames.items():
        numbers = sorted(pictures)
        breaks = [0, *(place for place, (a, b) in enumerate(pairwise(numbers), 1) if b > a + task.step), len(numbers)]
        for begin, end in pairwise(breaks):
            first, last = numbers[begin], numbers[end - 1] + task.step
            one = Annotation(task.video, first, last, label, in_frames=True)
            if folder:
                above, name = video_place(folder)
                one = replace(one, video=name, start=0, end=last - first, folder=above, picture=pictures[first])
            found.append(one)
    return found


def read_elan(path: Path, tier: str = "") -> Annotated:
    """Read an ELAN document (.eaf): the annotations of a tier.

    An annotation that refers to one of another tier has the time of that one; where several refer to one, they share it
    evenly, as ELAN shows it. So do neighbours whose common ends are not set.

    Args:
        tier: its name; "" where only one tier has annotations with times of their own.
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
    found = Annotated()
    every = [(_media_name(one), one) for one in root.iter("MEDIA_DESCRIPTOR")]
    videos = [pair for pair in every if is_video(pair[0])] or every
    video, media = videos[0] if videos else ("", None)
    folder = video_place(media.get("MEDIA_URL") or "")[0] if media is not None else ""
    if len(videos) > 1:
        found.notes.append(f"of several videos the first: {', '.join(name for name, _ in videos)}")
    origin = (
        to_seconds((media.get("TIME_ORIGIN") if media is not None else None) or 0, str(path), problems) / 1000
    )  # where in the video the times begin
    tiers = {one.get("TIER_ID", ""): one for one in root.iter("TIER")}
    timed = [name for name, one in tiers.items() if one.find("ANNOTATION/ALIGNABLE_ANNOTATION") is not None]
    chosen = [tier] if tier else timed
    if (tier and tier not in tiers) or len(chosen) != 1:
        others = ", ".join(name for name in tiers if name not in timed)
        more = f" (others refer to these: {others})" if others else ""
        raise DataError(
            f"{path}: its tiers with times are {', '.join(timed) or 'none'}{more}: say which one, --label TIER"
        )
    open_ended = unlabelled = 0
    spans = _Spans(root, slots, str(path), problems)
    person = tiers[chosen[0]].get("PARTICIPANT", "")
    for one in tiers[chosen[0]].findall("ANNOTATION/*"):
        span, label = spans.of(one), (one.findtext("ANNOTATION_VALUE") or "").strip()
        open_ended += span is None
        unlabelled += span is not None and not label
        if span is not None and label:
            one_span = span[0] + origin, span[1] + origin
            found.items.append(Annotation(video, *one_span, label, group=person, folder=folder))
    if origin:
        found.notes.append(f"times count from {origin:g} s of the video on (TIME_ORIGIN)")
    found.left_out(open_ended, "annotations whose times are not set (align them in ELAN)")
    found.left_out(unlabelled, "annotations without a value")
    return checked(found, path, problems)


def _media_name(media: Element) -> str:
    return video_name(media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") or "")


_DEEPEST = 50  # tiers that refer to each other; more is a circle


class _Spans:
    """Start and end of an ELAN document's annotations, seconds.

    Args:
        slots: id of a time slot -> milliseconds, None where it is not set.
        where: names the file among the problems.
    """

    def __init__(self, root: Element, slots: Mapping[str, str | None], where: str, problems: Problems) -> None:
        self.slots, self.where, self.problems = dict(slots), where, problems
        for tier in root.iter("TIER"):
            self._share_out(tier)
        self.by_id = {one.get("ANNOTATION_ID", ""): one for one in root.iterfind("TIER/ANNOTATION/*")}
        sharing: dict[tuple[str, str], list[str]] = {}  # (tier, whom they refer to) -> in their order
        for tier in root.iter("TIER"):
            for one in tier.iter("REF_ANNOTATION"):
                key = tier.get("TIER_ID", ""), one.get("ANNOTATION_REF", "")
                sharing.setdefault(key, []).append(one.get("ANNOTATION_ID", ""))
        self.share = {name: (place, len(names)) for names in sharing.values() for place, name in enumerate(names)}

    def _share_out(self, tier: Element) -> None:
        """Set the ends that neighbours have in common between two that are set."""
        chain: list[str] = []
        for one in tier.iter("ALIGNABLE_ANNOTATION"):
            begin, end = one.get("TIME_SLOT_REF1", ""), one.get("TIME_SLOT_REF2", "")
            if self.slots.get(begin) is not None:
                chain = [begin]
            chain = [*chain, end] if chain[-1:] == [begin] else []
            if chain and self.slots.get(end) is not None:
                where = f"{self.where}: {one.get('ANNOTATION_ID', '')}"
                low, high = (to_seconds(self.slots[slot], where, self.problems) for slot in (chain[0], end))
                for place, slot in enumerate(chain[1:-1], 1):
                    self.slots[slot] = str(low + place * (high - low) / (len(chain) - 1))

    def of(self, one: Element, depth: int = 0) -> tuple[float, float] | None:
        """Return start and end; None where the times are not set."""
        if one.tag == "REF_ANNOTATION":
            other = self.by_id.get(one.get("ANNOTATION_REF", ""))
            if other is None or depth > _DEEPEST:
                self.problems.add("refers to no annotation", f"{self.where}: {one.get('ANNOTATION_ID', '')}")
                return None
            span = self.of(other, depth + 1)
            place, count = self.share[one.get("ANNOTATION_ID", "")]
            if span is None:
                return None
            length = (span[1] - span[0]) / count
            return span[0] + place * length, span[0] + (place + 1) * length
        times = [self.slots.get(one.get(f"TIME_SLOT_REF{end}", "")) for end in (1, 2)]
        if times[0] is None or times[1] is None:
            return None
        where = f"{self.where}: {one.get('ANNOTATION_ID', '')}"
        start, end = (to_seconds(time, where, self.problems) / 1000 for time in times)
        return start, end
