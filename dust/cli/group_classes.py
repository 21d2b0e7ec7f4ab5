"""Group classes for TSTL, by what a model confuses or by the classes' names.

dust group-classes --predictions runs/ucf101/results/predictions.csv --groups 10 --out class_grouping.json
dust group-classes --labels classes.txt --groups 10 --out class_grouping.json
"""

import argparse

from dust.cli.command import command
from dust.utils.text import counted, printable
from dust.utils.tstl_grouping import group_by_confusion, group_by_text, write_grouping
from dust.utils.tstl_grouping_files import read_confusion, read_names, read_predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--predictions", metavar="FILE", help="results/predictions.csv of a test: which classes are confused"
    )
    source.add_argument(
        "--confusion", metavar="FILE", help="a confusion matrix, .npy or .csv, rows labels, columns predictions"
    )
    source.add_argument(
        "--labels", metavar="FILE", help="one class name per line, in the classes' order: which names share words"
    )
    parser.add_argument(
        "--names", metavar="FILE", help="with --confusion: one class name per line, kept in the grouping"
    )
    parser.add_argument("--groups", type=int, required=True, help="how many; their sizes differ by at most one")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")


def run(args: argparse.Namespace) -> None:
    if args.labels:
        grouping = group_by_text(read_names(args.labels), args.groups)
    elif args.predictions:
        names, matrix = read_predictions(args.predictions)
        grouping = group_by_confusion(matrix, args.groups, names)
    else:
        names = read_names(args.names) if args.names else []
        grouping = group_by_confusion(read_confusion(args.confusion), args.groups, names)
    write_grouping(args.out, grouping)
    for index, group in enumerate(grouping.groups):
        shown = (grouping.class_names[n] if grouping.class_names else str(n) for n in group)
        print(printable(f"{index}: {', '.join(shown)}"))
    print(f"wrote {args.out}: {counted(grouping.num_classes, 'class')} in {counted(grouping.num_groups, 'group')}")
    print(f"next: TSTL.GROUPING {args.out}, and for the selector MODEL.NUM_CLASSES {grouping.num_groups}")


main = command("group-classes", __doc__, add_arguments, run)
