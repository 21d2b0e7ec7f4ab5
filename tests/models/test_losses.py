import pytest
import torch

from dust.models.losses import ClassificationLoss, balanced_class_weights

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]])


def test_one_hot_soft_targets_equal_hard_targets():
    loss = ClassificationLoss("soft_cross_entropy")
    labels = torch.tensor([0, 2])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(loss(LOGITS, labels), loss(LOGITS, one_hot))


def test_label_smoothing_by_formula_and_never_twice():
    smooth = ClassificationLoss("cross_entropy", label_smoothing=0.3)
    labels = torch.tensor([0, 2])
    targets = torch.nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    expected = -(targets * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smooth(LOGITS, labels), expected)
    torch.testing.assert_close(smooth(LOGITS, targets), expected)


def test_class_weights_by_formula():
    loss = ClassificationLoss("cross_entropy", class_weights=[1.0, 1.0, 3.0])
    each = -LOGITS.log_softmax(1)[[0, 1], [0, 2]]
    torch.testing.assert_close(loss(LOGITS, torch.tensor([0, 2])), (each * torch.tensor([1.0, 3.0])).sum() / 4)


def test_multi_label():
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    p = LOGITS.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    torch.testing.assert_close(ClassificationLoss("bce_logit")(LOGITS, targets), expected)


def test_balanced_weights_and_unknown_kind():
    assert balanced_class_weights([10, 30, 0]) == pytest.approx([2.0, 40 / 60, 0.0])
    with pytest.raises(ValueError, match="bce_logit"):
        ClassificationLoss("hinge")
