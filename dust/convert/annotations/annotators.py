"""Stretches that several people marked in the same videos: the first one's, or what share of them said what."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from dust.datasets.manifest.annotated import DIGITS
from dust.datasets.manifest.annotation import Annotated, Annotation
from dust.datasets.manifest.votes import read_votes, write_votes
from dust.utils.errors import Problems
from dust.utils.text import counted

#: Annotator -> stretches of one video, both in the order of the file.
People = dict[str, list[Annotation]]


#: Tasks that are compared: their times overlap.
Work = list[People]


def works_of(tasks: Iterable[People]) -> list[Work]:
    """Return what is to be compared of the tasks of one video: those whose times overlap; a task of which nobody says
    anything stands alone."""
    works: list[Work] = []
    for task in tasks:
        met = [work for work in works if any(_meet(_stretches(one), _stretches(task)) for one in work)]
        works = [work for work in works if work not in met]
        works.append([*chain(*met), task])
    return works


def _stretches(task: People) -> list[Annotation]:
    return [one for items in task.values() for one in items]


def _meet(one: Sequence[Annotation], other: Sequence[Annotation]) -> bool:
    """Tell whether the times from the first to the last stretch overlap; frames and seconds cannot be compared."""
    for in_frames in (False, True):
        parts = [[item for item in items if item.in_frames == in_frames] for items in (one, other)]
        if all(parts):
            latest = max(min(item.start for item in part) for part in parts)
            if latest < min(max(item.end for item in part) for part in parts):
                return True
    return False


def _people_of(work: Work) -> People:
    """Return all that each annotator says."""
    return {who: [one for task in work for one in task.get(who, [])] for who in dict.fromkeys(chain(*work))}


def _firsts(work: Work) -> list[Annotation]:
    """Return the first annotator's stretches; and of each next one those outside the tasks of those before, who were
    not asked about these times."""
    taken: list[Annotation] = []
    asked: list[list[Annotation]] = []
    for who, items in _people_of(work).items():
        taken += [one for one in items if not any(_meet([one], task) for task in asked)]
        asked += [_stretches(task) for task in work if who in task]
    return taken


def of_annotators(works: Iterable[Work], found: Annotated, problems: Problems, *, soft_labels: bool = False) -> None:
    """Put the stretches of all works (videos, or parts of them) into ``found``, and a note of how far their annotators
    agree.

    Args:
        soft_labels: cut where anybody begins or ends a stretch, and label each piece with what was said there,
            ``cut:2|stir:1``; who says nothing there does not count. Else the first annotator of each time is taken.
    """
    agreed = labelled = 0.0
    several = differing = passed_over = 0
    for work in works:
        everybody = list(_people_of(work).values())
        first, *others = everybody or [[]]
        pieces = _pieces(everybody) if others else []
        same = sum(piece.end - piece.start for piece, said in pieces if _all_agree(said, len(everybody)))
        all_time = sum(piece.end - piece.start for piece, _ in pieces)
        agreed, labelled, differing = agreed + same, labelled + all_time, differing + (same < all_time)
        several += bool(others)
        if others and soft_labels:
            found.items += [_labelled(piece, Counter(name for one in said for name in one), problems)
                            for piece, said in pieces]  # fmt: skip
        elif soft_labels:  # a label such as step:2 is no count of people
            found.items += [_labelled(one, Counter([one.label]), problems) for one in first]
        else:
            taken = _firsts(work)
            found.items += taken
            passed_over += sum(map(len, everybody)) - len(taken)
    if several:
        share = (
            f", the same in {100 * agreed / labelled:.1f} % of the time that any of them labelled" if labelled else ""
        )
        told = (
            "their shares are written, which DATA.SOFT_LABELS True reads; who says nothing of a moment does not count"
            if soft_labels
            else f"at each time the first one's stretches are taken, and {passed_over} of the others are left out; "
            "--soft-labels takes the shares of all"
        )
        have = counted(several, "video has", "videos have")
        found.notes.append(f"{have} several annotators, who disagree in {differing} of them{share}: {told}")


#: What each annotator who says anything of a piece says there.
Said = list[frozenset[str]]


def _pieces(people: Sequence[Sequence[Annotation]]) -> list[tuple[Annotation, Said]]:
    """Return the parts of a video between neighbouring ends of stretches of which anybody says something."""
    found = []
    for in_frames in (False, True):
        items_of = [[one for one in items if one.in_frames == in_frames] for items in people]
        edges = sorted({edge for items in items_of for one in items for edge in (one.start, one.end)})
        for start, end in pairwise(edges):
            if end - start < 10**-DIGITS:
                continue  # lists could not tell its start from its end
            there = [[one for one in items if one.start <= start and end <= one.end] for items in items_of]
            first = next((one for items in there for one in items), None)
            if first is not None:
                said = [frozenset(one.label for one in items) for items in there if items]
                found.append((replace(first, start=start, end=end), said))
    return found


def _all_agree(said: Said, people: int) -> bool:
    return len(said) == people and len(set(said)) == 1


def _labelled(piece: Annotation, said: Counter[str], problems: Problems) -> Annotation:
    names = list(said)
    cell = write_votes(tuple((names.index(name), float(many)) for name, many in said.items()), names)
    if read_votes(cell) != said:
        problems.add("a label that cannot stand among shares (a:0.7|b:0.3): rename it", ", ".join(names))
    return replace(piece, label=cell)
