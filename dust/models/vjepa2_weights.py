"""V-JEPA 2's published files under our names: the authors' encoders and probes, and Hugging Face's folders."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from dust.utils.checkpoint import LoadReport, load_weights, read_checkpoint
from dust.utils.checkpoint.tensors import numbered_classifier
from dust.utils.errors import CheckpointError

State = dict[str, torch.Tensor]

_ENCODER = [
    (r"^encoder\.embeddings\.patch_embeddings\.", "encoder.patch_embed."),
    (r"^encoder\.layer\.(\d+)\.attention\.", r"encoder.blocks.\1.attn."),
    (r"^encoder\.layer\.", "encoder.blocks."),
    (r"^encoder\.layernorm\.", "encoder.norm."),
]
_POOLER = [
    (r"^pooler\.self_attention_layers\.", "pooler.blocks."),
    (r"^pooler\.cross_attention_layer\.", "pooler.cross_attention_block."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.cross_attn\.q_proj\.", ".xattn.q."),
    (r"\.cross_attn\.", ".xattn."),
    (r"^classifier\.", "head."),
]
#: Parts that become one tensor: the last words of ours, and of theirs in the order of the rows.
_JOINED = [
    ("attn.qkv", ("attn.query", "attn.key", "attn.value")),
    ("attn.qkv", ("attn.q_proj", "attn.k_proj", "attn.v_proj")),
    ("xattn.kv", ("xattn.k_proj", "xattn.v_proj")),
]
#: What the authors' training puts before a name: the part of the file, then the words of its wrappers.
_WRAPPERS = re.compile(r"^(?:encoder\.(?=module\.|backbone\.))?(?:module\.|backbone\.)*")
_HUGGING_FACE_POOLER = re.compile(r"(^|\.)pooler\.cross_attention_layer\.")
_AUTHORS_EPS = 1e-5
#: All of the authors' probes have 16 heads; of the published encoders g alone (22) differs from that.
_AUTHORS_HEADS, _GIANT_HEADS = 16, 22
#: By the width of an encoder; no tensor shows them.
PUBLISHED_HEADS: dict[float, int] = {768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")
_OF_ENCODER = re.compile(r"(patch_embed|patch_embed_img|blocks|norm|norms_block)\.|(img|video)_mod_embed$")


def our_names(state: State, notes: list[str], encoder: nn.Module | None) -> State:
    """Return a model's tensors, in whatever layout, under the names of :class:`dust.models.vjepa2.VJEPA2`; ``encoder``
    is the model's, None where it does not matter.

    Raises:
        CheckpointError: the file is of the other version, or of an encoder of another size.
    """
    state = {_WRAPPERS.sub("", key): tensor for key, tensor in state.items()}
    if any(key.startswith(("encoder.layer.", "vjepa2.encoder.", "encoder.embeddings.")) for key in state):
        state = _from_hugging_face(state, notes)
    state = {_with_prefix(key): tensor for key, tensor in state.items()}
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("predictor.")}
    if len(kept) < len(state):
        notes.append(f"{len(state) - len(kept)} tensors of the predictor are not used")
    if kept.pop("encoder.pos_embed", kept.pop("pos_embed", None)) is not None:
        notes.append("pos_embed is not used: positions are computed")
    if encoder is not None and any(key.startswith("encoder.blocks.") for key in kept):
        _check_encoder(kept, encoder)
    return kept


def _check_encoder(state: State, encoder: Any) -> None:
    found = "2.1" if any(key.startswith("encoder.norms_block.") for key in state) else "2.0"
    if found != encoder.version:
        raise CheckpointError(
            f"the file is of V-JEPA {found}, the model is of {encoder.version}: its positions and norms differ. Set "
            f"VJEPA2.VERSION {found}, or name another file"
        )
    own = {f"encoder.{key}": tensor for key, tensor in encoder.state_dict().items()}
    theirs, ours = _sizes(state), _sizes(own)
    wrong = {key: size for key, size in theirs.items() if size != ours[key]}
    if wrong:
        heads = PUBLISHED_HEADS.get(theirs.get("EMBED_DIM", 0))
        wanted = {**wrong, **({"NUM_HEADS": heads} if heads else {})}
        raise CheckpointError(
            f"the file's encoder is of another size than the model's, {_listed({key: ours[key] for key in wrong})}: "
            f"set {_listed(wanted, 'VJEPA2.')}, or name another file"
        )


def _sizes(state: State) -> dict[str, float]:
    """Return the keys of ``VJEPA2`` that an encoder's tensors show, as far as they are there."""
    found: dict[str, float] = {}
    blocks = {int(match[1]) for match in map(_BLOCK.match, state) if match}
    if any(key.startswith("encoder.norm") for key in state) and blocks == set(range(len(blocks))):
        found["DEPTH"] = len(blocks)  # else some of its tensors
    patches, hidden = (state.get(f"encoder.{name}.weight") for name in ("patch_embed.proj", "blocks.0.mlp.fc1"))
    if patches is not None and patches.ndim == 5:
        found |= {"EMBED_DIM": len(patches), "TUBELET_SIZE": patches.shape[2], "PATCH_SIZE": patches.shape[-1]}
    if hidden is not None and hidden.ndim == 2:
        found["MLP_RATIO"] = hidden.shape[0] / hidden.shape[1]
    return found


def _listed(sizes: dict[str, float], prefix: str = "") -> str:
    return " ".join(f"{prefix}{key} {size}" for key, size in sizes.items())


def check_probe(state: State, notes: list[str], encoder: nn.Module, pooler: nn.Module) -> None:
    """Compare what a probe's layout fixes and no tensor shows, heads and epsilon, with a model's encoder and pooler.

    Hugging Face's pooler has the heads and the epsilon of the encoder, the authors' the epsilon of torch.

    Raises:
        CheckpointError: they differ, so that the answers would be others than the file's.
    """
    first: Any = encoder.get_submodule("blocks.0")
    last: Any = pooler.get_submodule("cross_attention_block")
    heads, eps = last.xattn.num_heads, last.norm1.eps
    of_encoder, wanted, problems = first.attn.num_heads, _AUTHORS_EPS, []
    if any(_HUGGING_FACE_POOLER.search(key) for key in state):
        layout, wanted = "Hugging Face's", first.norm1.eps
        if of_encoder == _GIANT_HEADS and heads == _AUTHORS_HEADS:
            notes.append(
                f"pooler with {heads} heads, as the authors trained the published ones of g; Hugging Face's code "
                f"computes with {of_encoder} (VJEPA2.PROBE_HEADS)"
            )
            return
        if heads != of_encoder:
            problems.append(f"as many heads as the encoder: set VJEPA2.PROBE_HEADS {of_encoder}, it is {heads}")
    elif any(re.search(r"(^|\.)linear\.weight$", key) for key in state):
        layout = "the authors'"
    else:
        return
    if eps != wanted:
        problems.append(f"norms with an epsilon of {wanted}: set VJEPA2.PROBE_EPS {wanted}, it is {eps}")
    if problems:
        raise CheckpointError(f"the probe is in {layout} layout, which has {' and '.join(problems)}")


def encoder_names(state: State, notes: list[str], encoder: nn.Module) -> State:
    """Translate as :func:`our_names` does, for an encoder by itself; the tensors of a probe are left out."""
    ours = our_names(state, notes, encoder)
    return {key.removeprefix("encoder."): tensor for key, tensor in ours.items() if key.startswith("encoder.")}


def _with_prefix(key: str) -> str:
    key = re.sub(r"^classifier\.(pooler|linear)\.", r"\1.", key)
    key = re.sub(r"^linear\.", "head.", key)
    return f"encoder.{key}" if _OF_ENCODER.match(key) else key


def _from_hugging_face(state: State, notes: list[str]) -> State:
    renamed: State = {}
    for key, tensor in state.items():
        key = key.removeprefix("vjepa2.")
        for pattern, ours in [*_ENCODER, *_POOLER]:
            key = re.sub(pattern, ours, key)
        renamed[key] = tensor
    for ours, theirs in _JOINED:
        for key in [key for key in renamed if f".{theirs[0]}." in key]:
            parts = [key.replace(theirs[0], other) for other in theirs]
            if all(part in renamed for part in parts):
                renamed[key.replace(theirs[0], ours)] = torch.cat([renamed.pop(part) for part in parts])
    notes.append("names translated from Hugging Face's layout")
    return renamed


class _Probe(nn.Module):
    """Pooler and head of a model, to be filled without its encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pooler, self.head = model.pooler, model.head
        self._check = partial(check_probe, encoder=model.encoder, pooler=model.pooler)

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        self._check(state, notes)
        ours = our_names(state, notes, None)
        return {key: tensor for key, tensor in ours.items() if not key.startswith("encoder.")}


def load_probe(model: Any, path: Path) -> LoadReport:
    """Fill pooler and head of a VJEPA2 from a published probe (of its list the one of ``probe_number``), or from a
    checkpoint that has one."""
    number = model.probe_number
    if not number:
        return load_weights(_Probe(model), path)
    report = load_weights(_Probe(model), numbered_classifier(str(path), read_checkpoint(path), number))
    report.path = str(path)
    report.notes.append(f"classifier {number} of its list")
    return report
