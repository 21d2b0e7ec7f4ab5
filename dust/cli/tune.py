"""Search for the best values of keys: many trials of one configuration, on this machine or in Slurm's jobs.

dust tune --cfg configs/X.yaml TUNE.SPACE "[{SOLVER.BASE_LR: {low: 0.0001, high: 0.1, log: True}}]"
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dust.cli.command import guarded
from dust.config import dump, load_config, parse_args, processes_per_node
from dust.utils.errors import ConfigError, DustError

USAGE = """\
usage: dust tune --cfg FILE.yaml [--opts] [KEY VALUE ...]
       dust tune --slurm [options of dust submit] --cfg FILE.yaml [--opts] [KEY VALUE ...]
       dust tune --show --cfg FILE.yaml [--opts] [KEY VALUE ...]

Search for the best values of keys: many trials of one configuration, on this machine or in Slurm's jobs.

dust tune --cfg configs/X.yaml TUNE.SPACE "[{SOLVER.BASE_LR: {low: 0.0001, high: 0.1, log: True}}]"

Runs TUNE.TRIALS trials of a configuration over the keys that TUNE.SPACE names, TUNE.JOBS at a time, each in
OUTPUT_DIR/trial_NNN. The same command continues wherever it was ended; several machines that share OUTPUT_DIR may run
it at the same time.

  --slurm   an array of TUNE.JOBS jobs, each of which runs one trial after the other
  --show    what the study came to so far

Trials, their values and their figures stand in trials.csv and trials.json of OUTPUT_DIR.
"""
_RANKS = ("RANK", "SLURM_PROCID")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code: 0, 2 for bad input or a trial's error, 128 + a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or {"-h", "--help"} & set(words):
        (sys.stdout if words else sys.stderr).write(USAGE)
        raise SystemExit(0 if words else 2)
    flags = [word for word in words if word in ("--slurm", "--show", "--worker")]
    rest = [word for word in words if word not in flags]

    def run() -> int:
        if len(flags) > 1:
            raise ConfigError(f"{' and '.join(flags)}: choose one")
        if flags == ["--slurm"]:
            return submit(rest)
        _, _, cfg = read(rest)
        return show(cfg) if flags == ["--show"] else work(cfg, stay=not flags)

    return guarded(run, resumable=True)


def read(words: Sequence[str]) -> tuple[str, list[str], Any]:
    """Return (file, overrides, configuration) of a command line.

    Raises:
        ConfigError: words that cannot be read, or a configuration that cannot be tuned.
    """
    args = parse_args(words)
    if len(args.cfg_files) != 1:
        raise ConfigError("dust tune takes one configuration: --cfg FILE.yaml")
    cfg: Any = load_config(args.cfg_files[0], args.opts)
    problems = []
    if not cfg.TUNE.SPACE:
        problems.append("TUNE.SPACE is empty: name the keys that vary, and between what")
    if not (cfg.TRAIN.ENABLE and cfg.TEST.ENABLE):
        problems.append("TRAIN.ENABLE and TEST.ENABLE: both must be True; a trial is what its test says")
    if not cfg.TRAIN.AUTO_RESUME:
        problems.append("TRAIN.AUTO_RESUME False: a trial that was cut off could not continue; leave it True")
    if cfg.TSTL.GROUPS:
        problems.append("TSTL.GROUPS: a trial is one run; tune one group by TSTL.GROUP")
    if cfg.NUM_SHARDS > 1:
        problems.append(f"NUM_SHARDS {cfg.NUM_SHARDS}: a trial runs on one node; many trials fill the others")
    if problems:
        raise ConfigError("\n  ".join(problems))
    return args.cfg_files[0], list(args.opts), cfg


def show(cfg: Any) -> int:
    """Say what the study came to so far. DustError if there is none."""
    from dust.analysis.tuning.outcome import text_of
    from dust.analysis.tuning.study import JOURNAL, Study, build_plan

    root = Path(cfg.OUTPUT_DIR)
    if not (root / JOURNAL).is_file():
        raise DustError(f"OUTPUT_DIR {root}: no study has begun here")
    print(text_of(Study(root, build_plan(cfg))))
    return 0


def check_ahead(cfg: Any) -> None:
    """Look at data, model and metric before the first trial. DustError with all problems."""
    from dust.config import with_values
    from dust.engine.preflight import build_ahead

    metric = cfg.TUNE.METRIC
    once: Any = with_values(cfg, {"TRAIN.BEST_METRIC": metric, "TEST.SPLIT": cfg.TUNE.SPLIT})
    try:
        build_ahead([("trial", once)])
    except DustError as error:
        raise type(error)(str(error).replace(f"TRAIN.BEST_METRIC {metric}:", f"TUNE.METRIC {metric}:")) from error


def work(cfg: Any, *, stay: bool) -> int:
    """Run trials here until none is left. ``stay`` for those that others run now and may leave."""
    from dust.analysis.tuning.outcome import text_of, write_tables
    from dust.analysis.tuning.study import JOURNAL, STUDY, Study, build_plan, import_optuna, trial_folder
    from dust.analysis.tuning.worker import Worker, build_recipe
    from dust.launch.requeue import ExitHandler, job_of
    from dust.launch.signals import Interrupted, forward_signals, handle_signals
    from dust.utils.files import write_text

    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        raise ConfigError("dust tune starts its trials itself: leave torchrun or srun away, and set NUM_GPUS")
    import_optuna()
    plan, root = build_plan(cfg), Path(cfg.OUTPUT_DIR)
    recipe = build_recipe(cfg, root / STUDY)
    leave = ExitHandler()
    try:
        with handle_signals(leave):
            if not (root / JOURNAL).is_file() or Study(root, plan).unfinished():
                check_ahead(cfg)  # before there is a study: one that cannot run must not stand in the way
            study = Study(root, plan)
            write_text(root / STUDY, dump(cfg))  # the user's own file may be changed while trials begin
            folders = (trial_folder(root, number) for number in range(plan.total))
            leave.watch(map(str, (root / "jobs" / job_of(os.environ), *folders)))
            worker = Worker(study, recipe, cfg.TUNE.JOBS, say, wait=stay)
            with forward_signals(worker.signal):
                try:
                    worker.run()
                finally:
                    write_tables(study)
                    say(text_of(study))
            if worker.signum:
                return leave(worker.signum)
    except Interrupted as stop:
        return leave(stop.signum)
    leave.done()
    return 0


def say(line: str) -> None:
    print(line, flush=True)


# ------------------------------------------------------------------------------------------------- Slurm


def submit(words: Sequence[str]) -> int:
    """Submit workers as jobs of an array; with --local as jobs of this machine."""
    from dust.analysis.tuning.study import import_optuna
    from dust.cli.submit import read as read_submit
    from dust.engine.submit import JobSpec, build_run_spec, submit_jobs

    args = read_submit(words)
    file, overrides, cfg = read(["--cfg", *args.cfg_files, *args.opts])
    import_optuna()
    check_ahead(cfg)
    workers = (cfg.DATA_LOADER.NUM_WORKERS + 1) * processes_per_node(cfg)  # the trial's own processes share the task
    spec = dataclasses.replace(build_run_spec(cfg), any_size=False, nodes=1, processes=1, workers=workers)
    own = ("tune", "--worker", "--cfg", file, *overrides, "TUNE.JOBS", "1")
    args.name = args.name or f"tune_{Path(file).stem}"
    jobs = [JobSpec(f"{args.name}_{number}", own, (spec,)) for number in range(cfg.TUNE.JOBS)]
    for line in submit_jobs(args, jobs, SubmittedWorker):
        print(line)
    print(f"study     {shlex.join(['dust', 'tune', '--show', '--cfg', file, *overrides])}")
    return 0


class SubmittedWorker:
    """Runs ``dust`` with ``argv`` in a job; pickled by name."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)

    def __call__(self) -> None:
        from dust.cli.main import main as dust_main
        from dust.engine.submit import leave_job

        leave_job(dust_main(self.argv))

    def checkpoint(self) -> Any:
        """Return the same once more for submitit, where a signal comes before the worker takes it."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
