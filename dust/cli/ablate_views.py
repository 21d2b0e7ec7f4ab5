"""Tests a trained point track model with every subset of its cameras.

dust ablate-views --cfg configs/quickstart/tracks_transformer.yaml

The checkpoint is the one that a test would take (OUTPUT_DIR's last, or TEST.CHECKPOINT_FILE_PATH). Words that are left
over are overrides of the configuration: KEY VALUE ...
"""

import argparse
import sys

from dust.utils.errors import DustError


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, metavar="FILE.yaml")
    parser.add_argument("--sizes", type=numbers, default=[], help="numbers of cameras to try, as 1,4 (default: all)")
    args, overrides = parser.parse_known_args(argv)
    if any(word.startswith("--") for word in overrides):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    from dust.analysis.tracks_ablation import ablate_views, best_of_size
    from dust.config import load_config
    from dust.engine.run_dir import RunDir
    from dust.utils.logging import setup_logging

    try:
        cfg = load_config(args.cfg, overrides)
        run = RunDir(cfg.OUTPUT_DIR)
        with run.lock():
            setup_logging(run.path)
            table = ablate_views(cfg, run, args.sizes)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for size in sorted({row["num_views"] for row in table}):
        row = best_of_size(table, size)
        if row is not None:
            print(f"best of {size}: cameras {' '.join(map(str, row['views']))}, top1_acc {row['top1_acc']:.2f}")
    print(f"wrote {run.path}/view_ablation: views.csv, views.json, views.png")
    return 0
