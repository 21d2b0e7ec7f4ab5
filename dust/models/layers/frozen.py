"""What is frozen: its hash, and its hidden layers without keeping them for the backward pass."""

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef

ACTIVATIONS = ("gelu", "quick_gelu")


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """Return x * sigmoid(1.702 x), CLIP's, which is not GELU. In this form the backward pass needs one tensor, not
    two."""
    return F.silu(1.702 * x) / 1.702


def frozen_hidden(linear: nn.Linear, activation: str, x: torch.Tensor) -> torch.Tensor:
    """Return ``activation(linear(x))``, (..., D) -> (..., hidden), where ``activation`` is gelu (exact) or quick_gelu.

    Of a frozen layer only ``x`` is kept for the backward pass, which computes ``linear(x)`` a second time. The hidden
    layer is the widest of all, and an adapter beside the MLP keeps ``x`` anyhow. A layer that learns is computed as
    usual.
    """
    if torch.is_grad_enabled() and x.requires_grad and not any(p.requires_grad for p in linear.parameters()):
        return _FrozenHidden.apply(x, linear.weight, linear.bias, activation)
    return activate(F.linear(x, linear.weight, linear.bias), activation)


def activate(hidden: torch.Tensor, activation: str) -> torch.Tensor:
    """Return gelu (exact) or quick_gelu of any tensor."""
    return F.gelu(hidden) if activation == "gelu" else quick_gelu(hidden)


class _FrozenHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> torch.Tensor:
        # no leaf: torch 2.10's autocast would keep its 16-bit copy, made without gradient, for later layers
        hidden = F.linear(x.detach(), weight, bias)
        ctx.save_for_backward(x, weight, bias)
        ctx.activation, ctx.dtype = activation, hidden.dtype  # under autocast not x's
        if activation == "gelu":
            return torch.ops.aten.gelu_(hidden)
        return F.silu(hidden.mul_(1.702), inplace=True).div_(1.702)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        weight = weight.to(ctx.dtype)
        hidden = F.linear(x.to(ctx.dtype), weight, bias.to(ctx.dtype))
        grad = grads[0].to(ctx.dtype)
        if ctx.activation == "gelu":
            grad = torch.ops.aten.gelu_backward(grad, hidden)
        else:
            grad = torch.ops.aten.silu_backward(grad, hidden.mul_(1.702))
        return (grad @ weight).to(x.dtype), None, None, None


def sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return SHA-256 (hex) of name, type, shape and bytes of each tensor, in the order of names. All processes ask
    together where they share the tensors out."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        shared: Any = value.detach()
        tensor = (shared.full_tensor() if hasattr(shared, "full_tensor") else shared).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


#: Of each model: of which tensors the hash is, how they were then (:func:`_mark`), and the hash.
_KNOWN: "weakref.WeakKeyDictionary[nn.Module, tuple[Sequence[torch.Tensor], list[Any], str]]"
_KNOWN = weakref.WeakKeyDictionary()


def hash_once(model: nn.Module, tensors: Sequence[torch.Tensor], compute: Callable[[], str]) -> str:
    """Return ``compute()``, the hash of ``tensors`` of ``model``; that of the call before if nobody wrote to them
    since.

    170 M frozen numbers take a second or more, at every save and in every process. Nothing is kept of tensors that
    learn: fused optimizers do not count what they write. Nor of inference tensors, of which nothing is counted. What
    nobody can see is a write to ``tensor.data`` itself (``tensor.data.mul_(2)``): write to the tensor instead.
    """
    if any(tensor.requires_grad or tensor.is_inference() for tensor in tensors):
        _KNOWN.pop(model, None)
        return compute()
    marks = [_mark(tensor) for tensor in tensors]
    if model not in _KNOWN or _KNOWN[model][1] != marks:
        _KNOWN[model] = tensors, marks, compute()  # the tensors too: a new one could lie where an old one did
    return _KNOWN[model][2]


def _mark(tensor: Any) -> tuple[Any, ...]:
    """Return what is another after each change of a tensor: which it is, where it lies, how often it was written to.

    ``module.half().float()`` gives a tensor other numbers and counts nothing, and these may lie where the old ones did.
    But no storage is mistaken for another as long as there is a weak reference to it.
    """
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of one that is shared out, our part
    where = local.data_ptr(), StorageWeakRef(local.untyped_storage())
    return id(tensor), tensor.dtype, tuple(tensor.shape), where, tensor._version
