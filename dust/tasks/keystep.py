"""Which components changed within a window: several yes-or-no questions at once; and the steps of whole recordings."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dust.config import CfgNode
from dust.models.protocol import EncodesFrames
from dust.procedure.mistakes import MistakeRule
from dust.procedure.step_decoder import StepDecoder
from dust.procedure.windows import components_of
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.classification_evaluation import write_per_class
from dust.tasks.keystep_recordings import RecordingsEvaluation
from dust.tasks.task import DataInfo, Evaluation, Outputs, Task
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import write_csv
from dust.utils.metrics import multilabel_metrics, per_class_report

logger = logging.getLogger(__name__)


@TASK_REGISTRY.register()
class KeyStep(Task):
    """Binary cross-entropy over the K logits of a window, labels (B, K) zeros and ones; evaluated window by window, or
    in the test split on the steps of whole recordings.

    Args:
        class_names: the components.
        recordings: arguments of the :class:`RecordingsEvaluation` that tests; None tests windows too.
        sanity: the windows of validation are those of training; say whether they were learnt.
    """

    best_metric = "macro_f1"

    def __init__(
        self, *, class_names: Sequence[str], recordings: Mapping[str, Any] | None = None, sanity: bool = False
    ) -> None:
        self.class_names, self.recordings, self.sanity = list(class_names), recordings, sanity

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        node, recordings = cfg.KEYSTEP, None
        if cfg.TEST.DATASET == "ProcedureRecordings":
            recordings = {
                "decoder": build_step_decoder(cfg),
                "frames": node.FRAMES,
                "skip": node.SKIP_FACTOR,
                "phases": node.INFER.PHASES,
                "batch": node.INFER.BATCH,
                "metric_mode": node.METRIC_MODE,
                "timelines": node.TIMELINES,
                "mistakes": build_mistake_rule(cfg),
            }
            if node.EXE_MODE == "mistakes":
                recordings["components"] = components_of(info.class_names)
        return {"class_names": info.class_names, "recordings": recordings, "sanity": node.SANITY_CHECK}

    def forward(self, model: nn.Module, inputs: dict[str, Any]) -> Outputs:
        """Return logits of windows; of a recording's frames the embeddings, which are what is kept of them.

        Raises ConfigError for frames and a model that cannot encode them one by one."""
        if "frame_embeddings" in inputs:
            return inputs["frame_embeddings"]
        if "frames" in inputs:
            if not isinstance(model, EncodesFrames):
                raise ConfigError(
                    f"KEYSTEP.DTYPE video: {type(model).__name__} encodes no frames; test a KeyStepVideo, or set DTYPE "
                    "embedding"
                )
            return model.embed(inputs["frames"])
        return model(**inputs)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return of each component the probability that it changed."""
        return logits.sigmoid()

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"loss": F.binary_cross_entropy_with_logits(_logits(outputs).float(), batch["label"])}

    @torch.no_grad()
    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``digit_err``: percent of wrong digits."""
        wrong = (_logits(outputs) > 0) != (batch["label"] > 0.5)
        return {"digit_err": 100.0 * wrong.float().mean().double()}

    def evaluation(self, split: str) -> Evaluation:
        if split == "test" and self.recordings is not None:
            return RecordingsEvaluation(**{"components": self.class_names, **self.recordings})
        return KeyStepEvaluation(self.class_names, sanity=self.sanity)


def build_step_decoder(cfg: CfgNode) -> StepDecoder:
    """Return the decoder that cfg.KEYSTEP describes."""
    node, decode = cfg.KEYSTEP, cfg.KEYSTEP.DECODE
    span = (node.FRAMES - 1) * (node.SKIP_FACTOR + 1)
    return StepDecoder(
        mode=decode.MODE,
        window=decode.WINDOW or (span if node.SKIP_FACTOR else node.FRAMES),
        cum_conf=decode.CUM_CONF,
        decay=decode.DECAY,
        conf=decode.CONF,
        weight=decode.WEIGHT,
        phases=node.SKIP_FACTOR + 1 if node.INFER.PHASES == "all" else 1,
    )


def build_mistake_rule(cfg: CfgNode) -> MistakeRule:
    """Build the rule by which an alarm is raised, as cfg.KEYSTEP says."""
    node, decoder = cfg.KEYSTEP.MISTAKES, build_step_decoder(cfg)
    return MistakeRule(
        score=node.SCORE,
        cum_conf=node.CUM_CONF or decoder.threshold,
        decay=decoder.decay,
        conf=decoder.conf,
        wait_s=node.WAIT,
        window=decoder.window,
        phases=decoder.phases,
    )


def _logits(outputs: Outputs) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


class KeyStepEvaluation(Evaluation):
    """Figures over all windows; records are runs of windows of a recording, with labels and outputs (V, K)."""

    def __init__(self, class_names: Sequence[str], *, sanity: bool = False) -> None:
        super().__init__()
        self.class_names, self.sanity = list(class_names), sanity

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": record["id"],
            "last": np.asarray(record["last"]),
            "label": np.asarray(record["label"]).astype(int),
            "probabilities": torch.sigmoid(_logits(record["outputs"]).float()).numpy(),
        }

    def metrics(self) -> dict[str, float]:
        """Return ``macro_f1``, ``macro_precision``, ``macro_recall`` at 0.5, over the components that change in some
        window or are said to; ``map``; ``window_acc``, windows with all digits right. Percent. NaN without any such
        component."""
        if not self._records:
            return {}
        probabilities, labels = self._stacked()
        predicted = (probabilities > 0.5).astype(int)
        occurs = labels.any(axis=0) | predicted.any(axis=0)
        report = per_class_report(predicted, labels, labels.shape[1])
        metrics = {
            f"macro_{name}": 100.0 * float(report[name][occurs].mean()) if occurs.any() else float("nan")
            for name in ("f1", "precision", "recall")
        }
        metrics |= multilabel_metrics(probabilities, labels)
        metrics["window_acc"] = 100.0 * float((predicted == labels).all(axis=1).mean())
        if self.sanity:
            level, could = (logging.INFO, "can") if metrics["window_acc"] == 100 else (logging.WARNING, "cannot (yet)")
            logger.log(level, "KEYSTEP.SANITY_CHECK: the model %s learn its %d windows by heart", could, len(labels))
        return metrics

    def metric_names(self) -> Sequence[str]:
        return ["macro_f1", "macro_precision", "macro_recall", "map", "window_acc"]

    def write(self, folder: Path) -> list[Path]:
        """Write ``windows.csv``: truth, prediction and probabilities of every window; ``components.csv``."""
        if not self._records:
            raise DataError("no window was evaluated, so there is nothing to write")
        windows, components = folder / "windows.csv", folder / "components.csv"
        rows = []
        for record in self._records:
            for last, label, row in zip(record["last"], record["label"], record["probabilities"], strict=True):
                digits = ["".join(map(str, one)) for one in (label, (row > 0.5).astype(int))]
                rows.append([record["id"], int(last), *digits, *(f"{value:.5f}" for value in row)])
        header = ["id", "last_frame", "label", "prediction", *(f"prob_{name}" for name in self.class_names)]
        write_csv(windows, header, rows, line_end="\r\n")
        probabilities, labels = self._stacked()
        report = per_class_report((probabilities > 0.5).astype(int), labels, labels.shape[1])
        write_per_class(components, "component", self.class_names, report)
        return [windows, components]

    def _stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (W, K) probabilities and labels."""
        return (
            np.concatenate([record["probabilities"] for record in self._records]),
            np.concatenate([record["label"] for record in self._records]),
        )
