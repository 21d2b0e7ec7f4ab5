"""The two faces that the engine sees: a task in training, and an evaluation of it."""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from dust.utils.errors import ConfigError
from dust.utils.statistics import Interval

Outputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """What a task says of one sample.

    Attributes:
        label: the class, several with commas where a clip may have several, or :data:`dust.utils.text.NONE`.
        probabilities: of each class by its name, in the order of the logits, 0..1.
        heads: where several questions are answered at once (verb and noun), the answer to each.
        facts: what else there is to say, as json can hold it.
    """

    label: str
    probabilities: Mapping[str, float]
    heads: Mapping[str, "Answer"] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """The probability of the likeliest class; of several questions that of all first answers together."""
        if self.heads:
            return math.prod(head.confidence for head in self.heads.values())
        return max(self.probabilities.values(), default=0.0)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` likeliest (name, probability), the best first; of several questions the likeliest
        combinations."""
        pairs: list[tuple[str, float]] = [("", 1.0)] if self.heads else list(self.probabilities.items())
        for kind, head in self.heads.items():
            words = [(name.removeprefix(f"{kind}:"), value) for name, value in head.top(k)]
            pairs = [(f"{text} {word}".strip(), p * value) for text, p in pairs for word, value in words]
            pairs = sorted(pairs, key=lambda pair: -pair[1])[:k]
        return sorted(pairs, key=lambda pair: -pair[1])[:k]


@dataclass(frozen=True)
class DataInfo:
    """What a task may know of the training data: class names in order, how many clips each class has, and what the
    dataset fitted."""

    class_names: Sequence[str] = ()
    class_counts: Sequence[int] = field(default_factory=tuple)
    fitted: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """Turns a batch into losses and statistics. It may hold tensors (class weights), which ``to`` moves."""

    #: The metric that says which checkpoint is best, and which way is better.
    best_metric: str = ""
    higher_is_better: bool = True
    #: How many classes the labels have, by name where a label is a dict; None: MODEL.NUM_CLASSES.
    label_classes: int | Mapping[str, int] | None = None

    def forward(self, model: nn.Module, inputs: dict[str, Any]) -> Outputs:
        """Return the model's outputs for inputs that stand on the device. Training and evaluation both come here."""
        return model(**inputs)

    @abstractmethod
    def losses(self, outputs: Outputs, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return named scalar losses; the engine minimises their sum."""

    def stats(self, outputs: Outputs, batch: dict[str, Any]) -> Mapping[str, Tensor | float]:
        """Return named means over the batch for the log; no gradient. Tensors of one number stay where they are, so
        that nothing waits for a device; NaN is said where a batch has nothing to measure, and is then left out."""
        return {}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map (..., K) logits of one view -> probabilities of the classes; by default one of them is right."""
        return logits.softmax(dim=-1)

    @abstractmethod
    def evaluation(self, split: str) -> "Evaluation":
        """Return an empty evaluation of a split (``val`` | ``test``)."""

    def to(self, device) -> "Task":
        return self


class InferenceLoop(Protocol):
    """The evaluation loop, :class:`dust.engine.inference.Inference`, as an evaluation sees it."""

    def __call__(self, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Run the model over evaluation items; one record per sample, in order."""
        ...

    def with_forward(
        self,
        forward: Callable[[nn.Module, dict[str, Any]], Outputs],
        *,
        micro_batch: int,
        across_samples: bool = True,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
    ) -> "InferenceLoop":
        """Return the same loop with another forward pass; ``autocast`` None is its own."""
        ...


class Evaluation(ABC):
    """Collects one record per sample and turns them into metrics and files.

    A record is ``{"id", "path", "label", "outputs"}`` with outputs of all V views of the sample, (V, ...) on the CPU.
    A subclass says in :meth:`keep` what of it is kept; the rest of the collecting is here.
    """

    #: Below this probability a class is not named; 0: the likeliest always is.
    threshold: float = 0.0
    #: Logits are divided by it before they become probabilities: 1 leaves them as the model says them.
    temperature: float = 1.0
    #: Whether :attr:`temperature` has an effect.
    calibrates = False
    #: Whether a record's outputs are logits, or a dict of them.
    logits = True

    def __init__(self) -> None:
        self._records: Any = []  # a list, or a dust.utils.records.Records: append, len, iter

    def collect_into(self, records: Any) -> None:
        """Collect in this list, or in these :class:`dust.utils.records.Records`, from now on."""
        self._records = records

    def infer(self, loop: InferenceLoop, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Return the records of evaluation items. By default each item is a sample that runs through the model once; an
        evaluation whose samples come in pieces, or which asks the model about a whole sample, runs ``loop`` again."""
        return loop(items)

    @abstractmethod
    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return what is kept of a record, in a form that can travel between processes: NumPy and plain values."""

    def questions(self) -> Sequence[Sequence[str]] | None:
        """Return what is asked at once: of each question the classes of which one is right, or a single one that is
        there or not. None: one question of all classes. Empty: none of a short window by itself."""
        return None

    def answer(self, kept: dict[str, Any]) -> Answer:
        """Say in words what :meth:`keep` made of a record. ConfigError where the task answers nothing of a sample."""
        raise ConfigError(
            f"{type(self).__name__} has no answer for a single sample: predict with a stage that classifies"
        )

    def update(self, record: dict[str, Any]) -> None:
        """Collect one more record."""
        self._records.append(self.keep(record))

    def records(self) -> Any:
        """Return what was collected: a list, or a sequence whose records are read from files one by one (see
        :mod:`dust.utils.records`), as often as is asked. What is changed in such a one is not kept."""
        return self._records

    def replace_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Take these instead."""
        self._records = records

    def condensed(self) -> Any:
        """Return what the figures are made of, of the records at hand: little, so that it can travel from every process
        to the first. None: they are made of the records themselves, by the first process."""
        return None

    def join(self, records: Sequence[dict[str, Any]], condensed: Sequence[Any]) -> None:
        """Take all processes' records, in the order of the list, with what each process has condensed of its own."""
        self.replace_records(records)

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return named figures; accuracies in percent."""

    def intervals(self, groups: Mapping[str, str]) -> dict[str, Interval]:
        """Return intervals of some or all of :meth:`metrics`, in their units; none by default.

        Args:
            groups: id of a sample -> what it belongs to (a person, a recording). A sample that is not named belongs to
                its file: segments of one video are one group.
        """
        return {}

    def group_names(self, records: Sequence[Mapping[str, Any]], groups: Mapping[str, str]) -> list[str]:
        """Return the groups of records, see :meth:`intervals`."""
        return [groups.get(record["id"]) or str(record["path"]) for record in records]

    def metric_names(self) -> Sequence[str]:
        """Return what :meth:`metrics` may give, so that TRAIN.BEST_METRIC can be checked before anything is evaluated.

        A * stands for what only the model knows. Empty: it is not known."""
        return ()

    def figures(self) -> dict[str, Any]:
        """Return named matplotlib figures for TensorBoard; empty by default."""
        return {}

    def report(self) -> dict[str, Any]:
        """Return what the results' json file holds beside the metrics, as json can."""
        return {}

    def calibration(self) -> dict[str, Any] | None:
        """Fit a temperature to the labels: ``{"temperature", "before", "after"}``, the latter two as of
        :func:`dust.utils.statistics.measure_calibration`. None without labels, or where the task knows none."""
        return None

    def write(self, folder: Path) -> list[Path]:
        """Write the task's own result files into a folder and return their paths."""
        return []


def metric_names(evaluation: Evaluation) -> Sequence[str]:
    """Return what an evaluation says of its metrics; nothing where a subclass gives others than its base, which said
    it."""
    classes = type(evaluation).__mro__
    said, given = (next(i for i, cls in enumerate(classes) if n in vars(cls)) for n in ("metric_names", "metrics"))
    return evaluation.metric_names() if said <= given else ()
