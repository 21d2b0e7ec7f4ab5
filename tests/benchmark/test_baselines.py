"""Plain methods beside which figures stand: against a slow version, and on data where the answer is known."""

import numpy as np

from benchmarks.baselines import commonest_class, linear_model, measure, nearest_neighbour
from dust.config import load_config
from tests.helpers import ROOT


def test_the_nearest_is_the_nearest():
    rng = np.random.RandomState(0)
    train, test, labels = rng.standard_normal((30, 7)), rng.standard_normal((9, 7)), rng.randint(0, 4, 30)
    found = nearest_neighbour(train, labels, test, 4)
    for one, scores in zip(test, found, strict=True):
        slow = min(range(30), key=lambda number: float(((train[number] - one) ** 2).sum()))
        assert scores.sum() == 1 and scores.argmax() == labels[slow]


def test_a_linear_model_finds_a_line_and_leaves_out_what_it_never_saw():
    rng = np.random.RandomState(0)
    train, test = rng.standard_normal((200, 3)), rng.standard_normal((200, 3))
    scores = linear_model(train, 2 * (train[:, 1] > 0).astype(int), test, 3)
    assert ((scores.argmax(axis=1) == 2) == (test[:, 1] > 0)).mean() > 0.95 and (scores[:, 1] == 0).all()


def test_the_commonest():
    assert commonest_class(np.zeros((5, 1)), np.array([0, 2, 2, 2, 1]), np.zeros((2, 1)), 3).argmax(1).tolist() == [
        2,
        2,
    ]


def test_of_a_configuration_samples_and_single_windows(tmp_path):
    """Slow and fast oscillations, three windows a recording: fast ones have a constant beside them."""
    for split in ("train", "test"):
        rows = ["id,label,series"]
        for number in range(10):
            series = np.full((2, 40), number % 2, np.float32)
            series[0] = np.random.RandomState(number).standard_normal(40)
            np.save(tmp_path / f"{split}{number}.npy", series)
            rows.append(f"{split}{number},{'ab'[number % 2]},{split}{number}.npy")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    values = {
        "DATA.PATH_TO_DATA_DIR": str(tmp_path),
        "SERIES.NUM_CHANNELS": 2,
        "SERIES.LENGTH": 20,
        "SERIES.FIT": "windows",
    }
    found = measure(load_config(ROOT / "configs" / "quickstart" / "series.yaml", values))
    assert found["commonest_class"]["top1_acc"] == 50.0
    assert found["nearest_neighbour"]["view_top1_acc"] == found["linear_model"]["top1_acc"] == 100.0
