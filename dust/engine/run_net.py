"""The command line: run each configuration's stages, one file after the other."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dust.config import CfgNode, load_config, parse_args
from dust.config.expand import expand
from dust.config.parser import log_notes
from dust.launch.requeue import ExitHandler
from dust.launch.signals import Interrupted, handle_signals, ignore_termination
from dust.utils.errors import ConfigError, DustError
from dust.utils.files import file_problem, is_file_problem
from dust.utils.text import forgiving_console

#: ``further(cfg)`` -> problems.
Further = Callable[[CfgNode], Iterable[str]]


def run_stage(cfg: CfgNode) -> None:
    """Run what one configuration enables, TRAIN, then TEST, then FEATURES, in its OUTPUT_DIR."""
    # torch and all that stands on it are imported only now, so that --help and a wrong key answer at once
    from dust.datasets.manifest.once import reading_once
    from dust.engine import extract, test, train
    from dust.engine.backends import without_deterministic_form
    from dust.engine.run_dir import RunDir
    from dust.engine.stages import build_settled
    from dust.utils import distributed
    from dust.utils.logging import record_error, setup_logging
    from dust.utils.registry import import_extensions

    run_dir = RunDir(cfg.OUTPUT_DIR)
    with run_dir.lock() if distributed.is_main() else contextlib.nullcontext(), reading_once():
        setup_logging(run_dir.path)
        try:
            log_notes(cfg)
            import_extensions(cfg.IMPORTS)
            cfg = build_settled(cfg)
            if cfg.TRAIN.ENABLE:
                train.run_stage(cfg, run_dir)
            if cfg.TEST.ENABLE:
                test.run_stage(cfg, run_dir)
            if cfg.FEATURES.ENABLE:
                extract.run_stage(cfg, run_dir)
        except DustError as error:
            record_error(str(error))
            raise
        except RuntimeError as error:
            operation = without_deterministic_form(error)
            if not operation:
                raise
            message = (
                f"TRAIN.DETERMINISTIC True: {operation} has no deterministic form on this device. Set it False, or "
                "choose a model or a setting that does without"
            )
            record_error(message)
            raise ConfigError(message) from error
        except OSError as error:
            if not is_file_problem(error):
                raise
            message = _file_problem(error, run_dir.path)
            record_error(message)
            raise DustError(message) from error


def _file_problem(error: OSError, folder: object) -> str:
    return f"{file_problem(error, folder)}. What was saved stays; the same command continues"


def load_stages(files: Sequence[str], overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """Return (name, configuration) of every run of a command line, in order. One file may stand for several runs."""
    names = [Path(path).stem for path in files] or ["run"]
    runs, errors = [], []
    for name, cfg in zip(names, load_files(files, overrides), strict=True):
        try:
            runs += [(name, run) for run in expand(cfg)]
        except DustError as error:
            errors.append(error)
    _raise_all(errors)
    return runs


def load_files(files: Sequence[str], overrides: Sequence[str]) -> list[Any]:
    """Return a configuration per file. An OUTPUT_DIR given for several files is the root under which each keeps a
    folder of its own, named as the file is."""
    keys = list(overrides[::2])
    if len(files) < 2 or "OUTPUT_DIR" not in keys:
        return _load_all((path, overrides) for path in files) if files else [load_config(None, overrides)]
    stems = [Path(path).stem for path in files]
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise ConfigError(
            f"two configurations are called {', '.join(repeated)}, so they would share a folder: run them "
            "one after the other, each with its OUTPUT_DIR"
        )
    root = overrides[2 * (len(keys) - 1 - keys[::-1].index("OUTPUT_DIR")) + 1 :][:1]
    return _load_all(
        (path, [*overrides, "OUTPUT_DIR", str(Path(*root) / stem)] if len(overrides) % 2 == 0 else overrides)
        for path, stem in zip(files, stems, strict=True)
    )


def _load_all(wanted: Iterable[tuple[str, Sequence[str]]]) -> list[Any]:
    """Return a configuration per (file, overrides). ConfigError with the problems of all of them."""
    found, errors = [], []
    for path, overrides in wanted:
        try:
            found.append(load_config(path, overrides))
        except DustError as error:
            errors.append(error)
    _raise_all(errors)
    return found


def _raise_all(errors: Sequence[DustError]) -> None:
    """Raise one error of several; what is said of several files alike is said once."""
    if len(errors) < 2:
        for error in errors:
            raise error
        return
    heads: dict[str, list[str]] = {}
    for error in errors:
        head, _, body = str(error).partition("\n")
        heads.setdefault(body, []).append(head)
    texts = []
    for body, alike in heads.items():
        names = "; ".join(dict.fromkeys(head.removesuffix(":") for head in alike))
        texts.append(f"{names}:\n{body}" if body else names)
    raise ConfigError("\n  ".join(texts))


def _announce(name: str, output_dir: str, known: bool, finished: Callable[[], bool]) -> bool:
    """Say which stage comes next, and return whether it is finished, as is known or must be looked up."""
    print(f"== {name} -> {output_dir}")
    if not (known or finished()):
        return False
    print("   finished already (TRAIN.AUTO_RESUME False begins from the start)")
    return True


def _look_ahead(launcher: Any, runs: Sequence[tuple[str, Any]], further: Further) -> int | None:
    """Let the first process look at all stages before the first begins; returns how many of these it knows to be
    finished, on the other processes 0; None on these where something is wrong, which the first process says.

    Args:
        further: see :func:`main`.

    Raises:
        DustError: what is wrong, all at once.
    """
    from dust.engine.preflight import build_ahead

    done, problems = 0, []

    def looked() -> bool:
        nonlocal done
        try:
            done = build_ahead(runs, further)
        except DustError as error:
            problems.append(error)
        return not problems

    good = launcher.broadcast_decision(looked)
    for problem in problems:
        raise problem
    return done if good else None


def main(argv: Sequence[str] | None = None, *, further: Further = lambda cfg: ()) -> int:
    """Run a command line.

    Args:
        further: what is wrong with a configuration in the eyes of what follows its stages; asked before the first one.

    Returns:
        The exit code: 0, 1 where a process has died or a job gets nowhere, 2 for bad input, 128 + a signal (130, 143,
        138, 140).
    """
    # read when torch is imported: threads that wait by spinning make a small model 50 times slower as soon as
    # another process wants a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    exit_handler = ExitHandler()
    try:
        with handle_signals(exit_handler):
            try:
                code = exit_handler.failed(_main(sys.argv[1:] if argv is None else argv, exit_handler, further))
            except Interrupted as stop:
                code = exit_handler(stop.signum)
    except Interrupted as stop:  # it had waited for the first line, or came after the last
        code = exit_handler(stop.signum)
    if code and exit_handler.rendezvous is not None:
        ignore_termination()  # the others have gone; what started them ends all
    return code


def _main(argv: Sequence[str], exit_handler: ExitHandler, further: Further) -> int:
    forgiving_console()
    try:
        args = parse_args(argv)
        runs = load_stages(args.cfg_files, args.opts)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if any(cfg.TRAIN.DETERMINISTIC for _, cfg in runs):
        # cuBLAS and torch look at it once, in the first stage that computes, which may be another
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    exit_handler.watch(cfg.OUTPUT_DIR for _, cfg in runs)
    from dust.launch.launcher import Launcher

    folder = runs[0][1].OUTPUT_DIR
    try:
        launcher = Launcher(args.init_method, exit_handler)
        done = _look_ahead(launcher, runs, further)
        if done is None:
            return 2
        for number, (name, cfg) in enumerate(runs):
            folder = cfg.OUTPUT_DIR
            if len(runs) > 1:
                from dust.engine.stages import build_stage, finished

                known = number < done
                is_finished = functools.partial(finished, functools.partial(build_stage, cfg), cfg.OUTPUT_DIR)
                if launcher.broadcast_decision(functools.partial(_announce, name, cfg.OUTPUT_DIR, known, is_finished)):
                    continue
            code = launcher.run(cfg, run_stage)
            if code:
                return code
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not is_file_problem(error):
            raise
        print(f"error: {_file_problem(error, folder)}", file=sys.stderr)
        return 2
    exit_handler.done()
    return 0


if __name__ == "__main__":
    sys.exit(main())
