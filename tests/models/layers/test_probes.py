"""Heads on tokens: nearest neighbours against the slow way, many heads together as each alone."""

import copy

import pytest
import torch

from dust.models.layers.probes import AttentiveProbe, KNNProbe, LinearProbe
from dust.utils.errors import DustError
from tests.helpers import noise_of

TOKENS = noise_of(6, 5, 8)


@pytest.mark.parametrize("cls", [AttentiveProbe, LinearProbe])
@pytest.mark.parametrize("classes", [3, 0])
def test_heads_together_are_each_alone(cls, classes):
    torch.manual_seed(0)
    more = {"num_heads": 2, "depth": 2} if cls is AttentiveProbe else {}
    heads = [cls(8, classes, **more) for _ in range(4)]
    together = cls.together(heads, TOKENS)
    assert together.shape == (6, 4, classes or 8)
    for number, head in enumerate(heads):
        torch.testing.assert_close(together[:, number], head(TOKENS))


def test_neighbours_vote_by_cosine():
    answers = torch.tensor([0, 1, 2, 0, 1, 2])
    head = KNNProbe(8, 3, neighbours=2, temperature=0.5).train()
    with pytest.raises(DustError, match="it remembers no clip"):
        copy.deepcopy(head).eval()(TOKENS)
    for start in (0, 4):
        head.remember(TOKENS[start : start + 4], answers[start : start + 4])
        assert head(TOKENS).requires_grad
    shares = head.eval()(TOKENS[:2]).exp()
    features = torch.nn.functional.normalize(TOKENS.mean(dim=1), dim=1)
    for row in range(2):
        cosines = features @ features[row]
        wanted = torch.zeros(3)
        for place in cosines.argsort(descending=True)[:2]:
            wanted[answers[place]] += torch.exp(cosines[place] / 0.5)
        torch.testing.assert_close(shares[row], wanted / wanted.sum(), atol=1e-5, rtol=1e-4)
    again = KNNProbe(8, 3, neighbours=2, temperature=0.5).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(TOKENS), head(TOKENS)) and len(again.memory) == 6
