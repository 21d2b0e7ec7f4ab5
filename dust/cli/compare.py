"""Compares runs on the clips that their tests have in common: is the difference more than chance?

dust compare runs/kitchen runs/kitchen_more_data

Each run is a folder that was tested, or a predictions.csv with the columns id, label, prediction and, where they are
known, prob_<class> (and group: what belongs together, a person say). All are compared with the first.
"""

import argparse
import json
import sys
from pathlib import Path

from dust.utils.errors import DustError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a predictions.csv")
    parser.add_argument(
        "--out", metavar="DIR", help="write metrics.csv, changed.csv, per_class.csv, comparison.json there"
    )
    parser.add_argument("--json", metavar="FILE", help="write {metric: {a, b, difference, low, high, p}}")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument(
        "--show", type=int, default=10, metavar="N", help="clips, classes and keys that are listed (10)"
    )
    args = parser.parse_args(argv)
    from dust.analysis.compare import compare_runs, json_of, text_of, write_comparison
    from dust.analysis.predictions import read_results
    from dust.utils.files import write_text

    try:
        found = compare_runs([read_results(run) for run in args.runs], seed=args.seed)
        for one in found:
            print(text_of(one, shown=args.show) + "\n")
        if args.out:
            print("\n".join(f"wrote {path}" for path in write_comparison(found, Path(args.out))))
        if args.json:
            write_text(args.json, json.dumps(json_of(found), indent=2) + "\n")
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
