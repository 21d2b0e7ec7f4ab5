"""Putting a file's weights into a model, with a full account of what fitted."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn as nn

from dust.utils.checkpoint.hub import folder_constants, is_weights_folder
from dust.utils.checkpoint.store import read_checkpoint
from dust.utils.checkpoint.tensors import check_values, find_tensors, shorten
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

PREFIXES = ("module.", "model.", "_orig_mod.")  # what wrappers put before every name
HEADS = ("head", "classifier", "fc")  # the classifier, which another set of classes may leave fresh
#: What may be left over of a file: answers to other questions than the model's, and what training alone needs.
LEFT_OVER = re.compile(r"(\w*head\w*|classifier\w*|fc\d*|\w*projection|projector|neck)\.")
MIN_FIT = 0.5  # share of the model's parameters (head aside, counted in numbers) below which a file does not fit


@runtime_checkable
class AdaptsStateDict(Protocol):
    """A model that reads files of other layouts. Default: names and shapes must be its own.

    What its ``adapt_state_dict`` leaves over beside heads is part of a computation that the model does not do, so that
    such a file is refused.
    """

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Turn a file's tensors into the model's names and shapes, a new dict.

        Args:
            notes: sentences about what was renamed, resized or dropped are appended.
            pos_embed_resize: ``official`` | ``bicubic``, the rule for positions of another image size; None: its own.
        """
        ...


@runtime_checkable
class StatesConstants(Protocol):
    """A model that says what of its computation no tensor shows, for a comparison with the configuration that lies
    beside a file. Default: nothing is compared."""

    def constants(self) -> dict[str, Any]:
        """Return ``activation``, ``num_heads``, ``norm_eps``, ``pooling`` (token | mean), as far as they can differ."""
        ...


@runtime_checkable
class HasFreshParts(Protocol):
    """A model in whose blocks stands what files of other layouts do not have. Default: blocks come whole from the
    file, or it is refused."""

    #: Pattern of the names, searched for. What it finds at the beginning of a name is a part of the model, which is
    #: fresh as a whole or not at all.
    fresh_parts: str


@dataclass
class LoadReport:
    """What became of every tensor of a file and of a model. ``str(report)`` is for people."""

    path: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the model, not in the file: they keep the model's values
    unexpected: list[str] = field(default_factory=list)  # in the file, not in the model: not used
    misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # file's, model's shape
    notes: list[str] = field(default_factory=list)  # what was resized, copied, renamed or dropped, and by which rule

    @property
    def complete(self) -> bool:
        """True if every tensor of the model came from the file."""
        return not self.missing and not self.misshapen

    @property
    def absent(self) -> list[str]:
        """The model's tensors that the file did not give."""
        return [*self.missing, *(key for key, _, _ in self.misshapen)]

    @property
    def absent_from_body(self) -> list[str]:
        """Those of them that are not the classifier's."""
        return [key for key in self.absent if not _is_head(key)]

    @property
    def fresh_head(self) -> bool:
        """True if (part of) the classifier did not come from the file."""
        return any(_is_head(key) for key in [*self.missing, *(key for key, _, _ in self.misshapen)])

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.misshapen)
        lines = [f"{self.path}: {len(self.loaded)} of the model's {total} tensors fit"]
        lines += [f"  {note}" for note in self.notes]
        for key, theirs, ours in self.misshapen:
            lines.append(f"  misshapen, not loaded: {key} is {theirs} in the file and {ours} in the model")
        for word, keys in {"missing in the file": self.missing, "unexpected, not used": self.unexpected}.items():
            if keys:
                lines.append(f"  {word} ({len(keys)}): {shorten(keys, 20)}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    path_or_state_dict: str | os.PathLike | Mapping[str, Any],
    *,
    pos_embed_resize: str | None = None,
    strict: bool = False,
    weights: str = "auto",
    source: str = "",
) -> LoadReport:
    """Put a file's (or a dictionary's) weights into ``model`` and say what became of each tensor.

    Takes dust's and SlowFast's checkpoints (``model_state``), ``state_dict``/``model``/``module`` containers, bare
    dictionaries, safetensors files, folders as Hugging Face has them, and every foreign layout that the model's own
    ``adapt_state_dict`` knows. Tensors of another shape are left out and reported; so is a head for other classes.

    Args:
        model: is changed in place.
        path_or_state_dict: a file, a folder, or what one holds.
        pos_embed_resize: ``official`` | ``bicubic`` overrides the model's rule for positions of another image size.
        strict: raise if anything is missing, unexpected or misshapen.
        weights: ``auto`` | ``raw`` | ``averaged``, of a file that has both; see
            :func:`dust.utils.checkpoint.tensors.find_tensors`.
        source: the file or folder that a dictionary was read from.

    Raises:
        CheckpointError: with the model untouched: less than half of the model's parameters (head aside, counted in
            numbers) would come from the file; the file is of a variant that computes something else than the model;
            a tensor to be loaded holds NaN, infinity or quantised integers.
    """
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    own = model.state_dict()
    if isinstance(path_or_state_dict, Mapping):
        data: Mapping[Any, Any] = path_or_state_dict
    else:
        source, data = str(path_or_state_dict), read_checkpoint(path_or_state_dict)
    report = LoadReport(source or "state dict")
    if source and is_weights_folder(source):
        _check_constants(report, model, folder_constants(source))
    source = report.path
    state = _strip_prefixes(find_tensors(source, data, report.notes, weights), own)
    in_file = list(state)
    adapts = isinstance(model, AdaptsStateDict)
    if isinstance(model, AdaptsStateDict):
        try:
            state = model.adapt_state_dict(dict(state), report.notes, pos_embed_resize)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: does not fit {type(model).__name__}: {error}") from error
    _count_from_zero(state, own, report.notes)
    for key, tensor in own.items():
        if key not in state:
            report.missing.append(key)
        elif state[key].shape != tensor.shape:
            report.misshapen.append((key, tuple(state[key].shape), tuple(tensor.shape)))
        else:
            report.loaded.append(key)
    report.unexpected = [key for key in state if key not in own]
    if report.fresh_head:
        report.notes.append("the head keeps the model's own values: the file has none for these classes")

    _check_fit(report, model, own, in_file)
    if adapts:
        _refuse_variant(report, model)
    check_values(source, {key: state[key] for key in report.loaded}, own)
    if strict and (not report.complete or report.unexpected):
        raise CheckpointError(f"strict loading needs an exact fit, so nothing was loaded. {report}")
    model.load_state_dict({key: state[key] for key in report.loaded}, strict=False)
    surplus = [key for key in report.unexpected if not _is_head(key)]  # a part needs no head of its own
    level = logging.INFO if report.complete and not surplus else logging.WARNING
    logger.log(level, "%s", report)
    return report


def _strip_prefixes(state: dict[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Strip wrappers' prefixes, however deep, where most names have them and the model's own names do not."""
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            having = sum(key.startswith(prefix) for key in state)
            if 2 * having > len(state) and not any(key.startswith(prefix) for key in own):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                again = True
    return state


def _count_from_zero(state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor], notes: list[str]) -> None:
    """Give batch norms that have their statistics from the file a count of batches, where it was written without one
    (Caffe2, and torch before 0.4.1). It acts only on norms without a momentum."""
    counters = [key for key in own if key.endswith("num_batches_tracked") and key not in state]
    counters = [key for key in counters if key.replace("num_batches_tracked", "running_mean") in state]
    state |= {key: torch.zeros_like(own[key]) for key in counters}
    if counters:
        notes.append(f"{len(counters)} counters of batches that the file goes without are zero")


def _check_fit(report: LoadReport, model: nn.Module, own: Mapping[str, torch.Tensor], in_file: list[str]) -> None:
    body = {name: own[name].numel() for name, _ in model.named_parameters() if name in own and not _is_head(name)}
    loaded = set(report.loaded)
    fit = sum(size for name, size in body.items() if name in loaded) / max(1, sum(body.values()))
    if body and fit < MIN_FIT:
        shapes = "; ".join(
            f"{key} {theirs} in the file, {ours} in the model" for key, theirs, ours in report.misshapen[:4]
        )
        raise CheckpointError(
            f"{report.path}: does not fit {type(model).__name__}: only {100 * fit:.0f} % of the model's parameters "
            f"would come from it. The file's first tensors: {shorten(in_file, 5)}. "
            f"The model's: {shorten(list(own), 5)}."
            + (f" Of another shape: {shapes}." if shapes else "")
            + " Is it from another architecture or size?"
        )


#: Beginnings and ends of names, and what a file that has such tensors computes.
_VARIANTS = [
    (r"(^|\.)(ls|ls_)[12]\.|(^|\.)gamma_[12]$|layer_?scale", "layer scale"),
    (r"(^|\.)reg(ister)?_tokens?$", "register tokens"),
    (r"(^|\.)[qk]_norm\.", "normalised queries and keys (qk_norm)"),
    (r"^fc_norm\.", "mean pooling before the last norm (fc_norm)"),
    (r"^(norm_pre|ln_pre)\.", "a norm before the first block (pre_norm)"),
    (r"(^|\.)attn_?pool", "attention pooling"),
    (r"relative_position_bias_table$|rel_pos|rel_bias", "relative positions"),
    (r"(^|\.)(pos_embed|position\w*|absolute_pos_embed)", "learnt positions"),
    (r"temporal_|^time_embed", "attention over time (TIMESFORMER.ATTENTION_TYPE)"),
    (r"logit_scale$|cpb_mlp|attn\.scale$", "cosine attention"),
    (r"(^|\.)(cls_token|dist_token|class_embedding)$", "a class token"),
    (r"bias$", "biases that the model was built without"),
]


#: A name within one of the blocks that a model repeats: transformers', SlowFast's, and torchvision's networks.
_IN_BLOCK = re.compile(r"(^|\.)((blocks|layers|resblocks|features)\.\d+|layer\d+\.\d+|pathway\d_res\d+)(?=\.)")


def _check_constants(report: LoadReport, model: nn.Module, theirs: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the file's model has another activation, other heads or pooling than ``model``; a note
    where only the epsilon of its norms differs, which is too small to matter in a trained model."""
    ours = model.constants() if isinstance(model, StatesConstants) else {}
    differing = [
        f"{name} {value} in its configuration, {ours[name]} in the model"
        for name, value in theirs.items()
        if name in ours and value != ours[name]
    ]
    epsilon = [line for line in differing if line.startswith("norm_eps")]
    report.notes += epsilon
    wrong = [line for line in differing if line not in epsilon]
    if wrong:
        raise CheckpointError(
            f"{report.path}: is of a variant that {type(model).__name__} does not compute as it is built: "
            f"{'; '.join(wrong)}"
        )


def _refuse_variant(report: LoadReport, model: nn.Module) -> None:
    """Raise CheckpointError if the file holds tensors of the trunk that the model has no place for."""
    surplus = [key for key in report.unexpected if not LEFT_OVER.match(key)]
    if not surplus:
        fresh = model.fresh_parts if isinstance(model, HasFreshParts) else "$^"
        lacking = [key for key in report.absent if _IN_BLOCK.search(key) and not _is_fresh(key, fresh, report.loaded)]
        if lacking:
            raise CheckpointError(
                f"{report.path}: does not give the blocks of {type(model).__name__} whole (another depth, width of "
                f"MLPs or kind of norm?): it has no fitting {shorten(lacking, 6)}"
            )
        return
    ours = {_block_of(key) for key in (*report.loaded, *report.absent)}
    more = sorted({_block_of(key) for key in surplus} - ours - {""})
    rest = [key for key in surplus if _block_of(key) not in more]
    kinds = [words for pattern, words in _VARIANTS if any(re.search(pattern, key) for key in rest)][:3]
    kinds += [f"more blocks: {more[-1]}"] if more else []
    what = f" ({'; '.join(kinds)})" if kinds else ""
    raise CheckpointError(
        f"{report.path}: is of a variant that {type(model).__name__} does not compute, so that its answers would be "
        f"wrong: it has no place for {shorten(surplus, 6)}{what}. Build the model as the file's was, or take another "
        "file"
    )


def _is_fresh(key: str, pattern: str, loaded: Sequence[str]) -> bool:
    match = re.search(pattern, key)
    if match is None or match.start():
        return match is not None
    return not any(other.startswith(match[0]) for other in loaded)


def _block_of(key: str) -> str:
    """Return the block that a name lies in, "" for none."""
    ends = [match.end() for match in _IN_BLOCK.finditer(key)]
    return key[: ends[-1]] if ends else ""


def _is_head(key: str) -> bool:
    return re.split(r"\.", key, maxsplit=1)[0] in HEADS
