"""What all sub-commands share: words become options, and bad input becomes one line and exit code 2."""

import argparse
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dust.utils.errors import DustError
from dust.utils.files import file_problem, is_file_problem
from dust.utils.text import printable

Main = Callable[[Sequence[str] | None], int]
_AT_HOME = re.compile(r"(--[\w.-]+=|)(~[^/]*/.*)", re.DOTALL)


def command(
    name: str,
    doc: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], Any],
    run: Callable[[argparse.Namespace], int | None],
    *,
    flags_of_old: Sequence[str] = (),
    resumable: bool = False,
) -> Main:
    """Make a sub-command's ``main(argv) -> exit code``.

    Args:
        name: what stands behind ``dust``.
        doc: what ``--help`` says.
        add_arguments: called with the parser. Where it adds ``--cfg`` (:func:`add_cfg`), words that are left over are
            ``overrides``, [KEY, VALUE, ...].
        run: called with the options, and ``argv``, all words; returns the exit code, None for 0.
        flags_of_old: flags whose value has become a word of its own; ``--root DIR`` and ``--root=DIR`` still mean DIR.
        resumable: the same command continues where it was interrupted.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        words = [at_home(word) for word in (sys.argv[1:] if argv is None else argv)]
        parser = argparse.ArgumentParser(
            f"dust {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        add_arguments(parser)
        show_numbers(parser)
        args, rest = _parse(parser, _positional(words, flags_of_old))
        if "cfg" in args:
            args.overrides = [word for word in rest if word != "--opts"]
            rest = [word for word in args.overrides if word.startswith("--")]
        if rest:
            dashed = next((word for word in rest if word.startswith("-") and os.path.lexists(word)), "")
            hint = f" (a file's name that begins with a dash is written ./{dashed})" if dashed else ""
            parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        args.argv = words
        return guarded(lambda: run(args), resumable=resumable)

    return main


def at_home(word: str) -> str:
    """Return a word of a command line with ``~/`` or ``~user/`` at the beginning of its value replaced by that folder,
    as shells do; not all of them, and not for ``--out=~/x``."""
    found = _AT_HOME.fullmatch(word)
    return f"{found[1]}{os.path.expanduser(found[2])}" if found else word


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return (options, words that are left over). Files may stand before, between and behind options: ``MODEL -o out
    FILE``, where argparse by itself takes ``[FILE ...]`` for empty, as soon as an option comes before the first
    file."""
    several = any(not action.option_strings and action.nargs in ("*", "+") for action in parser._actions)
    return parser.parse_known_intermixed_args(words) if several else parser.parse_known_args(words)


def show_numbers(parser: argparse.ArgumentParser) -> None:
    """Call the value of every option that takes a number N in the help, where no other name is given."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                show_numbers(one)
        elif action.type in (int, float) and action.metavar is None and not action.choices:
            action.metavar = "N"


def _positional(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    begun = {f"{flag}=": len(flag) + 1 for flag in flags}
    values = [next((word[cut:] for begin, cut in begun.items() if word.startswith(begin)), word) for word in words]
    return [value for value in values if value not in flags]


def guarded(run: Callable[[], int | None], *, resumable: bool = False) -> int:
    """Run, and return the exit code: 2 where a DustError, a disk or a missing right says what is wrong, 130 after
    Ctrl-C, 141 where nobody reads on (``dust ... | head``)."""
    try:
        code = run() or 0
        sys.stdout.flush()
        return code
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _nobody_reads_on():
            raise
        return 141
    except OSError as error:
        if not is_file_problem(error):
            raise
        print(f"error: {printable(file_problem(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped" + "; the same command continues from here" * resumable, file=sys.stderr)
        return 130


def _nobody_reads_on() -> bool:
    """Tell whether what reads this command's output has gone. The rest of the output goes nowhere then."""
    try:
        handle = sys.stdout.fileno()
    except (OSError, ValueError):  # no file
        return False
    state = select.poll()
    state.register(handle, 0)  # errors are told without being asked for
    if not state.poll(0):
        return False
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), handle)  # or the interpreter complains when it ends
    return True


def run_in_output_dir(args: argparse.Namespace, run: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """Call ``run(cfg, run_dir, **options)`` for the run that ``args.cfg`` and ``args.overrides`` describe.

    Its OUTPUT_DIR is locked meanwhile, and its log continues. Returns the folder's path, and what ``run`` returns.
    """
    from dust.config import load_config
    from dust.engine.run_dir import RunDir
    from dust.utils.logging import setup_logging

    cfg = load_config(args.cfg, args.overrides)
    run_dir = RunDir(cfg.OUTPUT_DIR)
    with run_dir.lock():
        setup_logging(run_dir.path)
        return run_dir.path, run(cfg, run_dir, **options)


def numbers(text: str) -> list[int]:
    """Turn ``3,7 12`` into [3, 7, 12]."""
    return [int(word) for word in text.replace(",", " ").split()]


def count(text: str) -> int:
    """Turn ``12`` into 12; nothing below 0."""
    if (number := int(text)) < 0:
        raise ValueError(text)
    return number


def add_cfg(parser: argparse.ArgumentParser) -> None:
    """Add a configuration; words that are left over change its keys."""
    parser.add_argument("--cfg", required=True, metavar="FILE.yaml", help="then overrides: KEY VALUE ...")
