"""Find clips by a sentence, among stored features of CLIP.

dust --cfg configs/CLIP/zero_shot.yaml TEST.ENABLE False FEATURES.ENABLE True DATA.PATH_TO_DATA_DIR my/clips
dust search runs/clip_zero_shot "a person falls" "someone pours milk" -o found/

FEATURES is the run that stored them, or its folder of features. The score is the cosine between text and clip. Features
of another encoder are refused, and so are other weights than those that made them.
"""

import argparse
import sys
from pathlib import Path

from dust.cli.command import command
from dust.utils.errors import DustError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", metavar="FEATURES", help="a run with features, or their folder")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="what to look for; several are answered in turn")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="clips of each text (default 10)")
    parser.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="train, val, test (default: all)")
    parser.add_argument(
        "--weights", default="", metavar="NAME", help="that made the features (default: as the run says)"
    )
    parser.add_argument("-o", "--out", default="", metavar="DIR", help="for search.csv and search.json")


def run(args: argparse.Namespace) -> None:
    from dust.analysis.search import search, write_matches

    if args.top < 1:
        raise DustError(f"--top {args.top}: must be at least 1")
    found = search(args.features, args.texts, weights=args.weights, splits=args.splits, top=args.top)
    for match in found:
        if match.rank == 1:
            sys.stdout.write(f"{match.text}\n")
        window = "" if match.window is None else f"  window {match.window}"
        sys.stdout.write(f"{match.rank:>4}  {match.score:6.3f}  {match.id}  ({match.split}){window}\n")
    if args.out:
        written = write_matches(found, Path(args.out))
        sys.stderr.write(f"written: {', '.join(map(str, written))}\n")


main = command("search", __doc__, add_arguments, run)
