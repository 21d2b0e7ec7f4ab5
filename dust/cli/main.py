"""``dust``: configurations are run, and every other thing that dust does has a sub-command."""

import ast
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import dust
from dust.cli.command import at_home, guarded
from dust.utils.text import forgiving_console

#: Files of this room that are no sub-command.
SHARED = ("__init__", "command", "main")
#: What most people want first; the other sub-commands follow by name.
FIRST = ("train", "check", "predict", "serve", "export")
FIRST_STEPS = """\
First steps:
  dust gen-data video data/quickstart
  dust --cfg configs/quickstart/video.yaml
`dust NAME --help` tells what a sub-command takes."""


def names() -> list[str]:
    """Return every sub-command, in the order of ``dust --help``. A file of this room is one."""
    files = (path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED)
    found = sorted(stem.replace("_", "-") for stem in files)
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]


def module_of(name: str) -> str:
    """Return the module of a sub-command."""
    return f"dust.cli.{name.replace('-', '_')}"


def summary(name: str) -> str:
    """Return what a sub-command does: the first line of its file, which is not imported for that."""
    file = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def help_text() -> str:
    """Describe every sub-command in a line."""
    rows = [*((name, summary(name)) for name in names()), ("--version", f"dust {dust.__version__}")]
    width = max(len(name) for name, _ in rows)
    head = ["usage: dust --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]", "       dust NAME ...", ""]
    return "\n".join([*head, *(f"  {name.ljust(width)}  {text}" for name, text in rows), "", FIRST_STEPS])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns its exit code; 2 for words that mean nothing."""
    forgiving_console()
    words = list(map(at_home, sys.argv[1:] if argv is None else argv))
    if not words or words[0] in ("-h", "--help", "help"):
        return guarded(lambda: print(help_text(), file=sys.stdout if words else sys.stderr)) or (0 if words else 2)
    if words[0] == "--version":
        return guarded(lambda: print(f"dust {dust.__version__}"))
    if words[0].startswith("-"):
        words = ["train", *words]
    name, *rest = words
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        hint = f" A configuration stands behind --cfg: dust --cfg {name}." if name.endswith((".yaml", ".yml")) else hint
        print(f"error: dust has no sub-command {name!r}.{hint} `dust --help` lists them.", file=sys.stderr)
        return 2
    return guarded(lambda: importlib.import_module(module_of(name)).main(rest))
