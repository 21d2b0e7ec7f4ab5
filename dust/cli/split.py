"""Cut lists into training, validation and test: what belongs together stays together.

dust split data.csv -o data/mine                          80 : 10 : 10, by the column group, else by file
dust split data.csv -o data/mine --by subject --stratify  whole subjects, every class in its share
dust split data/old -o data/new --ratio 70,15,15          all splits of a folder, cut again
"""

import argparse

from dust.cli.command import command
from dust.utils.errors import ConfigError

NAMES = ("train", "val", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE.csv|DIR", help="a list, or a folder of lists")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="where train.csv, val.csv and test.csv go")
    parser.add_argument("--by", default="group", metavar="COLUMN", help="what stays together (group, else the file)")
    parser.add_argument(
        "--ratio",
        default="80,10,10",
        metavar="A,B,C",
        help="of training, validation, test (80,10,10); two numbers: no validation",
    )
    parser.add_argument("--stratify", action="store_true", help="every class in its share, as far as groups allow")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--path-prefix", default="", metavar="DIR", help="folder that relative paths are under")
    parser.add_argument("--multi-label", action="store_true", help="several labels per clip, as DATA.MULTI_LABEL")
    parser.add_argument("--soft-labels", action="store_true", help="several people's labels, as DATA.SOFT_LABELS")
    parser.add_argument("--force", action="store_true", help="replace lists that are there")


def run(args: argparse.Namespace) -> None:
    from dust.convert.folds import write_split
    from dust.convert.lists import ListOptions, read_lists

    options = ListOptions(
        group_column="" if args.by == "group" else args.by,
        path_prefix=args.path_prefix,
        multi_label=args.multi_label,
        soft_labels=args.soft_labels,
    )
    lists = read_lists(args.source, options)
    counts = write_split(
        lists, args.out, shares_of(args.ratio), stratify=args.stratify, seed=args.seed, force=args.force
    )
    print(f"wrote {args.out}: {', '.join(f'{split} {count}' for split, count in counts.items())} samples")


def shares_of(text: str) -> dict[str, float]:
    """Turn ``80,10,10`` into {"train": 80, "val": 10, "test": 10}; ``80,20`` has no validation. Raises ConfigError."""
    words = text.replace(":", ",").split(",")
    names = NAMES if len(words) == 3 else ("train", "test")
    try:
        shares = dict(zip(names, map(float, words), strict=True))
    except ValueError:
        shares = {}
    if not shares or not all(0 < share < float("inf") for share in shares.values()):
        raise ConfigError(f"--ratio {text}: two or three numbers above 0, 80,10,10 for one")
    return shares


main = command("split", __doc__, add_arguments, run)
