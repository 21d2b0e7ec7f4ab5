"""CAST's two kinds of weights: the experts, which are frozen and come from files of their own, and what is trained."""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn

from dust.models.clip_vit import CLIPVisual
from dust.models.layers.frozen import hash_once, sha256_of_tensors
from dust.models.videomae_vit import State, VideoMAE
from dust.utils.checkpoint import LoadReport, load_weights, read_checkpoint
from dust.utils.checkpoint.tensors import find_tensors
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)
Weights = str | os.PathLike | Mapping[str, Any]
HASH = "frozen_sha256"  # the entry of a partial state dict that names its experts, 32 bytes
TRAINED = ("cross", "Adapter", "ln_post", "vmae_fc_norm", "head")  # in the names of parameters that are not frozen


def is_trained(name: str) -> bool:
    """Tell whether a parameter is trained: one of CAST's own, and not of its two frozen experts."""
    return any(word in name for word in TRAINED)


def load_experts(model: Any, *, spatial: Weights, temporal: Weights) -> tuple[LoadReport, LoadReport]:
    """Fill the experts of ``model`` with weights of CLIP and of VideoMAE, in any layout that these models load.

    ``spatial`` and ``temporal`` are paths or state dicts. As published, the spatial expert's last norm comes along and
    the temporal one's does not; a temporal expert that was trained for as many classes also gives its head. Raises
    CheckpointError, with the model untouched, that lists for both files what is missing or of another shape.
    """
    in_chans, frames, height, width = model.clip_shape
    clip = CLIPVisual(
        input_resolution=(height, width),
        patch_size=model.patch_size,
        width=model.embed_dim,
        layers=len(model.blocks),
        heads=model.num_heads,
        output_dim=0,
        in_chans=in_chans,
    )
    video = VideoMAE(
        img_size=(height, width),
        patch_size=model.patch_size,
        in_chans=in_chans,
        num_classes=0 if isinstance(model.num_classes, tuple) else model.num_classes,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio,
        qkv_bias=model.qkv_bias,
        all_frames=frames,
        tubelet_size=model.tubelet_size,
    )
    reports, problems = [], []
    for what, expert, weights in (("spatial", clip, spatial), ("temporal", video, temporal)):
        try:
            report = load_weights(expert, weights)
        except CheckpointError as error:
            problems.append(f"{what} expert: {error}")
            continue
        reports.append(report)
        not_loaded = [*report.missing, *(f"{key} ({file}, not {ours})" for key, file, ours in report.misshapen)]
        lacking = [key for key in not_loaded if not re.match(r"(head|fc_norm)\.", key)]
        if lacking:
            problems.append(f"{what} expert: {report.path} has no fitting {', '.join(lacking)}")
    if problems:
        raise CheckpointError("CAST's experts were not loaded. " + "\n  ".join(problems))
    state = {f"clip_{key}": tensor for key, tensor in clip.state_dict().items()}
    state = {re.sub(r"^clip_transformer\.resblocks\.(\d+)\.", r"blocks.\1.clip_", k): v for k, v in state.items()}
    for key, tensor in video.state_dict().items():
        if not key.startswith(("fc_norm.", "head.")) or (key.startswith("head.") and key in reports[1].loaded):
            state[key] = tensor
    model.load_state_dict(state, strict=False)
    if "head.weight" in reports[1].loaded:
        logger.info("the head starts from the temporal expert's, which has as many classes")
    return reports[0], reports[1]


def load_trunk(model: nn.Module, path: str | os.PathLike) -> None:
    """Fill the experts of ``model`` with those of another CAST, from a checkpoint that holds them.

    Raises CheckpointError, with the model untouched, that lists what is missing or of another shape.
    """
    state = read_state(path)
    own = {name: parameter for name, parameter in model.named_parameters() if not is_trained(name)}
    problems = _misfits(own, state)
    if problems:
        hint = "\n    It holds only what was trained: name its experts' own files." if HASH in state else ""
        raise CheckpointError(f"{path} does not give CAST's experts:{_table(problems)}{hint}")
    model.load_state_dict({name: state[name] for name in own}, strict=False)
    logger.info("experts of CAST: those in %s, sha256 %s", path, frozen_sha256(model)[:16])


def read_state(path: str | os.PathLike) -> State:
    """Return the tensors of a checkpoint of CAST's, ours or the authors' (``module``, and names that begin so)."""
    notes: list[str] = []
    state = find_tensors(str(path), read_checkpoint(path), notes)
    logger.info("%s: %s", path, "; ".join(notes))
    return {name.removeprefix("module."): value for name, value in state.items()}


def trained_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that training changes, whatever their ``requires_grad`` is now."""
    return [name for name, _ in model.named_parameters() if is_trained(name)]


def trained_state_dict(model: nn.Module) -> State:
    """Return what training changes, for a file without the experts: 45 M of ViT-B's 217 M numbers. Not copied."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in trained_names(model)}


def load_trained(model: nn.Module, state: Mapping[str, torch.Tensor], source: str = "state dict") -> None:
    """Put what :func:`trained_state_dict` gave back into a model with the same experts (see :func:`frozen_sha256`).

    Raises CheckpointError, with the model untouched, that lists what is missing, unexpected or of another shape.
    """
    own = trained_state_dict(model)
    problems = _misfits(own, state) + [f"{name} is not a part that is trained" for name in state if name not in own]
    if problems:
        raise CheckpointError(f"{source}: does not fit the trained part of {type(model).__name__}:{_table(problems)}")
    model.load_state_dict(dict(state), strict=False)


def _misfits(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return a line for each of ``own`` that ``state`` lacks, or has in another shape."""
    missing = [f"{name} is missing" for name in own if name not in state]
    return missing + [
        f"{name} is {tuple(state[name].shape)}, in the model {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]


def _table(lines: list[str], most: int = 8) -> str:
    """Return the first lines below each other: files of another size misfit in hundreds of places."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n    {line}" for line in [*lines[:most], *more])


def trained_part(model: nn.Module) -> State:
    """Return :func:`trained_state_dict` and, under ``HASH``, which experts it belongs to."""
    digest = bytearray.fromhex(frozen_sha256(model))
    return {**trained_state_dict(model), HASH: torch.frombuffer(digest, dtype=torch.uint8)}


def load_checkpointed(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put back a whole state dict, or what :func:`trained_part` gave into a model that has its experts already.

    Raises CheckpointError if the experts are others, or if anything is missing, unexpected or of another shape.
    """
    if HASH not in state:
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointError(f"{source}: does not fit {type(model).__name__}: {error}") from error
        return
    check_experts(model, state, source)
    load_trained(model, {name: value for name, value in state.items() if name != HASH}, source)


def check_experts(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise CheckpointError unless ``state`` was trained on the experts that ``model`` has."""
    wanted, there = expert_hash_of(model, state), frozen_sha256(model)
    if wanted != there:
        raise CheckpointError(
            f"{source} was trained on other experts: sha256 {wanted[:16]}..., in the model {there[:16]}... Name the "
            "files that it was trained with in CAST.SPATIAL_FROM and CAST.TEMPORAL_FROM (or CAST.TRUNK_FROM)."
        )


def expert_hash_of(model: nn.Module, state: Mapping[str, torch.Tensor]) -> str:
    """Return the hash of the experts that a checkpoint's tensors name, or hold."""
    if HASH in state:
        return bytes(state[HASH].tolist()).hex()
    return sha256_of_tensors(
        {name: state[name] for name, _ in model.named_parameters() if not is_trained(name) and name in state}
    )


def frozen_sha256(model: nn.Module) -> str:
    """Return SHA-256 (hex) of the experts: of name, type, shape and bytes of each frozen parameter, in the order of
    names. Computed once for weights that nobody wrote to. All processes ask together where they share the
    parameters."""
    frozen = {name: parameter for name, parameter in model.named_parameters() if not is_trained(name)}
    return hash_once(model, [*frozen.values()], lambda: sha256_of_tensors(frozen))
