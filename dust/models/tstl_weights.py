"""How TSTL is put together from the checkpoints of its two stages."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dust.models.cast import CAST
from dust.models.cast_weights import HASH, expert_hash_of, frozen_sha256, load_trained, read_state, trained_names
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)


def load_parts(model: Any, paths: Mapping[str, Path]) -> None:
    """Fill a TSTL: its trunk from ``spatial`` and ``temporal`` or ``trunk``, else from the selector's own checkpoint,
    then what was trained of ``selector`` and of every ``experts.{g}``.

    A checkpoint holds only what was trained and the hash of its trunk, or everything. Raises CheckpointError that names
    every file that is missing, was trained on another trunk, or does not fit.
    """
    named: dict[str, CAST] = {"selector": model.selector}
    named |= {f"experts.{index}": expert for index, expert in enumerate(model.experts)}
    problems = [f"{name}: no file is named for it" for name in named if name not in paths]
    trunk = {part: path for part, path in paths.items() if part in ("spatial", "temporal", "trunk")}
    if not trunk and "selector" in paths:
        trunk = {"trunk": paths["selector"]}
    wanted = ""
    try:
        if trunk:
            model.selector.load_parts(trunk)  # the experts' trunk is the same tensors
            wanted = frozen_sha256(model.selector)
    except CheckpointError as error:
        problems.append(f"trunk: {error}")
    for name in (name for name in named if name in paths):
        try:
            state = read_state(paths[name])  # one file at a time: all of them would take the memory twice
            if not wanted:  # one cause is enough: what does not fit the trunk does not fit here either
                continue
            there = expert_hash_of(model.selector, state)
            if there != wanted:
                raise CheckpointError(
                    f"{paths[name]} was trained on another trunk: sha256 {there[:16]}..., here {wanted[:16]}..."
                )
            _load_trained(named[name], state, str(paths[name]))
        except CheckpointError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise CheckpointError(
            "TSTL cannot be put together:\n  " + "\n  ".join(problems) + "\n  Selector and experts are trained on one "
            "trunk: CAST.SPATIAL_FROM and CAST.TEMPORAL_FROM, or CAST.TRUNK_FROM, of all stages are the same. "
            'TSTL.GROUPS "[3]" trains the expert of group 3 alone.'
        )
    logger.info("TSTL: selector and %d experts on the trunk %s", len(named) - 1, wanted[:16])


def _load_trained(part: CAST, state: Mapping[str, torch.Tensor], source: str) -> None:
    ours = {name: value for name, value in state.items() if name != HASH}
    if HASH not in state:  # a whole checkpoint; its trunk has been compared
        frozen = {name for name, _ in part.named_parameters()} - set(trained_names(part))
        ours = {name: value for name, value in ours.items() if name not in frozen}
    load_trained(part, ours, source)
