"""Heads on tokens: nearest neighbours against the slow way, many heads together as each alone."""

import copy

import pytest
import torch

from dust.models.layers.attentive import CrossAttentionBlock
from dust.models.layers.probes import AttentiveProbe, KNNProbe, LinearProbe
from dust.utils.errors import DustError
from tests.helpers import noise_of, randomised

TOKENS = noise_of(6, 5, 8)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("classes", [3, 0])
def test_heads_together_are_each_alone(depth, classes):
    torch.manual_seed(0)
    heads = [
        randomised(AttentiveProbe(8, classes, num_heads=2, depth=depth) if depth else LinearProbe(8, classes))
        for _ in range(4)
    ]
    together = type(heads[0]).together(heads, TOKENS)
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


def test_a_cross_attention_is_the_textbooks():
    """Keys and values of every token, which the fast form never makes."""
    block = randomised(CrossAttentionBlock(8, 2, mlp_ratio=2.0, norm_eps=1e-5))
    queries = noise_of(6, 3, 8)
    q = block.xattn.q(queries).unflatten(-1, (2, 4)).transpose(1, 2)
    k, v = block.xattn.kv(block.norm1(TOKENS)).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
    seen = ((q @ k.transpose(2, 3) / 2).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    wanted = queries + seen
    wanted = wanted + block.mlp(block.norm2(wanted))
    torch.testing.assert_close(block(queries, TOKENS), wanted, atol=1e-5, rtol=1e-5)
