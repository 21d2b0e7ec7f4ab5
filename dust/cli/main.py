"""``dust``: configurations are run, and every other thing that dust does has a sub-command."""

import difflib
import importlib
import sys
from collections.abc import Sequence

import dust

#: sub-command -> (module of dust.cli, what it does); ``--help`` lists them in this order.
COMMANDS = {
    "train": ("train", "run configurations: train, test, extract; `dust --cfg ...` is the same"),
    "convert-data": ("convert_data", "lists of clips from other projects' folders and files; `check` looks for damage"),
    "gen-data": ("gen_data", "generated data with a known answer"),
    "prepare": ("prepare", "clips once more, in the size that training reads fastest"),
    "zoo": ("zoo", "published weights: list, download, verify, convert"),
    "compare": ("compare", "two runs on the same clips: is the difference more than chance?"),
    "convert-checkpoint": ("convert_checkpoint", "a checkpoint of one file into a folder of parts, and back"),
    "benchmark": ("benchmark", "what dust costs on this machine"),
    "submit": ("submit", "a job on a Slurm cluster"),
    "make-tracks": ("make_tracks", "point tracks from videos"),
    "stream-tracks": ("stream_tracks", "decisions on point tracks as they come in"),
    "ablate-views": ("ablate_views", "which cameras matter"),
    "group-classes": ("group_classes", "groups of classes for TSTL"),
}
FIRST_STEPS = """\
First steps:
  dust gen-data video --out data/quickstart
  dust --cfg configs/quickstart/video.yaml
`dust NAME --help` tells what a sub-command takes."""


def help_text() -> str:
    """Describe every sub-command in a line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, (_, text) in COMMANDS.items()]
    head = ["usage: dust --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]", "       dust NAME ...", ""]
    more = ["", f"  {'--version'.ljust(width)}  {dust.__version__}", "", FIRST_STEPS]
    return "\n".join([*head, *lines, *more])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns its exit code; 2 for words that mean nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"dust {dust.__version__}")
        return 0
    if words[0].startswith("-"):
        from dust.cli.train import main as train

        return train(words)
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        print(f"error: dust has no sub-command {words[0]!r}.{hint} `dust --help` lists them.", file=sys.stderr)
        return 2
    if words[0] != "train":
        sys.argv[0] = f"dust {words[0]}"  # what argparse calls the command
    module = importlib.import_module(f"dust.cli.{COMMANDS[words[0]][0]}")
    code = module.main(words[1:])
    return int(code or 0)
