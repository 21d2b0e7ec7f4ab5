"""Multi-view testing of a checkpoint, and the report that it leaves in OUTPUT_DIR/results."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dust.config import CfgNode, dump, with_values
from dust.datasets.loader import construct_loader
from dust.datasets.protocol import groups_of
from dust.engine.calibration import build_calibration, write_calibration
from dust.engine.checkpoints import build_checkpoint_to_test
from dust.engine.data_lists import warnings_of_test
from dust.engine.evaluator import Evaluator, build_evaluator
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import build_device, build_for
from dust.engine.weights import build_weights_choice, load_parts, load_trained
from dust.models.protocol import AssembledFromParts, ReadsClassNames
from dust.tasks import build_task
from dust.tasks.task import DataInfo, Evaluation
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, learnt_of
from dust.utils.checkpoint.store import load_for_all, reading_together
from dust.utils.errors import CheckpointError, DustError
from dust.utils.files import sha256_of_text, write_csv, write_text
from dust.utils.meters import TestMeter
from dust.utils.registry import Registry, build, import_extensions
from dust.visualization.writer import Writer

logger = logging.getLogger(__name__)

#: What may follow a test, by name. Rooms above the engine register it: `dust.analysis` its report.
AFTER_TEST_REGISTRY = Registry("step after a test")
REPORT_MODULE = "dust.analysis.report"
#: SlowFast's sweep for TEST.NUM_ENSEMBLE_VIEWS -1.
VIEW_SWEEP = (1, 3, 5, 7, 10)


@dataclass(frozen=True)
class TestedModel:
    """A model with the weights that are tested.

    Attributes:
        sha256: of the checkpoint, or of all files that make the model up.
        source: the checkpoint's path, or ``{part: path}`` of these files.
        epoch: after which the checkpoint was saved, from 1; None where it does not say.
        class_names: in the order of the logits; None where the checkpoint does not say.
        fitted: what the training split's dataset learnt of its data; None likewise.
    """

    model: nn.Module
    device: torch.device
    sha256: str
    source: str | Mapping[str, str] = ""
    epoch: int | None = None
    class_names: Sequence[str] | None = None
    fitted: Mapping[str, Any] | None = None


def build_tested_model(cfg: CfgNode) -> TestedModel:
    """Return the model with the checkpoint that cfg names, or OUTPUT_DIR's.

    A model that other stages' weights make up whole (``assembled_from_parts``) is tested as such where it has no
    checkpoint of its own. One that only begins from parts is not: the rest of it would be random.

    Raises:
        CheckpointError: there is nothing to test, or it does not fit.
    """
    device = build_device(cfg)
    choice = build_checkpoint_to_test(cfg)
    path = choice.find(together=True)
    if path is not None:
        saved = load_for_all(path, optimizer=False)
        class_names, fitted = learnt_of(saved, path)
        _check_classes(class_names, cfg.MODEL.NUM_CLASSES, path)
        model = build_for(cfg, device)
        with reading_together():
            load_trained(model, path, saved, output_dir=cfg.OUTPUT_DIR, weights=build_weights_choice(cfg))
        epoch = saved["epoch"] + 1 if isinstance(saved.get("epoch"), int) else None
        logger.info("testing %s%s", path, f" (epoch {epoch})" if epoch is not None else "")
        sha256 = distributed.from_main(lambda: file_sha256(path))
        return TestedModel(model, device, sha256, str(path), epoch, class_names, fitted)
    model = build_for(cfg, device)
    whole = isinstance(model, AssembledFromParts) and model.assembled_from_parts
    with reading_together():
        parts = load_parts(model, cfg.OUTPUT_DIR) if whole else {}
    if not parts:
        choice.path()  # says what to do
    if not (isinstance(model, AssembledFromParts) and model.assembled_from_parts):
        raise CheckpointError(
            f"{', '.join(map(str, parts.values()))}: no head for MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}, so random "
            "weights would be measured. Set it to the file's, or train the model first."
        )
    hashes = distributed.from_main(lambda: [f"{name} {file_sha256(file)}" for name, file in sorted(parts.items())])
    source = {name: str(file) for name, file in sorted(parts.items())}
    logger.info("testing what these make up: %s", ", ".join(f"{name} {file}" for name, file in source.items()))
    return TestedModel(model, device, sha256_of_text(" ".join(hashes)), source)


def _check_classes(class_names: Sequence[str] | None, num_classes: int, path: Path) -> None:
    if class_names is not None and len(class_names) != num_classes:
        raise CheckpointError(
            f"{path} was trained on {len(class_names)} classes, MODEL.NUM_CLASSES is {num_classes}. "
            f"Set MODEL.NUM_CLASSES {len(class_names)}."
        )


@dataclass
class Test:
    """One test of a model on all views of every video.

    Attributes:
        split: test | val: whose clips are measured.
        config_sha256: of the configuration, for the report.
        on_bad_clip: skip | raise, once the rest is evaluated and written.
        log_period: samples between log lines.
        calibrate: fits a temperature, see :mod:`dust.engine.calibration`; by default nothing.
        after: called with the run's folder once the results stand there.
    """

    run: RunDir
    tested: TestedModel
    loader: DataLoader[Any]
    evaluator: Evaluator
    config_sha256: str
    split: str = "test"
    on_bad_clip: str = "raise"
    log_period: int = 10
    writer: Writer = field(default_factory=Writer)
    calibrate: Callable[[], Mapping[str, Any]] = dict
    after: Sequence[Callable[[Path], Any]] = ()

    __test__ = False  # pytest would otherwise take the class for a test

    def __post_init__(self) -> None:
        log = self.run.path / "bad_clips.csv"
        self.bad_clips = BadClipLog(log, self.split, self.on_bad_clip, key="TEST.ON_BAD_CLIP")

    def __call__(self) -> dict[str, float]:
        """Test, and write the report; returns the metrics.

        Raises:
            DataError: no clip could be used, or one could not and may not be left out; all others are in the report.
        """
        metrics = self.measure()
        self.bad_clips.finish(self.run.results)
        return metrics

    def measure(self) -> dict[str, float]:
        """Test, write results and return the metrics, whatever clips could not be used. DataError if none could."""
        calibration = self.calibrate()
        meter = TestMeter(self.log_period)
        evaluation, counts = self.evaluator.evaluate(
            self.tested.model, self.loader, split="test", bad_clips=self.bad_clips, on_sample=meter.log_iter
        )
        metrics = distributed.from_main(evaluation.metrics)
        meter.log_final(metrics)
        if distributed.is_main():
            self._write_results(evaluation, metrics, counts, calibration)
        with self.writer as writer:
            writer.scalars("Test", metrics, 0)
            writer.evaluation(evaluation, self.loader, 0, name="Test")
        return metrics

    def _write_results(
        self,
        evaluation: Evaluation,
        metrics: dict[str, float],
        counts: dict[str, int],
        calibration: Mapping[str, Any],
    ) -> None:
        """Write ``test.json`` and the task's own files, in a folder that appears whole or not at all."""
        temporary = self.run.path / "results.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        evaluation.write(temporary)
        groups = groups_of(self.loader.dataset)
        if groups:  # what reads the predictions later must know what belongs together
            write_csv(temporary / "groups.csv", ["id", "group"], sorted(groups.items()))
        intervals = evaluation.intervals(groups)
        report = {
            **evaluation.report(),
            "metrics": {name: float(value) for name, value in metrics.items()},
            "intervals": {name: [found.low, found.high] for name, found in intervals.items() if name in metrics},
            "counts": counts,
            "data_warnings": warnings_of_test(self.run.path, self.loader.dataset, self.split),
            "config_sha256": self.config_sha256,
            "split": self.split,
            "checkpoint": self.tested.source,
            "epoch": self.tested.epoch,
            "checkpoint_sha256": self.tested.sha256,
        }
        if "calibration" in report:
            report["calibration"]["temperature"] = calibration.get("temperature")
        write_text(temporary / "test.json", json.dumps(report, indent=2) + "\n")
        if calibration:
            write_calibration(temporary, calibration, self.tested.sha256)
        self.run.publish_results(temporary, self.tested.sha256, split=self.split)
        figures = []
        for name, value in metrics.items():
            found = intervals.get(name)
            figures.append(f"{name} {value:.2f}" + (f" [{found.low:.2f}, {found.high:.2f}]" if found else ""))
        summary = ", ".join(figures) or "no labels, no metrics"
        logger.info("%s over %d %s clips (%d bad)", summary, counts["samples"], self.split, counts["bad_clips"])
        logger.info("report: %s", self.run.results)
        for follow in self.after:
            try:
                follow(self.run.path)
            except (DustError, OSError) as error:  # the figures are written, and a page about them can be made again
                logger.warning("%s", error)


def build_test(cfg: CfgNode, run: RunDir, tested: TestedModel) -> Test:
    """Return the test of a model on the split and the views that cfg.TEST says."""
    loader = construct_loader(cfg, cfg.TEST.SPLIT, tested.class_names, views="test", fitted=tested.fitted)
    dataset: Any = loader.dataset
    if isinstance(tested.model, ReadsClassNames):
        tested.model.set_class_names(dataset.class_names)
    task = build_task(cfg, DataInfo(dataset.class_names, fitted=tested.fitted or {})).to(tested.device)
    return Test(
        run,
        tested,
        loader,
        build_evaluator(cfg, task, tested.device),
        sha256_of_text(dump(cfg)),
        split=cfg.TEST.SPLIT,
        on_bad_clip=cfg.TEST.ON_BAD_CLIP,
        log_period=cfg.LOG_PERIOD,
        writer=build(Writer, cfg, run.path),
        calibrate=build_calibration(cfg, run.path, tested, dataset),
        after=build_after(cfg),
    )


def build_after(cfg: CfgNode) -> list[Callable[[Path], Any]]:
    """Return what follows the test: the report, by TEST.REPORT."""
    if not cfg.TEST.REPORT:
        return []
    import_extensions([REPORT_MODULE])
    return [AFTER_TEST_REGISTRY.get("report_of_test")]


def build_views(cfg: CfgNode) -> list[CfgNode]:
    """Return a configuration for each view count of a sweep, in its order; the one that is given where none is asked
    for. What others take for the test of this run is the last."""
    counts = cfg.TEST.NUM_TEMPORAL_CLIPS or (VIEW_SWEEP if cfg.TEST.NUM_ENSEMBLE_VIEWS == -1 else ())
    single: dict[str, Any] = {"TEST.NUM_TEMPORAL_CLIPS": []}
    return [with_values(cfg, {**single, "TEST.NUM_ENSEMBLE_VIEWS": count}) for count in counts] or [cfg]


def without_sweep(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings (KEY: value) in which a number of views is that number, whatever sweep the run's test made."""
    sweep: dict[str, Any] = {"TEST.NUM_TEMPORAL_CLIPS": []} if "TEST.NUM_ENSEMBLE_VIEWS" in settings else {}
    return {**sweep, **settings}


def run_stage(cfg: CfgNode, run: RunDir) -> dict[str, float]:
    """Test a checkpoint on all views of every video; returns the metrics (of the last view count of a sweep)."""
    tested = build_tested_model(cfg)
    views = build_views(cfg)
    counts = [one.TEST.NUM_ENSEMBLE_VIEWS for one in views] if views[0] is not cfg else []
    test = build_test(views[0], run, tested)
    if distributed.is_main():
        run.begin(dump(cfg))
    distributed.barrier()  # what a killed run left of its records is gone before new ones come
    if not counts:
        return test()
    metrics: dict[str, float] = {}
    for number, count in enumerate(counts):
        logger.info("testing %d temporal views", count)
        test = build_test(views[number], run, tested) if number else test
        metrics = test.measure()
        if not distributed.is_main():
            continue
        copy = run.path / "results.partial"
        shutil.copytree(run.results, copy)
        run.publish_results(copy, tested.sha256, f"results_{count}_views", split=cfg.TEST.SPLIT)
    test.bad_clips.finish(run.results)
    return metrics
