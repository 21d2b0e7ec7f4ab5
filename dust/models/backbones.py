"""Backbones of video, as far as stored tokens and probes must agree on them."""

import re
from typing import Any

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.frozen import sha256_of_tensors
from dust.models.protocol import GivesTokens


def no_tokens(name: str) -> str:
    """Say that a model gives no tokens, and which registered ones do."""
    known = [other for other in sorted(MODEL_REGISTRY) if isinstance(MODEL_REGISTRY.get(other), GivesTokens)]
    return f"{name} gives no tokens of video; those that do: {', '.join(known)}"


def sha256_of_backbone(model: Any) -> str:
    """Return SHA-256 (hex) of all tensors by which a :class:`GivesTokens` makes tokens: the same in whatever file they
    lay, of whatever head stands on them."""
    state = model.state_dict()
    return sha256_of_tensors({name: state[name] for name in state if not re.search(model.beyond_tokens, name)})
