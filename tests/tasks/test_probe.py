"""A grid of heads: the sum of the losses, one that diverged, and the best of all."""

import pytest
import torch

from dust.tasks.probe import ProbeGrid

NAMES = ["lr0.1_wd0", "lr1_wd0", "lr9_wd0"]


def grid(**more):
    return ProbeGrid(heads=NAMES, class_names=["a", "b", "c"], **more)


def outputs_of(heads):
    return {"logits": heads[:, 0], "heads": heads}


def test_the_loss_is_the_sum_and_leaves_out_who_diverged(caplog):
    heads, label = torch.randn(4, 3, 3), torch.tensor([0, 1, 2, 0])
    each = [torch.nn.functional.cross_entropy(heads[:, n], label) for n in range(3)]
    task = grid()
    (loss,) = task.losses(outputs_of(heads), {"label": label}).values()
    torch.testing.assert_close(loss, sum(each))
    assert set(task.stats(outputs_of(heads), {"label": label})) == {"top1_err"}
    heads[:, 1] = torch.nan
    for _ in range(2):
        (loss,) = task.losses(outputs_of(heads), {"label": label}).values()
    torch.testing.assert_close(loss, each[0] + each[2])
    assert caplog.text.count("the head lr1_wd0 has diverged") == 1
    assert not torch.isfinite(task.losses(outputs_of(heads[:, [1, 1, 1]]), {"label": label})["loss"]), "none is left"


def test_a_device_is_asked_once_for_all_heads(monkeypatch):
    asked, is_finite = [], torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda values: asked.append(values.shape) or is_finite(values))
    grid().losses(outputs_of(torch.randn(4, 3, 3)), {"label": torch.tensor([0, 1, 2, 0])})
    assert asked == [(3,)]


@pytest.mark.parametrize("multi_label", [False, True])
def test_validation_gives_the_best_and_names_all(multi_label):
    evaluation = grid(multi_label=multi_label).evaluation("val")
    right = [2, 4, 0]  # of four clips, by head; the last has diverged
    for clip, label in enumerate([0, 1, 2, 0]):
        heads = torch.zeros(1, 3, 3)
        for head, count in enumerate(right):
            heads[0, head, label if clip < count else (label + 1) % 3] = 5.0
        heads[0, 2] = -torch.inf
        answer = [float(k == label) for k in range(3)] if multi_label else label
        evaluation.update({"id": str(clip), "path": "", "label": answer, "outputs": outputs_of(heads)})
    evaluation.replace_records(evaluation.records())
    metrics = evaluation.metrics()
    first = "map" if multi_label else "top1_acc"
    assert metrics[first] == 100.0 == metrics[f"lr1_wd0_{first}"] > metrics[f"lr0.1_wd0_{first}"]
    assert metrics[f"lr9_wd0_{first}"] == 0.0


def test_one_head_is_a_classification():
    task, logits, label = grid(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(
        task.losses(logits, {"label": label})["loss"], torch.nn.functional.cross_entropy(logits, label)
    )
    evaluation = task.evaluation("test")
    evaluation.update({"id": "1", "path": "", "label": 0, "outputs": torch.tensor([[3.0, 0.0, 0.0]])})
    evaluation.replace_records(evaluation.records())
    assert evaluation.metrics()["top1_acc"] == 100.0


def test_a_test_measures_the_head_that_validation_chose():
    """Although another one would be better there; single views are measured too where that is asked for."""
    evaluation = grid(view_metrics=True).evaluation("test")
    for clip, label in enumerate([0, 1, 2, 0]):
        heads = torch.zeros(1, 3, 3)
        heads[0, 0, (label + 1) % 3] = heads[0, 1, label] = 5.0
        evaluation.update({"id": str(clip), "path": "", "label": label, "outputs": outputs_of(heads)})
    evaluation.replace_records(evaluation.records())
    assert evaluation.metrics()["top1_acc"] == 0.0 and "view_top1_acc" in evaluation.metrics()
