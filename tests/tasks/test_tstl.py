"""The selector's losses, and the accuracies of routing counted by hand."""

import math

import pytest
import torch

from dust.models.contrastive_losses import batch_all_triplet_loss
from dust.models.tstl import TSTL
from dust.tasks.tstl import GroupSelection, Routing
from tests.helpers import csv_dicts

NAMES = list("abcde")
GROUPS = ((4, 0), (1, 2, 3))


def test_the_triplet_loss_stands_beside_soft_target_cross_entropy():
    torch.manual_seed(0)
    outputs = {"logits": torch.randn(6, 2), "features": torch.randn(6, 8)}
    hard = torch.tensor([0, 1, 0, 1, 1, 0])
    soft = 0.7 * torch.eye(2)[hard] + 0.3 * torch.eye(2)[hard.flip(0)]
    task = GroupSelection(class_names=["group_0", "group_1"], triplet_weight=0.5, triplet_margin=2.0)
    for label in (hard, soft):
        losses = task.losses(outputs, {"label": label})
        triplet = batch_all_triplet_loss(outputs["features"], hard, margin=2.0)
        torch.testing.assert_close(losses["triplet_loss"], 0.5 * triplet)
        slow = -(torch.eye(2)[hard] if label is hard else soft) * outputs["logits"].log_softmax(1)
        torch.testing.assert_close(losses["loss"], slow.sum(1).mean())
        assert set(task.stats(outputs, {"label": label})) == {"top1_err"}
    assert set(task.losses(outputs["logits"], {"label": hard})) == {"loss"}
    plain = GroupSelection(class_names=["group_0", "group_1"])
    assert set(plain.losses(outputs, {"label": hard})) == {"loss"}


def logits(best, size, low=-math.inf):
    row = torch.full((size,), low)
    row[best] = 5.0
    return row


def evaluated():
    """Four clips of two views: (class, selected group, answer, the own expert's answer)."""
    task = Routing(groups=GROUPS, class_names=NAMES, ensemble_space="probs")
    task.gflops = 2.0
    evaluation = task.evaluation("test")
    for index, (label, group, answer, own) in enumerate([(0, 0, 0, 0), (4, 1, 2, 4), (1, 1, 1, 1), (3, 1, 2, 2)]):
        outputs = {
            "logits": torch.stack([logits(answer, 5)] * 2),
            "selector": torch.stack([logits(group, 2, 0.0)] * 2),
            "routes": torch.tensor([[group, 1 - group]] * 2).float(),
            "forwards": torch.tensor([3.0, 3.0]),
            "oracle": torch.stack([logits(own, 5)] * 2),
        }
        evaluation.update({"id": f"c{index}", "path": f"c{index}.mp4", "label": label, "outputs": outputs})
    return evaluation


def test_accuracies_of_every_part():
    metrics = evaluated().metrics()
    assert metrics["top1_acc"] == 50.0 and metrics["selector_acc"] == 75.0 and metrics["oracle_acc"] == 75.0
    assert (metrics["expert_acc.0"], metrics["expert_acc.1"]) == (100.0, 50.0)
    assert (metrics["forwards_per_clip"], metrics["gflops_per_clip"]) == (6.0, 12.0)


def test_views_that_went_to_different_experts():
    evaluation = Routing(groups=GROUPS, class_names=NAMES, ensemble_space="probs").evaluation("test")
    views = torch.stack([logits(0, 5), logits(2, 5), logits(2, 5)])
    outputs = {
        "logits": views,
        "selector": torch.eye(2)[[0, 1, 1]],
        "routes": torch.zeros(3, 1),
        "forwards": torch.ones(3),
    }
    evaluation.update({"id": "a", "path": "a", "label": None, "outputs": outputs})
    (record,) = evaluation.records()
    assert record["probabilities"].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0, 0]) and record["selected"] == 1
    assert evaluation.metrics() == {"forwards_per_clip": 3.0}


def test_files(tmp_path):
    evaluation = evaluated()
    paths = {path.name for path in evaluation.write(tmp_path)}
    assert {"predictions.csv", "per_class.csv", "routing.csv"} <= paths
    rows = csv_dicts(tmp_path / "routing.csv")
    assert rows[1] == {"id": "c1", "path": "c1.mp4", "group": "0", "selected": "1", "routes": "1+0 1+0"}


def test_what_the_model_returns_is_what_is_measured():
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "all_frames": 4}
    torch.manual_seed(0)
    model = TSTL(groups=GROUPS, **sizes).eval()
    task = Routing(groups=GROUPS, class_names=NAMES, ensemble_space="probs")
    with torch.no_grad():
        outputs = task.forward(model, {"video": torch.randn(2, 3, 4, 16, 16), "group": torch.tensor([0, 0])})
    assert task.gflops == model.gflops() > 0
    evaluation = task.evaluation("test")
    outputs = {name: value.float() for name, value in outputs.items()}
    evaluation.update({"id": "a", "path": "a", "label": 4, "outputs": outputs})
    assert set(evaluation.metrics()) >= {"top1_acc", "selector_acc", "oracle_acc", "expert_acc.0", "gflops_per_clip"}
