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


# ------------------------------------------------------------------------------------------------ focal loss


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_by_formula(gamma):
    labels, weights = [0, 2, 1], [1.0, 3.0, 0.5]
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [40.0, -40.0, 0.0]], dtype=torch.float64)
    p = logits.softmax(dim=1)
    terms = [-weights[label] * (1 - p[row, label]).pow(gamma) * p[row, label].log() for row, label in enumerate(labels)]
    slow = sum(terms) / sum(weights[label] for label in labels)
    found = ClassificationLoss("focal", gamma=gamma, class_weights=weights)(logits, torch.tensor(labels))
    torch.testing.assert_close(found.double(), slow, atol=1e-5, rtol=1e-5)


def test_focal_without_gamma_is_cross_entropy_for_hard_and_mixed_targets():
    labels = torch.tensor([1, 0, 2, 2])
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    mixed = torch.tensor([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8], [0.0, 0.5, 0.5]])
    for target in (labels, mixed):
        for weights in ((), (1.0, 2.0, 3.0)):
            plain = ClassificationLoss("cross_entropy", class_weights=weights)(logits, target)
            focal = ClassificationLoss("focal", gamma=0, class_weights=weights)(logits, target)
            torch.testing.assert_close(focal, plain)
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    loss = ClassificationLoss("focal")
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))
    assert loss(logits, labels) < ClassificationLoss("cross_entropy")(logits, labels)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, -1.0), (0.0, -1.0)])
def test_sigmoid_focal_is_torchvisions(gamma, alpha):
    from torchvision.ops import sigmoid_focal_loss

    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]])
    loss = ClassificationLoss("sigmoid_focal", gamma=gamma, alpha=alpha)(logits, target)
    torch.testing.assert_close(loss, sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction="mean"))
    p = logits.sigmoid()
    right, weight = torch.where(target == 1, p, 1 - p), torch.where(target == 1, alpha, 1 - alpha) if alpha >= 0 else 1
    torch.testing.assert_close(loss, -(weight * (1 - right) ** gamma * right.log()).mean())
    if gamma == 0:
        torch.testing.assert_close(loss, ClassificationLoss("bce_logit")(logits, target))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_has_a_gradient_where_a_clip_is_answered_for_certain(gamma):
    logits = torch.tensor([[200.0, -200.0], [0.0, 0.0]], requires_grad=True)
    ClassificationLoss("focal", gamma=gamma)(logits, torch.tensor([0, 1])).backward()
    assert logits.grad.isfinite().all() and logits.grad[1].abs().sum() > 0


def test_what_focal_does_not_take():
    for words, arguments in (
        ("gamma -1", {"gamma": -1}), ("alpha 2", {"alpha": 2}), ("label_smoothing 0.1", {"label_smoothing": 0.1})
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            ClassificationLoss("focal", **arguments)


def test_shares_of_annotators_are_smoothed_as_a_class_is():
    labels = torch.tensor([0, 2])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    loss = ClassificationLoss("cross_entropy", label_smoothing=0.3, smooth_shares=True)
    torch.testing.assert_close(loss(LOGITS, one_hot), loss(LOGITS, labels))
    expected = -((shares * 0.7 + 0.1) * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(LOGITS, shares), expected)
