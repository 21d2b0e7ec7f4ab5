"""MuWiGes: 5,408 clips of 12 hand gestures, G1 to G12, by 50 people. Split by person: nobody is in two splits.

The published protocol ("cross-subject") trains on 35 people and tests on 15. A random split of the clips would test on
people who were seen in training, and flatter the result.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence

from dust.datasets.manifest.manifest import Clip, Manifest
from dust.decode.folders import iter_clips
from dust.utils.errors import DataError, Problems
from dust.utils.rng import numpy_rng

logger = logging.getLogger(__name__)

CLASSES = 12
CLIPS, SUBJECTS = 5408, 50
CLASS_REGEX = r"(?<![A-Za-z0-9])(?:G|gesture)[ _-]*(\d+)(?!\d)"
SUBJECT_REGEX = r"(?<![A-Za-z0-9])(?:S|P|U|ID|sub|subj|subject|person|user|participant)[ _-]*(\d+)(?!\d)"


def read_muwiges(
    root: str,
    *,
    class_regex: str = CLASS_REGEX,
    subject_regex: str = SUBJECT_REGEX,
    test_subjects: Sequence[int] = (),
    val_subjects: Sequence[int] = (),
    test_count: int = 15,
    val_count: int = 0,
    seed: int = 0,
) -> dict[str, Manifest]:
    """Find the clips below ``root`` and split them by person.

    Args:
        class_regex, subject_regex: searched, whatever the case, in each clip's path relative to ``root``; the first
            group is the number. All matches in one path must agree.
        test_subjects, val_subjects: the people of these splits; () draws ``test_count`` and ``val_count`` by ``seed``.

    Returns:
        {"train", "test" and, unless it would be empty, "val": manifest}, class names G1 to G12.

    Raises:
        DataError: every clip whose class or person cannot be told, and lists of people that do not fit.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root} is no folder")
    patterns = _pattern("class", class_regex), _pattern("subject", subject_regex)
    problems = Problems()
    found: list[tuple[Clip, int]] = []
    for clip_id in _clips(root):
        label, subject = (_number(name, pattern, clip_id, problems) for name, pattern in patterns)
        if label is not None and not 1 <= label <= CLASSES:
            problems.add(f"a class that is none of G1 to G{CLASSES}; see --class-regex", f"{clip_id}: G{label}")
        elif label is not None and subject is not None:
            path = os.path.join(root, *clip_id.split("/"))
            found.append((Clip(clip_id, path, label - 1, group=f"person {subject}"), subject))
    problems.raise_if_any(root)
    if not found:
        raise DataError(f"{root} holds no video")
    people = Counter(subject for _, subject in found)
    if (len(found), len(people)) != (CLIPS, SUBJECTS):
        logger.warning(
            "%d clips of %d people: the whole data set has %d of %d", len(found), len(people), CLIPS, SUBJECTS
        )
    split_of = split_people(sorted(people), test_subjects, val_subjects, test_count, val_count, seed)
    names = [f"G{number}" for number in range(1, CLASSES + 1)]
    manifests: dict[str, Manifest] = {}
    for split in ("train", "val", "test"):
        clips = [clip for clip, subject in found if split_of[subject] == split]
        if clips:
            manifests[split] = Manifest(clips, names, root, multi_label=False)
            members = [subject for subject in sorted(people) if split_of[subject] == split]
            logger.info("%s: %d clips of the people %s", split, len(clips), ", ".join(map(str, members)))
    return manifests


def split_people(
    people: Sequence[int], test: Sequence[int], val: Sequence[int], test_count: int, val_count: int, seed: int
) -> dict[int, str]:
    """Return {person: split}. Lists that are empty are drawn, test first; whoever is left trains."""
    unknown = sorted((set(test) | set(val)) - set(people))
    if unknown:
        raise DataError(f"no clips of the people {unknown}: there are {list(people)}")
    if set(test) & set(val):
        raise DataError(f"the people {sorted(set(test) & set(val))} are in test and in val")
    if test_count < 1 or val_count < 0:
        raise DataError(f"{test_count} people for test and {val_count} for val: at least 1 and 0 are needed")
    draw = numpy_rng(seed, "muwiges").permutation([person for person in people if person not in {*test, *val}]).tolist()
    if not test:
        test, draw = draw[:test_count], draw[test_count:]
    if not val:
        val, draw = draw[:val_count], draw[val_count:]
    if not draw:
        raise DataError(
            f"{len(people)} people, {len(test)} of them for test and {len(val)} for val: none is left to train"
        )
    return {person: "test" if person in test else "val" if person in val else "train" for person in people}


def _pattern(name: str, regex: str) -> tuple[str, re.Pattern]:
    try:
        pattern = re.compile(regex, re.IGNORECASE)
    except re.error as error:
        raise DataError(f"--{name}-regex {regex!r} is no regular expression: {error}") from None
    if pattern.groups < 1:
        raise DataError(f"--{name}-regex {regex!r} has no group: put the number in brackets, as in 'G([0-9]+)'")
    return name, pattern


def _number(name: str, pattern: re.Pattern, clip_id: str, problems: Problems) -> int | None:
    found = {match[1] for match in pattern.finditer(clip_id)}
    if not found:
        problems.add(f"no {name} in the path: say where it is with --{name}-regex", clip_id)
        return None
    if not all(text and text.isdecimal() for text in found):
        problems.add(f"the {name} is not a number: --{name}-regex must capture digits", f"{clip_id}: {sorted(found)}")
        return None
    numbers = sorted({int(text) for text in found})
    if len(numbers) > 1:
        problems.add(f"several {name}s in one path: say which with --{name}-regex", f"{clip_id}: {numbers}")
        return None
    return numbers[0]


def _clips(root: str) -> list[str]:
    """Return the videos below root, by path relative to it."""
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in iter_clips(root, frames=False)]
