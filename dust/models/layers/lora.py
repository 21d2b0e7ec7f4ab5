"""Low-rank adapters: "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685.

An adapter is a parametrization of a weight: W + alpha / rank * up @ down. So it works wherever the weight is
read, whatever the attention is called, and merging it is what torch does when it removes a parametrization.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence

import torch
import torch.nn as nn
from torch.nn.utils import parametrize

from dust.utils.errors import ConfigError

#: What can be adapted: the weights by their names, and for rows of fused ones which third.
TARGETS = {
    "q": (r"(?:\.qkv\.weight|\.in_proj_weight)$", 0),
    "k": (r"(?:\.qkv\.weight|\.in_proj_weight)$", 1),
    "v": (r"(?:\.qkv\.weight|\.in_proj_weight)$", 2),
    "proj": (r"attn\w*\.(?:proj|out_proj)\.weight$", None),
    "fc": (r"\.mlp\.(?:fc1|fc2|c_fc|c_proj)\.weight$", None),
}


class LowRank(nn.Module):
    """Weight (out, in) -> the same plus alpha / rank * up @ down, on some thirds of its rows or on all of them.

    ``down`` begins random and ``up`` at zero, so that nothing is changed at first.
    """

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float, thirds: Sequence[int] = ()) -> None:
        super().__init__()
        out, width = weight.shape
        self.thirds, self.scale = tuple(thirds), alpha / rank
        groups, rows = (len(self.thirds), out // 3) if self.thirds else (1, out)
        self.down = nn.Parameter(weight.new_empty(groups, rank, width).normal_(std=width**-0.5))
        self.up = nn.Parameter(weight.new_zeros(groups, rows, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        change = self.scale * (self.up @ self.down)  # (groups, rows, in)
        if not self.thirds:
            return weight + change[0]
        none = torch.zeros_like(change[0])
        return weight + torch.cat([change[self.thirds.index(n)] if n in self.thirds else none for n in range(3)])


def add_lora(model: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> list[str]:
    """Adapt the weights of ``model`` that ``targets`` mean (keys of TARGETS); returns their names.

    Raises ConfigError where it has none of them.
    """
    thirds: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        for target in targets:
            pattern, third = TARGETS[target]
            if parameter.ndim == 2 and re.search(pattern, name):
                thirds.setdefault(name, []).extend([] if third is None else [third])
    if not thirds:
        raise ConfigError(f"PROBE.LORA_TARGETS {list(targets)}: {type(model).__name__} has no such weights; set "
                          "PROBE.LORA_RANK 0, or unfreeze blocks by PROBE.UNFREEZE_BLOCKS")  # fmt: skip
    for name, rows in thirds.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        adapter = LowRank(module.get_parameter(leaf), rank, alpha, sorted(rows))
        parametrize.register_parametrization(module, leaf, adapter, unsafe=True)
    return list(thirds)


def _adapted(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield module, name of its weight, adapter, of each that :func:`add_lora` added."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name, chain in list(module.parametrizations.items()):  # type: ignore[union-attr, operator]
                if isinstance(chain[0], LowRank):
                    yield module, name, chain[0]


def merge_lora(model: nn.Module) -> None:
    """Put the adapters' changes into the weights, and take the adapters away; what the model gives stays the same."""
    for module, name, _ in list(_adapted(model)):
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)


@contextlib.contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """Take the adapters away within, so that the weights have the names of a model that has none."""
    found = list(_adapted(model))
    for module, name, _ in found:
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    try:
        yield
    finally:
        for module, name, adapter in found:
            parametrize.register_parametrization(module, name, adapter, unsafe=True)
