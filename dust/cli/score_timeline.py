"""Measure timelines against annotations: mAP at overlaps, frame accuracy, edit score, F1@{10,25,50}.

dust score-timeline out/ annotations.json
dust score-timeline out/timeline.json data/mine/test.csv

PREDICTED is what `dust predict --timeline` wrote, a folder or its timeline.json, or any file in that form. TRUTH is a
file in ActivityNet's form, or a list with the columns path, start, end and label (seconds).
"""

import argparse
import heapq
import os
from collections import Counter
from pathlib import Path

from dust.cli.command import command

#: What `dust predict --timeline` calls the file of all videos.
TIMELINE = "timeline.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predicted", metavar="PREDICTED", help="folder or json of a timeline")
    parser.add_argument("truth", metavar="TRUTH", help="annotations: json, or a csv list of segments")
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="labels a second that are compared (10)")
    parser.add_argument(
        "--background", nargs="?", const="", metavar="NAME",
        help="what nobody annotated counts as a class, which the timelines call NAME (DATA.BACKGROUND) or do not name",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the figures there")


def run(args: argparse.Namespace) -> None:
    import json

    from dust.analysis.timelines import score_timelines, text_of
    from dust.utils.errors import ConfigError
    from dust.utils.files import write_text

    if not 0 < args.rate <= 1000:
        raise ConfigError(f"--rate {args.rate:g}: labels a second, above 0 and at most 1000")
    path = Path(args.predicted)
    true_of = {key: segments for key, segments in segments_of(Path(args.truth)).items() if segments}
    both = (segments_of(path / TIMELINE if path.is_dir() else path), true_of)
    predicted, true = (
        {
            video: [one for one in found if not args.background or one.label != args.background]
            for video, found in of.items()
        }
        for of in by_video(*both)
    )
    figures, notes = score_timelines(predicted, true, rate=args.rate, ignore_background=args.background is None)
    for note in notes:
        print(f"note: {note}")
    print(text_of(figures))
    if args.json:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")


#: (folder as far as it is named, name without ending) of a video.
Key = tuple[str, str]
#: A video -> its segments.
Found = dict[Key, list]


def segments_of(path: Path) -> Found:
    """Return the segments of a json in ActivityNet's form or of a csv list; none of a video named without one."""
    from dust.convert.annotations.tables import read_segments
    from dust.datasets.manifest.annotation import Annotation
    from dust.datasets.manifest.annotation_files import read_activitynet
    from dust.decode.folders import is_video
    from dust.utils.segment_metrics import Segment

    found: Found = {}
    said = (read_segments if path.suffix.lower() in (".csv", ".tsv") else read_activitynet)(path)
    stretches: list[tuple[str, str, Annotation | None]] = [(one.folder, one.video, one) for one in said.items]
    for folder, name, one in [*stretches, *((*key, None) for key in said.empty)]:
        segments = found.setdefault((folder, os.path.splitext(name)[0] if is_video(name) else name), [])
        if one is not None:
            segments.append(Segment(one.start, one.end, one.label, one.confidence))
    return found


def by_video(predicted: Found, true: Found) -> tuple[dict[str, list], dict[str, list]]:
    """Return both by what the annotated videos are called: videos of one name are told apart by the ends of their
    folders. One that fits several, or none, goes by its own name, which no annotated video has."""
    alone = Counter(name for _, name in true)
    names = {key: key[1] if alone[key[1]] == 1 else "/".join(key) for key in true}
    theirs: dict[str, list[Key]] = {}
    for key in predicted:
        theirs.setdefault(key[1], []).append(key)
    ours: dict[str, list] = {}
    for name, keys in theirs.items():
        wanted = [key for key in true if key[1] == name]
        pairs = _pairs(keys, wanted)
        for key in keys:
            own = "/".join(key if wanted else filter(None, key))
            ours[names[pairs[key]] if key in pairs else own] = predicted[key]
    return ours, {names[key]: segments for key, segments in true.items()}


def _pairs(keys: list[Key], wanted: list[Key]) -> dict[Key, Key]:
    """Tell who is whom of videos of one name: those that are nearer to each other than to any other."""
    from dust.datasets.manifest.annotated import shared_end

    def near(one: Key, other: Key) -> tuple[bool, int]:
        return one == other, shared_end(one[0], other[0])

    def nearest(one: Key, others: list[Key]) -> Key | None:
        first, *second = heapq.nlargest(2, others, key=lambda other: near(one, other))
        return first if near(one, first) > max([(False, 0), *(near(one, other) for other in second)]) else None

    if len(keys) == len(wanted) == 1:
        return {keys[0]: wanted[0]}
    found = {key: nearest(key, wanted) for key in keys if wanted}
    return {key: other for key, other in found.items() if other is not None and nearest(other, keys) == key}


main = command("score-timeline", __doc__, add_arguments, run)
