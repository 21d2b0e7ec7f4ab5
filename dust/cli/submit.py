"""Train and test on a Slurm cluster, in jobs that save before they end, and continue.

dust submit --cfg configs/X.yaml --partition gpu --num_shards 2
"""

import argparse
import sys
from collections.abc import Sequence

from dust.cli.command import guarded, show_numbers
from dust.config import parse_args
from dust.engine.submit import submit
from dust.utils.errors import ConfigError

USAGE = """\
dust submit --cfg FILE.yaml [FILE.yaml ...] [options] [--opts] [KEY VALUE ...]

Train and test on a Slurm cluster, in jobs that save before they end, and continue.

dust submit --cfg configs/X.yaml --partition gpu --num_shards 2

Several configurations run one after the other in one job, or with --array at the same time in one job each."""

#: Options that say something about a cluster.
OF_SLURM = ("partition", "constraint", "use_volta32", "comment", "account", "qos", "array", "mem_gb", "cpus_per_task")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("dust submit", usage=USAGE, allow_abbrev=False)
    add = made.add_argument
    add("--cfg", metavar="FILE.yaml", help="configurations; the first other word begins the overrides")
    add(
        "--job_dir",
        default="runs/submit",
        metavar="DIR",
        help="logs and scripts, a folder for each job (default %(default)s)",
    )
    add("--num_shards", type=int, help="nodes (by default NUM_SHARDS of the configuration)")
    add("--num_gpus", type=int, help="GPUs on each node (by default NUM_GPUS); 0: CPUs, see NUM_PROCS_PER_NODE")
    add(
        "--partition",
        default="",
        metavar="NAME",
        help="Slurm's partition, or several with commas (by default the cluster's)",
    )
    add(
        "--timeout",
        type=int,
        default=4320,
        help="time limit in minutes (default %(default)s); the job continues after it",
    )
    add("--name", default="", metavar="NAME", help="the job's name (by default that of the first configuration)")
    add("--use_volta32", action="store_true", help="GPUs with the feature volta32gb only")
    add("--comment", default="", metavar="TEXT", help="a comment for Slurm, e.g. the reason for a high priority")
    add("--constraint", default="", metavar="FEATURES", help="features that the nodes must have")
    add("--account", default="", metavar="NAME", help="the account that Slurm charges")
    add("--qos", default="", metavar="NAME", help="Slurm's quality of service")
    add("--cpus_per_task", type=int, help="cores of each process (by default its loader workers and one)")
    add("--mem_gb", type=float, help="memory of each node (by default what the cluster gives)")
    add("--array", action="store_true", help="one job for each configuration, or each of its runs, at the same time")
    add("--local", action="store_true", help="on this machine, in the background, without Slurm")
    add("--debug", action="store_true", help="here and now, with a debugger at an error")
    show_numbers(made)
    return made


def read(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, with ``cfg_files`` and ``opts`` as :func:`dust.config.parse_args` gives them.

    Raises:
        ConfigError: words that cannot be read, or options that do not go together.
        SystemExit: after ``--help``, and with the usage where an option lacks its value.
    """
    made = parser()
    flags = {name: action for action in made._actions for name in action.option_strings if name != "--cfg"}
    words, options, rest = list(argv), [], []
    while words:
        word = words.pop(0)
        action = flags.get(word.partition("=")[0])
        if action is None:
            rest.append(word)
            continue
        options.append(word)
        if action.nargs != 0 and "=" not in word and words:
            options.append(words.pop(0))
    args = made.parse_args(options)
    command = parse_args(rest) if rest else argparse.Namespace(cfg_files=[], opts=[], shard_id=None, init_method=None)
    args.cfg_files, args.opts = command.cfg_files, list(command.opts)
    if command.shard_id is not None or command.init_method is not None:
        raise ConfigError("--shard_id and --init_method are not for dust submit: Slurm tells each process its place")
    for key, value in (("NUM_SHARDS", args.num_shards), ("NUM_GPUS", args.num_gpus)):
        if value is not None:
            args.opts += [key, str(value)]
    _refuse(args)
    return args


def _refuse(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other or mean nothing."""
    if not args.cfg_files:
        raise ConfigError("dust submit needs --cfg FILE.yaml: what shall run?")
    if args.timeout <= 0:
        raise ConfigError(f"--timeout {args.timeout}: minutes, at least 1")
    for name in ("cpus_per_task", "mem_gb"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} {value}: must be above 0")
    if args.local and args.debug:
        raise ConfigError("--local and --debug: choose one; --debug also runs on this machine, but at once")
    if args.local or args.debug:
        where = "--local" if args.local else "--debug"
        for name in OF_SLURM:
            if getattr(args, name):
                raise ConfigError(
                    f"{where} --{name}: {where} runs on this machine without Slurm; leave one of them out"
                )


def main(argv: Sequence[str] | None = None) -> int:
    """Submit one command line."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        parser().print_usage(sys.stderr)
        return 2

    def run() -> None:
        for line in submit(read(words)):
            print(line)

    return guarded(run)
