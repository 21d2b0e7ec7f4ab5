"""Contrastive losses against the published code's numbers, against loops, and by their laws."""

import math

import pytest
import torch
import torch.nn.functional as F

from dust.models.contrastive_losses import (
    ContrastiveLoss,
    batch_all_loss,
    batch_all_triplet_loss,
    batch_hard_loss,
    simclr_loss,
    state_cross_entropy,
    supcon_loss,
)
from dust.utils.errors import ConfigError, DataError
from tests.helpers import golden_tensors

FACTS, TENSORS = golden_tensors("supcon")
VALUES = [(case, key) for case, facts in FACTS["cases"].items() for key in facts["values"]]
KINDS = ["supcon", "simclr", "batch_hard", "batch_all"]


def golden_batch(case):
    features = TENSORS[f"{case}.features"].clone().requires_grad_()  # (rows, views, D)
    return features, TENSORS[f"{case}.labels"].repeat_interleave(features.shape[1])


def batch(labels, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(len(labels), dim, generator=generator, dtype=torch.float64), dim=1)
    return z.requires_grad_(), torch.tensor(labels)


@pytest.mark.parametrize(("case", "key"), VALUES)
def test_published_values_and_gradients(case, key):
    features, labels = golden_batch(case)
    rows, wanted = features.flatten(0, 1), FACTS["cases"][case]["values"][key]
    name, variant, number, *background = key.split("_")
    if name == "supcon":
        loss = supcon_loss(rows, labels, temperature=float(number[1:]), exclude_bg=variant == "ex")
        loss.backward()
        torch.testing.assert_close(features.grad, TENSORS[f"{case}.grad_{variant}_{number}"], atol=1e-12, rtol=0)
    else:
        triplet = {"hard": batch_hard_loss, "all": batch_all_loss}[variant]
        loss = triplet(rows, labels, margin=float(number[1:]), exclude_bg=background == ["ex1"])
    assert loss.item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("exclude_bg", [False, True])
def test_supcon_is_the_formula(exclude_bg):
    z, labels = batch([1, 1, 0, 2, 0, 1, 3])  # 2 and 3 alone
    z, total, anchors = z.detach(), 0.0, 0
    for i, label in enumerate(labels.tolist()):
        if exclude_bg and label == 0:
            continue
        anchors += 1
        others = [a for a in range(len(labels)) if a != i]
        positives = [p for p in others if labels[p] == label]
        denominator = sum(math.exp(float(z[i] @ z[a]) / 0.1) for a in others)
        terms = [math.log(math.exp(float(z[i] @ z[p]) / 0.1) / denominator) for p in positives]
        total -= sum(terms) / max(len(positives), 1)
    loss = supcon_loss(z, labels, temperature=0.1, exclude_bg=exclude_bg)
    assert loss.item() == pytest.approx(total / anchors, abs=1e-12)
    halved = supcon_loss(z, labels, temperature=0.1, base_temperature=0.2, exclude_bg=exclude_bg)
    assert halved.item() == pytest.approx(total / anchors / 2, abs=1e-12)


@pytest.mark.parametrize("exclude_bg", [False, True])
def test_triplets_are_the_formulas(exclude_bg):
    z, labels = batch([1, 1, 0, 2, 0, 1, 2, 3])
    z, rows = z.detach(), range(len(labels))
    d = [[float((z[i] - z[j]).norm()) if i != j else 0.0 for j in rows] for i in rows]
    hard, every = [], []
    mean = sum(map(sum, d)) / len(d) ** 2
    for i in rows:
        if exclude_bg and labels[i] == 0:
            continue
        near = [d[i][j] for j in rows if j != i and labels[j] == labels[i]]
        far = [d[i][j] for j in rows if labels[j] != labels[i]]
        if near:
            hard.append((max(near), min(far)))
        every += [(p - n) / mean + 0.3 for p in near for n in far if (p - n) / mean + 0.3 > 0]
    norm = sum(far for _, far in hard) / len(hard)
    wanted = sum(max((near - far) / norm + 0.3, 0) for near, far in hard) / len(hard)
    assert batch_hard_loss(z, labels, margin=0.3, exclude_bg=exclude_bg).item() == pytest.approx(wanted, abs=1e-12)
    wanted = sum(every) / len(every)
    assert batch_all_loss(z, labels, margin=0.3, exclude_bg=exclude_bg).item() == pytest.approx(wanted, abs=1e-12)


def test_simclr_is_a_choice_among_the_other_rows():
    """With two views of each image: the cross-entropy of finding the other view."""
    z, instances = batch([0, 1, 2, 0, 1, 2])
    logits = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    wanted = F.cross_entropy(logits, torch.tensor([3, 4, 5, 0, 1, 2]))
    torch.testing.assert_close(simclr_loss(z, instances, temperature=0.5), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    z, labels = batch([1, 1, 0, 2, 0, 1, 2], dim=3)
    assert torch.autograd.gradcheck(lambda rows: ContrastiveLoss(kind, temperature=0.3, margin=0.4)(rows, labels), z)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_and_numbers_of_classes_do_not_matter(kind):
    z, labels = batch([1, 1, 4, 2, 4, 1, 2])
    loss, order = ContrastiveLoss(kind), torch.tensor([3, 6, 0, 2, 5, 1, 4])
    torch.testing.assert_close(loss(z[order], 10 - labels[order]), loss(z, labels))


@pytest.mark.parametrize("kind", ["batch_hard", "batch_all"])
def test_triplets_do_not_know_the_scale(kind):
    z, labels = batch([1, 1, 4, 2, 4, 1, 2])
    torch.testing.assert_close(ContrastiveLoss(kind)(7 * z, labels), ContrastiveLoss(kind)(z, labels))


@pytest.mark.parametrize("exclude_bg", [False, True])
@pytest.mark.parametrize("labels", [[0], [1], [0, 0], [1, 1], [1, 2], [0, 1], [1, 2, 3], [1, 1, 1, 1]])
@pytest.mark.parametrize("kind", ["supcon", "batch_hard", "batch_all"])
def test_batches_without_pairs_give_numbers(kind, labels, exclude_bg):
    z, labels = batch(labels)
    loss = ContrastiveLoss(kind, exclude_bg=exclude_bg)(z, labels)
    loss.backward()
    assert loss.isfinite() and loss >= 0 and z.grad.isfinite().all()
    if len(set(labels.tolist())) == len(labels) or (exclude_bg and not labels.any()):
        assert loss == 0 and not z.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_give_finite_gradients(kind):
    z = torch.ones(6, 4, requires_grad=True)
    ContrastiveLoss(kind)(z, torch.tensor([1, 1, 2, 2, 3, 3])).backward()
    assert z.grad.isfinite().all()


def test_background_rows_are_negatives_only():
    z, labels = batch([1, 1, 2, 2, 0, 0])
    loss = supcon_loss(z, labels, exclude_bg=True)
    with_background = supcon_loss(z[:4], labels[:4])
    assert loss > with_background  # they stand in the denominators
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient[4:].abs().sum(dim=1).min() > 0
    apart = supcon_loss(z, torch.tensor([1, 1, 2, 2, 8, 9]))  # not even positives of each other
    torch.testing.assert_close(loss, apart * 6 / 4)


def test_half_precision_is_computed_in_single():
    z, labels = batch([1, 1, 2, 2, 0, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = supcon_loss(z.float(), labels)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, supcon_loss(z.float(), labels), atol=0, rtol=0)
    assert supcon_loss(z.half(), labels).dtype == torch.float32


def test_cross_entropy_over_states():
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1, 0, 2])
    torch.testing.assert_close(ContrastiveLoss("ce")(logits, labels), F.cross_entropy(logits, labels))
    kept = labels != 0
    torch.testing.assert_close(
        state_cross_entropy(logits, labels, exclude_bg=True), F.cross_entropy(logits[kept], labels[kept])
    )
    assert state_cross_entropy(logits, torch.zeros(5, dtype=torch.long), exclude_bg=True) == 0


def test_bad_arguments_are_named_all_at_once():
    with pytest.raises(ConfigError) as caught:
        ContrastiveLoss("subcon", temperature=0, margin=-1)
    for part in ("'subcon'", "supcon, simclr", "temperature 0", "margin -1"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="simclr knows no classes"):
        ContrastiveLoss("simclr", exclude_bg=True)
    with pytest.raises(DataError, match=r"\(2, 3, 4\).*flatten the views"):
        supcon_loss(torch.zeros(2, 3, 4), torch.zeros(2))


# --------------------------------------------------------------------------------------------- TSTL's triplet loss


@pytest.mark.parametrize("case", ["tstl_triplet_a", "tstl_triplet_b"])
def test_triplet_golden(case):
    facts, tensors = golden_tensors(case)
    embeddings = tensors["embeddings"].requires_grad_(True)
    loss = batch_all_triplet_loss(embeddings, tensors["labels"], **facts["args"])
    torch.testing.assert_close(loss, tensors["loss"].squeeze(), atol=1e-5, rtol=0)
    loss.backward()
    torch.testing.assert_close(embeddings.grad, tensors["grad"], atol=1e-5, rtol=0)


def test_triplets_are_those_of_three_loops():
    torch.manual_seed(0)
    rows, labels = torch.randn(7, 3, dtype=torch.float32), torch.tensor([0, 1, 0, 2, 1, 0, 2])
    values = []
    for a in range(7):
        for p in range(7):
            for n in range(7):
                if p != a and labels[p] == labels[a] and labels[n] != labels[a]:
                    values.append((rows[a] - rows[p]).norm() - (rows[a] - rows[n]).norm() + 0.3)
    expected = torch.stack([value for value in values if value > 0]).mean()
    torch.testing.assert_close(batch_all_triplet_loss(rows, labels, margin=0.3), expected)


def test_without_a_triplet_and_with_equal_rows():
    for rows, labels in (
        (torch.randn(4, 3), torch.tensor([0, 0, 0, 0])),
        (torch.randn(4, 3), torch.tensor([0, 1, 2, 3])),
        (torch.zeros(4, 3), torch.tensor([0, 0, 1, 1])),
    ):
        rows.requires_grad_(True)
        batch_all_triplet_loss(rows, labels).backward()
        assert not rows.grad.any()
    with pytest.raises(DataError, match=r"\(2, 3, 4\)"):
        batch_all_triplet_loss(torch.zeros(2, 3, 4), torch.zeros(2))
