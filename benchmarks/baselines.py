"""What plain methods reach on the data of a configuration: the commonest class, the nearest neighbour, a linear model.

python -m benchmarks.baselines configs/RealData/watch.yaml DATA.PATH_TO_DATA_DIR watch/fold0   from the root of a
checkout. Samples are read as a test of that configuration reads them, of which a model then gets the same numbers.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np
import torch

from dust.config import load_config
from dust.datasets import BadClip, build_dataset
from dust.utils.errors import DataError
from dust.utils.metrics import classification_metrics

#: Size to which a video is averaged: frames, height, width. Series stay as they are.
SMALL = (8, 16, 16)


def samples_of(cfg: Any, split: str, fitted: dict[str, Any] | None, names: list[str] | None) -> tuple[Any, ...]:
    """Return all views of a split as (N, D) float32, their labels, their samples' numbers, and the dataset.

    Raises:
        DataError: a sample that cannot be read.
    """
    dataset: Any = build_dataset(cfg.TEST.DATASET, cfg, split, names, views="test", fitted=fitted)
    features, labels, numbers = [], [], []
    for number in range(len(dataset)):
        item = dataset[number]
        if isinstance(item, BadClip):
            raise DataError(f"{item.id}: {item.reason}")
        (value,) = item["inputs"].values()
        if value.ndim == 5:  # (V, C, T, H, W) uint8
            value = torch.nn.functional.adaptive_avg_pool3d(value.float().mean(dim=1, keepdim=True) / 255, SMALL)
        features.append(value.flatten(1).float().numpy())
        labels += [item["label"]] * len(value)
        numbers += [number] * len(value)
    return np.concatenate(features), np.array(labels), np.array(numbers), dataset


def nearest_neighbour(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Return (N, K) ones at the class of the nearest training view, Euclidean."""
    squares = (train**2).sum(axis=1)
    nearest = [int((squares - 2 * (train @ one)).argmin()) for one in test]
    return np.eye(classes)[labels[nearest]]


def linear_model(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Return (N, K) probabilities of a logistic regression on standardised features, classes balanced."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=300))
    model.fit(train, labels)
    scores = np.zeros((len(test), classes))
    scores[:, model.classes_] = model.predict_proba(test)
    return scores


def commonest_class(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Return (N, K) ones at the class that most training views have."""
    return np.tile(np.eye(classes)[np.bincount(labels).argmax()], (len(test), 1))


def measure(cfg: Any) -> dict[str, dict[str, float]]:
    """Return top1_acc and macro_f1, percent, of each method: of samples (the mean over their views) and of single
    views."""
    train, labels, _, dataset = samples_of(cfg, "train", None, None)
    names = list(dataset.class_names)
    test, truth, numbers, _ = samples_of(cfg, "test", getattr(dataset, "fitted", None), names)
    first = np.unique(numbers, return_index=True)[1]
    found = {}
    for method in (commonest_class, nearest_neighbour, linear_model):
        scores = method(train, labels, test, len(names))
        whole = np.stack([scores[numbers == number].mean(axis=0) for number in range(numbers.max() + 1)])
        figures = {}
        for prefix, one, right in (("", whole, truth[first]), ("view_", scores, truth)):
            measured = classification_metrics(one, right)
            figures |= {f"{prefix}{name}": round(measured[name], 1) for name in ("top1_acc", "macro_f1")}
        found[method.__name__] = figures
    return found


def main() -> None:
    """Print one line of json for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cfg")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE ...")
    args = parser.parse_args()
    cfg = load_config(args.cfg, args.overrides)
    for method, figures in measure(cfg).items():
        sys.stdout.write(f"{json.dumps({'method': method, **figures})}\n")


if __name__ == "__main__":
    main()
