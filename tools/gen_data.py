"""Generates data with a known answer.

python tools/gen_data.py video --out data/quickstart
python tools/gen_data.py dust  --out data/dust
python tools/gen_data.py tracks --out data/tracks
python tools/gen_data.py keystep --out data/assembly
"""

import argparse
import sys

from tqdm import tqdm

from dust.datasets.synthetic import generate_motion
from dust.datasets.synthetic_dust import SAMPLES, generate_dust
from dust.datasets.synthetic_procedure import PALETTE, generate_procedure
from dust.datasets.synthetic_tracks import MOTIONS, generate_tracks
from dust.utils.errors import DustError

KEYSTEP_STAGES = ("spatial", "features", "temporal", "finetune", "test")


def add_video(commands) -> None:
    parser = commands.add_parser("video", help="mp4 clips of a moving texture; the class is the direction")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--classes", type=int, default=4, help="directions, 2 to 8 (default 4)")
    parser.add_argument("--clips", type=int, default=40, help="clips per class (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same clips (default 0)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default 64)")
    parser.add_argument("--frames", type=int, default=32, help="frames per clip, 30 per second (default 32)")
    parser.add_argument("--force", action="store_true", help="replace what was generated there before")
    parser.set_defaults(run=video)


def video(args: argparse.Namespace) -> None:
    counts = generate_motion(
        args.out,
        classes=args.classes,
        clips=args.clips,
        seed=args.seed,
        size=args.size,
        frames=args.frames,
        force=args.force,
        progress=lambda work: tqdm(work, unit="clip", disable=None),
    )
    listed = ", ".join(f"{split}.csv ({count} clips)" for split, count in counts.items())
    print(f"wrote {args.out}: {listed}")
    print(
        "next: python tools/run_net.py --cfg configs/quickstart/video.yaml "
        f"DATA.PATH_TO_DATA_DIR {args.out} MODEL.NUM_CLASSES {args.classes}"
    )


def add_dust(commands) -> None:
    parser = commands.add_parser("dust", help="mp4 clips with a series each; the class is one bit of both together")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"of train, a multiple of 4 (default {SAMPLES})")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same data (default 0)")
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels (default 32)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip, 30 per second (default 16)")
    parser.add_argument("--length", type=int, default=51, help="time points of a series (default 51)")
    parser.add_argument("--force", action="store_true", help="replace what was generated there before")
    parser.set_defaults(run=dust)


def dust(args: argparse.Namespace) -> None:
    counts = generate_dust(
        args.out,
        samples=args.samples,
        seed=args.seed,
        size=args.size,
        frames=args.frames,
        length=args.length,
        force=args.force,
        progress=lambda work: tqdm(work, unit="file", disable=None),
    )
    listed = ", ".join(f"{split}.csv ({count} samples)" for split, count in counts.items())
    print(f"wrote {args.out}: {listed}")
    stages = " ".join(f"configs/quickstart/dust_stage{number}.yaml" for number in (1, 2, 3, 4))
    print(f"next: python tools/run_net.py --cfg {stages} DATA.PATH_TO_DATA_DIR {args.out} OUTPUT_DIR runs/dust")


def add_tracks(commands) -> None:
    parser = commands.add_parser("tracks", help="point tracks of a moving object that several cameras see")
    parser.add_argument("--out", required=True, help="folder to write to")
    most = len(MOTIONS)
    parser.add_argument("--classes", type=int, default=most, help=f"motions, 2 to {most} (default {most})")
    parser.add_argument("--sequences", type=int, default=60, help="recordings, a clip per class each (default 60)")
    parser.add_argument("--views", type=int, default=4, help="cameras, 2 to 8 (default 4)")
    parser.add_argument("--points", type=int, default=64, help="points per camera (default 64)")
    parser.add_argument("--frames", type=int, default=50, help="frames per clip, 24 per second (default 50)")
    parser.add_argument("--missing", type=float, default=0.02, help="chance that a camera has no file (default 0.02)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same tracks (default 0)")
    parser.add_argument("--force", action="store_true", help="replace what was generated there before")
    parser.set_defaults(run=tracks)


def tracks(args: argparse.Namespace) -> None:
    counts = generate_tracks(
        args.out,
        classes=args.classes,
        sequences=args.sequences,
        views=args.views,
        points=args.points,
        frames=args.frames,
        missing=args.missing,
        seed=args.seed,
        force=args.force,
        progress=lambda work: tqdm(work, unit="clip", disable=None),
    )
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"wrote {args.out}/tracks.csv: clips of {args.views} cameras: {listed}")
    print(
        "next: python tools/run_net.py --cfg configs/quickstart/tracks_transformer.yaml "
        f"DATA.PATH_TO_DATA_DIR {args.out} MODEL.NUM_CLASSES {args.classes} "
        f'TRACKS.VIEWS "{list(range(args.views))}"'
    )


def add_keystep(commands) -> None:
    parser = commands.add_parser("keystep", help="recordings (mp4) of a small assembly, with a detector's csv for each")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--recordings", type=int, default=30, help="in all, at least 3 (default 30)")
    parser.add_argument("--parts", type=int, default=5, help=f"on the board, 3 to {len(PALETTE)} (default 5)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default 64)")
    parser.add_argument("--pace", type=int, default=45, help="mean frames between two steps, at 10 per s (default 45)")
    parser.add_argument("--mishaps", type=float, default=0.25, help="share of recordings with one (default 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same recordings (default 0)")
    parser.add_argument("--force", action="store_true", help="replace what was generated there before")
    parser.set_defaults(run=keystep)


def keystep(args: argparse.Namespace) -> None:
    counts = generate_procedure(
        args.out,
        recordings=args.recordings,
        parts=args.parts,
        seed=args.seed,
        size=args.size,
        pace=args.pace,
        mishaps=args.mishaps,
        force=args.force,
        progress=lambda work: tqdm(work, unit="recording", disable=None),
    )
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"wrote {args.out}/recordings.csv: {listed}")
    stages = " ".join(f"configs/quickstart/keystep_{name}.yaml" for name in KEYSTEP_STAGES)
    print(
        f"next: python tools/run_net.py --cfg {stages} DATA.PATH_TO_DATA_DIR {args.out} "
        f"MODEL.NUM_CLASSES {args.parts} OUTPUT_DIR runs/keystep"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="video|dust|tracks|keystep")
    add_video(commands)
    add_dust(commands)
    add_tracks(commands)
    add_keystep(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
