"""Measure timelines against annotations: mAP at overlaps, frame accuracy, edit score, F1@{10,25,50}.

dust score-timeline out/ annotations.json
dust score-timeline out/timeline.json data/mine/test.csv

PREDICTED is what `dust predict --timeline` wrote, a folder or its timeline.json, or any file in that form. TRUTH is a
file in ActivityNet's form, or a list with the columns path, start, end and label (seconds).
"""

import argparse
import os
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
    predicted, true = (
        {
            video: [one for one in found if not args.background or one.label != args.background]
            for video, found in of.items()
        }
        for of in (segments_of(path / TIMELINE if path.is_dir() else path), segments_of(Path(args.truth)))
    )
    figures, notes = score_timelines(predicted, true, rate=args.rate, ignore_background=args.background is None)
    for note in notes:
        print(f"note: {note}")
    print(text_of(figures))
    if args.json:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")


def segments_of(path: Path) -> dict:
    """Video, without folder and ending -> its segments, of a json in ActivityNet's form or of a csv list."""
    from dust.convert.annotations.tables import read_segments
    from dust.datasets.manifest.annotation_files import read_activitynet
    from dust.decode.folders import is_video
    from dust.utils.segment_metrics import Segment

    found: dict[str, list[Segment]] = {}
    items = (read_segments if path.suffix.lower() in (".csv", ".tsv") else read_activitynet)(path).items
    for one in items:
        video = os.path.splitext(one.video)[0] if is_video(one.video) else one.video
        found.setdefault(video, []).append(Segment(one.start, one.end, one.label, one.confidence))
    return found


main = command("score-timeline", __doc__, add_arguments, run)
