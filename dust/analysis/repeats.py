"""One recipe several times: folds whose predictions are pooled, and seeds whose figures get a mean and an interval."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.analysis.predictions import GROUPS, PREDICTIONS, REPORT, Results, read_report, read_results, read_table
from dust.analysis.report.build import intervals_of
from dust.utils.errors import DataError
from dust.utils.files import write_csv, write_text
from dust.utils.metrics import classification_metrics, multilabel_metrics
from dust.utils.text import csv_value


def pool_folds(folds: Sequence[str | Path], out: str | Path) -> dict[str, float]:
    """Join the tests of several folds into one, as if one model had answered all clips.

    Writes ``out/results``: ``predictions.csv``, ``groups.csv`` and ``test.json`` (metrics of all clips together, their
    intervals, and the metrics of each fold). So `dust report` and `dust compare` take ``out`` as a run.

    Args:
        folds: run folders that were tested, each on other clips.

    Returns:
        The metrics of all clips together.

    Raises:
        DataError: a fold has no results, or two have other columns or the same clip.
    """
    results = Path(out) / "results"
    results.mkdir(parents=True, exist_ok=True)
    reports = {Path(fold).name: read_report(Path(fold) / "results" / REPORT) for fold in folds}
    pooled: dict[str, Any] = {"pooled_from": {name: one.get("metrics", {}) for name, one in reports.items()}}
    tables = [Path(fold) / "results" / PREDICTIONS for fold in folds]
    if all(table.is_file() for table in tables):
        header, rows = _joined(tables)
        write_csv(results / PREDICTIONS, header, rows)
        groups = [Path(fold) / "results" / GROUPS for fold in folds]
        if all(file.is_file() for file in groups):
            write_csv(results / GROUPS, *_joined(groups))
    else:
        pooled["recordings"] = {
            name: one for report in reports.values() for name, one in (report.get("recordings") or {}).items()
        }
    write_text(results / REPORT, json.dumps(pooled, indent=2) + "\n")
    found = read_results(out)
    metrics = metrics_of(found)
    pooled |= {
        "metrics": metrics,
        "intervals": {name: [one.low, one.high] for name, one in intervals_of(found).items() if name in metrics},
        "counts": {
            name: sum(one.get("counts", {}).get(name, 0) for one in reports.values())
            for name in ("samples", "bad_clips")
        },
    }
    write_text(results / REPORT, json.dumps(pooled, indent=2) + "\n")
    return metrics


def _joined(tables: Sequence[Path]) -> tuple[list[str], list[list[str]]]:
    header: list[str] = []
    rows: list[list[str]] = []
    for table in tables:
        own, more = read_table(table)
        if header and own != header:
            raise DataError(f"{table} has other columns than {tables[0]}: the folds were tested in different ways")
        header = own
        rows += [[csv_value(cell) for cell in row] for row in more]
    return header, rows


def metrics_of(results: Results) -> dict[str, float]:
    """Measure predictions again: accuracies and F1, or mAP, percent; of recordings the means of pos, f1 and tau_s."""
    metrics: dict[str, float] = {}
    for answers in results.answers:
        known = answers.labelled
        if not len(known):
            continue
        part = answers.rows(known)
        measure = multilabel_metrics if answers.multi_label else classification_metrics
        found = measure(part.scores, part.labels)
        metrics |= {
            answers.prefix + name: value for name, value in found.items() if answers.graded or name != "top5_acc"
        }
    for name in ("pos", "f1", "tau_s"):
        values = [one[name] for one in results.recordings.values() if one.get(name) is not None]
        if values:
            metrics[name] = float(np.mean(values))
    return metrics


def summarise_seeds(runs: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Give for each metric of runs that differ by their seed alone ``values``, ``mean``, ``sd``, and the 95 % interval
    of the mean, ``low`` and ``high`` (Student's t).

    Raises:
        DataError: a run has no results.
    """
    from scipy.stats import t

    reports = [read_report(Path(run) / "results" / REPORT) for run in runs]
    named: list[Mapping[str, float]] = [report.get("metrics", {}) for report in reports]
    found: dict[str, dict[str, Any]] = {}
    for name in named[0]:
        values = np.array([one[name] for one in named if isinstance(one.get(name), int | float)], float)
        if len(values) < len(runs):
            continue
        mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
        half = float(t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5 if len(values) > 1 else 0.0
        found[name] = {"values": values.tolist(), "mean": mean, "sd": sd, "low": mean - half, "high": mean + half}
    return found


def text_of_seeds(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Say :func:`summarise_seeds` in a table for a terminal."""
    width = max([len("metric"), *map(len, found)])
    lines = [f"{'metric':{width}}  {'mean':>8}  {'95 % interval of the mean':>26}  values"]
    for name, one in found.items():
        interval = f"{one['low']:.2f} to {one['high']:.2f}"
        values = " ".join(f"{value:.2f}" for value in one["values"])
        lines.append(f"{name:{width}}  {one['mean']:8.2f}  {interval:>26}  {values}")
    return "\n".join(lines)
