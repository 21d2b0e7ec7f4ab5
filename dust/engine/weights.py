"""Whose weights a model gets: files, the zoo, other stages; whole, or the part that was trained."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dust import zoo
from dust.config import CfgNode
from dust.models.protocol import GivesTokens, LoadsParts, SavesTrainedPart, init_from
from dust.utils.checkpoint import is_sharded, load_weights
from dust.utils.checkpoint.tensors import find_tensors, has_averages, has_raw
from dust.utils.errors import CheckpointError, DustError
from dust.utils.stages import stage_checkpoint

logger = logging.getLogger(__name__)

PREFER_AVERAGED = "prefer_averaged"


def weights_file(name: str, output_dir: str | Path, key: str = "") -> str:
    """Find the weights that ``name`` means: a file, a folder of Hugging Face's, ``zoo://NAME`` (downloaded and
    verified), or another stage, by the name of its folder beside ``output_dir``. ``key`` is for an error."""
    if "://" in name or Path(name).is_file() or is_sharded(name):
        return zoo.resolve(name)
    return str(stage_checkpoint(name, output_dir, key))


def load_parts(model: nn.Module, output_dir: str | Path) -> dict[str, Path]:
    """Fill the model's parts from the files that it names; returns them, none if it names none.

    ``model.init_from`` is ``{part: (configuration key, file | stage | zoo://NAME)}``. A model with ``load_parts``
    takes ``{part: path}`` itself; else each file goes into the submodule of that name, whole, heads aside.
    """
    named = init_from(model)
    paths = _files_of_parts(named, output_dir)
    if paths and isinstance(model, LoadsParts):
        model.load_parts(paths)
        return paths
    for part, path in paths.items():
        report = load_weights(model.get_submodule(part), path)
        if report.absent_from_body:
            key, name = named[part]
            raise CheckpointError(f"{key} {name}: it does not fit the model's {part!r} whole. {report}")
    return paths


def _files_of_parts(named: Mapping[str, tuple[str, str]], output_dir: str | Path) -> dict[str, Path]:
    """Return the file of each part. What is wrong with the first that has none is the error, which names the others
    too."""
    paths, errors = {}, {}
    for part, (key, name) in named.items():
        try:
            paths[part] = Path(weights_file(name, output_dir, key))
        except DustError as error:
            errors[name] = error
    if errors:
        (_, first), *others = errors.items()
        likewise = f"\n  Likewise: {', '.join(name for name, _ in others)}" if others else ""
        raise type(first)(f"{first}{likewise}") from first
    return paths


def weights_to_save(model: nn.Module) -> dict[str, Any]:
    """Return ``model_state`` of a checkpoint, and what identifies the frozen rest where only the trained part is saved.

    A model that is mostly frozen is a :class:`dust.models.protocol.SavesTrainedPart`.
    """
    if not isinstance(model, SavesTrainedPart):
        return {"model_state": model.state_dict()}
    return {"model_state": model.partial_state_dict(), "frozen_sha256": model.frozen_sha256()}


def restore(
    model: nn.Module, state: dict[str, Any], source: str, output_dir: str | Path, *, parts: bool = True
) -> None:
    """Put one of our own checkpoints' ``model_state`` back: exactly, whole or the trained part on top of its parts.

    Args:
        source: the checkpoint's name, for an error.
        output_dir: beside which the parts' stages lie; see :func:`load_parts`.
        parts: the parts are loaded first.
    """
    if not isinstance(model, SavesTrainedPart):
        try:
            model.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{source}: its model_state is not that of the model: {error}") from error
        return
    if parts:
        load_parts(model, output_dir)
    model.load_partial(state, source)


def build_weights_choice(cfg: CfgNode) -> str:
    """Return MODEL.WEIGHTS for a test or an extraction: ``raw``, ``averaged``, or ``auto`` with "averaged if there are
    any" (``prefer_averaged``) where the run averages its weights (EMA.ENABLED)."""
    return PREFER_AVERAGED if cfg.MODEL.WEIGHTS == "auto" and cfg.EMA.ENABLED else str(cfg.MODEL.WEIGHTS)


def load_trained(
    model: nn.Module,
    path: Path,
    saved: dict[str, Any],
    *,
    output_dir: str | Path,
    weights: str = "auto",
    head: bool = True,
    tokens: bool = False,
) -> None:
    """Load the weights of a checkpoint for a test or an extraction.

    Args:
        saved: what the file holds.
        output_dir: beside which the stages of the model's parts lie.
        weights: raw | averaged | auto (raw) | ``prefer_averaged``: averaged where the file has them.
        head: whether the classifier must come from the file too.
        tokens: without ``head``, what a backbone's tokens do not need may be absent too.

    Raises:
        CheckpointError: the file lacks some of the model, so that random weights would be measured; or it has no
            averaged weights where they are asked for.
    """
    averaged = has_averages(saved)
    if weights == PREFER_AVERAGED:
        weights = "averaged" if averaged else "raw"
    if averaged and has_raw(saved):
        level = logging.INFO if weights != "auto" else logging.WARNING
        logger.log(
            level, "%s holds averaged weights (EMA) too, by which its run was evaluated: the %s ones are used. "
            "MODEL.WEIGHTS chooses", path, "averaged" if weights == "averaged" else "raw",
        )  # fmt: skip
    if saved.get("frozen_sha256") and isinstance(model, SavesTrainedPart):
        state = find_tensors(str(path), saved, [], weights) if weights == "averaged" else saved["model_state"]
        restore(model, state, str(path), output_dir)
        return
    report = load_weights(model, saved, weights=weights, source=str(path))
    absent = report.absent if head else report.absent_from_body
    if tokens and not head and isinstance(model, GivesTokens):
        absent = [name for name in absent if not re.search(model.beyond_tokens, name)]
    if absent:
        raise CheckpointError(
            f"{path} lacks {', '.join(absent[:8])}{' ...' if len(absent) > 8 else ''} of this model "
            "(MODEL.NUM_CLASSES or the architecture differs?), so random weights would be measured. Configure the "
            "model as the checkpoint's run did."
        )
