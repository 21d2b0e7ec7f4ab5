"""Test a point track model with every subset of its cameras, to see which matter.

dust ablate-views --cfg configs/quickstart/tracks_transformer.yaml

The checkpoint is the one that a test would take (OUTPUT_DIR's last, or TEST.CHECKPOINT_FILE_PATH). Words that are left
over are overrides of the configuration: KEY VALUE ...
"""

import argparse

from dust.cli.command import add_cfg, command, numbers, run_in_output_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cfg(parser)
    parser.add_argument(
        "--sizes", type=numbers, default=[], metavar="N,N", help="numbers of cameras to try, as 1,4 (default: all)"
    )


def run(args: argparse.Namespace) -> None:
    from dust.analysis.tracks_ablation import ablate_views, best_of_size

    folder, table = run_in_output_dir(args, ablate_views, sizes=args.sizes)
    for size in sorted({row["num_views"] for row in table}):
        row = best_of_size(table, size)
        if row is not None:
            print(f"best of {size}: cameras {' '.join(map(str, row['views']))}, top1_acc {row['top1_acc']:.2f}")
    print(f"wrote {folder}/view_ablation: views.csv, views.json, views.png")


main = command("ablate-views", __doc__, add_arguments, run)
