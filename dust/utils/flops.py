"""FLOP of whatever runs, the same on every version of torch and every device.

torch.utils.flop_counter knows some of the fused attention operators by name, and which of them differs between its
versions; an operator that it does not know counts nothing. Here all of them are counted by one formula.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

#: Fused attention as torch names it for CPUs, CUDA (flash, memory efficient, cuDNN) and other devices.
FUSED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)


def attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *, products: tuple[int, int] = (1, 1)
) -> int:
    """Count the matrix products of an attention, 2 FLOP per multiply-add.

    Args:
        query: shape (batch, heads, queries, dim).
        key: shape (batch, heads or groups, keys, dim).
        value: shape (batch, heads or groups, keys, value dim).
        products: how many products are as wide as ``key`` and as ``value``: the forward has q k^T and p v, the
            backward of a fused kernel the scores again, dq and dk, and dp and dv.
    """
    batch, heads, queries, dim = query
    return 2 * batch * heads * queries * key[-2] * (products[0] * dim + products[1] * value[-1])


def _forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value)


def _backward(_grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value, products=(3, 2))


def flop_counter() -> FlopCounterMode:
    """Make a context in which matrix products, convolutions and attention are counted, 2 FLOP per multiply-add.

    ``flop_counter().get_total_flops()`` is the sum so far. It works on real, meta and fake tensors.
    """
    table: dict[Any, Any] = {}
    for name in FUSED_ATTENTION:
        for operator, count in ((name, _forward), (f"{name}_backward", _backward)):
            if hasattr(torch.ops.aten, operator):  # not every version has every one
                table[getattr(torch.ops.aten, operator)] = count
    return FlopCounterMode(display=False, custom_mapping=table)
