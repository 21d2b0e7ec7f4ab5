"""Train, test, extract features and predict by configurations; `dust --cfg ...` is the same."""

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dust.cli import predict
from dust.cli.command import guarded
from dust.config import flatten
from dust.config.parser import parse_args
from dust.engine import run_net
from dust.engine.run_net import load_stages
from dust.utils.errors import ConfigError

#: Processes that somebody else has started say who they are.
_RANKS = ("RANK", "SLURM_PROCID")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word.partition("=")[0] in ("--folds", "--seeds") for word in words):
        return guarded(lambda: repeat(words), resumable=True)
    code = run_net.main(words, further=problems_ahead)
    if code or any(os.environ.get(name, "0") != "0" for name in _RANKS):
        return code  # of several processes the first predicts
    args = parse_args(words)
    for _, cfg in load_stages(args.cfg_files, args.opts):
        values = flatten(cfg)
        if values["PREDICT.ENABLE"] and values["SHARD_ID"] == 0:
            from dust.deploy.loading import build_loaded

            load = functools.partial(build_loaded, cfg)
            code = max(code, guarded(functools.partial(predict.run, arguments_of(values), load)))
    return code


def problems_ahead(cfg: Any) -> list[str]:
    """Return what is wrong with the prediction of a configuration, before anything is trained for it."""
    values = flatten(cfg)
    if not values["PREDICT.ENABLE"]:
        return []
    from dust.deploy.sources import missing

    args = arguments_of(values)
    problems = [f"PREDICT.SOURCES {text}" for text in missing(args.sources)]
    if os.path.isfile(args.out):
        problems.append(f"PREDICT.OUTPUT {args.out}: is a file; name a folder for the predictions")
    return problems + [f"PREDICT: {text}" for text in predict.problems_of(args)]


def arguments_of(values: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options of ``dust predict`` for ``{key: value}`` of a configuration with PREDICT.ENABLE."""
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    args = parser.parse_args([values["OUTPUT_DIR"]])
    for name in ("THRESHOLD", "TIMELINE", "OVERLAY", "WINDOW", "STRIDE", "HYSTERESIS", "MIN_LENGTH"):
        setattr(args, name.lower(), values[f"PREDICT.{name}"])
    if values["PREDICT.TOP"] != predict.TOP:
        args.top = values["PREDICT.TOP"]
    args.sources = [source for source in values["PREDICT.SOURCES"] if source]
    args.out = values["PREDICT.OUTPUT"] or os.path.join(values["OUTPUT_DIR"], "predictions")
    args.force, args.device = True, "auto" if values["NUM_GPUS"] else "cpu"
    return args


# ------------------------------------------------------------------------------------------------- folds and seeds


def repeat(words: Sequence[str]) -> int:
    """Run the same recipe by ``--folds N`` or ``--seeds N``; returns the exit code of the run that failed, else 0.

    Raises:
        DustError: words that cannot be read, data that cannot be cut, a recipe that tests nothing.
    """
    flag, count, rest = take_repeats(words)
    if any(name in os.environ for name in _RANKS):
        raise ConfigError(f"{flag} starts its runs itself: leave torchrun or srun away, and set NUM_GPUS")
    args = parse_args(rest)
    stages = load_stages(args.cfg_files, args.opts)
    given = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    if len(args.cfg_files) > 1 and "OUTPUT_DIR" not in given:
        raise ConfigError(f"{flag} with several configurations needs OUTPUT_DIR, the folder of all runs")
    # a configuration has its folder as it is used (~ is a home), and of several each one lies in the given one
    own = Path(run_net.load_files(args.cfg_files, args.opts)[0].OUTPUT_DIR)
    root = own.parent if len(args.cfg_files) > 1 else own
    tested = [Path(cfg.OUTPUT_DIR).relative_to(root) for _, cfg in stages if cfg.TEST.ENABLE]
    if not tested:
        raise ConfigError(f"{flag}: the configuration tests nothing, so there is nothing to compare: TEST.ENABLE True")
    if any(cfg.PREDICT.ENABLE for _, cfg in stages):
        raise ConfigError(f"{flag} tests its runs and predicts nothing: PREDICT.ENABLE False")
    first: Any = stages[0][1]
    if flag == "--folds":
        lists = build_fold_lists(first, root / "lists", count)
        runs = {folder.name: words_of_fold(first, folder) for folder in lists}
    else:
        runs = {f"seed_{first.RNG_SEED + i}": ["RNG_SEED", str(first.RNG_SEED + i)] for i in range(count)}
    before = ["--cfg", *args.cfg_files, *args.opts] if args.cfg_files else list(args.opts)
    for name, more in runs.items():
        line = [*before, *more, "OUTPUT_DIR", str(root / name)]
        if _finished(line):
            print(f"== {name}: finished already")
            continue
        print(f"== {name}")
        code = run_net.main(line)
        if code:
            return code
    folders = [root / name / tested[-1] for name in runs]
    return say_folds(folders, root / "pooled") if flag == "--folds" else say_seeds(folders, root / "seeds.json")


def take_repeats(words: Sequence[str]) -> tuple[str, int, list[str]]:
    """Return the flag, its number, and the words without both. ConfigError for both flags, or no number above 1."""
    flags = [place for place, word in enumerate(words) if word.partition("=")[0] in ("--folds", "--seeds")]
    if len(flags) > 1:
        raise ConfigError("--folds and --seeds: give one of them, once")
    flag, equals, value = words[flags[0]].partition("=")
    end = flags[0] + (1 if equals else 2)
    value = value if equals else next(iter(words[flags[0] + 1 : end]), "")
    if not value.isdecimal() or int(value) < 2:
        raise ConfigError(f"{flag} {value or '(nothing)'}: a whole number of runs, at least 2")
    return flag, int(value), [*words[: flags[0]], *words[end:]]


def build_fold_lists(cfg: Any, folder: Path, count: int) -> list[Path]:
    """Write the lists of the folds of a configuration's training list; returns their folders."""
    from dust.cli.check import build_options, can_write
    from dust.convert.folds import write_folds
    from dust.convert.lists import ListOptions, read_lists
    from dust.datasets.manifest.several import one_folder

    if not can_write(cfg):
        raise ConfigError(f"--folds cannot write lists for {cfg.TRAIN.DATASET}: convert the data first (convert-data)")
    lists = read_lists(one_folder(cfg.DATA.PATH_TO_DATA_DIR, "dust train --folds"), ListOptions(**build_options(cfg)))
    with tempfile.TemporaryDirectory() as new:
        write_folds(lists, new, count, seed=cfg.RNG_SEED)
        if folder.is_dir() and _texts(folder) != _texts(Path(new)):  # whose runs would count as finished
            raise ConfigError(
                f"{folder} holds other folds: their number, the clips or the labels have changed since. Name another "
                "OUTPUT_DIR, or remove this one"
            )
    return write_folds(lists, folder, count, seed=cfg.RNG_SEED)


def _texts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.csv")}


def words_of_fold(cfg: Any, folder: Path) -> list[str]:
    """Return the keys by which a run reads the lists of a fold: these are plain, corrected, and have their
    background."""
    words = ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.CORRECTIONS", "", "DATA.GROUP_COLUMN", ""]
    words += ["DATA.FORMAT", "auto", "DATA.PATH_LABEL_SEPARATOR", "", "DATA.ANNOTATIONS", "", "DATA.BACKGROUND", ""]
    return words if cfg.TRAIN.DATASET == "EpicKitchens" else [*words, "DATA.PATH_PREFIX", ""]


def _finished(words: Sequence[str]) -> bool:
    from dust.engine.stages import build_stage, finished

    args = parse_args(words)
    return all(
        finished(functools.partial(build_stage, cfg), cfg.OUTPUT_DIR)
        for _, cfg in load_stages(args.cfg_files, args.opts)
    )


def say_folds(folders: Sequence[Path], out: Path) -> int:
    from dust.analysis.repeats import pool_folds

    metrics = pool_folds(folders, out)
    intervals = json.loads((out / "results" / "test.json").read_text())["intervals"]
    print(f"== all folds together: {out}")
    for name, value in metrics.items():
        low, high = intervals.get(name, (None, None))
        print(f"{name} {value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else ""))
    return 0


def say_seeds(folders: Sequence[Path], file: Path) -> int:
    from dust.analysis.repeats import summarise_seeds, text_of_seeds
    from dust.utils.files import write_text

    found = summarise_seeds(folders)
    write_text(file, json.dumps(found, indent=2) + "\n")
    print(f"== {len(folders)} seeds: {file}\n{text_of_seeds(found)}")
    return 0
