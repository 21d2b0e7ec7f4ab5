"""Writes train.csv, val.csv and test.csv for raw public data, and checks data before a training does.

dust convert-data ucf101  --root UCF101 --out data/ucf101 --split-number 1
dust convert-data muwiges --root MuWiGes --out data/muwiges --test-count 15
dust convert-data dust-pickles --root DUST --out data/dust
dust convert-data industreal --root IndustReal --out data/industreal
dust convert-data check   --root data/ucf101
"""

import argparse
import logging
import os
import sys

from dust.convert.check import check_data
from dust.convert.dust_pickles import DTYPES, convert_dust
from dust.convert.muwiges import CLASS_REGEX, SUBJECT_REGEX, read_muwiges
from dust.convert.procedures import convert_procedures
from dust.convert.splits import read_public, write_splits
from dust.datasets.manifest.manifest import FORMATS
from dust.utils.errors import DustError

WHAT = {
    "ucf101": "trainlist0N.txt, testlist0N.txt, classInd.txt",
    "hmdb51": "<class>_test_splitN.txt",
    "ssv2": "something-something-v2-*.json over videos or frame folders",
    "folder": "<split>/<class>/ or <class>/ folders",
    "muwiges": "12 gestures by 50 people, split by person",
    "dust-pickles": "DUST's data/*.pkl as memory-mapped arrays; nothing in a pickle is run",
    "industreal": "recordings of a procedure, checked and listed in our own format; frames stay where they are",
    "meccano": "the same of MECCANO-PSR",
    "check": "decode every clip of a data folder and list the bad ones; exit status 1 if there are any",
}


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(WHAT))
    for name, text in WHAT.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--root", required=True, help="the data as it was downloaded")
        command.add_argument("--force", action="store_true", help="replace files that are there already")
        if name == "dust-pickles":
            add_dust_options(command)
            continue
        if name in ("industreal", "meccano"):
            command.add_argument("--out", required=True, help="folder for recordings.csv, states.csv, steps.csv ...")
            command.add_argument("--procedure", default="", help="procedure_info.json, if it is not in --root")
            continue
        command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
        if name in ("ucf101", "hmdb51", "check"):
            command.add_argument(
                "--split-number", type=int, default=1, choices=(1, 2, 3), help="official split (default 1)"
            )
        if name != "folder" and name != "muwiges":
            command.add_argument("--path-prefix", default="", help="folder of the videos, if not below --root")
        if name == "check":
            command.add_argument("--out", default="", help="folder for bad_clips.csv (default: --root)")
            command.add_argument("--format", default="auto", choices=FORMATS, help="default: auto")
            command.add_argument("--separator", default="", help="of csv columns (default: found)")
            command.add_argument("--multi-label", action="store_true", help="several labels per clip")
            continue
        command.add_argument("--out", required=True, help="folder for train.csv, val.csv, test.csv and classes.txt")
        command.add_argument("--relative-to", default="", help="write paths relative to this DATA.PATH_PREFIX")
        command.add_argument("--skip-bad", action="store_true", help="leave out clips that cannot be read")
        command.add_argument(
            "--drop-leaks", action="store_true", help="leave out train clips that are in val or test too"
        )
        if name == "muwiges":
            command.add_argument("--class-regex", default=CLASS_REGEX, help=f"default {CLASS_REGEX}".replace("%", "%%"))
            command.add_argument("--subject-regex", default=SUBJECT_REGEX, help=f"default {SUBJECT_REGEX}")
            command.add_argument("--test-subjects", type=numbers, default=[], help="people of test, as 3,7,12")
            command.add_argument("--val-subjects", type=numbers, default=[], help="people of val")
            command.add_argument("--test-count", type=int, default=15, help="people drawn for test (default 15)")
            command.add_argument(
                "--val-count", type=int, default=0, help="people drawn for val (default 0: val is test)"
            )
            command.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    return parser


def add_dust_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", required=True, help="folder for the csv files and the arrays")
    command.add_argument("--dtype", default="float32", choices=DTYPES, help="of the videos (default float32)")
    command.add_argument("--weights", default="", help="DUST's saved_models, if not beside data/")
    command.add_argument(
        "--assume-order", action="store_true", help="take row i of video_features/*.pkl for sample i (it often is not)"
    )
    command.add_argument("--allow-missing", action="store_true", help="keep NaN in a series, as a missing value")


def convert_pickles(args: argparse.Namespace) -> int:
    result = convert_dust(
        args.root,
        args.out,
        dtype=args.dtype,
        weights=args.weights,
        assume_order=args.assume_order,
        allow_missing=args.allow_missing,
        force=args.force,
    )
    for note in result.notes:
        print(f"note: {note}")
    listed = ", ".join(f"{split}.csv ({count} samples)" for split, count in result.counts.items())
    shapes = "; ".join(f"{kind} {shape}" for kind, shape in result.shapes.items())
    print(f"wrote {args.out}: {listed}" + (f"; one sample: {shapes}" if shapes else ""))
    series = ""
    if "series" in result.shapes:
        channels, length = result.shapes["series"]
        series = f" SERIES.NUM_CHANNELS {channels} SERIES.LENGTH {length}"
    print(f"next: set DATA.PATH_TO_DATA_DIR {args.out} MODEL.NUM_CLASSES {result.classes}{series}")
    return 0


def convert_recordings(args: argparse.Namespace) -> int:
    result = convert_procedures(args.root, args.out, layout=args.command, table=args.procedure, force=args.force)
    for note in result.notes:
        print(f"note: {note}")
    listed = ", ".join(f"{count} {split}" for split, count in result.counts.items())
    print(f"wrote {args.out}/recordings.csv: {listed}; {result.frames} frames, {result.components} components")
    print(f"next: set DATA.PATH_TO_DATA_DIR {args.out} MODEL.NUM_CLASSES {result.components}")
    return 0


def convert(args: argparse.Namespace) -> int:
    if args.command == "muwiges":
        manifests = read_muwiges(
            args.root,
            class_regex=args.class_regex,
            subject_regex=args.subject_regex,
            test_subjects=args.test_subjects,
            val_subjects=args.val_subjects,
            test_count=args.test_count,
            val_count=args.val_count,
            seed=args.seed,
        )
    else:
        manifests = read_public(
            args.root,
            args.command,
            split_number=getattr(args, "split_number", 1),
            path_prefix=getattr(args, "path_prefix", ""),
        )
    result = write_splits(
        manifests,
        args.out,
        relative_to=args.relative_to,
        workers=args.workers,
        force=args.force,
        skip_bad=args.skip_bad,
        drop_leaks=args.drop_leaks,
    )
    for note in result.notes:
        print(f"note: {note}")
    print(f"wrote {args.out}: " + ", ".join(f"{split}.csv ({count} clips)" for split, count in result.counts.items()))
    prefix = f" DATA.PATH_PREFIX {args.relative_to}" if args.relative_to else ""
    classes = len(manifests["train"].class_names)
    print(f"next: set DATA.PATH_TO_DATA_DIR {args.out}{prefix} MODEL.NUM_CLASSES {classes}")
    return 0


def check(args: argparse.Namespace) -> int:
    total, bad, path = check_data(
        args.root,
        out=args.out,
        format=args.format,
        separator=args.separator,
        path_prefix=args.path_prefix,
        multi_label=args.multi_label,
        split_number=args.split_number,
        workers=args.workers,
        force=args.force,
    )
    for split, _, clip, reason in bad:
        print(f"{split}: {clip}: {reason}")
    print(f"{total} clips decoded, {len({row[2] for row in bad})} bad; the list is in {path}")
    return 1 if bad else 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        own = {"check": check, "dust-pickles": convert_pickles}
        own |= {"industreal": convert_recordings, "meccano": convert_recordings}
        run = own.get(args.command, convert)
        return run(args)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
