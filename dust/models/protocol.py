"""What dust may ask of a model: the whole list.

A model is an ``nn.Module`` whose ``forward`` takes its inputs by name and returns logits or a dict of tensors
(:class:`Model`). All else is optional: a class that has a method of one of these protocols keeps it, and each protocol
says what happens where a class has none. Who asks does so by ``isinstance(model, Protocol)``, or by the functions
below, which know the default; nobody looks an attribute up by a string. ``tests/test_protocols.py`` asks them of every
registered model, and a name that is nearly one of these is logged as a warning when the class is built.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dust.utils.checkpoint import AdaptsStateDict, HasFreshParts, StatesConstants

__all__ = [
    "PROTOCOLS",
    "AdaptsStateDict",
    "HasFreshParts",
    "StatesConstants",
    "init_from",
    "lr_scales",
    "no_weight_decay",
    "weight_decays",
]

#: Part -> (key of the configuration, what it names: a file, a stage, or zoo://NAME).
InitFrom = Mapping[str, tuple[str, str]]


class Model(Protocol):
    """What every model has."""

    def __call__(self, **inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Map the batch's inputs by name, (B, ...) each -> outputs (B, ...). In a dict ``logits`` is the answer."""


@runtime_checkable
class FromConfig(Protocol):
    """A class (this is about the class itself) that is built of plain arguments, with ``from_config`` as a
    classmethod. Default: it is called with cfg alone, as in SlowFast."""

    def __call__(self, **arguments: Any) -> nn.Module: ...

    def from_config(self, cfg: Any) -> dict[str, Any]:
        """Return the constructor's keyword arguments."""
        ...


# ------------------------------------------------------------------------------------------------ weights at the start


@runtime_checkable
class HasParts(Protocol):
    """A model whose parts begin with the weights of other files or stages. Default: none do."""

    init_from: InitFrom


@runtime_checkable
class LoadsParts(Protocol):
    """A model that fills its parts itself. Default: each file goes into the submodule of the part's name, whole."""

    def load_parts(self, paths: Mapping[str, Path]) -> None:
        """Take ``{part: file}``, those of ``init_from``. CheckpointError where one does not fit."""


@runtime_checkable
class AssembledFromParts(Protocol):
    """A model that the parts of ``init_from`` make up whole, so that it can be tested without a checkpoint of its own.
    Default: the rest of it would be random."""

    #: False once the parts are loaded, where their files left something random (a head for other classes).
    assembled_from_parts: bool


# ------------------------------------------------------------------------------------------------ checkpoints


@runtime_checkable
class SavesTrainedPart(Protocol):
    """A model that is mostly frozen: its checkpoints hold the trained part, and a hash of the frozen rest. Default:
    checkpoints hold the whole ``state_dict``."""

    def partial_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors by their names in ``state_dict``."""
        ...

    def load_partial(self, state: Mapping[str, Tensor], source: str) -> None:
        """Put such a part back. CheckpointError, which names ``source``, where it does not fit."""

    def frozen_sha256(self) -> str:
        """Return the hash of all tensors that ``partial_state_dict`` leaves out; "" where it leaves out none."""
        ...


# ------------------------------------------------------------------------------------------------ optimizer


@runtime_checkable
class ExemptsFromDecay(Protocol):
    """Parameters without weight decay. Default: none, but for what SOLVER.ZERO_WD_1D_PARAM and BN.WEIGHT_DECAY say."""

    def no_weight_decay(self) -> set[str]:
        """Return their names, as ``named_parameters`` has them."""
        ...


@runtime_checkable
class ScalesLearningRates(Protocol):
    """Parameters that learn at a rate of their own. Default: all learn at one."""

    def lr_scales(self) -> dict[str, float]:
        """Map parameter name -> factor of the learning rate; 1.0 for those that are not named."""
        ...


@runtime_checkable
class DecaysByName(Protocol):
    """Parameters with a weight decay of their own. Default: all that are not exempt decay by SOLVER.WEIGHT_DECAY."""

    def weight_decays(self) -> dict[str, float]:
        """Map parameter name -> weight decay; SOLVER.WEIGHT_DECAY for those that are not named."""
        ...


@runtime_checkable
class HasLayers(Protocol):
    """Layers in an order, for SOLVER.LAYER_DECAY. Default: such a configuration is an error."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's ``{"stem": pattern, "blocks": pattern(s)}`` for ``timm.models.group_parameters``."""
        ...


# ------------------------------------------------------------------------------------------------ head and features


@runtime_checkable
class HasClassifier(Protocol):
    """The head, for SOLVER.BACKBONE_LR_SCALE. Default: the submodule ``head``; without one such a configuration is an
    error."""

    def get_classifier(self) -> nn.Module | dict[str, nn.Module]:
        """Return the module that makes logits of features, or those of several answers by name."""
        ...


@runtime_checkable
class ResetsClassifier(Protocol):
    """A head that can be replaced. Default: the number of classes is that of the constructor."""

    def reset_classifier(self, num_classes: int) -> None:
        """Take a fresh head for so many classes; 0 for none, so that the model returns features."""


@runtime_checkable
class HasFeatures(Protocol):
    """Features before the classifier, for FEATURES.LAYER pooled and map. Default: name a submodule instead."""

    def forward_features(self, *args: Any, **kwargs: Any) -> Any:
        """Turn the model's inputs into features that are not pooled yet."""

    def forward_head(self, features: Any, /, pre_logits: bool = False) -> Any:
        """Map features -> outputs, or with ``pre_logits`` what the classifier sees, (B, num_features)."""


@runtime_checkable
class GivesTokens(Protocol):
    """A backbone of video whose tokens may be stored (FEATURES.LAYER tokens) and probed (model Probe). Default: both
    refuse it by name."""

    #: Pattern of the names of its tensors that ``forward_tokens`` does not use, searched for.
    beyond_tokens: str

    @property
    def token_dim(self) -> int:
        """D, channels of a token."""
        ...

    def forward_tokens(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, T, H, W) -> class tokens (B, E, D), where E may be 0, and the grid of the others (B, T', H', W',
        D); both behind the last norm that the model has for tokens."""
        ...


@runtime_checkable
class ChoosesByValidation(Protocol):
    """A model that holds several answers, of which one is given: the one that validation found best. Default: a model
    has one answer."""

    def choose(self, metrics: Mapping[str, float]) -> None:
        """Take the answer that is best by the figures of a validation, as the task names them."""


@runtime_checkable
class ChecksActivations(Protocol):
    """Activations that can be computed again in the backward. Default: MODEL.ACT_CHECKPOINT is the constructor's."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch it on or off."""


# ------------------------------------------------------------------------------------------------ of single systems


@runtime_checkable
class EncodesFrames(Protocol):
    """A model of windows of frames that can encode each frame once, and take windows of such embeddings. Default: its
    windows are embeddings already."""

    def embed(self, video: Tensor) -> Tensor:
        """Map single frames (F, C, 1, H, W) -> embeddings (F, D)."""
        ...

    def forward_embeddings(self, embeddings: Tensor) -> Tensor:
        """Map windows of embeddings (W, N, D) -> logits (W, K)."""
        ...


@runtime_checkable
class ReadsClassNames(Protocol):
    """A model that answers by the names of the classes, whatever they are. Default: classes are numbers to it."""

    def set_class_names(self, names: Sequence[str]) -> None:
        """Answer with these classes, in their order, from now on; asked once the weights are there. ConfigError where
        the model cannot read them."""


@runtime_checkable
class LeavesOutClasses(Protocol):
    """A model that may say nothing of a class: -inf stands there. Default: a clip whose outputs are not all finite is
    reported as bad."""

    silent_outputs: frozenset[str]
    """Names of the outputs in which -inf may stand."""


@runtime_checkable
class KnowsItsCost(Protocol):
    """A model that says what a forward pass of one of its parts costs. Default: the cost is not reported."""

    def gflops(self) -> float:
        """Return 10^9 multiplications and additions."""
        ...


#: All that is optional.
PROTOCOLS: tuple[type, ...] = (
    FromConfig,
    HasParts,
    LoadsParts,
    AssembledFromParts,
    SavesTrainedPart,
    AdaptsStateDict,
    HasFreshParts,
    StatesConstants,
    ExemptsFromDecay,
    ScalesLearningRates,
    DecaysByName,
    HasLayers,
    HasClassifier,
    ResetsClassifier,
    HasFeatures,
    GivesTokens,
    ChoosesByValidation,
    ChecksActivations,
    EncodesFrames,
    ReadsClassNames,
    LeavesOutClasses,
    KnowsItsCost,
)


def init_from(model: nn.Module) -> InitFrom:
    """Return the files that the model's parts begin with; none by default."""
    return model.init_from if isinstance(model, HasParts) else {}


def no_weight_decay(model: nn.Module) -> set[str]:
    """Return the parameters that do not decay; none by default."""
    return set(model.no_weight_decay()) if isinstance(model, ExemptsFromDecay) else set()


def lr_scales(model: nn.Module) -> dict[str, float]:
    """Map parameter name -> factor of the learning rate; empty by default."""
    return model.lr_scales() if isinstance(model, ScalesLearningRates) else {}


def weight_decays(model: nn.Module) -> dict[str, float]:
    """Map parameter name -> weight decay of its own; empty by default."""
    return model.weight_decays() if isinstance(model, DecaysByName) else {}
