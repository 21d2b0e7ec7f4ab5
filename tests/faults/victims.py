"""Runs that are made to fail, and the question whether they came to the same end all the same."""

import csv
import json
from pathlib import Path

from dust.utils.checkpoint import list_checkpoints, load_checkpoint
from tests.processes import Run, until
from tests.runs import RICH, TINY, assert_same, command_line

#: A small run in which everything is on that has to survive: mixing, averaging, accumulation, two workers, and a
#: checkpoint after every optimizer step.
SETTINGS = {
    **TINY,
    **{key.replace("__", "."): value for key, value in RICH.items()},
    "DATA_LOADER.NUM_WORKERS": 2,
    "TRAIN.CHECKPOINT_PERIOD_ITERS": 2,
    "TRAIN.CHECKPOINT_KEEP_LAST": 2,
    "TRAIN.EVAL_PERIOD": 2,
    "TEST.NUM_ENSEMBLE_VIEWS": 1,
    "TEST.NUM_SPATIAL_CROPS": 1,
}
PARTS = ("model_state", "ema_state", "optimizer_state", "scaler_state", "meter", "best", "least_errors", "updates",
         "epoch", "iteration", "complete")  # fmt: skip
#: Ways to write checkpoints. Whatever the way, a run comes to the same end.
KINDS = {
    "plain": {},
    "background": {"TRAIN__CHECKPOINT_ASYNC": True},
    "sharded": {"TRAIN__CHECKPOINT_FORMAT": "sharded"},
    "sharded background": {"TRAIN__CHECKPOINT_FORMAT": "sharded", "TRAIN__CHECKPOINT_ASYNC": True},
}


def words(clips, out, **overrides) -> list[str]:
    """The command line of a run; dots of keys are double underscores."""
    values = {**SETTINGS, "DATA.PATH_TO_DATA_DIR": clips, "OUTPUT_DIR": out}
    values.update({key.replace("__", "."): value for key, value in overrides.items()})
    return command_line(values)


def saves(folder: Path, victim: Run, count: int) -> None:
    """Wait until the run has written so many checkpoints into ``folder`` (each has a name of its own), or has ended."""
    last = list_checkpoints(folder)[-1:]

    def saved() -> bool:
        nonlocal last, count
        now = list_checkpoints(folder)[-1:]
        count -= now != last
        last = now
        return count <= 0 or victim.ended()

    until(saved, f"a checkpoint in {folder}", victim)


def newest(out: Path) -> dict:
    return load_checkpoint(list_checkpoints(Path(out) / "checkpoints")[-1])


def outcome(out: Path) -> dict:
    """All that a run has come to: its last and its best checkpoint, and its test."""
    saved = newest(out)
    best = load_checkpoint(Path(out) / "checkpoints" / "checkpoint_best.pyth")
    report = json.loads((Path(out) / "results" / "test.json").read_text())
    return {
        **{part: saved[part] for part in PARTS},
        "best_state": best["ema_state"],
        "metrics": report["metrics"],
        "counts": report["counts"],
        "predictions": predictions(out),
    }


def predictions(out: Path) -> list[dict[str, str]]:
    """Of every test clip, wherever it lies."""
    with open(Path(out) / "results" / "predictions.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "path"} for row in csv.DictReader(file)]


def assert_same_outcome(out: Path, expected: dict) -> None:
    assert_same(outcome(out), expected)
    names = sorted(path.name for path in (Path(out) / "checkpoints").iterdir())
    left = [name for name in names if name.startswith(".") or "_iter_" in name]
    assert not left, "temporary files and checkpoints within epochs go by themselves"
