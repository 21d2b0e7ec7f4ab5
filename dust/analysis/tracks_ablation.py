"""Which cameras a trained model needs: one test for each subset of them."""

import json
import logging
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from dust.datasets.loader import construct_loader
from dust.datasets.protocol import HasCameras
from dust.engine.checkpoints import build_checkpoint_to_test
from dust.engine.evaluator import build_evaluator
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import build_device, build_for
from dust.engine.stages import build_settled
from dust.engine.weights import build_weights_choice, load_trained
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, learnt_of, load_checkpoint
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import write_csv, write_text
from dust.visualization.plots import bar_figure

logger = logging.getLogger(__name__)

FOLDER = "view_ablation"


def view_subsets(views: Sequence[int], sizes: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Return every subset of ``views`` but the empty one, small ones first; with ``sizes`` those of so many cameras."""
    wrong = [size for size in sizes if not 1 <= size <= len(views)]
    if wrong:
        raise ConfigError(f"sizes {list(wrong)}: the model has {len(views)} cameras (TRACKS.VIEWS {list(views)})")
    chosen = sorted(set(sizes)) or range(1, len(views) + 1)
    return [subset for size in chosen for subset in combinations(views, size)]


def ablate_views(cfg, run: RunDir, sizes: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Test one checkpoint with every subset of its cameras, the others missing.

    Writes ``views.csv``, ``views.json`` and ``views.png`` into ``OUTPUT_DIR/view_ablation``.

    Args:
        sizes: numbers of cameras to try; () is all.

    Returns:
        A row for each subset: ``views`` (tuple), ``num_views``, and the metrics, percent.

    Raises:
        ConfigError: the test's dataset has no cameras, or sizes that it does not have.
        CheckpointError, DataError: as in a test.
    """
    cfg = build_settled(cfg)
    path = build_checkpoint_to_test(cfg).path()
    saved = load_checkpoint(path)
    device = build_device(cfg)
    model = build_for(cfg, device)
    load_trained(model, path, saved, output_dir=cfg.OUTPUT_DIR, weights=build_weights_choice(cfg))
    class_names, fitted = learnt_of(saved, path)
    loader = construct_loader(cfg, "test", class_names, fitted=fitted)
    dataset: Any = loader.dataset
    if not isinstance(dataset, HasCameras):
        raise ConfigError(f"TEST.DATASET {cfg.TEST.DATASET}: has no cameras; it must be PointTracks")
    task = build_task(cfg, DataInfo(dataset.class_names)).to(device)
    evaluator = build_evaluator(cfg, task, device)
    table = []
    for subset in view_subsets(dataset.views, sizes):
        dataset.seen_views = set(subset)  # read again by the workers of every pass
        bad_clips = BadClipLog(run.path / "bad_clips.csv", "test", cfg.TEST.ON_BAD_CLIP)
        evaluation, counts = evaluator.evaluate(model, loader, split="test", bad_clips=bad_clips)
        metrics = distributed.from_main(evaluation.metrics)
        if not metrics:
            raise DataError(
                f"{cfg.DATA.PATH_TO_DATA_DIR}: the test split has no labels, so there is nothing to compare"
            )
        table.append({"views": subset, "num_views": len(subset), **metrics})
        figures = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        logger.info("views %s: %s over %d clips", _named(subset), figures, counts["samples"])
    _write(run.path / FOLDER, table, task.best_metric, file_sha256(path))
    bad_clips.finish(run.path / FOLDER)
    return table


def best_of_size(table: Sequence[dict[str, Any]], size: int) -> dict[str, Any] | None:
    """Return the best row of so many cameras, the first of equals; None if there is none."""
    return max((row for row in table if row["num_views"] == size), key=lambda row: row["top1_acc"], default=None)


def _named(views: Sequence[int]) -> str:
    return " ".join(map(str, views))


def _write(folder: Path, table: list[dict[str, Any]], metric: str, checkpoint: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = ([_named(row["views"]), row["num_views"], *(f"{v:.4f}" for v in list(row.values())[2:])] for row in table)
    write_csv(folder / "views.csv", table[0], rows, line_end="\r\n")
    report = {"checkpoint_sha256": checkpoint, "subsets": table}
    write_text(folder / "views.json", json.dumps(report, indent=2) + "\n")
    figure = bar_figure(
        [_named(row["views"]) for row in table],
        [row[metric] for row in table],
        [row["num_views"] for row in table],
        f"{metric}, % (cameras that the model sees)",
    )
    figure.savefig(folder / "views.png", dpi=120)
    logger.info("table and chart: %s", folder)
