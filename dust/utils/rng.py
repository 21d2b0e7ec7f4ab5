"""Randomness without hidden state: every draw comes from a seed that is derived from what it is for.

Augmentation draws from (seed, epoch, sample, view), shuffling from (seed, epoch), mixing from (seed, step), dropout
from (seed, step, rank). So any number of workers gives the same batches and a resumed run is the same run.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # sub-commands that read and write data draw numbers without torch
    import torch


def derive_seed(*words: int | str) -> int:
    """Return a 63-bit seed that depends on every word and on their order, the same on every machine and Python."""
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "little") >> 1


def numpy_rng(*words: int | str) -> np.random.RandomState:
    """Return a private NumPy stream. RandomState, whose numbers NumPy has promised to keep, and whose ``randint(low,
    high)`` the sampling functions take; over Philox, which begins at a key without RandomState's own slow seeding."""
    return np.random.RandomState(np.random.Philox(key=derive_seed(*words)))


def torch_generator(*words: int | str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a private torch stream. Those of other kinds of devices give other numbers."""
    import torch

    return torch.Generator(device).manual_seed(derive_seed(*words))
