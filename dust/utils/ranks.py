"""What accuracies are made of: of each sample its label, what was predicted and where the label stands. No torch.

A score of each class is 4 bytes times the classes; this is 24 bytes a sample, however many classes there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """Of N samples, in order, arrays (N,).

    Attributes:
        labels: class numbers, as they were given.
        predicted: the class with the highest score; of equal scores the first.
        ahead: how many classes stand before the label (0: it is the first); -1 where a score is NaN.
        classes: K.
    """

    labels: np.ndarray
    predicted: np.ndarray
    ahead: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ks(self) -> tuple[int, ...]:
        """The k of top-k: 1, and 5 from five classes on."""
        return (1, 5) if self.classes >= 5 else (1,)

    def hits(self, k: int) -> np.ndarray:
        """Return (N,) whether the label is among the first k."""
        return (self.ahead < k) & (self.ahead >= 0)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels, predictions, and how many samples have both: a line for each pair that occurs."""
        pairs, counts = np.unique(self.labels.astype(np.int64) * self.classes + self.predicted, return_counts=True)
        return pairs // self.classes, pairs % self.classes, counts


def ranks_of(scores: np.ndarray, labels: np.ndarray) -> Ranks:
    """Rank labels (N,) among scores (N, K) whose order ranks the classes; of equal ones the first class is higher."""
    count, classes = scores.shape
    own = scores[np.arange(count), np.clip(labels, 0, classes - 1).astype(np.int64)][:, None]
    earlier = np.arange(classes)[None] < labels[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    ahead[np.isnan(scores).any(axis=1)] = -1
    return Ranks(labels, scores.argmax(axis=1), ahead, classes)


def joined_ranks(parts: Iterable[Ranks]) -> Ranks:
    """Put those of one part behind those of the other; at least one."""
    found = list(parts)
    return Ranks(
        np.concatenate([one.labels for one in found]),
        np.concatenate([one.predicted for one in found]),
        np.concatenate([one.ahead for one in found]),
        found[0].classes,
    )
