"""A grid of probes on the same tokens, trained in one pass and compared by validation."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.config import CfgNode
from dust.models.probe import grid_name
from dust.tasks.answers import Answers, in_blocks, mean_average_precision, stacked
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.classification import Classification
from dust.tasks.classification_evaluation import MAIN, ClassificationEvaluation
from dust.tasks.task import DataInfo, Outputs
from dust.utils.metrics import ranked_metrics
from dust.utils.ranks import joined_ranks, ranks_of

logger = logging.getLogger(__name__)

HEADS = "heads"  # the entry of the outputs with the logits (B, G, K) of all heads


@TASK_REGISTRY.register()
class ProbeGrid(Classification):
    """Classification by several heads at once: the loss is the sum of theirs, so that each learns as it would alone.

    In validation every head is measured; the figures are those of the best one, and each other stands beside them under
    its learning rate and weight decay (``lr0.001_wd0.05_top1_acc``). A head whose loss is not finite learns no more and
    is measured as the worst. A model of one head is a plain Classification.

    Args:
        heads: the name of each head of the grid.
        options: of Classification.
    """

    def __init__(self, *, heads: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.heads = list(heads)
        self._said: set[int] = set()

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        node, solver = cfg.PROBE, cfg.SOLVER
        lrs, decays = node.LRS or [solver.BASE_LR], node.WEIGHT_DECAYS or [solver.WEIGHT_DECAY]
        heads = [grid_name(lr, decay) for lr in lrs for decay in decays]
        return {**super().from_config(cfg, info), "heads": heads if len(heads) > 1 else []}

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        if not isinstance(outputs, dict) or HEADS not in outputs:
            return super().losses(outputs, batch)
        each = [self.loss(logits, batch["label"]) for logits in outputs[HEADS].unbind(1)]
        finite = torch.isfinite(torch.stack(each).detach()).tolist()  # of all at once: a GPU is waited for
        learning = [loss for loss, is_finite in zip(each, finite, strict=True) if is_finite]
        for number, is_finite in enumerate(finite):
            if number not in self._said and not is_finite:
                self._said.add(number)
                logger.warning("the head %s has diverged and learns no more", self.heads[number])
        return {"loss": torch.stack(learning or each).sum()}

    @torch.no_grad()
    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        return super().stats({MAIN: outputs[MAIN]} if isinstance(outputs, dict) else outputs, batch)

    def evaluation(self, split: str) -> "ProbeGridEvaluation":
        return ProbeGridEvaluation(
            heads=self.heads,
            chooses=split == "val",
            view_metrics=self.view_metrics and split != "val",
            class_names=self.class_names,
            multi_label=self.multi_label,
            method=self.ensemble_method,
            space=self.ensemble_space,
            metrics=self.own_metrics,
            top_k=self.predictions_top_k,
        )


class ProbeGridEvaluation(ClassificationEvaluation):
    """As of a classification. Where a record has several heads, of the best one in a validation, which chooses; of the
    one that validation has chosen in a test.

    Args:
        chooses: it is a validation.
    """

    def __init__(self, *, heads: Sequence[str], chooses: bool, **options: Any) -> None:
        super().__init__(**options)
        self.chooses = chooses
        self.best: int | None = None
        self.heads = list(heads)

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        outputs = record["outputs"]
        if not isinstance(outputs, dict) or HEADS not in outputs:
            return super().keep(record)
        if not self.chooses:
            return super().keep({**record, "outputs": outputs[MAIN]})
        each = [self.ensemble(logits.float()) for logits in outputs[HEADS].unbind(1)]
        kept = super().keep({**record, "outputs": outputs[MAIN]})
        kept["of_heads"] = np.stack([scores.numpy() for scores, _ in each])
        kept["probabilities_of_heads"] = np.stack([probabilities.numpy() for _, probabilities in each])
        return kept

    def condensed(self) -> Answers | None:
        return None if self._of_heads else super().condensed()  # which head is meant, only all processes together know

    def replace_records(self, records: Sequence[dict[str, Any]]) -> None:
        super().replace_records(records)
        self.best = None
        if self._of_heads:
            self.best = int(np.argmax(list(self.metrics_of_heads().values())))

    @property
    def _of_heads(self) -> bool:
        first = next(self._labelled(), None)
        return first is not None and "of_heads" in first

    def _each(self) -> Iterator[dict[str, Any]]:
        """Yield the records with the scores of the best head, once that is known."""
        for record in super()._each():
            if self.best is not None and "of_heads" in record:
                scores, probabilities = record["of_heads"][self.best], record["probabilities_of_heads"][self.best]
                record = {**record, "scores": scores, "probabilities": probabilities}
            yield record

    def metrics_of_heads(self) -> dict[str, float]:
        """Return the first figure (``top1_acc``, ``map``) of every head, under the head's name; 0 of one that
        diverged."""
        if not self._of_heads:
            return {}
        first = "map" if self.multi_label else "top1_acc"
        return {f"{name}_{first}": self._of_head(number)[first] for number, name in enumerate(self.heads)}

    def _of_head(self, number: int) -> dict[str, float]:
        def pick(record: Mapping[str, Any]) -> np.ndarray:
            return record["of_heads"][number]

        classes = len(self.class_names)
        if not all(np.isfinite(pick(record)).all() for record in self._labelled()):
            return {"map": 0.0, "top1_acc": 0.0}
        if self.multi_label:
            return mean_average_precision(self._labelled, pick, classes)
        blocks = in_blocks(self._labelled(), classes)
        return ranked_metrics(joined_ranks(ranks_of(*stacked(block, pick)) for block in blocks))

    def metrics(self) -> dict[str, float]:
        metrics = super().metrics()
        return {**metrics, **self.metrics_of_heads()} if metrics else metrics
