"""Masked pre-training: the model says what it should have predicted; no labels count."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dust.config import CfgNode
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.task import DataInfo, Evaluation, Outputs, Task
from dust.utils.errors import DataError
from dust.utils.files import write_csv


@TASK_REGISTRY.register()
class Masked(Task):
    """For models that return ``{"prediction", "target", "loss"}``, as VideoMAEPretrain does.

    In training the model's own loss is minimised. In evaluation each clip has a loss, the mean squared error over its
    masked tokens, and the split's loss is their mean; the model masks every clip alike then, so that the figures of
    two epochs compare.
    """

    best_metric = "loss"
    higher_is_better = False

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        return {}

    def forward(self, model: nn.Module, inputs: dict[str, Any]) -> Outputs:
        """Return {"loss"}: a scalar in training, (B,) in evaluation."""
        outputs = model(**inputs)
        if model.training:
            return {"loss": outputs["loss"]}
        difference = outputs["prediction"].float() - outputs["target"].float()
        return {"loss": difference.square().flatten(1).mean(dim=1)}

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        assert isinstance(outputs, dict)
        return {"loss": outputs["loss"].mean()}

    def evaluation(self, split: str) -> "MaskedEvaluation":
        return MaskedEvaluation()


class MaskedEvaluation(Evaluation):
    """The mean loss of every clip over its views, and of all clips."""

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        loss = record["outputs"]["loss"].mean().item()
        return {"id": record["id"], "path": record["path"], "loss": loss}

    def metrics(self) -> dict[str, float]:
        if not self._records:
            return {}
        return {"loss": sum(record["loss"] for record in self._records) / len(self._records)}

    def metric_names(self) -> Sequence[str]:
        return ["loss"]

    def write(self, folder: Path) -> list[Path]:
        """Write ``losses.csv``: id, path, loss."""
        if not self._records:
            raise DataError("no clip was evaluated, so there is nothing to write")
        path = folder / "losses.csv"
        rows = ([record["id"], record["path"], f"{record['loss']:.6g}"] for record in self._records)
        write_csv(path, ["id", "path", "loss"], rows, line_end="\r\n")
        return [path]
