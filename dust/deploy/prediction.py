"""What comes out: one prediction for a clip, or for a window of a stream."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dust.deploy.reading import Reading
from dust.tasks.task import Answer, Evaluation, Outputs


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one clip.

    Attributes:
        id, path: as in ``predictions.csv``.
        label: the class (several with commas where a clip may have several), "none of these" below the threshold, ""
            where the clip could not be read.
        probabilities: of each class by its name, 0..1, in the order of the logits.
        logits: (K,) float32, the mean over the views; for several questions a dict of these. None without any.
        view_logits: (V, K), those of each view.
        views: how many views of the clip the model saw.
        heads: where several questions are answered at once (``verb``, ``noun``), label and probabilities of each.
        facts: what else the task says: the experts that a clip was sent to, the steps of a procedure.
        damage: what is wrong with the file, although it could be read; "" for a sound one.
        error: why the clip could not be read; "" where it was.
        warnings: why this answer may be poor: a clip of one frame, pictures that are far too small.
        start, end: seconds of the window in its video; None for a whole clip.
        delay: seconds from the arrival of a live window's last frame to the answer; None otherwise.
    """

    id: str
    path: str
    label: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logits: Any = None
    view_logits: Any = None
    views: int = 0
    heads: Mapping[str, Answer] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    damage: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    delay: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the clip was read and answered."""
        return not self.error

    @property
    def confidence(self) -> float:
        """The probability of the likeliest class; of several questions that of their first answers together."""
        return self._answer.confidence if self.ok else 0.0

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` likeliest (name, probability), the best first; of several questions the likeliest
        combinations."""
        return self._answer.top(k)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the logits, as json can hold it; what is empty is left out."""
        found: dict[str, Any] = {"id": self.id, "path": self.path}
        if self.start is not None:
            found |= {"start": round(self.start, 6), "end": round(self.end or 0.0, 6)}
        if self.ok:
            found |= {"label": self.label, "confidence": self.confidence, "probabilities": dict(self.probabilities)}
            found |= {"views": self.views}
        if self.heads:
            found |= {name: {"label": one.label, "confidence": one.confidence} for name, one in self.heads.items()}
        more = {**self.facts, "damage": self.damage, "error": self.error, "warnings": list(self.warnings)}
        return found | {name: value for name, value in more.items() if value not in ("", [], {}, None)}

    def __repr__(self) -> str:
        if self.error:
            return f"Prediction({self.id}: unreadable: {self.error})"
        when = f" {self.start:.2f}-{self.end:.2f} s" if self.start is not None else ""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in self.top(3))
        notes = [text for text in (f"damaged: {self.damage}" if self.damage else "", *self.warnings) if text]
        best = self.top(1)[0][0] if self.probabilities else self.label
        said = f"{self.label}: " if self.label not in ("", best) else ""
        return f"Prediction({self.id}{when}: {said}{shown or self.label}{'; ' + '; '.join(notes) if notes else ''})"

    @property
    def _answer(self) -> Answer:
        return Answer(self.label, self.probabilities, self.heads, self.facts)


def make_prediction(
    evaluation: Evaluation, record: Mapping[str, Any], kept: dict[str, Any], reading: Reading, **when: Any
) -> Prediction:
    """Return the prediction of a reading.

    Args:
        record: of the loop; ``kept`` is what the evaluation keeps of it.
        when: start, end and delay of a window.
    """
    answer = evaluation.answer(kept)
    logits, each = logits_of(record["outputs"]) if evaluation.logits else (None, None)
    return Prediction(
        reading.id,
        reading.path,
        answer.label,
        answer.probabilities,
        logits,
        each,
        _count(record["outputs"]),
        answer.heads,
        answer.facts,
        damage=reading.damage,
        warnings=tuple(reading.warnings),
        **when,
    )


def _count(outputs: Outputs) -> int:
    return len(next(iter(outputs.values())) if isinstance(outputs, dict) else outputs)


def logits_of(outputs: Outputs) -> tuple[Any, Any]:
    """Return (mean over the views, each view's), (K,) and (V, K), of a record's outputs; dicts of these for several
    questions; None where the outputs are no logits."""
    if isinstance(outputs, Tensor):
        return _mean(outputs), outputs.numpy()
    if "logits" in outputs:
        return _mean(outputs["logits"]), outputs["logits"].numpy()
    return {name: _mean(value) for name, value in outputs.items()}, {name: v.numpy() for name, v in outputs.items()}


def _mean(logits: Tensor) -> np.ndarray:
    return logits.mean(dim=0).numpy()
