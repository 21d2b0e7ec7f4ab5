"""What is made of a classification's records: accuracies with their intervals, calibration, a table of predictions."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.tasks.answers import (
    MOST_CELLS,
    Answers,
    answers_of,
    group_numbers,
    in_blocks,
    joined_answers,
    mean_average_precision,
    multilabel_report,
    stacked,
)
from dust.tasks.task import Answer, Evaluation, Outputs
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.metrics import ensemble_views, named_metrics, per_class_report, ranked_metrics
from dust.utils.records import KeptPairs
from dust.utils.statistics import (
    Interval,
    apply_temperature,
    coverage_risk,
    fit_temperature_to,
    measure_calibration,
    multilabel_intervals,
    ranked_intervals,
    softened_calibration,
)
from dust.utils.text import NONE

logger = logging.getLogger(__name__)

#: The entry of a model's outputs that is its answer.
MAIN = "logits"
VIEWS = "\0views"  # all views by themselves, among the names of a model's outputs
#: Classes above which a confusion matrix is no picture, and a csv with a column for each of them no table.
MOST_IN_FIGURE, MANY = 200, 1000


def by_name(outputs: Outputs) -> dict[str, Tensor]:
    return dict(outputs) if isinstance(outputs, dict) else {MAIN: outputs}


def prefixed(output: str, name: str) -> str:
    """Return ``loss`` of the answer, ``series_loss`` of the output "series"."""
    return name if output == MAIN else f"{output}_{name}"


class ClassificationEvaluation(Evaluation):
    """One score per video from all its views, then accuracy, per-class figures and a table of predictions."""

    calibrates = True

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        multi_label: bool,
        method: str,
        space: str,
        metrics: Sequence[str] = (),
        top_k: int = 0,
        view_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.view_metrics = view_metrics
        self.top_k = min(top_k, len(class_names))
        self.own_metrics = tuple(metrics)
        self.class_names = list(class_names)
        self.multi_label = multi_label
        self.method = method
        self.space = space
        self._known: tuple[Answers | None, ...] = ()

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        named = by_name(record["outputs"])
        views = named.pop(MAIN).float()
        scores, probabilities = self.ensemble(views)
        label = record["label"]
        return {
            "id": record["id"],
            "path": record["path"],
            "label": label.tolist() if isinstance(label, Tensor) else label,
            "scores": scores.numpy(),
            "probabilities": probabilities.numpy(),
            "others": {name: self.ensemble(logits.float())[0].numpy() for name, logits in named.items()},
            "views": views.numpy() if self.view_metrics else None,
        }

    def questions(self) -> Sequence[Sequence[str]] | None:
        return [[name] for name in self.class_names] if self.multi_label else None

    def answer(self, kept: dict[str, Any]) -> Answer:
        probabilities = dict(zip(self.class_names, kept["probabilities"].tolist(), strict=True))
        return Answer(self._said(kept), probabilities)

    def _said(self, kept: dict[str, Any]) -> str:
        """Return the predicted class, or those of a clip that may have several."""
        probabilities = kept["probabilities"]
        if self.multi_label:
            return self._names(np.flatnonzero(probabilities >= (self.threshold or 0.5)).tolist())
        best = int(kept["scores"].argmax())
        return self._names([best]) if probabilities[best] >= self.threshold else NONE

    def ensemble(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Map (V, K) logits of one video -> (K,) scores that rank the classes, and (K,) probabilities.

        A sum is divided by V before the softmax: it ranks alike, and one view or thirty give comparable probabilities.
        """
        to_probabilities = torch.sigmoid if self.multi_label else (lambda x: x.softmax(dim=-1))
        views = to_probabilities(logits) if self.space == "probs" else logits
        scores = ensemble_views(views, self.method)
        mean = scores / len(logits) if self.method == "sum" else scores
        if self.space == "probs":
            probabilities = mean / mean.sum() if not self.multi_label else mean
        else:
            probabilities = to_probabilities(mean)
        return scores, probabilities if self.temperature == 1 else self._softened(probabilities)

    def _softened(self, probabilities: Tensor) -> Tensor:
        soft = apply_temperature(probabilities.double().numpy(), self.temperature, multi_label=self.multi_label)
        return torch.from_numpy(soft).to(probabilities.dtype)

    def condensed(self) -> Answers | None:
        return None if self.multi_label else self._answers

    def join(self, records: Sequence[dict[str, Any]], condensed: Sequence[Any]) -> None:
        super().join(records, condensed)
        parts = [part for part in condensed if part is not None]
        if parts:
            self._known = (joined_answers(parts),)

    def update(self, record: dict[str, Any]) -> None:
        self._known = ()
        super().update(record)

    def replace_records(self, records: Sequence[dict[str, Any]]) -> None:
        self._known = ()
        super().replace_records(records)

    @property
    def _answers(self) -> Answers | None:
        """Of all labelled records; read from them once."""
        if not self._known:
            self._known = (answers_of(self._labelled(), len(self.class_names), views=self.view_metrics),)
        return self._known[0]

    def metrics(self) -> dict[str, float]:
        first = next(self._labelled(), None)
        if first is None:
            return {}
        metrics = self._measured("")
        if self.own_metrics:
            metrics |= named_metrics(self.own_metrics, *self._arrays("scores"))
        for name in first["others"]:
            alone = self._measured(name)
            figure = next(iter(alone))
            metrics[prefixed(name, figure)] = alone[figure]
        if self.view_metrics:
            alone = self._measured(VIEWS)
            metrics |= {f"view_{name}": alone[name] for name in self._view_names() if name in alone}
        return metrics

    def _measured(self, output: str) -> dict[str, float]:
        """Return the figures of the answer, of another output of that name, or of all views by themselves."""
        picks = {"": lambda record: record["scores"], VIEWS: lambda record: record["views"]}
        if self.multi_label:
            pick = picks.get(output, lambda record: record["others"][output])
            return mean_average_precision(self._labelled, pick, len(self.class_names))
        answers = self._answers
        assert answers is not None
        if output == VIEWS:
            assert answers.views is not None
            return ranked_metrics(answers.views[0])
        return ranked_metrics(answers.others[output] if output else answers.ranks)

    def intervals(self, groups: Mapping[str, str]) -> dict[str, Interval]:
        """Return the intervals; none above MOST_GROUPS groups, and for multi-label above MOST_CELLS scores: the log
        says so."""
        blocks = in_blocks(self._labelled(), len(self.class_names))
        numbers = group_numbers(self.group_names(block, groups) for block in blocks)
        if numbers is None or not len(numbers) or self._too_many("intervals"):
            return {}
        if self.multi_label:
            found = multilabel_intervals(*self._arrays("scores"), numbers)
            if self.view_metrics:
                repeats = [len(record["views"]) for record in self._labelled()]
                alone = multilabel_intervals(*self._arrays("views"), np.repeat(numbers, repeats))
        else:
            answers = self._answers
            assert answers is not None
            found = ranked_intervals(answers.ranks, numbers)
            if answers.views is not None:
                alone = ranked_intervals(answers.views[0], np.repeat(numbers, answers.views[1]))
        if self.view_metrics:
            found |= {f"view_{name}": alone[name] for name in self._view_names() if name in alone}
        return found

    def _too_many(self, what: str) -> bool:
        """Tell whether a multi-label test has more scores than are looked at together; it is said what is left out."""
        cells = len(self._records) * len(self.class_names) if self.multi_label else 0
        if cells > MOST_CELLS:
            logger.warning(
                "%d clips x %d classes: more than %d scores, no %s of several labels", len(self._records),
                len(self.class_names), MOST_CELLS, what,
            )  # fmt: skip
        return cells > MOST_CELLS

    def _view_names(self) -> Sequence[str]:
        return ["map"] if self.multi_label else ["top1_acc", "macro_f1"]

    def report(self) -> dict[str, Any]:
        """Return ``calibration`` (see :class:`dust.utils.statistics.Calibration`) and, single-label, ``confidence``:
        what answering only above a confidence would give."""
        if next(self._labelled(), None) is None or self._too_many("calibration"):
            return {}
        if self.multi_label:
            return {"calibration": asdict(measure_calibration(*self._arrays("probabilities")))}
        answers = self._answers
        assert answers is not None
        right = answers.ranks.predicted == answers.ranks.labels
        confidence = coverage_risk(answers.terms.top, right)
        return {"calibration": asdict(answers.terms.measured()), "confidence": confidence}

    def calibration(self) -> dict[str, Any] | None:
        if next(self._labelled(), None) is None:
            return None
        if self._too_many("calibration"):
            raise DataError(
                f"TEST.CALIBRATE: {len(self._records)} clips with {len(self.class_names)} classes each are too many to "
                "fit a temperature of several labels; set it False, or take fewer clips of val"
            )
        blocks = KeptPairs(self._blocks(), getattr(self._records, "folder", None))
        temperature = fit_temperature_to(lambda: blocks)
        before = self.report()["calibration"]
        after = asdict(softened_calibration(lambda: blocks, temperature))
        return {"temperature": temperature, "before": before, "after": after}

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield probabilities and labels, see :data:`dust.utils.statistics.Blocks`."""
        if self.multi_label:
            yield self._arrays("probabilities")
            return
        for block in in_blocks(self._labelled(), len(self.class_names)):
            yield stacked(block, lambda record: record["probabilities"])

    def _arrays(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return, of the clips with labels, ``scores``, ``probabilities`` or ``views`` (N, K) and labels (N,) or (N,
        K)."""
        scores, labels = stacked(list(self._labelled()), lambda record: record[name])
        return scores, labels.astype(int) if self.multi_label else labels

    def metric_names(self) -> Sequence[str]:
        views = [f"view_{name}" for name in self._view_names()] if self.view_metrics else []
        if self.multi_label:
            return ["map", *self.own_metrics, "*_map", *views]
        top5 = ["top5_acc"] if len(self.class_names) >= 5 else []
        return ["top1_acc", *top5, "mean_class_acc", "macro_f1", "weighted_f1", *self.own_metrics, "*_top1_acc", *views]

    def figures(self) -> dict[str, Any]:
        if self.multi_label or next(self._labelled(), None) is None:
            return {}
        if len(self.class_names) > MOST_IN_FIGURE:
            logger.info(
                "no confusion matrix is drawn of %d classes, more than %d", len(self.class_names), MOST_IN_FIGURE
            )
            return {}
        from dust.visualization.plots import confusion_matrix_figure

        return {"confusion_matrix": confusion_matrix_figure(self.confusion_matrix(), self.class_names)}

    def confusion_matrix(self) -> np.ndarray:
        """Return (K, K) counts: rows are labels, columns predictions."""
        from sklearn.metrics import confusion_matrix

        shown = np.arange(len(self.class_names))
        answers = self._answers
        if answers is None:
            return confusion_matrix([], [], labels=shown)
        labels, predicted, counts = answers.ranks.counts()
        return confusion_matrix(labels, predicted, labels=shown, sample_weight=counts)

    def write(self, folder: Path) -> list[Path]:
        """Write ``predictions.csv``; with labels also ``per_class.csv`` and, single-label, ``confusion_matrix.png``."""
        if not len(self._records):
            raise DataError("no sample was evaluated, so there is nothing to write")
        written = [self._write_predictions(folder / "predictions.csv")]
        if next(self._labelled(), None) is not None:
            written.append(self._write_per_class(folder / "per_class.csv"))
        for name, figure in self.figures().items():
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=150)
            written.append(path)
        return written

    def _each(self) -> Iterator[dict[str, Any]]:
        """Return the records, as they are meant."""
        return iter(self._records)

    def _labelled(self) -> Iterator[dict[str, Any]]:
        return (record for record in self._each() if record["label"] is not None)

    def _names(self, indices: Sequence[int]) -> str:
        return ",".join(self.class_names[index] for index in indices)

    def _write_predictions(self, path: Path) -> Path:
        count = len(self.class_names)
        if count > MANY and not self.top_k:
            logger.warning(
                "%s has a column for each of %d classes: TEST.PREDICTIONS_TOP_K 5 keeps a clip's five most probable",
                path.name, count,
            )  # fmt: skip
        names = [f"prob_{name}" for name in self.class_names]
        if self.top_k:
            names = [f"{what}_{place}" for place in range(1, self.top_k + 1) for what in ("top", "prob")]
        header = ["id", "path", "label", "prediction", *names]
        write_csv(path, header, self._prediction_rows(), line_end="\r\n")
        return path

    def _prediction_rows(self) -> Iterator[list[Any]]:
        for record in self._each():
            label = record["label"]
            if self.multi_label:
                truth = "" if label is None else self._names(np.flatnonzero(label).tolist())
            else:
                truth = "" if label is None else self._names([label])
            probabilities = record["probabilities"]
            if self.top_k:
                best = np.argsort(-record["scores"], kind="stable")[: self.top_k]
                shown = [text for index in best for text in (self.class_names[index], f"{probabilities[index]:.6g}")]
            else:
                shown = [f"{value:.6g}" for value in probabilities]
            yield [record["id"], record["path"], truth, self._said(record), *shown]

    def _write_per_class(self, path: Path) -> Path:
        if self.multi_label:
            report = multilabel_report(self._labelled, len(self.class_names))
        else:
            assert self._answers is not None
            labels, predicted, counts = self._answers.ranks.counts()
            report = per_class_report(predicted, labels, len(self.class_names), counts)
        write_per_class(path, "class", self.class_names, report)
        return path


def write_per_class(path: Path, what: str, names: Sequence[str], report: Mapping[str, np.ndarray]) -> None:
    """Write the csv of :func:`~dust.utils.metrics.per_class_report`: a row for each of ``names``, with ``what`` as the
    first column."""
    columns = list(report.values())
    rows = (
        [name, *(f"{column[index]:.4f}" for column in columns[:-1]), int(columns[-1][index])]
        for index, name in enumerate(names)
    )
    write_csv(path, [what, *report], rows, line_end="\r\n")
