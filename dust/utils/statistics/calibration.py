"""Whether a probability can be taken at its word: calibration error, Brier score, log-likelihood, temperature."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from dust.utils.errors import DataError
from dust.utils.numbers import as_classes, as_figures, as_numbers

#: Probabilities below are taken for this one in logarithms, so that one sure error does not make everything infinite.
FLOOR = 1e-12
#: The range in which a temperature is sought. One at its end says that the data do not settle it.
TEMPERATURES = (0.05, 20.0)
BINS = 15
#: Gives (probabilities, labels) of all samples, a block at a time, whenever it is called.
Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Calibration:
    """How well probabilities agree with what happens.

    Attributes:
        ece: expected calibration error, 0..1.
        brier: Brier score: the squared error summed over the classes, 0..2 (multi-label: mean over classes, 0..1).
        nll: negative log-likelihood of a sample, nats (multi-label: the sum over its classes).
    """

    ece: float
    brier: float
    nll: float


def measure_calibration(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = BINS) -> Calibration:
    """Measure probabilities (N, K) against labels (N,), or (N, K) of zeros and ones for multi-label.

    Raises:
        DataError: no samples, values that are no probabilities, or labels that are no classes.
    """
    if np.ndim(labels) != 2:
        return terms_of(probabilities, labels).measured(bins=bins)
    probabilities, labels = _checked(probabilities, labels)
    own = np.where(labels > 0, probabilities, 1 - probabilities)
    nll = -np.log(np.maximum(own, FLOOR)).sum(axis=1)
    ece = expected_calibration_error(probabilities.ravel(), labels.ravel() > 0, bins=bins)
    return Calibration(ece, float(((probabilities - labels) ** 2).mean()), float(nll.mean()))


@dataclass(frozen=True)
class CalibrationTerms:
    """Of N samples, in order, what their calibration is made of, arrays (N,).

    Attributes:
        own: the label's probability.
        top: the largest probability.
        right: whether that is the label's class.
        brier: the squared error, summed over the classes, float64.
    """

    own: np.ndarray
    top: np.ndarray
    right: np.ndarray
    brier: np.ndarray

    def measured(self, *, bins: int = BINS) -> Calibration:
        """See :func:`measure_calibration`."""
        ece = expected_calibration_error(np.minimum(self.top.astype(np.float64), 1.0), self.right, bins=bins)
        return Calibration(ece, float(self.brier.mean()), self.nll())

    def nll(self) -> float:
        """Return the mean negative log-likelihood, nats."""
        own = np.minimum(self.own.astype(np.float64), 1.0)
        return float(-np.log(np.maximum(own, FLOOR)).mean())


def terms_of(probabilities: np.ndarray, labels: np.ndarray) -> CalibrationTerms:
    """Return the terms of probabilities (N, K) with labels (N,). Raises DataError as :func:`measure_calibration`."""
    given = as_numbers("probabilities", probabilities)
    checked, labels = _checked(given, labels)
    own = given[np.arange(len(labels)), labels]
    brier = (checked**2).sum(axis=1) - 2 * checked[np.arange(len(labels)), labels] + 1
    return CalibrationTerms(own, given.max(axis=1), checked.argmax(axis=1) == labels, brier)


def joined_terms(parts: Iterable[CalibrationTerms]) -> CalibrationTerms:
    """Put those of one part behind those of the other; at least one."""
    found = list(parts)
    return CalibrationTerms(
        *(np.concatenate([getattr(one, field.name) for one in found]) for field in fields(CalibrationTerms))
    )


def reliability_bins(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> list[tuple[int, float, float]]:
    """Sort samples by confidence into bins of equal numbers: for each (samples, mean confidence, share that is right).

    Equal confidences share their mean accuracy, so that the order of the samples changes nothing. Both are (N,).
    """
    confidence, right = as_figures("confidence", confidence), as_figures("right", right)
    if not len(confidence) or right.shape != confidence.shape:
        raise DataError(f"{len(confidence)} confidences and {len(right)} answers: it takes one of each for a sample")
    order = np.argsort(confidence, kind="stable")
    _, level, count = np.unique(confidence[order], return_inverse=True, return_counts=True)
    accuracy = (np.bincount(level, weights=right[order]) / count)[level]
    parts = np.array_split(np.arange(len(order)), min(bins, len(order)))
    return [(len(part), float(confidence[order][part].mean()), float(accuracy[part].mean())) for part in parts]


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> float:
    """Return the mean distance (0..1) of confidence and accuracy over bins of equal mass (Nguyen and O'Connor, EMNLP
    2015)."""
    parts = reliability_bins(confidence, right, bins=bins)
    return sum(count * abs(mean - share) for count, mean, share in parts) / len(confidence)


def apply_temperature(probabilities: np.ndarray, temperature: float, *, multi_label: bool = False) -> np.ndarray:
    """Give the probabilities (..., K) of logits divided by ``temperature``: the order of the classes stays.

    The logits need not be known: softmax(log(p) / T) is softmax(logits / T).
    """
    logs = np.log(np.maximum(probabilities, FLOOR)) / temperature
    if multi_label:
        other = np.log(np.maximum(1 - probabilities, FLOOR)) / temperature
        return 1 / (1 + np.exp(np.clip(other - logs, -700, 700)))
    shifted = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature that makes labels most likely (Guo et al., ICML 2017), within 0.05..20.

    Args:
        probabilities: (N, K) of samples that were neither trained on nor will be tested on.
        labels: (N,) class numbers, or (N, K) zeros and ones for multi-label.
    """
    return fit_temperature_to(lambda: [(probabilities, labels)])


def fit_temperature_to(blocks: Blocks) -> float:
    """Return the same of samples that come in blocks, over and over, one at a time."""
    from scipy.optimize import minimize_scalar

    def checked() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (_checked(*block) for block in blocks())

    def loss(log_temperature: float) -> float:
        return softened_calibration(checked, math.exp(log_temperature), bins=1).nll

    ends = tuple(math.log(end) for end in TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-5}).x))


def softened_calibration(blocks: Blocks, temperature: float, *, bins: int = BINS) -> Calibration:
    """Measure what a temperature makes of blocks of probabilities; multi-label ones are a single block."""
    terms = []
    for probabilities, labels in blocks():
        several = np.ndim(labels) == 2
        softened = apply_temperature(np.asarray(probabilities, np.float64), temperature, multi_label=several)
        if several:
            return measure_calibration(softened, labels, bins=bins)
        terms.append(terms_of(softened, labels))
    return joined_terms(terms).measured(bins=bins)


def coverage_risk(
    confidence: np.ndarray, right: np.ndarray, thresholds: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
) -> list[dict[str, float | int | None]]:
    """Say what answering only from a confidence on would give: for each threshold ``threshold``, ``answered`` (clips),
    ``coverage`` (percent of all) and ``accuracy`` (percent of those; None where nothing is answered)."""
    confidence, right = as_figures("confidence", confidence), as_figures("right", right)
    if right.shape != confidence.shape:
        raise DataError(f"{len(confidence)} confidences and {len(right)} answers: one of each for a sample")
    rows: list[dict[str, float | int | None]] = []
    for threshold in thresholds:
        answered = confidence >= threshold
        count = int(answered.sum())
        accuracy = 100.0 * float(right[answered].mean()) if count else None
        coverage = 100.0 * count / len(confidence) if len(confidence) else 0.0
        rows.append({"threshold": threshold, "answered": count, "coverage": coverage, "accuracy": accuracy})
    return rows


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = as_numbers("probabilities", probabilities).astype(np.float64), as_numbers("labels", labels)
    shapes = (probabilities.shape, probabilities.shape[:1])  # of multi-label ones, and of class numbers
    if probabilities.ndim != 2 or not len(probabilities) or labels.shape not in shapes:
        raise DataError(
            f"probabilities of shape {probabilities.shape} and labels of shape {labels.shape}: it takes (N, K) "
            "probabilities and N labels, N at least 1"
        )
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise DataError("these are no probabilities: some are below 0, above 1 or NaN")
    labels = as_classes("label", labels, probabilities.shape[1]) if labels.ndim == 1 else labels
    return np.minimum(probabilities, 1.0), labels
