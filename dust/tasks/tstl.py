"""The two tasks of TSTL: selecting a group of classes, and finding the class by way of the group."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dust.config import CfgNode
from dust.config.expand import grouping_of
from dust.models.contrastive_losses import batch_all_triplet_loss
from dust.models.protocol import KnowsItsCost
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.classification import Classification
from dust.tasks.classification_evaluation import MAIN, ClassificationEvaluation
from dust.tasks.task import Answer, DataInfo, Outputs
from dust.utils.files import write_csv


@TASK_REGISTRY.register()
class GroupSelection(Classification):
    """Classification of groups; a model that returns ``features`` beside its logits also gets a triplet loss on them.

    Args:
        triplet_weight: factor of the triplet loss; 0 = none.
        triplet_margin: see :func:`dust.models.contrastive_losses.batch_all_triplet_loss`. Mixed targets count by
            their largest group there.
        classification: the other arguments of Classification.
    """

    def __init__(self, *, triplet_weight: float = 0.0, triplet_margin: float = 1.0, **classification: Any) -> None:
        super().__init__(**classification)
        self.triplet_weight, self.triplet_margin = triplet_weight, triplet_margin

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        tstl = cfg.TSTL
        triplet = {"triplet_weight": tstl.TRIPLET_WEIGHT, "triplet_margin": tstl.TRIPLET_MARGIN}
        return {**super().from_config(cfg, info), **triplet}

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits, features = _split(outputs)
        losses = super().losses(logits, batch)
        if features is not None and self.triplet_weight:
            label = batch["label"]
            label = label.argmax(dim=1) if label.ndim == 2 else label
            triplet = batch_all_triplet_loss(features, label, margin=self.triplet_margin)
            losses["triplet_loss"] = self.triplet_weight * triplet
        return losses

    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        return super().stats(_split(outputs)[0], batch)


def _split(outputs: Outputs) -> tuple[Tensor, Tensor | None]:
    return (outputs[MAIN], outputs.get("features")) if isinstance(outputs, dict) else (outputs, None)


@TASK_REGISTRY.register()
class Routing(Classification):
    """Classification by a model that returns, as TSTL does, ``logits``, ``selector``, ``routes``, ``forwards`` and
    ``oracle``; for tests only.

    Args:
        groups: the classes of each group.
        classification: the other arguments of Classification.
    """

    def __init__(self, *, groups: Sequence[Sequence[int]], **classification: Any) -> None:
        super().__init__(**classification)
        self.groups = groups
        self.gflops: float | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        return {**super().from_config(cfg, info), "groups": grouping_of(cfg).groups}

    def forward(self, model: nn.Module, inputs: dict[str, Any]) -> Outputs:
        if self.gflops is None and isinstance(model, KnowsItsCost):
            self.gflops = model.gflops()
        return super().forward(model, inputs)

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        return super().losses(_split(outputs)[0], batch)

    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        return super().stats(_split(outputs)[0], batch)

    def evaluation(self, split: str) -> "RoutingEvaluation":
        return RoutingEvaluation(self)


class RoutingEvaluation(ClassificationEvaluation):
    """Accuracies end to end (``top1_acc``, ...) and of each part, percent, and what a clip costs.

    ``selector_acc``: the group. ``expert_acc.{g}``: the class, by expert g, of the clips that belong to its group.
    ``oracle_acc``: the class, if every clip went to the expert of its group. ``forwards_per_clip``: CAST models that a
    clip's views ran through; ``gflops_per_clip``: 10^9 multiplications and additions of these.
    """

    def __init__(self, task: Routing) -> None:
        super().__init__(
            class_names=task.class_names, multi_label=False, method=task.ensemble_method, space=task.ensemble_space
        )
        self.task = task
        self.group_of = {number: index for index, group in enumerate(task.groups) for number in group}

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        outputs = record["outputs"]
        own = super().keep({**record, "outputs": outputs[MAIN]})
        own["selected"] = int(self.ensemble(outputs["selector"].float())[0].argmax())
        own["routes"] = outputs["routes"].long().tolist()
        own["forwards"] = float(outputs["forwards"].sum())
        if own["label"] is not None and "oracle" in outputs:
            own["oracle"] = int(self.ensemble(outputs["oracle"].float())[0].argmax())
        return own

    def answer(self, kept: dict[str, Any]) -> Answer:
        facts = {"group": kept["selected"], "routes": kept["routes"]}
        return replace(super().answer(kept), facts=facts)

    def metrics(self) -> dict[str, float]:
        metrics = super().metrics()
        found = [
            (self.group_of[record["label"]], record["selected"], record["label"], record.get("oracle"))
            for record in self._labelled()
        ]
        groups = np.array([group for group, *_ in found])
        if found:
            metrics["selector_acc"] = _percent([selected for _, selected, *_ in found] == groups)
        if found and all(oracle is not None for *_, oracle in found):
            right = np.array([oracle == label for *_, label, oracle in found])
            metrics["oracle_acc"] = _percent(right)
            metrics |= {f"expert_acc.{index}": _percent(right[groups == index]) for index in np.unique(groups).tolist()}
        if len(self._records):
            metrics["forwards_per_clip"] = float(np.mean([record["forwards"] for record in self._each()]))
            if self.task.gflops is not None:
                metrics["gflops_per_clip"] = self.task.gflops * metrics["forwards_per_clip"]
        return metrics

    def write(self, folder: Path) -> list[Path]:
        """Write classification's files and ``routing.csv``: each clip's group, the selected one, and the routes of its
        views (several experts of a view with +)."""
        written = super().write(folder)
        path = folder / "routing.csv"
        write_csv(path, ["id", "path", "group", "selected", "routes"], self._routing_rows(), line_end="\r\n")
        return [*written, path]

    def _routing_rows(self) -> Iterator[list[Any]]:
        for record in self._each():
            group = "" if record["label"] is None else self.group_of[record["label"]]
            routes = " ".join("+".join(map(str, view)) for view in record["routes"])
            yield [record["id"], record["path"], group, record["selected"], routes]


def _percent(hits: Any) -> float:
    return 100.0 * float(torch.as_tensor(np.asarray(hits)).double().mean())
