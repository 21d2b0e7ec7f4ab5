"""Classification of clips: one label each, or several (multi-label)."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dust.config import CfgNode
from dust.models.losses import ClassificationLoss, balanced_class_weights
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.classification_evaluation import MAIN, ClassificationEvaluation, by_name, prefixed
from dust.tasks.task import DataInfo, Outputs, Task
from dust.utils.errors import ConfigError
from dust.utils.metrics import METRIC_REGISTRY, percent_wrong, topk_correct

logger = logging.getLogger(__name__)


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
        named = by_name(outputs)
        return {prefixed(name, "loss"): self.loss(logits, batch["label"]) for name, logits in named.items()}

    @torch.no_grad()
    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``top1_err`` and, from five classes on, ``top5_err``, percent. Mixed targets count by their largest
        class."""
        label = batch["label"]
        if self.multi_label:
            return {}
        if label.ndim == 2:
            label = label.argmax(dim=1)
        stats = {}
        for name, logits in by_name(outputs).items():
            ks = (1, 5) if logits.shape[1] >= 5 and name == MAIN else (1,)
            for k, hit in zip(ks, topk_correct(logits.detach().float(), label, ks), strict=True):
                stats[prefixed(name, f"top{k}_err")] = percent_wrong(hit)
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
    """Return the factors of all classes that ``balanced``, a list of numbers or one of ``{name: number}`` stands
    for."""
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
