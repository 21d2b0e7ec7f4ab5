"""Verbs and nouns of actions (EPIC-KITCHENS): two classifications, and how well both together are right."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.config import CfgNode
from dust.models.losses import ClassificationLoss
from dust.tasks.answers import group_numbers, in_blocks
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.classification_evaluation import ClassificationEvaluation
from dust.tasks.task import Answer, DataInfo, Evaluation, Outputs, Task
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import write_csv
from dust.utils.metrics import percent_wrong, topk_correct
from dust.utils.statistics import Interval, mean_intervals
from dust.utils.text import NONE

KINDS = ("verb", "noun")


@TASK_REGISTRY.register()
class VerbNoun(Task):
    """Cross-entropy of verbs plus that of nouns, for models that return {"verb": (B, V), "noun": (B, N)}.

    Args:
        class_names: of the V verbs, then of the N nouns.
        num_verbs: V.
        label_smoothing: 0..1.
        ensemble_method: ``sum`` | ``max`` over a video's views.
        ensemble_space: ``logits`` | ``probs``: what is summed or compared.
        actions: the (verb, noun) that occur in training; with them the accuracy among these alone is measured too.
    """

    best_metric = "action_top1_acc"

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        num_verbs: int,
        label_smoothing: float = 0.0,
        ensemble_method: str = "sum",
        ensemble_space: str = "logits",
        actions: Sequence[Sequence[int]] = (),
    ) -> None:
        self.names = {"verb": list(class_names[:num_verbs]), "noun": list(class_names[num_verbs:])}
        self.label_classes = {kind: len(names) for kind, names in self.names.items()}
        self.loss = ClassificationLoss("cross_entropy", label_smoothing=label_smoothing)
        self.ensemble_method, self.ensemble_space = ensemble_method, ensemble_space
        self.actions = actions

    @classmethod
    def from_config(cls, cfg: CfgNode, info: DataInfo) -> dict[str, Any]:
        verbs, nouns, given = cfg.CAST.NUM_VERBS, cfg.CAST.NUM_NOUNS, len(info.class_names)
        if given != verbs + nouns:
            raise ConfigError(
                f"TASK VerbNoun: the data name {given} classes, CAST.NUM_VERBS {verbs} and CAST.NUM_NOUNS {nouns} make "
                f"{verbs + nouns}"
            )
        return {
            "class_names": info.class_names,
            "num_verbs": verbs,
            "label_smoothing": cfg.MODEL.LABEL_SMOOTHING,
            "ensemble_method": cfg.DATA.ENSEMBLE_METHOD,
            "ensemble_space": cfg.TEST.ENSEMBLE_SPACE,
            "actions": info.fitted.get("actions", ()),
        }

    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        assert isinstance(outputs, dict)
        return {f"{kind}_loss": self.loss(outputs[kind], batch["label"][kind]) for kind in KINDS}

    @torch.no_grad()
    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``verb_top1_err`` and ``noun_top1_err``, percent. Mixed targets count by their largest class."""
        assert isinstance(outputs, dict)
        stats = {}
        for kind in KINDS:
            label = batch["label"][kind]
            label = label.argmax(dim=1) if label.ndim == 2 else label
            (hit,) = topk_correct(outputs[kind].detach().float(), label, (1,))
            stats[f"{kind}_top1_err"] = percent_wrong(hit)
        return stats

    def evaluation(self, split: str) -> "VerbNounEvaluation":
        return VerbNounEvaluation(self.names, self.ensemble_method, self.ensemble_space, self.actions)


class VerbNounEvaluation(Evaluation):
    """Accuracies of verbs, nouns and actions, top 1 and top 5, by three rules for an action's rank.

    ``action``: among all pairs by p(verb) p(noun). ``action_seen``: likewise among the pairs seen in training.
    ``action_both``: the reference's, right if the verb is among the first k verbs and the noun among the first k nouns;
    for k = 1 that is ``action``, for k = 5 it counts 25 pairs.
    """

    def __init__(
        self, names: dict[str, list[str]], method: str, space: str, actions: Sequence[Sequence[int]] = ()
    ) -> None:
        super().__init__()
        self.names, self.actions = names, torch.tensor([list(pair) for pair in actions]).reshape(-1, 2)
        self._known: list[dict[str, Tensor]] = []  # of one block of records after the other
        self._ensembles = {
            kind: ClassificationEvaluation(class_names=names[kind], multi_label=False, method=method, space=space)
            for kind in KINDS
        }

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        found = {
            kind: self._ensembles[kind].ensemble(record["outputs"][kind].float())[1].double().numpy() for kind in KINDS
        }
        return {"id": record["id"], "path": record["path"], "label": record["label"], **found}

    def questions(self) -> Sequence[Sequence[str]] | None:
        return [self.names[kind] for kind in KINDS]

    def answer(self, kept: dict[str, Any]) -> Answer:
        heads = {
            kind: Answer(self._said(kept, kind), dict(zip(self.names[kind], kept[kind].tolist(), strict=True)))
            for kind in KINDS
        }
        both = {name: value for head in heads.values() for name, value in head.probabilities.items()}
        words = [head.label.removeprefix(f"{kind}:") for kind, head in heads.items()]
        return Answer(NONE if NONE in words else " ".join(words), both, heads)

    def _said(self, kept: dict[str, Any], kind: str) -> str:
        best = int(kept[kind].argmax())
        return self.names[kind][best] if kept[kind][best] >= self.threshold else NONE

    def metrics(self) -> dict[str, float]:
        return {name: 100.0 * float(hit.double().mean()) for name, hit in self._hits().items()}

    def intervals(self, groups: Mapping[str, str]) -> dict[str, Interval]:
        numbers = group_numbers(self.group_names(block, groups) for block in in_blocks(self._labelled(), self._width))
        if numbers is None:
            return {}
        return {
            name: mean_intervals(100.0 * hit.double().numpy(), numbers, upper=100.0)
            for name, hit in self._hits().items()
        }

    @property
    def _width(self) -> int:
        """Numbers of a record."""
        return sum(map(len, self.names.values())) + len(self.actions)

    def _labelled(self) -> Iterator[dict[str, Any]]:
        return (record for record in self._records if record["label"] is not None)

    def _hits(self) -> dict[str, Tensor]:
        """Return for each accuracy which clips (N,) are right."""
        if not self._known:
            self._known = [self._hits_of(block) for block in in_blocks(self._labelled(), self._width)]
        names = self._known[0] if self._known else ()
        return {name: torch.cat([one[name] for one in self._known]) for name in names}

    def condensed(self) -> list[dict[str, Tensor]]:
        self._hits()
        return self._known

    def join(self, records: Sequence[dict[str, Any]], condensed: Sequence[Any]) -> None:
        super().join(records, condensed)
        self._known = [hits for part in condensed for hits in part or ()]

    def update(self, record: dict[str, Any]) -> None:
        self._known = []
        super().update(record)

    def replace_records(self, records: Sequence[dict[str, Any]]) -> None:
        self._known = []
        super().replace_records(records)

    def _hits_of(self, labelled: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        p = {kind: torch.from_numpy(np.stack([record[kind] for record in labelled])) for kind in KINDS}
        label = {kind: torch.tensor([int(record["label"][kind]) for record in labelled]) for kind in KINDS}
        hits = {kind: topk_correct(p[kind], label[kind], (1, 5)) for kind in KINDS}
        hits["action"] = _product_hits(p["verb"], p["noun"], label["verb"], label["noun"])
        if len(self.actions):
            verbs, nouns = self.actions.T
            is_label = (verbs == label["verb"][:, None]) & (nouns == label["noun"][:, None])  # (clips, actions)
            number = (
                is_label.int().argmax(dim=1).where(is_label.any(dim=1), torch.tensor(-1))
            )  # -1, never seen, is wrong
            hits["action_seen"] = topk_correct(p["verb"][:, verbs] * p["noun"][:, nouns], number, (1, 5))
        hits["action_both"] = [verb & noun for verb, noun in zip(hits["verb"], hits["noun"], strict=True)]
        return {f"{kind}_top{k}_acc": hit for kind, both in hits.items() for k, hit in zip((1, 5), both, strict=True)}

    def metric_names(self) -> Sequence[str]:
        kinds = [*KINDS, "action", *(["action_seen"] if len(self.actions) else []), "action_both"]
        return [f"{kind}_top{k}_acc" for kind in kinds for k in (1, 5)]

    def write(self, folder: Path) -> list[Path]:
        """Write ``predictions.csv``: id, path, and of verb and noun the label, the prediction and its probability."""
        if not len(self._records):
            raise DataError("no clip was evaluated, so there is nothing to write")
        path = folder / "predictions.csv"
        columns = [f"{kind}{what}" for kind in KINDS for what in ("", "_prediction", "_prob")]
        write_csv(path, ["id", "path", *columns], self._rows(), line_end="\r\n")
        return [path]

    def _rows(self) -> Iterator[list[Any]]:
        for record in self._records:
            row = [record["id"], record["path"]]
            for kind in KINDS:
                best = int(record[kind].argmax())
                truth = "" if record["label"] is None else self.names[kind][int(record["label"][kind])]
                row += [truth, self._said(record, kind), f"{record[kind][best]:.6g}"]
            yield row


def _product_hits(verbs: Tensor, nouns: Tensor, verb: Tensor, noun: Tensor) -> list[Tensor]:
    """Tell whether (verb, noun) is first, or among the first five, of all pairs by the product of (n, V) and (n, N)."""
    # a pair of the first five has its verb among the first five verbs, and its noun among the first five nouns
    v, n = (x.topk(min(5, x.shape[1]), dim=1) for x in (verbs, nouns))
    best = (v.values[:, :, None] * n.values[:, None, :]).flatten(1).sort(dim=1, descending=True, stable=True).indices
    width = n.indices.shape[1]
    right = (v.indices.gather(1, best // width) == verb[:, None]) & (n.indices.gather(1, best % width) == noun[:, None])
    return [right[:, :1].any(dim=1), right[:, :5].any(dim=1)]
