"""Looks for what is wrong with a data folder before a training meets it: files, labels, splits, sizes."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from dust.convert.duplicates import same_content
from dust.convert.health import Health
from dust.convert.lists import ListOptions, Lists, look_at_files, read_lists
from dust.datasets.arrays import split_reference
from dust.datasets.manifest.clips import classes_of
from dust.datasets.manifest.conflicts import (
    DUPLICATE,
    ERROR,
    GROUP_LEAK,
    LABELS,
    LEAK,
    SHARED,
    WARNING,
    Sample,
    find_conflicts,
    samples_of,
)
from dust.datasets.manifest.votes import Votes
from dust.decode.remote import is_remote
from dust.decode.segment import FRAMES, Segment
from dust.utils.errors import SHOWN
from dust.utils.statistics import measure_agreement
from dust.utils.text import counted

BAD, SIZE, CLASSES, NAMES = "bad", "size", "classes", "names"
SMALL = 16  # pixels: a side below this is hardly a picture


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that one sample has to do with.

    Attributes:
        level: error | warning.
        kind: bad | leak | group | labels | shared | duplicate | size | classes | names.
        detail: what is wrong, and with which others.
        action, label: the correction that is proposed: keep | drop | relabel.
    """

    level: str
    kind: str
    split: str
    id: str
    path: str
    detail: str
    action: str = "keep"
    label: str = ""


@dataclass
class Report:
    """What was found, and what there is.

    Attributes:
        files: how many were read.
        facts: lines about splits, classes, durations and sizes.
    """

    lists: Lists
    findings: list[Finding] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == ERROR]

    def lines(self) -> list[str]:
        """Return the findings by kind, the first few of each written out, then the facts."""
        kinds: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            kinds[finding.level, finding.kind, _TITLES[finding.kind]].append(finding)
        lines = []
        for (level, _, title), found in sorted(kinds.items()):
            lines.append(f"{level}: {title}: {len(found)}")
            lines += [f"    {one.split}: {one.id or one.path}: {one.detail}" for one in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"    ... and {len(found) - SHOWN} more")
        return [*lines, *self.facts]


_TITLES = {
    BAD: "cannot be read",
    LEAK: "in train and in another split",
    GROUP_LEAK: "of a group that is in train and in another split",
    LABELS: "the same clip under several labels (of several people? --soft-labels takes them for shares)",
    SHARED: "in val and in test",
    DUPLICATE: "more than once in a split",
    SIZE: "short or small, or behind the file's end",
    CLASSES: "classes",
    NAMES: "class names that are nearly alike",
}


def check_data(root: str, options: ListOptions | None = None, *, workers: int = 0) -> Report:
    """Read every split that there is, and every file of it to its end.

    Args:
        root: a data folder, or a list.
        workers: processes that read; 0 works in this one.

    Raises:
        DataError: lists that cannot be read at all, with everything that is wrong with them.
    """
    options = options or ListOptions()
    lists = read_lists(root, options)
    report = Report(lists)
    health = look_at_files(lists, options, workers=workers)
    report.files = len(health)
    samples = lists.samples()
    bad = {path: one.reason for path, one in health.items() if one.reason}
    for split, path, sample in _each(samples):
        reason = bad.get(path) or _outside(health[path], sample, path, lists.files[path])
        if reason:
            report.findings.append(Finding(ERROR, BAD, split, sample.id, path, reason, "drop"))
    report.findings += _conflicts(samples, [path for path in health if path not in bad])
    for split, path, sample in _each(samples):
        if _outside(health[path], sample, path, lists.files[path]):
            continue
        part = _of_part(health[path], sample, path) if lists.files[path] == "video" else health[path]
        beyond = _beyond(health[path], sample, path, lists.files[path])
        if beyond:
            report.findings.append(Finding(WARNING, SIZE, split, sample.id, path, beyond))
        for text in _too_little(part, lists.files[path], options.span):
            report.findings.append(Finding(WARNING, SIZE, split, sample.id, path, text))
    report.findings += _near_names(lists)
    report.findings += _class_findings(lists)
    report.facts = [*_counts(lists), *_agreement(lists), *_extent(health, lists.files)]
    return report


def _each(samples: Mapping[str, Sequence[Sample]]) -> list[tuple[str, str, Sample]]:
    """Return (split, file, sample) of every file of every sample, once each."""
    return [
        (split, path, sample)
        for split, part in samples.items()
        for sample in part
        for path in dict.fromkeys(file for file, _ in sample.sources)
    ]


def _segment(sample: Sample, path: str) -> Segment | None:
    """Return which part of a file a sample is; None for all of it."""
    parts = [part for file, part in sample.sources if file == path]
    return Segment.of_part(parts[0])


def _of_part(health: Health, sample: Sample, path: str) -> Health:
    """Return what is known of a file, with as many frames as the sample has of it."""
    segment = _segment(sample, path)
    if segment is None or not health.fps:
        return health
    return replace(health, frames=segment.length(health.frames, health.fps))


def _outside(health: Health, sample: Sample, path: str, kind: str) -> str:
    """Return what is wrong with a segment of a file that is whole; "" if nothing is. A series has a clock of its own,
    which only its reader knows."""
    segment = _segment(sample, path)
    if kind != "video" or segment is None or not health.frames or not health.fps:
        return ""
    rest = Segment(segment.start, None, segment.unit)
    if rest.length(health.frames, health.fps):
        return ""
    return f"no frame lies in {segment.part}; the file has {health.frames} frames, {health.frames / health.fps:.6g} s"


def _beyond(health: Health, sample: Sample, path: str, kind: str) -> str:
    """Return what to say of a segment that ends more than a frame behind its file; "" for any other."""
    segment = _segment(sample, path)
    if kind != "video" or segment is None or segment.end is None or not health.frames or not health.fps:
        return ""
    length = float(health.frames) if segment.unit == FRAMES else (health.frames + 1) / health.fps
    if segment.end <= length:
        return ""
    return (
        f"{segment.part} goes beyond its end; the file has {health.frames} frames, {health.frames / health.fps:.6g} s"
    )


# ------------------------------------------------------------------------------------------------------------ conflicts


def _conflicts(samples: Mapping[str, Sequence[Sample]], paths: Sequence[str]) -> list[Finding]:
    """Find the same file and same content: in two splits, under two labels, twice."""
    whole = {path for path in paths if split_reference(path)[1] or is_remote(path)}
    real = {path: path if path in whole else os.path.realpath(path) for path in paths}
    same = {path: group[0] for group in same_content(real.values()) for path in group}
    stands_for = {path: same.get(name, name) for path, name in real.items()}
    found = []
    for conflict in find_conflicts(samples, stands_for):
        if conflict.kind == SHARED and len(conflict.cases) == len(samples["val"]) == len(samples["test"]):
            detail = f"val and test are one list of {len(conflict.cases)} samples"
            found.append(Finding(WARNING, SHARED, "test", "", "", detail))
            continue
        for case in conflict.cases:
            same_part = len({part for _, one in case for _, part in one.sources}) == 1
            relation = "the same as" if same_part or conflict.kind in (LABELS, DUPLICATE) else "overlaps with"
            splits = list(dict.fromkeys(name for name, _ in case))
            for number, (split, sample) in enumerate(case):
                # the first few: a case may have thousands
                named_here = (f"{other.id} ({name})" for name, other in case if (name, other) != (split, sample))
                others = list(islice(named_here, 6))
                detail = f"{relation} {', '.join(others[:5])}" + (", ..." if len(others) > 5 else "")
                if conflict.kind == GROUP_LEAK:
                    named = ", ".join(name for name in splits if name != split)
                    detail = f"group {sample.group} is in {named} too"
                elif conflict.kind == LABELS:
                    detail = f"one of several labels: {detail}"
                drop = {
                    LEAK: split == "train",
                    GROUP_LEAK: split == "train",
                    LABELS: True,
                    DUPLICATE: number > 0,
                }.get(conflict.kind, False)
                if conflict.kind in (LEAK, GROUP_LEAK) and not drop:
                    continue  # one line for each leak: that of train
                path = sample.sources[0][0]
                action = "drop" if drop else "keep"
                found.append(Finding(conflict.level, conflict.kind, split, sample.id, path, detail, action))
    return found


# ----------------------------------------------------------------------------------------------------- sizes and names


def _too_little(health: Health, kind: str, span: float) -> list[str]:
    """Return what a clip has too little of; nothing for one that cannot be read."""
    if health.reason:
        return []
    found = []
    if kind in ("video", "rows") and 0 < min(health.height, health.width) < SMALL:
        found.append(f"{health.width}x{health.height} pixels")
    if kind == "video" and health.fps and not health.frames:
        found.append("no time for a frame at a steady rate")
    elif health.frames == 1:
        found.append("one frame" if kind != "series" else "one point")
    elif span and kind == "video" and health.fps and health.frames / health.fps < span / 2:
        found.append(f"{health.frames / health.fps:.2f} s, where the configuration takes {span:.2f} s")
    return found


def _near_names(lists: Lists) -> list[Finding]:
    """Return class names of which one may be a slip for another; see :func:`near_pairs` and :func:`same_words`.

    Of several spellings of one name the most frequent stands for all; of equally frequent ones the last by code point.
    """
    if lists.kind in ("keystep", "epic"):
        return []
    numbers = Counter(label for part in lists.clips.values() for clip in part for label in classes_of(clip.label))
    names = lists.class_names
    counts = {name: numbers[number] for number, name in enumerate(names)}
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[same_words(name)].append(name)
    best = {name: max(alike, key=lambda one: (counts[one], one)) for alike in spellings.values() for name in alike}
    told: dict[
        tuple[str, str], str
    ] = {}  # (a name that may be a slip, what to say) -> the name in its place, "" if unsure
    for one, other in near_pairs(names):
        few, many = sorted((one, other), key=lambda name: (counts[name], name))
        sure = best[one] == best[other]
        if sure:
            few, many = other if one == best[one] else one, best[one]
        text = f"{few!r} ({counts[few]} clips) and {many!r} ({counts[many]} clips) may be one class"
        told[few, text] = many if sure else ""
    slips = {name for name, _ in told}
    having: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for split, part in lists.clips.items() if slips else ():
        for clip in part:
            for name in slips.intersection(names[number] for number in classes_of(clip.label)):
                having[name].append((split, clip))
    found = []
    for (name, text), instead in told.items():
        for split, clip in having[name]:
            relabel = bool(instead) and not isinstance(clip.label, tuple) and not lists.votes(clip)
            action, label = ("relabel", instead) if relabel else ("keep", "")
            found.append(Finding(WARNING, NAMES, split, clip.id, clip.path, text, action, label))
        if not counts[name]:
            found.append(Finding(WARNING, NAMES, "all", "", "", text))
    return found


def near_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of names that are equal but for case, spaces and signs, or that differ by one letter (not a digit)
    of five or more. The time is in proportion to the names' lengths, not to the number of pairs."""
    found: dict[tuple[str, str], None] = {}
    shapes: dict[str, list[str]] = defaultdict(list)
    for name in names:
        bare = _bare(name)
        cut = {bare[:i] + bare[i + 1 :] for i in range(len(bare)) if not bare[i].isdigit()} if len(bare) >= 5 else set()
        for shape in {bare, *cut} - {""}:
            for other in shapes[shape]:
                if re.sub(r"\D", "", other) == re.sub(r"\D", "", name) or _bare(other) == bare:
                    found[other, name] = None
            shapes[shape].append(name)
    return list(found)


def same_words(name: str) -> str:
    """Return a name without what cannot tell two classes apart: its case, and which of space, ``_`` and ``-`` stands
    between two words. A sign at an end, beside another sign or between digits may mean something (``left-``, ``C++``,
    ``1-2``), and so does every accent and vowel mark."""
    text = unicodedata.normalize("NFC", name).strip().lower()
    return _BETWEEN_WORDS.sub(lambda mark: mark[0] if "-" in mark[0] and _in_number(text, mark) else " ", text)


#: Spaces and ``_``, or one ``-``, between two characters that are none of these.
_BETWEEN_WORDS = re.compile(r"(?<=[^\s_\-])(?:-|\s+-\s+|[\s_]+)(?=[^\s_\-])")


def _in_number(text: str, mark: re.Match[str]) -> bool:
    return text[mark.start() - 1].isdigit() and text[mark.end()].isdigit()


def _bare(name: str) -> str:
    """Return letters, digits and the marks that belong to letters; no spaces and signs."""
    text = unicodedata.normalize("NFC", name.casefold())
    return "".join(letter for letter in text if letter.isalnum() or unicodedata.category(letter).startswith("M"))


# ---------------------------------------------------------------------------------------------------- what there is


def _class_findings(lists: Lists) -> list[Finding]:
    """Return classes that training lacks, and a problem of one class."""
    if lists.kind in ("keystep", "epic") or "train" not in lists.clips:
        return []
    used: dict[str, set[int]] = {
        split: {label for clip in part for label in classes_of(clip.label)} for split, part in lists.clips.items()
    }
    found = []
    for split in (split for split in used if split != "train"):
        absent = [lists.class_names[label] for label in sorted(used[split] - used["train"])]
        found += [Finding(ERROR, CLASSES, split, "", "", f"class {name!r} has no clip in train") for name in absent]
    idle = [
        lists.class_names[label] for label in sorted(set(range(len(lists.class_names))) - set().union(*used.values()))
    ]
    found += [Finding(WARNING, CLASSES, "train", "", "", f"class {name!r} has no clip in any split") for name in idle]
    if len(used["train"]) == 1:
        found.append(Finding(WARNING, CLASSES, "train", "", "", "all clips are of one class: nothing can be learnt"))
    return found


def _counts(lists: Lists) -> list[str]:
    """Return clips of each split, and the smallest and largest classes."""
    lines = []
    for split, part in lists.clips.items():
        counts = Counter(label for clip in part for label in classes_of(clip.label))
        line = f"{split}: {counted(len(part), 'sample')}"
        if counts:
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            shown = ranked if len(ranked) <= SHOWN else [*ranked[:5], *ranked[-5:]]
            named = ", ".join(f"{lists.class_names[label]} {count}" for label, count in shown)
            line += f" of {counted(len(counts), 'class')}: {named}"
        groups = {sample.group for sample in samples_of(part)} - {""}
        lines.append(line + (f"; {counted(len(groups), 'group')}" if groups else ""))
    return lines


def _agreement(lists: Lists) -> list[str]:
    """Return how far the people agree whose labels stand in the lists of each split (DATA.SOFT_LABELS)."""
    lines = []
    for split, manifest in lists.source.items():
        votes = getattr(manifest, "votes", {}).values() if lists.kind in ("clips", "fusion") else ()
        judged = [{number: int(many) for number, many in said} for said in votes if _is_of_people(said)]
        found = measure_agreement(judged)
        if found is not None:
            low, high = found.people
            people = f"{low} people" if low == high else f"{low} to {high} people"
            line = f"{split}: {found.items} samples judged by {people}: {found.percent:.1f} % of pairs say the same, "
            lines.append(f"{line}Fleiss' kappa {found.kappa:.3f}; {found.tied} have two largest classes or more")
    return lines


def _is_of_people(votes: Votes) -> bool:
    """Tell whether they count people; shares do not say how many there were."""
    return all(many == int(many) for _, many in votes)


def _extent(health: Mapping[str, Health], kinds: Mapping[str, str]) -> list[str]:
    """Return least, median and largest of what is known of the files, for each kind of them."""
    lines = []
    for kind in dict.fromkeys(kinds.values()):
        whole = [one for path, one in health.items() if kinds[path] == kind and not one.reason]
        values = {
            "seconds": [one.frames / one.fps for one in whole if one.frames and one.fps],
            "points" if kind == "series" else "frames": [float(one.frames) for one in whole if one.frames],
            "per second": [one.fps for one in whole if one.fps],
            "height": [float(one.height) for one in whole if one.height],
            "width": [float(one.width) for one in whole if one.width],
        }
        facts = [f"{name} {min(v):g} to {max(v):g} (median {float(np.median(v)):g})" for name, v in values.items() if v]
        lines.append(f"{len(whole)} x {kind}: {'; '.join(facts)}")
    return lines
