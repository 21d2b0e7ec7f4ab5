"""Attention within shifted windows against an obvious slow one, and the masks by laws."""

import itertools
import math

import pytest
import torch

from dust.models.layers import window_attention
from dust.models.layers.window_attention import WindowAttention, log_offsets, relative_index, window_masks
from tests.helpers import randomised
from tests.models.test_swin import CPU


def slow_attention(attention, x, rule):
    """Every token with every token of the padded grid, one pair of places at a time."""
    size = x.shape[1:-1]
    window = [min(length, side) for length, side in zip(size, attention.window, strict=True)]
    shift = [
        side // 2 if attention.shifted and length > side else 0
        for length, side in zip(size, attention.window, strict=True)
    ]
    padded = [math.ceil(length / side) * side for length, side in zip(size, window, strict=True)]
    places = list(itertools.product(*map(range, padded)))
    rolled = [
        tuple((p - s) % n for p, s, n in zip(place, shift, padded, strict=True)) for place in places
    ]  # where the roll brings each
    tokens = torch.zeros(x.shape[0], len(places), x.shape[-1], dtype=x.dtype)
    real = [all(p < n for p, n in zip(place, size, strict=True)) for place in places]
    tokens[:, [i for i, inside in enumerate(real) if inside]] = x.flatten(1, -2)

    def sees(i, j):
        if any(a // side != b // side for a, b, side in zip(rolled[i], rolled[j], window, strict=True)):
            return False
        came_round = [[r > p for r, p in zip(rolled[place], places[place], strict=True)] for place in (i, j)]
        if came_round[0] != came_round[1]:
            return False
        return rule == "cyclic" or real[i] == real[j]

    q, k, v = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = attention.scale * q @ k.transpose(-2, -1)
    rows = [2 * side - 1 for side in attention.window]
    for i, j in itertools.product(range(len(places)), repeat=2):
        if sees(i, j):
            row = 0
            for a, b, side, count in zip(rolled[i], rolled[j], attention.window, rows, strict=True):
                row = row * count + (a - b + side - 1)
            logits[:, :, i, j] += attention.relative_position_bias_table[row]
        else:
            logits[:, :, i, j] = -math.inf
    out = attention.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return out[:, [i for i, inside in enumerate(real) if inside]].view(x.shape)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("window", "size", "rule"),
    [
        *(((5,), (length,), "exact") for length in (1, 3, 5, 6, 8, 10, 11, 14, 23)),
        ((4,), (13,), "exact"),
        ((1,), (3,), "exact"),
        ((5,), (12,), "cyclic"),
        ((2, 3, 3), (4, 6, 6), "cyclic"),
        ((2, 3, 3), (3, 4, 5), "cyclic"),
        ((4, 3, 2), (3, 5, 4), "cyclic"),  # the first axis is clamped
        ((2, 2, 2), (3, 3, 2), "exact"),
    ],
)
def test_attention_equals_a_slow_one(window, size, rule, shifted):
    torch.manual_seed(0)
    attention = randomised(WindowAttention(8, 2, window, shifted=shifted, mask=rule)).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), slow_attention(attention, x, rule), atol=1e-7, rtol=0)


@pytest.mark.parametrize("attention", ["dot", "cosine"])
@pytest.mark.parametrize("case", [((7,), (19,), "exact"), ((7,), (4,), "exact"), ((2, 3, 3), (3, 5, 6), "cyclic")])
def test_the_fused_kernels_path_is_the_same(monkeypatch, case, attention):
    window, size, rule = case
    torch.manual_seed(0)
    module = randomised(WindowAttention(8, 2, window, shifted=True, mask=rule, attention=attention))
    x = torch.randn(3, *size, 8)
    results = []
    for fused in (False, True):
        monkeypatch.setattr(window_attention, "has_fused_kernel", lambda q, fused=fused: fused)
        module.zero_grad()
        out = module(x)
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad for parameter in module.parameters())])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-4)


def test_the_fused_kernel_gets_a_bias_for_one_clip_in_its_own_type(monkeypatch):
    """Spread over the windows of a batch, or cast after that, it would be larger than all activations of the model."""
    given = []
    monkeypatch.setattr(window_attention, "has_fused_kernel", lambda q: True)
    attend = torch.nn.functional.scaled_dot_product_attention

    def look(q, k, v, attn_mask, **options):
        given.append((tuple(q.shape), tuple(attn_mask.shape), attn_mask.dtype == q.dtype))
        return attend(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
    for shifted in (False, True):
        module = WindowAttention(8, 2, (2, 3, 3), shifted=shifted)
        with torch.autocast("cpu", torch.bfloat16):
            module(torch.randn(5, 4, 6, 6, 8))
    # 8 windows of 18 tokens in each of 5 clips, 2 heads of 4
    assert given == [((40, 2, 18, 4), (1, 2, 18, 18), True), ((5, 16, 18, 4), (1, 16, 18, 18), True)]


def test_what_is_compiled_has_masks_and_indices_as_inputs():
    """Traced, they were made anew by every block in every pass, and copied to the device."""
    torch._dynamo.reset()
    graphs = []

    def look(graph, inputs):
        graphs.append(graph)
        return graph.forward

    module = randomised(WindowAttention(8, 2, (2, 3, 3), shifted=True))
    compiled = torch.compile(module, backend=look, fullgraph=True)
    for shape in ((2, 4, 6, 6, 8), (3, 4, 6, 6, 8), (2, 4, 7, 5, 8)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), module(x), atol=1e-6, rtol=0)
    made = {node.target.__name__ for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    assert len(graphs) == 3 and not made & {"tensor", "zeros", "full", "arange"}


# -------------------------------------------------------------------------------------------------------- masks


def shifted_partition(rule, length, window=8):
    """Which places of each window see each other, after the roll."""
    found = window_masks((length,), (window,), (window // 2,), rule, CPU)
    count = math.ceil(length / window)
    return torch.ones(count, window, window, dtype=torch.bool) if found is None else found[0][found[1]] == 0


@pytest.mark.parametrize(
    ("length", "same"), [(13, True), (60, True), (9, True)] + [(n, False) for n in (51, 26, 29, 7)]
)
def test_the_legacy_mask_is_exact_for_few_lengths(length, same):
    assert torch.equal(shifted_partition("legacy", length), shifted_partition("exact", length)) == same


@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("attention", ["dot", "cosine"])
def test_a_clamped_window_is_a_padded_one_under_the_exact_mask(length, attention):
    torch.manual_seed(0)
    module = randomised(WindowAttention(8, 2, (8,), mask="exact", attention=attention))
    x = torch.randn(2, length, 8)
    clamped = module(x)
    module.clamp = False
    torch.testing.assert_close(module(x), clamped)


def test_masks_are_made_once_and_few_serve_a_big_video():
    size, window, shift = (40, 56, 56), (8, 7, 7), (4, 3, 3)
    masks, numbers = window_masks(size, window, shift, "cyclic", CPU)
    assert masks.shape == (8, 392, 392) and numbers.shape == (5 * 8 * 8,)
    assert window_masks(size, window, shift, "cyclic", CPU)[0] is masks
    for function in (window_masks, relative_index, log_offsets):
        assert function.cache_info().maxsize is not None
    assert window_masks((40, 56, 56), window, (0, 0, 0), "cyclic", CPU) is None
    assert window_masks((16,), (8,), (0,), "exact", CPU) is None


def test_cosine_attention_equals_the_formula_and_its_scale_ends_at_100():
    torch.manual_seed(0)
    attention = randomised(WindowAttention(8, 2, (5,), attention="cosine", mask="exact")).double()
    attention.logit_scale.data = torch.tensor([math.log(7), math.log(1000)], dtype=torch.float64).view(2, 1, 1)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    bias = torch.cat([attention.q_bias, torch.zeros(8), attention.v_bias])
    q, k, v = (x[0] @ attention.qkv.weight.T + bias).unflatten(-1, (3, 2, 4)).permute(1, 2, 0, 3)
    cosine = (q @ k.transpose(-2, -1)) / (q.norm(dim=-1, keepdim=True) * k.norm(dim=-1).unsqueeze(1))
    logits = cosine * torch.tensor([7.0, 100.0]).view(2, 1, 1)
    for i, j in itertools.product(range(5), repeat=2):
        offset = (i - j) / 4 * 8
        place = torch.tensor([math.copysign(math.log2(abs(offset) + 1) / math.log2(8), offset)], dtype=torch.float64)
        logits[:, i, j] += 16 * attention.cpb_mlp(place).sigmoid()
    expected = attention.proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(attention(x)[0], expected, atol=1e-6, rtol=0)
