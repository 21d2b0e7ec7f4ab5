"""The triplet loss against the authors' numbers and against three loops."""

import pytest
import torch

from dust.models.contrastive_losses import batch_all_triplet_loss
from dust.utils.errors import DataError
from tests.helpers import golden_tensors


@pytest.mark.parametrize("case", ["tstl_triplet_a", "tstl_triplet_b"])
def test_golden(case):
    facts, tensors = golden_tensors(case)
    embeddings = tensors["embeddings"].requires_grad_(True)
    loss = batch_all_triplet_loss(embeddings, tensors["labels"], **facts["args"])
    torch.testing.assert_close(loss, tensors["loss"].squeeze(), atol=1e-5, rtol=0)
    loss.backward()
    torch.testing.assert_close(embeddings.grad, tensors["grad"], atol=1e-5, rtol=0)


def test_three_loops():
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
