"""A class of nothing in particular: clips of the gaps between the annotated segments of long videos (DATA.BACKGROUND).

A gap lies before the first, between two, or behind the last segment of a video, whatever split the segments are of. One
that is long makes several clips, each about as long as the median segment, so that length alone tells no class. Gaps of
a video of which training has segments are training's alone.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dust.datasets.manifest.places import find_file
from dust.datasets.manifest.table import RawSplit, Row
from dust.decode.clip import HasTimes
from dust.decode.reader import open_clip
from dust.decode.segment import FRAMES, Segment
from dust.utils.errors import VideoError
from dust.utils.rng import numpy_rng

logger = logging.getLogger(__name__)

#: A label that is a number, several, or numbers with shares.
_NUMBERS = re.compile(r"\d+(:[\d.]+)?([,|]\s*\d+(:[\d.]+)?)*")
_DIGITS = 6  # behind the point of seconds, where a gap is cut


@dataclass(frozen=True)
class Background:
    """What DATA.BACKGROUND_* says.

    Attributes:
        name: of the class. Segments that a list gives this class already count among it.
        ratio: its clips for each segment of other classes; 0 = all that there are.
        min_length: of a gap and of a clip, seconds.
        seed: of the draw.
        index_cache: folder of cached frame indices, or empty: how long a video is, is known by its index.
    """

    name: str
    ratio: float = 1.0
    min_length: float = 1.0
    seed: int = 0
    index_cache: str = ""

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        data = cfg.DATA
        return {
            "name": data.BACKGROUND,
            "ratio": data.BACKGROUND_RATIO,
            "min_length": data.BACKGROUND_MIN_LENGTH,
            "seed": data.BACKGROUND_SEED,
            "index_cache": data.INDEX_CACHE,
        }

    def add_to(self, raw: RawSplit, split: str, others: Mapping[str, Sequence[Row]]) -> None:
        """Put clips of the gaps behind the rows of a split, as the list has them before any correction.

        Args:
            others: the rows of the other splits of the folder, which are no gaps either.
        """
        if not any(row.segment for row in raw.rows) and split == "train":
            kind = f"DATA.BACKGROUND {self.name} is made of the gaps between segments, and no row has start and end"
            raw.problems.add(kind, "add these columns, or set DATA.BACKGROUND ''")
        labelled = [row for row in raw.rows if row.segment and row.label is not None]
        label = self._label(raw, labelled)
        if not labelled or label is None:
            return
        pieces = list(self._pieces(raw, split, labelled, others))
        chosen = pieces if not self.ratio else self._draw(pieces, split, labelled, label)
        raw.rows += [
            Row(f"a gap of {one.written}", one.written, label, _id_of(one, facts["segment"]), **facts)
            for one, facts in chosen
        ]
        if split == "train" and not any(row.label == label for row in raw.rows):
            kind = f"DATA.BACKGROUND {self.name}: no gap of a training video is DATA.BACKGROUND_MIN_LENGTH long"
            raw.problems.add(kind, f"{self.min_length:g} s")
        logger.info("%s: of %d clips of gaps %d are drawn (DATA.BACKGROUND %s)", raw.source, len(pieces), len(chosen),
                    self.name)  # fmt: skip

    def _label(self, raw: RawSplit, labelled: Sequence[Row]) -> str | None:
        """Return the class as this list writes it; the class list gets it where it has one without it."""
        if raw.class_names is not None and self.name not in raw.class_names:
            raw.class_names = [*raw.class_names, self.name]
        if not labelled or not all(_NUMBERS.fullmatch(row.label or "0") for row in labelled) or self.name.isdigit():
            return self.name
        if raw.class_names is not None and not all(name.isdigit() for name in raw.class_names if name != self.name):
            return str(raw.class_names.index(self.name))  # numbers are places in a list of names
        kind = f"DATA.BACKGROUND {self.name}: the classes of this list are numbers; write the number of one"
        raw.problems.add(kind, f"{labelled[0].where}: {labelled[0].label}")
        return None

    def _draw(self, pieces: list[Any], split: str, labelled: Sequence[Row], label: str) -> list[Any]:
        there = sum(row.label == label for row in labelled)
        wanted = max(0, round(self.ratio * (len(labelled) - there)) - there)
        if wanted >= len(pieces):
            return pieces
        rng = numpy_rng(self.seed, "background", split)
        return [pieces[place] for place in sorted(rng.choice(len(pieces), wanted, replace=False))]

    def _pieces(
        self, raw: RawSplit, split: str, labelled: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Yield (a row of the video, segment and group of a clip of a gap), video by video in the order of the list."""
        rows = _by_file(raw, raw.rows)
        beside = {name: _by_file(raw, found) for name, found in others.items()}
        lengths = [row.segment.end - row.segment.start for row in labelled if row.segment and row.segment.end]
        typical = float(np.median(lengths)) if lengths else 0.0
        for path, own in rows.items():
            if split != "train" and path in beside.get("train", {}):
                continue
            busy = [row.segment for found in (rows, *beside.values()) for row in found.get(path, ())]
            if None in busy:
                continue  # a label of the whole video
            groups = {row.group for row in own}
            group = groups.pop() if len(groups) == 1 else ""
            for segment in self._gaps([one for one in busy if one], path, typical):
                yield own[0], {"path": own[0].path, "group": group, "segment": segment}

    def _gaps(self, busy: Sequence[Segment], path: str, typical: float) -> Iterator[Segment]:
        """Yield the clips of the gaps of one video, in order."""
        unit = busy[0].unit
        length, least = self._length(path, unit)
        begun, edges = 0.0, []
        for one in sorted(busy, key=lambda one: one.start):
            edges.append((begun, min(one.start, length)))  # one that lies behind the end makes no longer video
            begun = max(begun, math.inf if one.end is None else one.end)
        edges.append((begun, length))
        for start, end in edges:
            if end - start < least or math.isinf(end):
                continue
            count = max(1, min(round((end - start) / max(typical, least)), int((end - start) / least)))
            cuts = np.linspace(start, end, count + 1)
            cuts = np.round(cuts, 0 if unit == FRAMES else _DIGITS)
            cuts[0], cuts[-1] = start, end
            for first, last in pairwise(cuts):
                to_the_end = last == length
                yield Segment(float(first), None if to_the_end else float(last), unit)

    def _length(self, path: str, unit: str) -> tuple[float, float]:
        """Return how long a video is, and the shortest gap, in its unit; a video that cannot be read has no end to
        know."""
        try:
            with open_clip(path, index_cache=self.index_cache or None) as reader:
                if unit == FRAMES:
                    return float(len(reader)), max(1.0, math.ceil(self.min_length * reader.fps))
                if not isinstance(reader, HasTimes):
                    return math.inf, self.min_length
                return float(reader.pts[-1] - reader.pts[0]) + 1 / (reader.fps or 1.0), self.min_length
        except VideoError as error:
            logger.warning("%s: %s: what lies behind its last segment makes no background", path, error.reason)
            return math.inf, math.inf if unit == FRAMES else self.min_length


def _id_of(row: Row, gap: Segment) -> str | None:
    """Return the id of a gap of a video whose segments have ids in their list, made of its first one's: that of the
    video, as lists of shards have it, or the list's own. It names no path, which is a part of a tar once the videos are
    packed. None for the ordinary one."""
    return f"{row.id.removesuffix(f'#{row.segment}')}#{gap}" if row.id else None


def _by_file(raw: RawSplit, rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    paths: dict[str, str] = {}
    for row in rows:
        if row.written not in paths:
            paths[row.written] = row.path or find_file(row.written, raw.bases, False) or row.written
        found[paths[row.written]].append(row)
    return found
