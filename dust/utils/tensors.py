"""Tensors that are made in one call and kept for later ones."""

import torch


def may_keep() -> bool:
    """Say whether a tensor that is made now can serve later calls, and one that was kept can serve this one.

    It cannot while a model is traced, of which it would become a part, nor where a mode makes tensors without numbers
    (FakeTensorMode). Make what is kept under ``torch.inference_mode(False)``: training cannot use other tensors.
    """
    return not torch.compiler.is_compiling() and type(torch.empty(0)) is torch.Tensor
