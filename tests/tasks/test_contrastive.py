"""The contrastive task: each loss sees what it is of, and retrieval is measured over all recordings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dust.models.contrastive_losses import supcon_loss
from dust.tasks.contrastive import Contrastive
from dust.utils.errors import ConfigError
from dust.utils.retrieval import retrieval_metrics
from tests.helpers import csv_dicts

NAMES = ["background", "10", "11"]


def outputs(rows, seed=0, logits=False):
    torch.manual_seed(seed)
    found = {"embedding": F.normalize(torch.randn(rows, 4)), "projection": F.normalize(torch.randn(rows, 4))}
    return found | ({"logits": torch.randn(rows, 3)} if logits else {})


def task(**kwargs):
    return Contrastive(class_names=NAMES, **kwargs)


def test_the_loss_sees_projections_and_labels():
    found, labels = outputs(6), torch.tensor([0, 0, 1, 1, 2, 2])
    loss = task(exclude_bg=True, temperature=0.2).losses(found, {"label": labels, "id": list("abcdef")})["loss"]
    torch.testing.assert_close(loss, supcon_loss(found["projection"], labels, temperature=0.2, exclude_bg=True))


def test_simclr_pairs_the_views_of_a_picture_whatever_their_labels():
    found = outputs(6)
    batch = {"label": torch.ones(6, dtype=torch.long), "id": ["a:3", "a:3", "b:3", "b:3", "a:4", "a:4"]}
    loss = task(loss="simclr").losses(found, batch)["loss"]
    torch.testing.assert_close(loss, supcon_loss(found["projection"], torch.tensor([0, 0, 1, 1, 2, 2])))


def test_cross_entropy_sees_logits():
    found, labels = outputs(6, logits=True), torch.tensor([0, 0, 1, 1, 2, 2])
    loss = task(loss="ce").losses(found, {"label": labels, "id": []})["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(found["logits"], labels))
    with pytest.raises(ConfigError, match=r"output 'logits', and this model gives embedding, projection"):
        task(loss="ce").losses(outputs(6), {"label": labels, "id": []})
    with pytest.raises(ConfigError, match=r"'projection', and this model gives one tensor"):
        task().losses(torch.zeros(6, 3), {"label": labels, "id": []})


def test_stats_are_of_the_embedding_and_leave_the_background_out():
    found = {"embedding": torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]])}
    assert task().stats(found, {"label": torch.tensor([1, 1, 2, 2, 0])}) == {"nn_err": 0.0}
    assert task().stats(found, {"label": torch.tensor([1, 2, 1, 2, 0])}) == {"nn_err": 100.0}
    assert task().stats(found, {"label": torch.tensor([1, 2, 0, 0, 0])})["nn_err"].isnan()


def records():
    rng = np.random.RandomState(0)
    labels = [torch.tensor([1, 1, 2, 0]), torch.tensor([1, 2, 2, 0, 0])]
    return [
        {"id": name, "path": "", "label": label, "outputs": {"embedding": torch.tensor(rng.randn(len(label), 3))}}
        for name, label in zip("ab", labels, strict=True)
    ]


def test_embeddings_that_are_not_finite_are_left_to_the_loss():
    """With several processes, and on a GPU, the loss is looked at after the statistics."""
    found = outputs(4)
    found["embedding"][1, 2] = float("nan")
    assert task().stats(found, {"label": torch.tensor([1, 1, 2, 2])})["nn_err"].isnan()


def test_metrics_are_over_all_recordings():
    evaluation = task().evaluation("val")
    assert evaluation.metrics() == {}
    for record in records():
        evaluation.update(record)
    embeddings = np.concatenate([record["outputs"]["embedding"].numpy() for record in records()])
    labels = np.concatenate([record["label"].numpy() for record in records()])
    all_rows = retrieval_metrics(embeddings, labels, ignore=0)
    others = retrieval_metrics(embeddings, labels, ignore=0, groups=np.array([0] * 4 + [1] * 5))
    assert all_rows["map_at_r"] != others["map_at_r"]
    assert evaluation.metrics() == pytest.approx(
        {
            "precision_at_1": all_rows["precision_at_1"],
            "map_at_r": all_rows["map_at_r"],
            "precision_at_1_others": others["precision_at_1"],
            "map_at_r_others": others["map_at_r"],
        }
    )
    again = task().evaluation("val")
    again.replace_records(evaluation.records())
    assert again.metrics() == evaluation.metrics()


def test_accuracy_of_logits_leaves_the_background_out():
    evaluation = task().evaluation("val")
    (record, _) = records()
    record["outputs"]["logits"] = torch.eye(3)[[1, 2, 2, 1]]
    evaluation.update(record)
    assert evaluation.metrics()["top1_acc"] == pytest.approx(100 * 2 / 3)
    assert "map_at_r_others" not in evaluation.metrics(), "there is one recording only"


def test_table_of_states(tmp_path):
    evaluation = task().evaluation("val")
    for record in records():
        evaluation.update(record)
    (path,) = evaluation.write(tmp_path)
    table = csv_dicts(path)
    assert [(row["state"], row["frames"]) for row in table] == [("10", "3"), ("11", "3")]
    mean = np.mean([float(row["map_at_r"]) for row in table])
    assert mean == pytest.approx(evaluation.metrics()["map_at_r"], abs=0.01), "as many frames of each state"
