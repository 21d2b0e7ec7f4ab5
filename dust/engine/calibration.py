"""The temperature that makes probabilities believable: fitted on validation, kept beside the results of the test."""

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from dust.config import CfgNode
from dust.datasets.loader import construct_loader
from dust.engine.data_lists import shared_clips
from dust.engine.evaluator import Evaluator, build_evaluator
from dust.engine.run_dir import BadClipLog
from dust.tasks import build_task
from dust.tasks.task import DataInfo, Evaluation
from dust.utils import distributed
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.files import write_text
from dust.utils.structured import read_json

logger = logging.getLogger(__name__)

FILE = "calibration.json"


def calibrate(evaluator: Evaluator, model: Any, loader: DataLoader[Any], bad_clips: BadClipLog) -> dict[str, Any]:
    """Fit the temperature on a split that the test does not measure; returns what ``calibration.json`` says besides
    the checkpoint: ``temperature``, ``before`` and ``after`` (ece, brier, nll), ``split`` and ``clips``.

    Raises:
        DataError: the split has no labels, or no clip that can be read.
    """
    evaluation, counts = evaluator.evaluate(model, loader, split="val", bad_clips=bad_clips)
    found = distributed.from_main(evaluation.calibration)
    if found is None:
        raise DataError("TEST.CALIBRATE: the val split has no labels, so nothing says how right a probability is")
    logger.info(
        "temperature %.3f, fitted on %d val clips: calibration error %.4f -> %.4f",
        found["temperature"], counts["samples"], found["before"]["ece"], found["after"]["ece"],
    )  # fmt: skip
    return {**found, "split": "val", "clips": counts["samples"]}


def build_calibration(cfg: CfgNode, run_path: Path, tested: Any, test_dataset: Any) -> Callable[[], Mapping[str, Any]]:
    """Return what fits the temperature of the tested model when it is called, on val by TEST's views; nothing where
    TEST.CALIBRATE is off."""
    if not cfg.TEST.CALIBRATE:
        return dict
    loader = construct_loader(cfg, "val", tested.class_names, views="test", fitted=tested.fitted)
    dataset: Any = loader.dataset
    refuse_shared(dataset, test_dataset)
    task = build_task(cfg, DataInfo(dataset.class_names, fitted=tested.fitted or {})).to(tested.device)
    bad_clips = BadClipLog(run_path / "bad_clips.csv", "val", "skip", key="TEST.ON_BAD_CLIP")
    return functools.partial(calibrate, build_evaluator(cfg, task, tested.device), tested.model, loader, bad_clips)


def build_problems(cfg: CfgNode, evaluation: Evaluation) -> list[str]:
    """Return what stands against TEST.CALIBRATE in a configuration, before anything is read."""
    problems: list[str] = []
    if not cfg.TEST.CALIBRATE:
        return problems
    if cfg.TEST.SPLIT == "val":
        problems.append(
            "TEST.CALIBRATE fits a temperature on val, which TEST.SPLIT val measures: what is fitted on a split says "
            "nothing about it. Set TEST.SPLIT test or TEST.CALIBRATE False"
        )
    if not evaluation.calibrates:
        problems.append(f"TEST.CALIBRATE: the task {cfg.TASK} has no temperature; set it False")
    return problems


def refuse_shared(val: Any, test: Any) -> None:
    """Raise ConfigError where a clip of val is tested, too."""
    shared = shared_clips(val, test)
    if shared:
        raise ConfigError(
            f"TEST.CALIBRATE: {len(shared)} clips of val are in test, too ({shared[0]} for one): a temperature that "
            "was fitted on what is measured says nothing. Make a val split of other clips, or set TEST.CALIBRATE False."
        )


def write_calibration(folder: Path, found: Mapping[str, Any], checkpoint_sha256: str) -> None:
    """Write ``calibration.json`` into the folder of a test's results."""
    write_text(folder / FILE, json.dumps({**found, "checkpoint_sha256": checkpoint_sha256}, indent=2) + "\n")


def read_temperature(run: str | Path, checkpoint_sha256: str) -> float:
    """Read the temperature of a run's test.

    Args:
        run: OUTPUT_DIR.
        checkpoint_sha256: of the weights that are to be calibrated.

    Raises:
        CheckpointError: there is none, it is damaged, or it was fitted for other weights.
    """
    file = Path(run) / "results" / FILE
    again = "test the run with TEST.CALIBRATE True"
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file, so nothing says how to calibrate; {again}")
    found = read_json(file, again)
    temperature = found.get("temperature") if isinstance(found, dict) else None
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise CheckpointError(f"{file}: holds no temperature above 0; {again}")
    if found.get("checkpoint_sha256") != checkpoint_sha256:
        raise CheckpointError(
            f"{file}: was fitted for the checkpoint {str(found.get('checkpoint_sha256'))[:8]}, these weights are "
            f"{checkpoint_sha256[:8]}; {again}"
        )
    return float(temperature)
