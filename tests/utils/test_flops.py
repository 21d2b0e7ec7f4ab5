"""One figure for the same work: on real, meta and fake tensors, by fused attention or by its plain products."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dust.utils.flops import FUSED_ATTENTION, attention_flops, flop_counter

B, H, Q, K, D = 2, 3, 5, 7, 8
PRODUCTS = 2 * B * H * Q * K * D  # FLOP of one of attention's products


def attend(device: str = "cpu", *, backward: bool = False, **options) -> tuple[int, int]:
    """(forward, backward) FLOP of one attention."""
    q, k, v = (torch.zeros(B, H, n, D, device=device, requires_grad=backward) for n in (Q, K, K))
    with flop_counter() as counter:
        out = F.scaled_dot_product_attention(q, k, v, **options)
        forward = counter.get_total_flops()
        if backward:
            out.sum().backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_forward_is_two_products(device):
    assert attend(device)[0] == 2 * PRODUCTS
    assert attend(device, dropout_p=0.1)[0] == 2 * PRODUCTS
    assert attend(device, attn_mask=torch.zeros(Q, K, device=device))[0] == 2 * PRODUCTS


def test_a_fused_backward_computes_the_scores_again():
    assert attend(backward=True) == (2 * PRODUCTS, 5 * PRODUCTS)
    with FakeTensorMode():
        assert attend(backward=True) == (2 * PRODUCTS, 5 * PRODUCTS)
    with sdpa_kernel(SDPBackend.MATH):  # the obvious slow version keeps them
        assert attend(backward=True) == (2 * PRODUCTS, 4 * PRODUCTS)


@pytest.mark.parametrize("name", FUSED_ATTENTION)
def test_every_fused_operator_is_counted(name):
    """By name, also those that no device here runs; one that a version of torch lacks cannot be called there."""
    counter = flop_counter()
    for operator, products in ((name, 2), (f"{name}_backward", 5)):
        packet = getattr(torch.ops.aten, operator, None)
        if packet is None:
            continue
        q, k = torch.zeros(B, H, Q, D), torch.zeros(B, H, K, D)
        tensors = (q, k, k) if products == 2 else (q, q, k, k)
        assert counter.flop_registry[packet](*tensors, out_val=None) == products * PRODUCTS
    assert hasattr(torch.ops.aten, FUSED_ATTENTION[0]), "the one that runs here"


def test_value_width_counts():
    shape = torch.Size([1, 1, 2, 3]), torch.Size([1, 1, 4, 3]), torch.Size([1, 1, 4, 5])
    assert attention_flops(*shape) == 2 * (2 * 4 * 3 + 2 * 4 * 5)


def test_products_and_convolutions():
    layers = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Flatten(), nn.Linear(4 * 16, 5))
    with flop_counter() as counter:
        layers(torch.zeros(2, 3, 8, 8))
    assert counter.get_total_flops() == 2 * 2 * (16 * 4 * 3 * 2 * 2 + 64 * 5)
