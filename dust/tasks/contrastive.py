"""Contrastive training of a frame encoder: frames of one state close together, all others apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.config import CfgNode
from dust.models.contrastive_losses import BACKGROUND, ContrastiveLoss
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.task import DataInfo, Evaluation, Outputs, Task
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import write_csv
from dust.utils.retrieval import nearest_agrees, retrieval_metrics

EMBEDDING, PROJECTION, LOGITS = "embedding", "projection", "logits"


@TASK_REGISTRY.register()
class Contrastive(Task):
    """A loss on the projections of frames, and retrieval by their embeddings.

    The model's outputs are a dict: ``embedding`` (B, D), what is kept of a frame; ``projection`` (B, P) of unit length,
    which the loss sees; with loss ``ce`` also ``logits`` (B, number of classes), class 0 being the background.

    Args:
        class_names: ``background`` and the states.
        loss, temperature, margin, exclude_bg: see :class:`dust.models.contrastive_losses.ContrastiveLoss`.
    """

    best_metric = "precision_at_1"

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        loss: str = "supcon",
        temperature: float = 0.07,
        margin: float = 0.01,
        exclude_bg: bool = False,
    ) -> None:
        self.class_names = list(class_names)
        self.loss = ContrastiveLoss(loss, temperature=temperature, margin=margin, exclude_bg=exclude_bg)

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        node = cfg.KEYSTEP.CONTRAST
        return {
            "class_names": info.class_names,
            "loss": node.LOSS,
            "temperature": node.TEMPERATURE,
            "margin": node.MARGIN,
            "exclude_bg": node.EXCLUDE_BG,
        }

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        labels = batch["label"]
        if self.loss.kind == "simclr":
            labels = _images(batch["id"], labels.device)
        rows = _entry(outputs, LOGITS if self.loss.kind == "ce" else PROJECTION)
        return {"loss": self.loss(rows, labels)}

    @torch.no_grad()
    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``nn_err``: percent of the frames (background aside) whose nearest in the batch is of another class.
        NaN without any, and where an embedding is not finite, as the loss will say."""
        rows, labels = _entry(outputs, EMBEDDING).detach().float(), batch["label"]
        hit, asked = nearest_agrees(rows, labels)
        asked &= labels != BACKGROUND
        share = (hit & asked).sum().float() / asked.sum().float()
        error = 100.0 - 100.0 * share.double()
        return {"nn_err": torch.where(torch.isfinite(rows).all(), error, torch.nan)}

    def evaluation(self, split: str) -> "ContrastiveEvaluation":
        return ContrastiveEvaluation(self.class_names, classifies=self.loss.kind == "ce")


def _entry(outputs: Outputs, name: str) -> Tensor:
    if not isinstance(outputs, dict) or name not in outputs:
        given = ", ".join(outputs) if isinstance(outputs, dict) else "one tensor"
        raise ConfigError(
            f"the task Contrastive needs the model's output {name!r}, and this model gives {given}: choose another "
            "MODEL.MODEL_NAME, or for 'logits' another KEYSTEP.CONTRAST.LOSS than ce"
        )
    return outputs[name]


def _images(ids: Sequence[str], device: torch.device) -> Tensor:
    """Return (B,) a number for each picture; views of one have one id."""
    numbers: dict[str, int] = {}
    pin = device.type == "cuda"  # else the copy would wait for what the device has to do
    of_each = torch.tensor([numbers.setdefault(sample_id, len(numbers)) for sample_id in ids], pin_memory=pin)
    return of_each.to(device, non_blocking=True)


class ContrastiveEvaluation(Evaluation):
    """Retrieval among the frames of all recordings; records are recordings with labels (V,)."""

    def __init__(self, class_names: Sequence[str], *, classifies: bool = False) -> None:
        super().__init__()
        self.class_names, self.classifies = list(class_names), classifies

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        outputs = record["outputs"]
        kept = {
            "id": record["id"],
            "label": np.asarray(record["label"]),
            "embedding": _entry(outputs, EMBEDDING).float().numpy(),
        }
        if LOGITS in outputs:
            kept["predicted"] = outputs[LOGITS].argmax(dim=1).numpy()
        return kept

    def metrics(self) -> dict[str, float]:
        """Return ``precision_at_1`` and ``map_at_r`` of the frames that show a state, among all frames, background too;
        the same with ``_others``: among frames of other recordings, as far as these have a state in common;
        ``top1_acc`` of such frames where the model has logits."""
        if not self._records:
            return {}
        embeddings, labels, groups = self._stacked()
        metrics = retrieval_metrics(embeddings, labels, ignore=BACKGROUND)
        metrics.pop("queries")
        others = retrieval_metrics(embeddings, labels, ignore=BACKGROUND, groups=groups)
        if others.pop("queries"):
            metrics |= {f"{name}_others": value for name, value in others.items()}
        if all("predicted" in record for record in self._records):
            predicted = np.concatenate([record["predicted"] for record in self._records])
            states = labels != BACKGROUND
            metrics["top1_acc"] = 100.0 * float((predicted == labels)[states].mean())
        return metrics

    def metric_names(self) -> Sequence[str]:
        retrieval = ("precision_at_1", "map_at_r")
        return [*retrieval, *(f"{name}_others" for name in retrieval), *(["top1_acc"] if self.classifies else [])]

    def write(self, folder: Path) -> list[Path]:
        """Write ``retrieval.csv``: the figures of each state."""
        if not self._records:
            raise DataError("no recording was evaluated, so there is nothing to write")
        embeddings, labels, _ = self._stacked()
        path = folder / "retrieval.csv"
        rows = []
        for label in sorted(set(labels.tolist()) - {BACKGROUND}):
            one = np.where(labels == label, labels, BACKGROUND)  # all others are only there to be found
            found = retrieval_metrics(embeddings, one, ignore=BACKGROUND)
            values = [f"{found[name]:.2f}" for name in ("precision_at_1", "map_at_r")]
            rows.append([self.class_names[label], int((labels == label).sum()), *values])
        write_csv(path, ["state", "frames", "precision_at_1", "map_at_r"], rows, line_end="\r\n")
        return [path]

    def _stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (N, D) embeddings, (N,) labels and (N,) numbers of recordings."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(record["id"] for record in self._records))}
        return (
            np.concatenate([record["embedding"] for record in self._records]),
            np.concatenate([record["label"] for record in self._records]),
            np.concatenate([np.full(len(record["label"]), numbers[record["id"]]) for record in self._records]),
        )
