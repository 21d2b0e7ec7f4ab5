"""Classification of clips: one label each, or several (multi-label)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.config import CfgNode
from dust.models.losses import ClassificationLoss, balanced_class_weights
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.task import NONE, Answer, DataInfo, Evaluation, Outputs, Task
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import write_csv
from dust.utils.metrics import (
    METRIC_REGISTRY,
    classification_metrics,
    ensemble_views,
    multilabel_metrics,
    named_metrics,
    per_class_report,
    percent_wrong,
    topk_correct,
)
from dust.utils.statistics import (
    Interval,
    apply_temperature,
    classification_intervals,
    coverage_risk,
    fit_temperature,
    measure_calibration,
    multilabel_intervals,
)

logger = logging.getLogger(__name__)

#: The entry of a model's outputs that is its answer.
MAIN = "logits"
#: Classes above which a confusion matrix is no picture, and a csv with a column for each of them no table.
MOST_IN_FIGURE, MANY = 200, 1000


@TASK_REGISTRY.register()
class Classification(Task):
    """Cross-entropy (or binary cross-entropy) over logits, with multi-view evaluation.

    A model returns its logits (B, K), or a dict of several: ``logits`` are the answer, and each other entry (a
    modality by itself, say ``series``) has a loss and an accuracy of its own, under its name.

    Args:
        class_names: the K classes in the order of the logits.
        loss: see :class:`dust.models.losses.ClassificationLoss`.
        class_weights: K factors, or empty.
        label_smoothing: 0..1.
        focal_gamma, focal_alpha: of the focal losses.
        multi_label: labels are (K,) zeros and ones.
        ensemble_method: ``sum`` | ``max`` over a video's views.
        ensemble_space: ``logits`` | ``probs``: what is summed or compared.
        metrics: registered metrics that are measured beside the task's own.
        predictions_top_k: classes of a clip in predictions.csv, the most probable first; 0 = all, in their order.
        view_metrics: also measure views one by one, as ``view_*``.
        smooth_shares: targets of training are shares of classes that nothing has smoothed yet.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        loss: str = "cross_entropy",
        class_weights: Sequence[float] = (),
        label_smoothing: float = 0.0,
        focal_gamma: float = 2.0,
        focal_alpha: float = 0.25,
        multi_label: bool = False,
        ensemble_method: str = "sum",
        ensemble_space: str = "logits",
        metrics: Sequence[str] = (),
        predictions_top_k: int = 0,
        view_metrics: bool = False,
        smooth_shares: bool = False,
    ) -> None:
        for name in metrics:
            METRIC_REGISTRY.get(name)  # a wrong name is said before the training
        self.class_names = list(class_names)
        self.multi_label = multi_label
        self.own_metrics = tuple(metrics)
        self.predictions_top_k, self.view_metrics = predictions_top_k, view_metrics
        self.loss = ClassificationLoss(
            loss,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            gamma=focal_gamma,
            alpha=focal_alpha,
            smooth_shares=smooth_shares,
        )
        self.ensemble_method = ensemble_method
        self.ensemble_space = ensemble_space
        self.best_metric = "map" if multi_label else "top1_acc"

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        multi_label = cfg.DATA.MULTI_LABEL
        loss = cfg.MODEL.LOSS_FUNC
        if multi_label:
            loss = {"cross_entropy": "bce_logit", "focal": "sigmoid_focal"}.get(loss, loss)
        weights = _class_weights(cfg.MODEL.CLASS_WEIGHTS, info)
        if weights and len(weights) != cfg.MODEL.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.CLASS_WEIGHTS has {len(weights)} values for MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}"
            )
        present = [name for name, count in zip(info.class_names, info.class_counts, strict=False) if count]
        if len(present) == 1 and not multi_label and loss != "bce_logit":
            logger.warning("all training clips are of one class (%s): there is nothing to tell apart", present[0])
        return {
            "class_names": info.class_names,
            "loss": loss,
            "class_weights": weights,
            "label_smoothing": cfg.MODEL.LABEL_SMOOTHING,
            "focal_gamma": cfg.MODEL.FOCAL_GAMMA,
            "focal_alpha": cfg.MODEL.FOCAL_ALPHA,
            "multi_label": multi_label,
            "ensemble_method": cfg.DATA.ENSEMBLE_METHOD,
            "ensemble_space": cfg.TEST.ENSEMBLE_SPACE,
            "metrics": cfg.TEST.METRICS,
            "predictions_top_k": cfg.TEST.PREDICTIONS_TOP_K,
            "view_metrics": cfg.TEST.VIEW_METRICS,
            "smooth_shares": cfg.DATA.SOFT_LABELS and not cfg.MIXUP.ENABLE,
        }

    def to(self, device) -> "Classification":
        self.loss.to(device)
        return self

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multi_label else super().probabilities(logits)

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        named = _by_name(outputs)
        return {_prefixed(name, "loss"): self.loss(logits, batch["label"]) for name, logits in named.items()}

    @torch.no_grad()
    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``top1_err`` and, from five classes on, ``top5_err``, percent. Mixed targets count by their largest class."""
        label = batch["label"]
        if self.multi_label:
            return {}
        if label.ndim == 2:
            label = label.argmax(dim=1)
        stats = {}
        for name, logits in _by_name(outputs).items():
            ks = (1, 5) if logits.shape[1] >= 5 and name == MAIN else (1,)
            for k, hit in zip(ks, topk_correct(logits.detach().float(), label, ks), strict=True):
                stats[_prefixed(name, f"top{k}_err")] = percent_wrong(hit)
        return stats

    def evaluation(self, split: str) -> "ClassificationEvaluation":
        return ClassificationEvaluation(
            class_names=self.class_names,
            multi_label=self.multi_label,
            method=self.ensemble_method,
            space=self.ensemble_space,
            metrics=self.own_metrics,
            top_k=self.predictions_top_k,
            view_metrics=self.view_metrics,
        )


def _class_weights(written: Any, info: DataInfo) -> Sequence[float]:
    """The factors of all classes that ``balanced``, a list of numbers or one of ``{name: number}`` stands for."""
    if written == "balanced":
        return balanced_class_weights(info.class_counts) if info.class_counts else ()
    named = {name: number for entry in written if isinstance(entry, dict) for name, number in entry.items()}
    if not named:
        return list(written)
    unknown = sorted(named.keys() - set(info.class_names))
    if unknown:
        logger.warning("MODEL.CLASS_WEIGHTS: no class is called %s; these have no effect", ", ".join(unknown))
    if len(unknown) == len(named):
        return ()
    return [named.get(name, 1.0) for name in info.class_names]


def _by_name(outputs: Outputs) -> dict[str, Tensor]:
    return dict(outputs) if isinstance(outputs, dict) else {MAIN: outputs}


def _prefixed(output: str, name: str) -> str:
    """``loss`` of the answer, ``series_loss`` of the output "series"."""
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

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        named = _by_name(record["outputs"])
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
        """The predicted class, or those of a clip that may have several."""
        probabilities = kept["probabilities"]
        if self.multi_label:
            return self._names(np.flatnonzero(probabilities >= (self.threshold or 0.5)).tolist())
        best = int(kept["scores"].argmax())
        return self._names([best]) if probabilities[best] >= self.threshold else NONE

    def ensemble(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(V, K) logits of one video -> (K,) scores that rank the classes, and (K,) probabilities.

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

    def metrics(self) -> dict[str, float]:
        labelled = self._labelled()
        if not labelled:
            return {}
        scores, labels = self._arrays("scores")
        measure = multilabel_metrics if self.multi_label else classification_metrics
        metrics = measure(scores, labels) | named_metrics(self.own_metrics, scores, labels)
        for name in labelled[0]["others"]:
            alone = measure(np.stack([record["others"][name] for record in labelled]), labels)
            first = next(iter(alone))
            metrics[_prefixed(name, first)] = alone[first]
        if self.view_metrics:
            alone = measure(*self._views())
            metrics |= {f"view_{name}": alone[name] for name in self._view_names() if name in alone}
        return metrics

    def intervals(self, groups: Mapping[str, str]) -> dict[str, Interval]:
        labelled = self._labelled()
        if not labelled:
            return {}
        measure = multilabel_intervals if self.multi_label else classification_intervals
        names = self.group_names(labelled, groups)
        found = measure(*self._arrays("scores"), names)
        if self.view_metrics:
            repeats = [len(record["views"]) for record in labelled]
            alone = measure(*self._views(), np.repeat(names, repeats).tolist())
            found |= {f"view_{name}": alone[name] for name in self._view_names() if name in alone}
        return found

    def _view_names(self) -> Sequence[str]:
        return ["map"] if self.multi_label else ["top1_acc", "macro_f1"]

    def _views(self) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`_arrays`, of every view by itself."""
        labelled = self._labelled()
        labels = np.repeat([record["label"] for record in labelled], [len(one["views"]) for one in labelled], axis=0)
        return np.concatenate([record["views"] for record in labelled]), labels.astype(int)

    def report(self) -> dict[str, Any]:
        """``calibration`` (see :class:`dust.utils.statistics.Calibration`) and, single-label, ``confidence``: what
        answering only above a confidence would give."""
        if not self._labelled():
            return {}
        probabilities, labels = self._arrays("probabilities")
        report: dict[str, Any] = {"calibration": asdict(measure_calibration(probabilities, labels))}
        if not self.multi_label:
            right = self._arrays("scores")[0].argmax(axis=1) == labels
            report["confidence"] = coverage_risk(probabilities.max(axis=1), right)
        return report

    def calibration(self) -> dict[str, Any] | None:
        if not self._labelled():
            return None
        probabilities, labels = self._arrays("probabilities")
        temperature = fit_temperature(probabilities, labels)
        soft = apply_temperature(probabilities.astype(np.float64), temperature, multi_label=self.multi_label)
        before, after = (asdict(measure_calibration(one, labels)) for one in (probabilities, soft))
        return {"temperature": temperature, "before": before, "after": after}

    def _arrays(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Of the clips with labels, ``scores`` or ``probabilities`` (N, K) and labels (N,) or (N, K)."""
        labelled = self._labelled()
        labels = np.array([record["label"] for record in labelled])
        return np.stack([record[name] for record in labelled]), labels.astype(int) if self.multi_label else labels

    def metric_names(self) -> Sequence[str]:
        views = [f"view_{name}" for name in self._view_names()] if self.view_metrics else []
        if self.multi_label:
            return ["map", *self.own_metrics, "*_map", *views]
        top5 = ["top5_acc"] if len(self.class_names) >= 5 else []
        return ["top1_acc", *top5, "mean_class_acc", "macro_f1", "weighted_f1", *self.own_metrics, "*_top1_acc", *views]

    def figures(self) -> dict[str, Any]:
        if self.multi_label or not self._labelled():
            return {}
        if len(self.class_names) > MOST_IN_FIGURE:
            logger.info(
                "no confusion matrix is drawn of %d classes, more than %d", len(self.class_names), MOST_IN_FIGURE
            )
            return {}
        from dust.visualization.plots import confusion_matrix_figure

        return {"confusion_matrix": confusion_matrix_figure(self.confusion_matrix(), self.class_names)}

    def confusion_matrix(self) -> np.ndarray:
        """(K, K) counts: rows are labels, columns predictions."""
        from sklearn.metrics import confusion_matrix

        labelled = self._labelled()
        return confusion_matrix(
            [record["label"] for record in labelled],
            [int(record["scores"].argmax()) for record in labelled],
            labels=np.arange(len(self.class_names)),
        )

    def write(self, folder: Path) -> list[Path]:
        """``predictions.csv``; with labels also ``per_class.csv`` and, single-label, ``confusion_matrix.png``."""
        if not self._records:
            raise DataError("no sample was evaluated, so there is nothing to write")
        written = [self._write_predictions(folder / "predictions.csv")]
        if self._labelled():
            written.append(self._write_per_class(folder / "per_class.csv"))
        for name, figure in self.figures().items():
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=150)
            written.append(path)
        return written

    def _labelled(self) -> list[dict[str, Any]]:
        return [record for record in self._records if record["label"] is not None]

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
        for record in self._records:
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
        labelled = self._labelled()
        labels = np.array([record["label"] for record in labelled])
        if self.multi_label:
            labels = labels.astype(int)
            predicted = np.stack([record["probabilities"] >= 0.5 for record in labelled]).astype(int)
        else:
            predicted = np.array([int(record["scores"].argmax()) for record in labelled])
        report = per_class_report(predicted, labels, len(self.class_names))
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
