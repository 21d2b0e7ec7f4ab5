"""Generates data with a known answer: ``python tools/gen_data.py video --out data/quickstart``."""

import argparse
import sys

from tqdm import tqdm

from dust.datasets.synthetic import generate_motion
from dust.utils.errors import DustError


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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="video")
    add_video(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
