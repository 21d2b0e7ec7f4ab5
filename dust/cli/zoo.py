"""List, download, verify and convert published weights, by name."""

import argparse
import sys
from collections.abc import Callable

from dust import zoo
from dust.cli.command import command
from dust.utils.errors import DustError
from dust.utils.files import write_text
from dust.utils.logging import console_logging
from dust.zoo.convert import convert


def for_each(names: list[str], action: Callable[[str], str]) -> int:
    """Do ``action`` for every name and print what it returns; one failure does not stop the others."""
    failed = 0
    for name in names:
        try:
            print(action(name), flush=True)
        except DustError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0


def list_weights() -> int:
    rows = [("name", "licence", "size", "cached")]
    for entry in zoo.ENTRIES.values():
        size = "?" if entry.size is None else f"{entry.size / 1e6:.0f} MB"
        rows.append((entry.name, entry.licence, size, zoo.cached(entry)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def verify(names: list[str]) -> int:
    names = names or zoo.cached_names()
    if not names:
        print("no weights are cached")
    return for_each(names, lambda name: f"{zoo.verify(name)}  {name}")


def convert_file(args: argparse.Namespace) -> int:
    name = args.file
    file = zoo.download(name.removeprefix(zoo.SCHEME)) if name.startswith(zoo.SCHEME) else name
    count = convert(file, args.out, sha256=args.sha256, everything=args.all)
    print(f"{args.out}: {count} tensors")
    return 0


def table(out: str) -> int:
    if out:
        write_text(out, zoo.markdown())
        print(out)
    else:
        print(zoo.markdown(), end="")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    add("list", "list names, licences, sizes, and what is cached")
    fetch = add("download", "download and verify; prints the path")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="as `dust zoo list` has them")
    fetch.add_argument("--force", action="store_true", help="fetch again what is cached")
    check = add("verify", "compare cached files with their hashes again")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: all that are cached")
    change = add("convert", "convert OpenAI's CLIP (a TorchScript program), or a folder of parts, to safetensors")
    change.add_argument("file", metavar="FILE", help="the program (ViT-B-16.pt), a folder, or zoo://NAME")
    change.add_argument("--out", required=True, metavar="FILE.safetensors", help="file to write")
    change.add_argument(
        "--sha256", default="", metavar="HEX", help="of FILE; default: the zoo's, or the one in FILE's path"
    )
    change.add_argument("--all", action="store_true", help="keep all tensors, not only visual.*")
    show = add("table", "print all that is known of them, in Markdown")
    show.add_argument("--out", default="", metavar="FILE.md", help="write it there")


def run(args: argparse.Namespace) -> int:
    console_logging()
    names = [name.removeprefix(zoo.SCHEME) for name in getattr(args, "names", [])]
    if args.command == "list":
        return list_weights()
    if args.command == "download":
        return for_each(names, lambda name: str(zoo.download(name, force=args.force)))
    if args.command == "verify":
        return verify(names)
    if args.command == "convert":
        return convert_file(args)
    return table(args.out)


main = command("zoo", __doc__, add_arguments, run, resumable=True)
