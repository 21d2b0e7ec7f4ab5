"""Generate data with a known answer.

dust gen-data video data/quickstart
dust gen-data dust data/quickstart_dust
dust gen-data motion_appearance data/quickstart_cast
dust gen-data keystep data/assembly
dust gen-data tracks data/quickstart_tracks
dust gen-data keypoints data/quickstart_keypoints
"""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from dust.cli.command import command
from dust.synthetic.fusion import SAMPLES, generate_dust
from dust.synthetic.keypoints import generate_keypoints
from dust.synthetic.keystep import PALETTE, generate_procedure
from dust.synthetic.motion import generate_motion
from dust.synthetic.motion_appearance import generate_motion_appearance
from dust.synthetic.tracks import MOTIONS, generate_tracks

QUICKSTART = "configs/quickstart"


@dataclass(frozen=True)
class Generator:
    """A sub-command: ``options`` are {name: (default, what it is)}, and ``next`` is what to run on the data."""

    generate: Callable[..., dict[str, int]]
    help: str
    unit: str
    options: dict[str, tuple[Any, str]]
    configs: tuple[str, ...]
    next: str


GENERATORS = {
    "video": Generator(
        generate_motion,
        "mp4 clips of a moving texture; the class is the direction",
        "clip",
        {
            "classes": (4, "directions, 2 to 8"),
            "clips": (40, "clips per class"),
            "size": (64, "height and width in pixels"),
            "frames": (32, "frames per clip, 30 per second"),
        },
        ("video",),
        "",
    ),
    "dust": Generator(
        generate_dust,
        "mp4 clips with a series each; the class is one bit of both together",
        "file",
        {
            "samples": (SAMPLES, "of train, a multiple of 4"),
            "size": (32, "height and width in pixels"),
            "frames": (16, "frames per clip, 30 per second"),
            "length": (51, "time points of a series"),
        },
        ("dust_stage1", "dust_stage2", "dust_stage3", "dust_stage4"),
        "OUTPUT_DIR runs/dust",
    ),
    "motion_appearance": Generator(
        generate_motion_appearance,
        "mp4 clips of 12 classes in 4 groups, half told only by motion, half only by appearance",
        "clip",
        {
            "clips": (40, "clips per class"),
            "size": (32, "height and width in pixels"),
            "frames": (16, "frames per clip, 30 per second"),
        },
        ("cast_spatial", "cast_temporal", "cast"),
        "OUTPUT_DIR runs/cast",
    ),
    "keystep": Generator(
        generate_procedure,
        "recordings (mp4) of a small assembly, with a detector's csv for each",
        "recording",
        {
            "recordings": (30, "in all, at least 3"),
            "parts": (5, f"on the board, 3 to {len(PALETTE)}"),
            "size": (64, "height and width in pixels"),
            "pace": (45, "mean frames between two steps, at 10 per second"),
            "mishaps": (0.25, "share of recordings with one"),
        },
        ("keystep_spatial", "keystep_features", "keystep_temporal", "keystep_finetune", "keystep_test"),
        "OUTPUT_DIR runs/keystep",
    ),
    "tracks": Generator(
        generate_tracks,
        "point tracks of a moving object that several cameras see",
        "clip",
        {
            "classes": (len(MOTIONS), f"motions, 2 to {len(MOTIONS)}"),
            "sequences": (60, "recordings, a clip per class each"),
            "views": (4, "cameras, 2 to 8"),
            "points": (64, "points per camera"),
            "frames": (50, "frames per clip, 24 per second"),
            "missing": (0.02, "chance that a camera has no file"),
        },
        ("tracks_transformer",),
        'TRACKS.VIEWS "{cameras}"',
    ),
    "keypoints": Generator(
        generate_keypoints,
        "17 joints of a person who moves one limb; the class is which one, left or right",
        "clip",
        {"sequences": (80, "people, a clip per limb each"), "frames": (40, "frames per clip, 30 per second")},
        ("keypoints",),
        "",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="KIND")
    for name, generator in GENERATORS.items():
        kind = commands.add_parser(name, help=generator.help, description=generator.help)
        kind.add_argument("out", metavar="DIR", help="folder to write to")
        for option, (default, text) in generator.options.items():
            kind.add_argument(f"--{option}", type=type(default), default=default, help=f"{text} (default {default})")
        kind.add_argument("--seed", type=int, default=0, help="the same seed gives the same data (default 0)")
        kind.add_argument("--force", action="store_true", help="replace what was generated there before")


def run(args: argparse.Namespace) -> None:
    generator = GENERATORS[args.command]
    options = {name: getattr(args, name) for name in generator.options}
    counts = generator.generate(
        args.out,
        **options,
        seed=args.seed,
        force=args.force,
        progress=lambda work: tqdm(work, unit=generator.unit, disable=None),
    )
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"wrote {args.out}: {listed}")
    files = " ".join(f"{QUICKSTART}/{name}.yaml" for name in generator.configs)
    words = generator.next.format(**options, cameras=list(range(options.get("views", 0))))
    print(f"next: dust --cfg {files} DATA.PATH_TO_DATA_DIR {shlex.quote(args.out)} {words}")


main = command("gen-data", __doc__, add_arguments, run, flags_of_old=("--out",))
