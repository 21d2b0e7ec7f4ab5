"""Re-encode a dataset once, in the size and form that training reads fastest.

dust prepare data/raw --out data/fast
"""

import argparse
import os

from tqdm import tqdm

from dust.cli.command import command
from dust.convert.prepare import Encoding, prepare
from dust.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Encoding()
    parser.add_argument("source", help="a folder with clips, or a csv that lists them")
    parser.add_argument("--out", required=True, help="folder for the new clips and lists; the originals are only read")
    parser.add_argument("--short-side", type=int, default=default.short_side, help="pixels (default %(default)s)")
    parser.add_argument("--gop", type=int, default=default.gop, help="key frame every so many (default %(default)s)")
    parser.add_argument("--crf", type=int, default=default.crf, help="x264 quality, lower is better (%(default)s)")
    parser.add_argument("--preset", default=default.preset, help="x264 preset (default %(default)s)")
    parser.add_argument("--path-prefix", default="", help="folder that the csv's relative paths are under")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def run(args: argparse.Namespace) -> None:
    done = prepare(
        args.source,
        args.out,
        Encoding(short_side=args.short_side, gop=args.gop, crf=args.crf, preset=args.preset),
        path_prefix=args.path_prefix,
        workers=args.workers,
        progress=lambda work, total: tqdm(work, total=total, unit="clip", disable=None),
    )
    size = f"{done.bytes_before / 1e6:.1f} MB -> {done.bytes_after / 1e6:.1f} MB"
    print(f"wrote {done.written} clips to {args.out} ({done.ready} were ready, {len(done.copied)} copied): {size}")
    for clip, reason in done.copied.items():
        print(printable(f"copied as it is: {clip}: {reason}"))


main = command("prepare", __doc__, add_arguments, run, resumable=True)
