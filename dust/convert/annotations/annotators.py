"""Stretches that several people marked in the same videos: the first one's, or what share of them said what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from dust.datasets.manifest.annotated import DIGITS
from dust.datasets.manifest.annotation import Annotated, Annotation
from dust.datasets.manifest.votes import read_votes, write_votes
from dust.utils.errors import Problems
from dust.utils.text import counted

#: Video -> annotator -> stretches, both in the order of the file.
People = Mapping[str, Mapping[str, Sequence[Annotation]]]


def of_annotators(people: People, found: Annotated, problems: Problems, *, soft_labels: bool = False) -> None:
    """Put the stretches of all videos into ``found``, and a note of how far their annotators agree.

    Args:
        soft_labels: cut where anybody begins or ends a stretch, and label each piece with what was said there,
            ``cut:2|stir:1``; who says nothing there does not count. Else the first annotator of a video is taken.
    """
    several = {video: list(one.values()) for video, one in people.items() if len(one) > 1}
    agreed = labelled = 0.0
    differing = 0
    for video, by in people.items():
        everybody = list(by.values())
        pieces = _pieces(everybody) if video in several else []
        same = sum(piece.end - piece.start for piece, said in pieces if _all_agree(said, len(everybody)))
        all_time = sum(piece.end - piece.start for piece, _ in pieces)
        agreed, labelled, differing = agreed + same, labelled + all_time, differing + (same < all_time)
        if video in several and soft_labels:
            found.items += [_labelled(piece, Counter(name for one in said for name in one), problems)
                            for piece, said in pieces]  # fmt: skip
        elif soft_labels:  # a label such as step:2 is no count of people
            found.items += [_labelled(one, Counter([one.label]), problems) for one in everybody[0]]
        else:
            found.items += everybody[0]
    if several:
        share = (
            f", the same in {100 * agreed / labelled:.1f} % of the time that any of them labelled" if labelled else ""
        )
        taken = (
            "their shares are written, which DATA.SOFT_LABELS True reads; who says nothing of a moment does not count"
            if soft_labels
            else "the first one's stretches are taken, --soft-labels takes the shares of all"
        )
        have = counted(len(several), "video has", "videos have")
        found.notes.append(f"{have} several annotators, who disagree in {differing} of them{share}: {taken}")


#: What each annotator who says anything of a piece says there.
Said = list[frozenset[str]]


def _pieces(people: Sequence[Sequence[Annotation]]) -> list[tuple[Annotation, Said]]:
    """The parts of a video between neighbouring ends of stretches of which anybody says something."""
    edges = sorted({edge for items in people for one in items for edge in (one.start, one.end)})
    found = []
    for start, end in pairwise(edges):
        if end - start < 10**-DIGITS:
            continue  # lists could not tell its start from its end
        there = [[one for one in items if one.start <= start and end <= one.end] for items in people]
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
