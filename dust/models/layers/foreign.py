"""What the readers of other projects' ViTs have in common: variants that are refused by name, and positions."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import torch

from dust.utils.errors import CheckpointError

State = dict[str, torch.Tensor]


def require(state: Mapping[str, torch.Tensor], needed: Mapping[str, str], sign: str) -> None:
    """Raise CheckpointError if ``state`` is of the layout (it has ``sign``, or names beneath it) and lacks a tensor.

    Args:
        needed: name of the tensor -> what a file without it computes instead.
    """
    if not any(key == sign or key.startswith(f"{sign}.") for key in state):
        return
    lacking = [f"{name} ({words})" for name, words in needed.items() if name not in state]
    if lacking:
        raise CheckpointError(f"the file has no {', no '.join(lacking)}: the model cannot compute that")


def check_patches(state: Mapping[str, torch.Tensor], name: str, own: Sequence[int], key: str) -> None:
    """Raise CheckpointError if the kernel of the patches has the model's width and other sides or channels.

    Args:
        own: shape of the model's kernel, (D, C, ...).
        key: of the configuration, that sets the sides.
    """
    kernel = state.get(name)
    if kernel is not None and kernel.shape[0] == own[0] and tuple(kernel.shape[1:]) != tuple(own[1:]):
        raise CheckpointError(
            f"{name} is {tuple(kernel.shape)} in the file and {tuple(own)} in the model: patches of another size or "
            f"number of channels. Set {key}, or take another file"
        )


def fill_biases(state: State, own: Iterable[str], pattern: str, notes: list[str], weight: str = ".weight") -> None:
    """Give layers that the file has without a bias one of zeros, which is the same, if all that match lack it.

    Args:
        own: the model's names.
        pattern: of biases that a variant of the layout goes without.
        weight: the end of the weight's name, where the bias has the same with "bias".
    """
    end = weight.replace("weight", "bias")
    biases = [name for name in own if re.search(pattern, name)]
    weights = {name: state.get(name.removesuffix(end) + weight) for name in biases}
    if not biases or any(name in state for name in biases) or any(tensor is None for tensor in weights.values()):
        return
    for name, tensor in weights.items():
        assert tensor is not None
        state[name] = torch.zeros(len(tensor), dtype=tensor.dtype)
    notes.append(f"{len(biases)} biases that the file goes without are zeros, which is the same: {biases[0]}, ...")


def with_class_position(positions: torch.Tensor, wanted: int, name: str, notes: list[str]) -> torch.Tensor:
    """Return positions (1, L, D) of timm's ``no_embed_class``, of patches alone, with zeros for the class token, which
    is the same. Others come back as they are.

    Args:
        wanted: patches of the model.
        name: of the tensor.

    Raises:
        CheckpointError: they may be either.
    """
    stored = positions.shape[1]
    if stored - 1 == wanted or (_is_square(stored - 1) and stored != wanted) or not _is_square(stored):
        return positions
    if stored != wanted:
        raise CheckpointError(
            f"{name}: {stored} positions are a class token's and {stored - 1} patch positions, which are not a square, "
            f"or {stored} of patches alone (no_embed_class), which are one: build the model for the file's picture size"
        )
    notes.append(f"{name}: {stored} positions of patches alone (no_embed_class): the class token's is zero")
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number
