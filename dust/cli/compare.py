"""Compare runs on the clips that their tests share, to see whether the difference is chance.

dust compare runs/kitchen runs/kitchen_more_data

Each run is a folder that was tested, or a predictions.csv with the columns id, label, prediction and, where they are
known, prob_<class> (and group: what belongs together, a person say). All are compared with the first.
"""

import argparse
import json
from pathlib import Path

from dust.cli.command import command, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a predictions.csv")
    parser.add_argument(
        "--out", metavar="DIR", help="write metrics.csv, changed.csv, per_class.csv, comparison.json there"
    )
    parser.add_argument("--json", metavar="FILE", help="write {metric: {a, b, difference, low, high, p}}")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument(
        "--show", type=count, default=10, metavar="N", help="clips, classes and keys that are listed (10)"
    )


def run(args: argparse.Namespace) -> None:
    from dust.analysis.compare import compare_runs, json_of, text_of, write_comparison
    from dust.analysis.predictions import read_all
    from dust.utils.files import write_text

    found = compare_runs(read_all(args.runs), seed=args.seed)
    for one in found:
        print(text_of(one, shown=args.show) + "\n")
    if args.out:
        print("\n".join(f"wrote {path}" for path in write_comparison(found, Path(args.out))))
    if args.json:
        write_text(args.json, json.dumps(json_of(found), indent=2) + "\n")


main = command("compare", __doc__, add_arguments, run)
