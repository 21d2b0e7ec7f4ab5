"""A command line as a Slurm job, by submitit: what is asked of the cluster, and what is refused before it is asked.

The job runs the same command as ``dust`` does, in one task for each process. It ends by itself before the time limit or
when it is preempted, saves, asks to be queued again and continues (:mod:`dust.launch.requeue`).
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust.config import KEYS, CfgNode, dump, flatten, processes_per_node
from dust.config.expand import expand, words_of
from dust.engine.run_net import load_files, main
from dust.launch.lives import minutes_of
from dust.launch.signals import REQUEUE_SIGNALS
from dust.utils.errors import ConfigError, DustError

#: Of the exit codes of a job on this machine, the one that submitit starts again.
LOCAL_REQUEUE = 144
#: Seconds before the time limit, at most, at which Slurm warns the job; up to a minute more, as it looks now and then.
WARNING_S = 120


@dataclass(frozen=True)
class RunSpec:
    """What a job must know of one run.

    Attributes:
        config: its configuration, as text.
        starts_from: ``{key: value}`` of the keys that name files or other stages.
        any_size: ``nodes`` and ``processes`` (on each) may be other ones: it extracts features.
        gpus: on each node.
        workers: loader workers of each process.
    """

    output_dir: str
    config: str
    starts_from: Mapping[str, str]
    any_size: bool
    nodes: int
    processes: int
    gpus: int
    workers: int


def build_run_spec(cfg: CfgNode) -> RunSpec:
    """Return what a job must know of the run that cfg describes."""
    flat = flatten(cfg)
    starts_from = {key: str(flat[key]) for key, facts in KEYS.items() if facts.stage and flat[key]}
    return RunSpec(
        cfg.OUTPUT_DIR,
        dump(cfg),
        starts_from,
        any_size=not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE),
        nodes=cfg.NUM_SHARDS,
        processes=processes_per_node(cfg),
        gpus=cfg.NUM_GPUS,
        workers=cfg.DATA_LOADER.NUM_WORKERS,
    )


@dataclass(frozen=True)
class JobSpec:
    """What one job, or one task of an array, runs: the words behind ``dust``, and its runs in order."""

    name: str
    argv: tuple[str, ...]
    runs: tuple[RunSpec, ...]


def job_specs(args: argparse.Namespace) -> list[JobSpec]:
    """Return the jobs of a command line. All configurations are read, so that what is wrong there is said now.

    Raises:
        DustError: a configuration that cannot be used, or runs that cannot go at the same time.
    """
    files = load_files(args.cfg_files, args.opts)
    jobs = []
    for path, cfg in zip(args.cfg_files, files, strict=True):
        for run in expand(cfg):
            words = ["--cfg", path, "--opts", *args.opts, "OUTPUT_DIR", cfg.OUTPUT_DIR]
            name = Path(path).stem
            if run is not cfg:  # it stands for several
                words += words_of(cfg, run)
                name += f"_{Path(run.OUTPUT_DIR).name}"
            jobs.append(JobSpec(name, tuple(words), (build_run_spec(run),)))
    if args.array:
        if len(jobs) == 1:
            raise ConfigError(
                "--array: there is only one run, not one of several configurations or groups; leave it out"
            )
        _refuse_dependent(jobs)
        return jobs
    name = Path(args.cfg_files[0]).stem
    whole = ("--cfg", *args.cfg_files, "--opts", *args.opts)
    return [JobSpec(name, whole, tuple(job.runs[0] for job in jobs))]


def _refuse_dependent(jobs: Sequence[JobSpec]) -> None:
    """Refuse runs at the same time that write to the same folder or wait for each other's results."""
    homes: dict[Path, JobSpec] = {}
    for job in jobs:
        home = Path(job.runs[0].output_dir).absolute()
        if home in homes:
            raise ConfigError(f"--array: {homes[home].name} and {job.name} both write to OUTPUT_DIR {home}")
        homes[home] = job
    for job in jobs:
        folder = Path(job.runs[0].output_dir).absolute()
        for key, value in job.runs[0].starts_from.items():
            for path in (Path(value).absolute(), folder.parent / value):
                for home, other in homes.items():
                    if other is not job and (path == home or home in path.parents):
                        raise ConfigError(
                            f"--array: {job.name} starts from what {other.name} makes ({key} {value}), so they cannot "
                            "run at the same time. Leave --array out, or submit them one after the other."
                        )


def job_size(jobs: Sequence[JobSpec]) -> tuple[int, int, int]:
    """Return (nodes, processes on each, GPUs on each) that all runs of the job share.

    Raises:
        ConfigError: the configurations differ.
    """
    runs = [run for job in jobs for run in job.runs]
    shared = [run for run in runs if not run.any_size]
    if not shared:
        return max((run.nodes, run.processes, run.gpus) for run in runs)
    sizes = sorted({(run.nodes, run.processes, run.gpus) for run in shared})
    if len(sizes) > 1:
        listed = "; ".join(f"NUM_SHARDS {n}, {p} processes, NUM_GPUS {g}" for n, p, g in sizes)
        raise ConfigError(
            f"the configurations of a job must agree on its size ({listed}): give --num_shards, --num_gpus"
        )
    return sizes[0]


def slurm_parameters(args: argparse.Namespace, jobs: Sequence[JobSpec]) -> dict[str, Any]:
    """Return what submitit is asked for."""
    nodes, processes, gpus = job_size(jobs)
    if args.local or args.debug:
        if nodes > 1:
            raise ConfigError(f"NUM_SHARDS {nodes}: --local and --debug run on one machine; set --num_shards 1")
        # its processes are started by the launcher
        size = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": gpus}
        return {"timeout_min": args.timeout, "stderr_to_stdout": True, **size}
    workers = max(run.workers for job in jobs for run in job.runs)
    cpus = args.cpus_per_task or workers + 1
    constraint = "&".join(filter(None, (args.constraint, "volta32gb" if args.use_volta32 else "")))
    wanted = {
        "name": args.name or jobs[0].name,
        "timeout_min": args.timeout,
        "nodes": nodes,
        "tasks_per_node": processes,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus,
        "mem_gb": args.mem_gb,
        "stderr_to_stdout": True,
        "slurm_partition": args.partition,
        "slurm_comment": args.comment,
        "slurm_constraint": constraint,
        "slurm_account": args.account,
        "slurm_qos": args.qos,
        "slurm_signal_delay_s": min(WARNING_S, 10 * args.timeout),
        # a dead process ends the job; srun no longer takes the cores from sbatch by itself
        "slurm_srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", "--open-mode=append"],
        "slurm_additional_parameters": {"requeue": True},
    }
    return {key: value for key, value in wanted.items() if value}


def check_cluster(partition: str, nodes: int, minutes: int) -> None:
    """Check whether there is a Slurm here, with such partitions, which have so many nodes and so much time.

    Slurm itself accepts a job that asks for more, and never starts it. DustError if not.
    """
    missing = [name for name in ("sbatch", "srun", "sinfo") if shutil.which(name) is None]
    if missing:
        raise DustError(
            f"{missing[0]} is not on the PATH: submit from a machine of a Slurm cluster, or use --local or --debug"
        )
    answer = subprocess.run(["sinfo", "--noheader", "--format=%P|%l|%D"], capture_output=True, text=True)
    if answer.returncode:
        raise DustError(f"Slurm does not answer: {answer.stderr.strip()}")
    sizes: dict[str, int] = {}
    limits: dict[str, float] = {}
    for line in answer.stdout.split():
        name, limit, count = line.split("|")
        name, default = name.rstrip("*"), name.endswith("*")
        partition = partition or (name if default else "")
        sizes[name] = sizes.get(name, 0) + int(count)
        limits[name] = minutes_of(limit)
    wanted = [name for name in partition.split(",") if name]
    for name in wanted:
        if name not in sizes:
            raise DustError(f"--partition {name}: this cluster has {', '.join(sorted(sizes))}")
    if wanted and nodes > max(sizes[name] for name in wanted):
        largest = max(sizes[name] for name in wanted)
        raise DustError(
            f"--num_shards {nodes}: partition {partition} has {largest} nodes, so the job would never start"
        )
    if wanted and minutes > max(limits[name] for name in wanted):
        most = max(limits[name] for name in wanted)
        raise DustError(
            f"--timeout {minutes}: partition {partition} allows {most:.0f} minutes; the job continues after each"
        )


def python_command() -> str:
    """Return the command of Python, started with signals held back until :func:`dust.launch.signals.handle_signals`
    takes them.

    The second or two before would otherwise be fatal: a job that is preempted there would not be queued again.
    """
    hold = ["env", "--block-signal=TERM", "--block-signal=USR1", "--block-signal=USR2"]
    try:
        known = subprocess.run([*hold, "true"], capture_output=True).returncode == 0  # since coreutils 8.31
    except OSError:
        known = False
    return shlex.join([*(hold if known else []), sys.executable])


class SubmittedCommand:
    """Runs ``dust`` with ``argv`` in a job; pickled by name, so that it is small and needs only the package there."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)

    def __call__(self) -> None:
        leave_job(main(self.argv))

    def checkpoint(self) -> Any:
        """Return the same once more for submitit, where a signal comes before :func:`main` takes it."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def leave_job(code: int) -> None:
    """End a job as its command ended: the job's state tells it."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and code - 128 in REQUEUE_SIGNALS:
        code = LOCAL_REQUEUE
    if code:
        raise SystemExit(code)


def submit(args: argparse.Namespace) -> list[str]:
    """Submit what :func:`dust.cli.submit.read` has read; see :func:`submit_jobs`."""
    return submit_jobs(args, job_specs(args), SubmittedCommand)


def submit_jobs(
    args: argparse.Namespace, specs: Sequence[JobSpec], command: Callable[[Sequence[str]], Any]
) -> list[str]:
    """Submit jobs, several of them as an array.

    Args:
        args: what :func:`dust.cli.submit.read` has read.
        command: makes what a job calls of its words.

    Returns lines that say what was submitted and what can be done with it.

    Raises:
        DustError: anything that cannot be done, before or by Slurm.
    """
    try:
        import submitit
    except ImportError as error:
        raise DustError("dust submit needs submitit: pip install submitit") from error
    parameters = slurm_parameters(args, specs)
    cluster = "debug" if args.debug else "local" if args.local else "slurm"
    if cluster == "slurm":
        check_cluster(args.partition, parameters["nodes"], args.timeout)
    folder = Path(args.job_dir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DustError(f"--job_dir {folder}: cannot be made ({error.strerror})") from error
    # its own count of time-outs must never be what ends a job: what it runs asks for itself
    options = {"slurm_max_num_timeout": 10**6, "slurm_python": python_command()} if cluster == "slurm" else {}
    executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster, **options)
    executor.update_parameters(**parameters)
    try:
        with _as_outside_of_jobs(), executor.batch():
            jobs = [executor.submit(command(spec.argv)) for spec in specs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise DustError(f"Slurm refuses the job: {str(error).strip().splitlines()[-1]}") from error
    if args.debug:
        for job in jobs:
            job.result()
        return []
    return describe(jobs, specs, cluster)


@contextlib.contextmanager
def _as_outside_of_jobs() -> Iterator[None]:
    """Work from within a job without what that job's environment says of it."""
    import submitit

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    config = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with submitit.helpers.clean_env():
        os.environ.update(config)
        yield


def describe(jobs: Sequence[Any], specs: Sequence[JobSpec], cluster: str) -> list[str]:
    """Return what was submitted, where its words go, and how to follow and to end it."""
    lines = []
    for job, spec in zip(jobs, specs, strict=True):
        lines.append(f"job {job.job_id}: {spec.name} -> {', '.join(run.output_dir for run in spec.runs)}")
        lines.append(f"  log     {job.paths.stdout}")
    whole = jobs[0].job_id.split("_")[0]
    if cluster == "slurm":
        lines += [f"state     squeue --job {whole}", f"follow    tail -F {jobs[0].paths.stdout}"]
        lines += [f"cancel    scancel {whole}   (saves first; the same command continues from there)"]
    else:
        lines += [f"follow    tail -F {jobs[0].paths.stdout}", f"cancel    kill {whole}   (saves first)"]
    return lines
