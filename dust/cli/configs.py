"""List, show and copy the configurations that came with dust.

dust configs list quickstart
dust configs show quickstart/video.yaml
dust configs show quickstart/video.yaml --whole
dust configs copy quickstart/video.yaml Kinetics

`dust --cfg configs/NAME.yaml` takes them from anywhere; a file of that name in the working folder comes first. A copy
goes there, with the files that it inherits (_BASE_), so the same command then reads your own.
"""

import argparse
import difflib
import itertools
import re
import textwrap
from pathlib import Path

from dust.cli.command import command
from dust.utils.errors import ConfigError, Problems
from dust.utils.files import write_text
from dust.utils.package import CONFIGS, PREFIX


def find(name: str) -> list[Path]:
    """Return the files that a name means: one configuration, with or without configs/ and .yaml, or a folder of them.

    Raises:
        ConfigError: nothing of that name came with dust.
    """
    path = Path(name)
    inner = Path(*path.parts[1:]) if path.parts[:1] == (PREFIX,) else path
    for file in (CONFIGS / inner, CONFIGS / f"{inner}.yaml"):
        if CONFIGS not in (file, *file.parents) or ".." in inner.parts:
            break
        if file.is_file():
            return [file]
        if file.is_dir():
            return sorted(one for one in file.rglob("*") if one.is_file())
    own = {short(file).removeprefix(f"{PREFIX}/"): file for file in CONFIGS.rglob("*.yaml")}
    folders = {Path(one).parts[0] for one in own}
    near = difflib.get_close_matches(inner.as_posix(), [*own, *folders], n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"dust came with no configuration {name!r}.{hint} `dust configs list` names them")


def short(file: Path) -> str:
    """Return what ``--cfg`` takes for a file."""
    return f"{PREFIX}/{file.relative_to(CONFIGS).as_posix()}"


def with_bases(file: Path) -> set[Path]:
    """Return the file, and all that it inherits."""
    import yaml

    from dust.config.sources import BASE_KEY

    found = {file}
    if file.suffix == ".yaml":
        bases = yaml.safe_load(file.read_text(encoding="utf-8")).get(BASE_KEY, [])
        for name in [bases] if isinstance(bases, str) else bases:
            found |= with_bases((file.parent / name).resolve())
    return found


def list_configs(names: list[str]) -> None:
    files = [file for name in names or ["."] for file in find(name) if file.suffix == ".yaml"]
    width = max(len(short(file)) for file in files)
    for file in files:
        print(f"{short(file).ljust(width)}  {first_sentence(file)}".rstrip())


def first_sentence(file: Path) -> str:
    """Return the first sentence of the comment that a configuration begins with, in at most 100 characters."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    return textwrap.shorten(re.split(r"(?<=\.)\s", comment)[0], 100, placeholder=" ...")


def show(name: str, whole: bool) -> None:
    file, *more = find(name)
    if more:
        raise ConfigError(f"{name} is a folder of several: `dust configs list {name}` names them, `show` takes one")
    if whole:
        from dust.config import load_config

        print(load_config(file).dump(), end="")
    else:
        print(file.read_text(encoding="utf-8"), end="")


def copy(names: list[str], out: str, force: bool) -> None:
    files = sorted({one for name in names for file in find(name) for one in with_bases(file)})
    targets = {Path(out) / file.relative_to(CONFIGS): file.read_text(encoding="utf-8") for file in files}
    problems = Problems()
    for target, text in targets.items():
        if not force and target.exists() and target.read_text(encoding="utf-8") != text:
            problems.add("is there already, and differs: --force replaces it, --out names another folder", str(target))
    problems.raise_if_any(out)
    for target, text in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
        print(target)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text)

    one = add("list", "list the names, and what each is for")
    one.add_argument("names", nargs="*", metavar="NAME", help="of folders or files; default: all")
    one = add("show", "print a configuration")
    one.add_argument("name", metavar="NAME", help="of a file, as quickstart/video.yaml")
    one.add_argument("--whole", action="store_true", help="every key, with what it inherits and all defaults")
    one = add("copy", "write configurations, and what they inherit, into the working folder")
    one.add_argument("names", nargs="+", metavar="NAME", help="of files or folders")
    one.add_argument("--out", default=PREFIX, metavar="DIR", help="default: configs")
    one.add_argument("--force", action="store_true", help="replace files that are there already")


def run(args: argparse.Namespace) -> None:
    if args.action == "list":
        list_configs(args.names)
    elif args.action == "show":
        show(args.name, args.whole)
    else:
        copy(args.names, args.out, args.force)


main = command("configs", __doc__, add_arguments, run)
