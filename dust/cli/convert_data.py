"""Write train.csv, val.csv and test.csv for raw public data; `check` decodes every clip.

dust convert-data ucf101 UCF101 --out data/ucf101 --split-number 1
dust convert-data muwiges MuWiGes --out data/muwiges --test-count 15 --with-imu
dust convert-data dust-pickles DUST --out data/dust
dust convert-data industreal IndustReal --out data/industreal
dust convert-data captaincook4d annotations/ --videos videos/ --procedure "Mug Cake" --out data/mugcake
dust convert-data elan annotations/ --videos recordings/ --label activity --out data/mine
dust convert-data keypoints poses/ --form openpose --size 1080,1920 --out data/poses
dust convert-data uea BasicMotions --out data/BasicMotions
dust convert-data webdataset tars/ --out data/tars
dust convert-data check data/ucf101
"""

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dust.cli import check
from dust.cli.command import command, numbers
from dust.convert import imu
from dust.convert.annotations import READERS, convert_annotations
from dust.convert.dust_pickles import DTYPES, convert_dust
from dust.convert.keypoints import READERS as POSES
from dust.convert.keypoints import convert_keypoints
from dust.convert.keypoints.convert import KINDS as KEYPOINT_KINDS
from dust.convert.keypoints.convert import VIEW_REGEX
from dust.convert.keypoints.poses import KEEP
from dust.convert.mistakes import READERS as MISTAKES
from dust.convert.mistakes import convert_mistakes
from dust.convert.muwiges import CLASS_REGEX, SUBJECT_REGEX, read_muwiges
from dust.convert.procedures import ProcedureConversion, convert_procedures
from dust.convert.splits import read_public, write_splits
from dust.convert.uea import convert_uea
from dust.convert.webdataset import convert_webdataset
from dust.utils.logging import console_logging
from dust.utils.text import counted, printable_lines

#: Keyword arguments of argparse's add_argument.
Option = dict[str, Any]


def text(default: str, what: str, metavar: str) -> Option:
    return {"default": default, "help": what, "metavar": metavar}


def count(default: int, what: str) -> Option:
    return {"type": int, "default": default, "help": f"{what} (default {default})"}


def flag(what: str) -> Option:
    return {"action": "store_true", "help": what}


def required(what: str) -> Option:
    return {"required": True, "help": what, "metavar": "DIR"}


#: Options by name. Each is also the name of an argument of the function that a sub-command calls.
FORCE = {"force": flag("replace files that are there already")}
WORKERS = {"workers": {"type": int, "default": os.cpu_count() or 1, "help": "processes (default: all cores)"}}
SPLIT = {"split-number": {"type": int, "default": 1, "choices": (1, 2, 3), "help": "official split (default 1)"}}
PREFIX = {"path-prefix": text("", "folder of the videos, if not below the data", "DIR")}
LISTS = {
    "out": required("folder for train.csv, val.csv, test.csv and classes.txt"),
    "relative-to": text("", "write paths relative to DIR, which is then DATA.PATH_PREFIX", "DIR"),
    "skip-bad": flag("leave out clips that cannot be read"),
    "drop-leaks": flag("leave out train clips that are in val or test too"),
    **FORCE,
    **WORKERS,
}
PEOPLE = {
    "class-regex": text(CLASS_REGEX, "the gesture's number in a path (default %(default)s)", "REGEX"),
    "subject-regex": text(SUBJECT_REGEX, "the person's number in a path (default %(default)s)", "REGEX"),
    "test-subjects": {"type": numbers, "default": [], "metavar": "N,N", "help": "people of test, as 3,7,12"},
    "val-subjects": {"type": numbers, "default": [], "metavar": "N,N", "help": "people of val"},
    "test-count": count(15, "people drawn for test"),
    "val-count": {"type": int, "default": 0, "help": "people drawn for val (default 0: val is test)"},
    "seed": count(0, "of the draw"),
}
IMU = {
    "with-imu": flag("lists of several modalities, with each clip's accelerometer and gyroscope as a series"),
    "imu-files": text(imu.DEFAULT, "files of a clip's sensors, relative to its folder (default %(default)s)", "NAMES"),
    "imu-time": {"default": "s", "choices": tuple(imu.UNITS), "help": "unit of their times (default s)"},
}
PICKLES = {
    "out": required("folder for the csv files and the arrays"),
    "dtype": {"default": "float32", "choices": DTYPES, "help": "of the videos (default float32)"},
    "weights": text("", "DUST's saved_models, if not beside data/", "DIR"),
    "assume-order": flag("take row i of video_features/*.pkl for sample i (it often is not)"),
    "allow-missing": flag("keep NaN in a series, as a missing value"),
    **FORCE,
}
PROCEDURES = {
    "out": required("folder for recordings.csv, states.csv, steps.csv ..."),
    "procedure": text("", "procedure_info.json, if it is not in the data folder", "FILE.json"),
    **FORCE,
}

PROCEDURE_MISTAKES = {
    "out": required("folder for recordings.csv, states.csv, steps.csv, mistakes.csv ..."),
    "videos": text("", "folder of the videos (default: the data folder)", "DIR"),
    "procedure": text("", "this recipe, task or toy only (default: all)", "NAME"),
    "view": text("", "the camera, if a recording is a folder with a video of each", "NAME"),
    "skip-missing": flag("leave out recordings whose video is not there"),
    **FORCE,
}
STRETCHES = {
    "out": required("folder for the lists"),
    "videos": text("", "folder of the videos (default: that of the annotations)", "DIR"),
    "multi-label": flag("several labels of one stretch stand in one row, for DATA.MULTI_LABEL True"),
    "skip-missing": flag("leave out annotations of videos that are not there"),
    **FORCE,
}
PEOPLE_SAID = {"soft-labels": flag("labels are the shares of several annotators, for DATA.SOFT_LABELS True")}
LABEL = {"label": text("", "where the label is: a tier, an attribute, or verb, noun, action", "NAME")}
KEYPOINTS = {
    "form": {"required": True, "choices": tuple(POSES), "help": "; ".join(f"{n}: {f.title}" for n, f in POSES.items())},
    "out": required("folder for tracks.csv or manifest.csv, and the arrays"),
    "as": {"dest": "kind", "default": "tracks", "choices": KEYPOINT_KINDS, "help": "for PointTracks (default) or "
           "FusedDataset: x and y of each joint as channels"},
    "labels": text("", "csv with clip, label, and split, sequence, sample, view if need be (default: folders "
                   "[split/]label/clip)", "FILE.csv"),
    "size": {"type": numbers, "default": [], "metavar": "H,W", "help": "of frames, for files that do not say it"},
    "fps": {"type": float, "default": 0.0, "help": "frames per second, for files that do not say them"},
    "threshold": {"type": float, "default": 0.3, "help": "a joint of a higher confidence is visible (default 0.3)"},
    "plane": text("", "positions in space: which axis goes to the right and which one down, as x,-z", "AXES"),
    "people": count(1, "people who are kept"),
    "keep": {"default": "largest", "choices": KEEP, "help": "which people (default largest)"},
    "view-regex": text(VIEW_REGEX, "where a name says the camera's number (default view1, cam2, camera_3)", "REGEX"),
    **FORCE,
}  # fmt: skip


def convert_lists(args: argparse.Namespace) -> None:
    """Convert lists of clips in a public form."""
    reading = options_of(args, {**SPLIT, **PREFIX, **PEOPLE})
    if args.command == "muwiges":
        manifests = read_muwiges(args.root, **reading)
    else:
        manifests = read_public(args.root, args.command, **reading)
    sensors = imu.read_imu(manifests, args.imu_files, args.imu_time) if getattr(args, "with_imu", False) else {}
    result = write_splits(manifests, **options_of(args, LISTS))
    channels = imu.write_imu(args.out, manifests, sensors, args.relative_to) if sensors else 0
    print_notes(result.notes)
    listed = ", ".join(f"{split}.csv ({counted(clips, 'clip')})" for split, clips in result.counts.items())
    print(f"wrote {args.out}: {listed}")
    prefix = f" DATA.PATH_PREFIX {shlex.quote(args.relative_to)}" if args.relative_to else ""
    series = f" SERIES.NUM_CHANNELS {channels}" if sensors else ""
    print_next(args.out, f"{prefix} MODEL.NUM_CLASSES {len(manifests['train'].class_names)}{series}")


def convert_pickles(args: argparse.Namespace) -> None:
    """Convert DUST's pickles."""
    result = convert_dust(args.root, **options_of(args, PICKLES))
    print_notes(result.notes)
    listed = ", ".join(f"{split}.csv ({counted(samples, 'sample')})" for split, samples in result.counts.items())
    shapes = "; ".join(f"{kind} {shape}" for kind, shape in result.shapes.items())
    print(f"wrote {args.out}: {listed}" + (f"; one sample: {shapes}" if shapes else ""))
    series = ""
    if "series" in result.shapes:
        channels, length = result.shapes["series"]
        series = f" SERIES.NUM_CHANNELS {channels} SERIES.LENGTH {length}"
    print_next(args.out, f" MODEL.NUM_CLASSES {result.classes}{series}")


def convert_recordings(args: argparse.Namespace) -> None:
    """Convert recordings of a procedure."""
    result = convert_procedures(args.root, args.out, layout=args.command, table=args.procedure, force=args.force)
    tell_recordings(result, args.out)


def tell_recordings(result: ProcedureConversion, out: str) -> None:
    """Say what was written, and what a person should know."""
    print_notes(result.notes)
    listed = ", ".join(f"{recordings} {split}" for split, recordings in result.counts.items())
    components = counted(result.components, "component")
    print(f"wrote {out}/recordings.csv: {listed}; {counted(result.frames, 'frame')}, {components}")
    print_next(out, f" MODEL.NUM_CLASSES {result.components}")


def convert_procedure_mistakes(args: argparse.Namespace) -> None:
    """Convert recordings of procedures with labelled mistakes."""
    tell_recordings(convert_mistakes(args.command, args.root, **options_of(args, PROCEDURE_MISTAKES)), args.out)


def convert_stretches(args: argparse.Namespace) -> None:
    """Convert annotations of stretches of long videos."""
    result = convert_annotations(args.command, args.root, **options_of(args, STRETCHES | LABEL | PEOPLE_SAID))
    print_notes(result.notes)
    listed = ", ".join(f"{name}.csv ({counted(count, 'segment')})" for name, count in result.counts.items())
    print(f"wrote {args.out}: {listed}, {counted(len(result.classes), 'class')}")
    if list(result.counts) == ["data"]:
        folder, more = shlex.quote(args.out), " --soft-labels" * getattr(args, "soft_labels", False)
        more += " --multi-label" * args.multi_label
        print(f"next: dust split {folder}/data.csv -o {folder} --ratio 70,15,15 --stratify{more}")
    else:
        print_next(args.out, " DATA.MULTI_LABEL True" * args.multi_label + " MODEL.NUM_CLASSES -1")


def convert_poses(args: argparse.Namespace) -> None:
    """Convert keypoints of people."""
    names = (facts.get("dest", name.replace("-", "_")) for name, facts in KEYPOINTS.items())
    options = {name: getattr(args, name) for name in names}
    result = convert_keypoints(options.pop("form"), args.root, options.pop("out"), **options)
    print_notes(result.notes)
    listed = ", ".join(f"{count} {split}".strip() for split, count in result.counts.items())
    print(f"wrote {args.out}: {listed} clips of {counted(len(result.classes), 'class')}, {result.points} points")
    if args.kind == "series":
        keys = f" SERIES.NUM_CHANNELS {result.channels} SERIES.MISSING mask"
    else:
        keys = f' TRACKS.NUM_POINTS {result.points} TRACKS.VIEWS "{list(range(result.views))}"'
    print_next(args.out, keys.replace(" [", "["))


def convert_series(args: argparse.Namespace) -> None:
    """Convert a data set of the UEA or UCR archive."""
    result = convert_uea(args.root, args.out, force=args.force)
    listed = ", ".join(f"{split}.csv ({samples} series)" for split, samples in result.counts.items())
    low, high = result.lengths
    classes = counted(result.classes, "class")
    print(f"wrote {args.out}: {listed}; {counted(result.channels, 'channel')}, {low} to {high} points, {classes}")
    print_next(args.out, f" SERIES.NUM_CHANNELS {result.channels}")


def list_tars(args: argparse.Namespace) -> None:
    """List tar files of clips, which stay as they are."""
    counts = convert_webdataset(args.root, args.out, label=args.label, force=args.force)
    listed = ", ".join(f"{split}.csv ({counted(count, 'clip')})" for split, count in counts.items())
    print(f"wrote {args.out}: {listed}")
    print_next(args.out, " MODEL.NUM_CLASSES -1")


def options_of(args: argparse.Namespace, options: dict[str, Option]) -> dict[str, Any]:
    """Return the values of those options that this sub-command has."""
    names = (name.replace("-", "_") for name in options)
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def print_notes(notes: Sequence[str]) -> None:
    """Print what a person should know of a conversion."""
    for note in notes:
        print(printable_lines(f"note: {note}"))


def print_next(out: str, keys: str) -> None:
    print(f"next: set DATA.PATH_TO_DATA_DIR {shlex.quote(out)}{keys}")


@dataclass(frozen=True)
class Kind:
    """A sub-command: what it reads or does, the function that does it, and its options."""

    help: str
    run: Callable[[argparse.Namespace], int | None]
    options: dict[str, Option]


RECORDINGS = "recordings of a procedure, checked and listed in our own format; frames stay where they are"
KINDS = {
    "ucf101": Kind("trainlist0N.txt, testlist0N.txt, classInd.txt", convert_lists, {**LISTS, **SPLIT, **PREFIX}),
    "hmdb51": Kind("<class>_test_splitN.txt", convert_lists, {**LISTS, **SPLIT, **PREFIX}),
    "ssv2": Kind("something-something-v2-*.json over videos or frame folders", convert_lists, {**LISTS, **PREFIX}),
    "folder": Kind("<split>/<class>/ or <class>/ folders", convert_lists, LISTS),
    "muwiges": Kind("12 gestures by 50 people, split by person", convert_lists, {**LISTS, **PEOPLE, **IMU}),
    "dust-pickles": Kind(
        "DUST's data/*.pkl as memory-mapped arrays; nothing in a pickle is run", convert_pickles, PICKLES
    ),
    "industreal": Kind(RECORDINGS, convert_recordings, PROCEDURES),
    "meccano": Kind("the same of MECCANO-PSR", convert_recordings, PROCEDURES),
    **{
        name: Kind(f"procedures with labelled mistakes: {form.title}", convert_procedure_mistakes, PROCEDURE_MISTAKES)
        for name, form in MISTAKES.items()
    },
    "keypoints": Kind("keypoints of people by a pose tracker, as point tracks or series", convert_poses, KEYPOINTS),
    **{
        name: Kind(
            f"segments of long videos: {form.title}",
            convert_stretches,
            STRETCHES | (LABEL if form.chooses else {}) | (PEOPLE_SAID if form.people else {}),
        )
        for name, form in READERS.items()
    },
    "uea": Kind(
        "NAME_TRAIN.ts and NAME_TEST.ts of the UEA and UCR archives of series",
        convert_series,
        {"out": required("folder for train.csv, test.csv and the series"), **FORCE},
    ),
    "webdataset": Kind(
        "tar files in WebDataset's layout, whose clips are read where they lie",
        list_tars,
        {
            "out": required("folder for the lists"),
            "label": text("label", "field of .json (default label)", "FIELD"),
            **FORCE,
        },
    ),
    "check": Kind("what `dust check` does", check.run, check.OPTIONS),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="command", required=True, metavar="FORM")
    for name, kind in KINDS.items():
        one = kinds.add_parser(name, help=kind.help, description=kind.help)
        one.add_argument("root", metavar="DIR|FILE", help="the data as it was downloaded")
        for option, facts in kind.options.items():
            one.add_argument(f"--{option}", **facts)


def run(args: argparse.Namespace) -> int | None:
    console_logging()
    return KINDS[args.command].run(args)


main = command("convert-data", __doc__, add_arguments, run, flags_of_old=("--root",))
