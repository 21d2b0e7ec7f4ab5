"""Multi-view testing of a checkpoint, and the report that it leaves in OUTPUT_DIR/results."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from dust.config import with_values
from dust.datasets import construct_loader
from dust.engine.evaluator import evaluate
from dust.engine.run_dir import BadClipLog, RunDir, config_sha256
from dust.engine.setup import build_for, device_of, device_transform_of
from dust.engine.weights import load_parts, load_trained, weights_file
from dust.models.protocol import AssembledFromParts
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, find_latest, load_checkpoint
from dust.utils.errors import CheckpointError, DataError
from dust.utils.files import sha256_of_text, write_text
from dust.utils.meters import TestMeter
from dust.visualization.writer import Writer

logger = logging.getLogger(__name__)

#: SlowFast's sweep for TEST.NUM_ENSEMBLE_VIEWS -1.
VIEW_SWEEP = (1, 3, 5, 7, 10)


def newest_checkpoint(cfg, run: RunDir) -> Path | None:
    """OUTPUT_DIR's last checkpoint, or with TEST.CHECKPOINT best its best; None if there is none."""
    best = run.checkpoints / "checkpoint_best.pyth"
    if cfg.TEST.CHECKPOINT == "best" and best.exists():
        return best
    found = find_latest(run.checkpoints)
    return None if found is None else found[0]


def named_checkpoint(cfg, run: RunDir) -> Path | None:
    """TEST.CHECKPOINT_FILE_PATH, else OUTPUT_DIR's last (or best), else TRAIN.CHECKPOINT_FILE_PATH, else None."""
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return Path(weights_file(cfg, cfg.TEST.CHECKPOINT_FILE_PATH, "TEST.CHECKPOINT_FILE_PATH"))
    found = newest_checkpoint(cfg, run)
    if found is None and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        return Path(weights_file(cfg, cfg.TRAIN.CHECKPOINT_FILE_PATH, "TRAIN.CHECKPOINT_FILE_PATH"))
    return found


def checkpoint_to_test(cfg, run: RunDir) -> Path:
    """:func:`named_checkpoint`, or an error if there is none."""
    path = named_checkpoint(cfg, run)
    if path is None:
        raise CheckpointError(
            f"there is nothing to test: TEST.CHECKPOINT_FILE_PATH is empty and {run.checkpoints} holds no checkpoint. "
            "Train first, or name a file or zoo://NAME."
        )
    return path


def test(cfg, run: RunDir) -> dict[str, float]:
    """Test a checkpoint on all views of every video; returns the metrics (of the last view count of a sweep).

    A model that other stages' weights make up whole (``assembled_from_parts``) is tested as such where it has no
    checkpoint of its own. One that only begins from parts is not: the rest of it would be random.
    """
    device = device_of(cfg)
    path = named_checkpoint(cfg, run)
    facts: dict[str, Any] = {}
    if path is not None:
        saved = load_checkpoint(path)
        facts = {"class_names": saved.get("class_names"), "fitted": saved.get("fitted")}
        _check_classes(cfg, facts["class_names"], path)
        model = build_for(cfg, device)
        load_trained(cfg, model, path, saved)
        sha256 = file_sha256(path)
    else:
        model = build_for(cfg, device)
        whole = isinstance(model, AssembledFromParts) and model.assembled_from_parts
        parts = load_parts(cfg, model) if whole else {}
        if not parts:
            checkpoint_to_test(cfg, run)  # says what to do
        sha256 = sha256_of_text(" ".join(f"{name} {file_sha256(file)}" for name, file in sorted(parts.items())))
    counts = cfg.TEST.NUM_TEMPORAL_CLIPS or (VIEW_SWEEP if cfg.TEST.NUM_ENSEMBLE_VIEWS == -1 else ())
    if not counts:
        return _test_views(cfg, run, model, device, facts, sha256)
    metrics: dict[str, float] = {}
    for count in counts:
        one = with_values(cfg, {"TEST.NUM_ENSEMBLE_VIEWS": count})
        logger.info("testing %d temporal views", count)
        metrics = _test_views(one, run, model, device, facts, sha256)
        if not distributed.is_main():
            continue
        copy = run.path / "results.partial"
        shutil.copytree(run.results, copy)
        run.publish_results(copy, sha256, f"results_{count}_views")
    return metrics


def _check_classes(cfg, class_names: list[str] | None, path: Path) -> None:
    if class_names is not None and len(class_names) != cfg.MODEL.NUM_CLASSES:
        raise CheckpointError(
            f"{path} was trained on {len(class_names)} classes, MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}. "
            f"Set MODEL.NUM_CLASSES {len(class_names)}."
        )


def _test_views(cfg, run: RunDir, model, device, facts: dict[str, Any], sha256: str) -> dict[str, float]:
    loader = construct_loader(cfg, "test", **facts)
    dataset: Any = loader.dataset
    task = build_task(cfg, DataInfo(dataset.class_names, fitted=facts.get("fitted") or {})).to(device)
    meter = TestMeter(cfg.LOG_PERIOD)
    bad_clips = BadClipLog(run.path / "bad_clips.csv", "test", cfg.TEST.ON_BAD_CLIP)
    evaluation, counts = evaluate(
        cfg,
        model,
        task,
        loader,
        split="test",
        device=device,
        transform=device_transform_of(cfg),
        bad_clips=bad_clips,
        on_sample=meter.log_iter,
    )
    if not counts["samples"]:
        raise DataError(f"none of the {counts['bad_clips']} test clips could be read; see {bad_clips.path}")
    metrics = evaluation.metrics()
    meter.log_final(metrics)
    if distributed.is_main():
        write_results(cfg, run, evaluation, metrics, counts, sha256)
    with Writer.from_config(cfg, run.path) as writer:
        writer.scalars("Test", metrics, 0)
        writer.evaluation(evaluation, loader, 0, name="Test")
    return metrics


def write_results(cfg, run: RunDir, evaluation, metrics: dict[str, float], counts: dict[str, int], sha256: str) -> None:
    """``test.json`` and the task's own files, in a folder that appears whole or not at all."""
    temporary = run.path / "results.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    evaluation.write(temporary)
    report = {
        **evaluation.report(),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "counts": counts,
        "config_sha256": config_sha256(cfg),
        "checkpoint_sha256": sha256,
    }
    write_text(temporary / "test.json", json.dumps(report, indent=2) + "\n")
    run.publish_results(temporary, sha256)
    summary = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    logger.info("%s over %d clips (%d bad)", summary or "no labels, no metrics", counts["samples"], counts["bad_clips"])
    logger.info("report: %s", run.results)
