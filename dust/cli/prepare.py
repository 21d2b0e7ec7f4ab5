"""Re-encode a dataset once, in the form that training reads fastest, or pack it into tar files (shards).

dust prepare data/raw --out data/fast                         re-encoded files, in the same tree
dust prepare data/raw --shards data/packed                    the files as they are, in tars
dust prepare data/raw --shards data/packed --encode           re-encoded, in tars
dust prepare data/new --shards data/packed                    adds the clips that are not there yet
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from dust.cli.check import build_options
from dust.cli.command import command
from dust.config import load_config
from dust.convert.lists import ListOptions
from dust.convert.prepare import Encoding, prepare
from dust.convert.shards import SHARD_BYTES, pack
from dust.utils.errors import ConfigError
from dust.utils.text import counted, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Encoding()
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder with clips, or a csv that lists them; it is only read"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="folder for the re-encoded clips and lists")
    where.add_argument("--shards", metavar="DIR", help="folder for tar files of clips and their lists")
    parser.add_argument("--encode", action="store_true", help="with --shards: re-encode before packing")
    parser.add_argument("--shard-mb", type=int, default=SHARD_BYTES // 10**6, help="size of a shard (%(default)s)")
    parser.add_argument("--short-side", type=int, default=default.short_side, help="pixels (default %(default)s)")
    parser.add_argument("--gop", type=int, default=default.gop, help="key frame every so many (default %(default)s)")
    parser.add_argument("--crf", type=int, default=default.crf, help="x264 quality, lower is better (%(default)s)")
    parser.add_argument("--preset", default=default.preset, metavar="NAME", help="x264 preset (default %(default)s)")
    parser.add_argument(
        "--path-prefix", default="", metavar="DIR", help="folder that the csv's relative paths are under"
    )
    parser.add_argument("--cfg", default="", metavar="FILE.yaml", help="with --shards: its keys say how lists are read")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def run(args: argparse.Namespace) -> None:
    """Prepare or pack, and say what was done."""
    encoding = Encoding(short_side=args.short_side, gop=args.gop, crf=args.crf, preset=args.preset)
    how: dict[str, Any] = {
        "workers": args.workers,
        "progress": lambda work, total: tqdm(work, total=total, unit="clip", disable=None),
    }
    if args.shards:
        pack_shards(args, encoding if args.encode else None, how)
        return
    if args.encode or args.cfg or args.overrides:
        raise ConfigError("--encode, --cfg and keys belong to --shards; --out always re-encodes")
    done = prepare(args.source, args.out, encoding, path_prefix=args.path_prefix, **how)
    size = f"{done.bytes_before / 1e6:.1f} MB -> {done.bytes_after / 1e6:.1f} MB"
    kept = f"{done.ready} ready before, {len(done.copied)} copied"
    print(f"wrote {counted(done.written, 'clip')} to {args.out} ({kept}): {size}")
    for clip, reason in done.copied.items():
        print(printable(f"copied as it is: {clip}: {reason}"))


def pack_shards(args: argparse.Namespace, encoding: Encoding | None, how: Mapping[str, Any]) -> None:
    """Pack the source into shards, and say what was done."""
    if args.overrides and not args.cfg:
        raise ConfigError(f"{' '.join(args.overrides)}: keys belong to a configuration, give it as --cfg FILE.yaml")
    options = ListOptions(**build_options(load_config(args.cfg, args.overrides))) if args.cfg else ListOptions()
    if args.path_prefix:
        options = replace(options, path_prefix=args.path_prefix)
    done = pack(args.source, args.shards, options, encoding=encoding, shard_bytes=args.shard_mb * 10**6, **how)
    size = f"{done.bytes / 1e6:.1f} MB in {counted(done.shards, 'shard')}"
    print(f"packed {counted(done.written, 'clip')} into {args.shards} ({done.ready} there before): {size}")
    for clip, reason in done.odd.items():
        print(printable(f"packed as it is: {clip}: {reason}"))
    print(f"next: set DATA.PATH_TO_DATA_DIR {args.shards}, or `dust check {args.shards}`")


main = command("prepare", __doc__, add_arguments, run, resumable=True)
