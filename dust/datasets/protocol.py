"""What dust may ask of a dataset: the whole list.

A dataset has the members of :class:`ClipDataset`; what an item is stands in CONTRIBUTING.md ("A sample and a batch").
All else is optional: a class that has a member of one of these protocols keeps it, and each protocol says what happens
where a class has none. Who asks does so by ``isinstance(dataset, Protocol)``, or by :func:`fitted_of` and
:func:`files_of`, which know the default; nobody looks an attribute up by a string. ``tests/test_protocols.py`` asks
them of every registered dataset, and a name that is nearly one of these is logged as a warning when the class is built.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["PROTOCOLS", "ClipDataset", "files_of", "fitted_of", "groups_of"]


@runtime_checkable
class HasLabel(Protocol):
    """A clip whose label is known: two labels of one file are said. Default: nothing is compared."""

    @property
    def label(self) -> Any: ...


@runtime_checkable
class HasGroup(Protocol):
    """A clip that knows with which others it belongs together (a person, a recording): a group in training and in
    another split is said. Default: no group."""

    @property
    def group(self) -> str: ...


@runtime_checkable
class HasPart(Protocol):
    """A clip that knows the number of its data folder, of several. Default: there is one."""

    @property
    def part(self) -> int: ...


@runtime_checkable
class HasSources(Protocol):
    """A clip of several files, or of parts of files: (file, part) of each; a part is "" for all of the file, or what
    :attr:`dust.decode.segment.Segment.part` says. Default: all of its ``path``."""

    @property
    def sources(self) -> Sequence[tuple[str, str]]: ...


@runtime_checkable
class ClipDataset(Protocol):
    """What every dataset has.

    Attributes:
        clips: the samples, with ``id``, ``path`` and, where there is one, ``label``; training records their hash.
        class_names: in the order of the logits.
    """

    clips: Sequence[Any]
    class_names: Sequence[str]

    def class_counts(self) -> list[int]:
        """Return how many samples each class has, in the order of ``class_names``."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """Map ``SampleRequest(epoch, sample)`` -> a list of views in training, else a number -> one sample with all its
        views; or a BadClip."""


@runtime_checkable
class FromConfig(Protocol):
    """A class (this is about the class itself) that is built of plain arguments, with ``from_config`` as a
    classmethod. Default: it is called with (cfg, split), as in SlowFast."""

    def __call__(self, **arguments: Any) -> "Dataset[Any]": ...

    def from_config(
        self, cfg: Any, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        """Return the constructor's keyword arguments; see :func:`dust.datasets.build.build_dataset`."""
        ...


@runtime_checkable
class ReadsNewClips(Protocol):
    """A class (this is about the class itself) whose datasets can be made of clips that no list names, for prediction.
    Default: such a system cannot be asked about new files."""

    def for_clips(self, cfg: Any, manifest: Any, fitted: Mapping[str, Any]) -> "Dataset[Any]":
        """Return a test's dataset of the clips of ``manifest``, whose labels are None; ``fitted`` is the training's."""
        ...


@runtime_checkable
class NamesClasses(Protocol):
    """A class (this is about the class itself) that knows its classes without being built, for MODEL.NUM_CLASSES -1.
    Default: a dataset of the split is built, and asked."""

    def class_names_of(self, cfg: Any, split: str) -> Sequence[str]:
        """Return the classes of a split, in the order of the logits, whatever MODEL.NUM_CLASSES is."""
        ...


@runtime_checkable
class CarriesFiles(Protocol):
    """A dataset with small files of the data folder that a prediction needs too (a grouping of classes, a table of
    steps): name -> text. They go into every checkpoint. Default: none."""

    carried_files: Mapping[str, str]


@runtime_checkable
class LooksAhead(Protocol):
    """A class (this is about the class itself) that takes stored features of an earlier stage, and can check all else
    before these are there. Default: such a dataset is looked at when its own stage begins."""

    def look_ahead(
        self,
        cfg: Any,
        split: str,
        class_names: Sequence[str] | None = None,
        *,
        views: str | None = None,
        fitted: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any],
    ) -> "tuple[ClipDataset | None, list[str]]":
        """Return a dataset of what is there already, or None; and what will be wrong with the features.

        Args:
            expected: ``{key: value}`` of the configuration of the stage that will store them.
            cfg, split, class_names, views, fitted: see :func:`dust.datasets.build.build_dataset`.
        """
        ...


@runtime_checkable
class LearnsFromTraining(Protocol):
    """A dataset that learns something of its training split, which other splits must use (a mean, a vocabulary): it
    goes into the checkpoint, and to the constructors of the others as ``fitted=``. Default: nothing."""

    fitted: Mapping[str, Any]


@runtime_checkable
class HasIdentity(Protocol):
    """What a resumed training must find again besides the clips' ids and labels, as json can. Default: nothing."""

    identity: Any


@runtime_checkable
class OrdersTraining(Protocol):
    """A dataset whose training batches have an order of their own. Default: each sample once an epoch, shuffled."""

    def training_sampler(
        self, batch_size: int, *, seed: int, global_batch: int | None = None, rank: int = 0, world_size: int = 1
    ) -> "TrainingSampler | None":
        """Return a batch sampler for this rank, or None for the ordinary one.

        Args:
            batch_size: samples of one batch over all ranks.
            global_batch: samples of an optimizer step, in several batches where it is larger; None: one batch.
        """


class TrainingSampler(Protocol):
    """What the loader and the engine ask of a training order: see :class:`dust.datasets.samplers.EpochBatchSampler`."""

    length: int
    global_batch: int
    accumulate: int
    num_steps: int

    def set_global_batch(self, global_batch: int) -> None: ...
    def set_position(self, epoch: int, start: int = 0) -> None: ...
    def __len__(self) -> int: ...


@runtime_checkable
class SharesGroups(Protocol):
    """A dataset of which several items are one sample (the pieces of a recording): processes that share an evaluation
    then take whole samples. Default: each item is a sample."""

    def group_starts(self) -> Sequence[int]:
        """Return the number of each group's first item, rising from 0."""
        ...


@runtime_checkable
class HasSlidingWindows(Protocol):
    """A dataset that can be read as windows over whole videos, for FEATURES.FORMAT per_video. Default: such a
    configuration is an error."""

    def windows(self, *, stride: int, chunk: int) -> "WindowItems":
        """Yield item after item, up to ``chunk`` windows of one video, ``stride`` frames apart."""
        ...


class WindowItems(Protocol):
    """Windows of one video after the other."""

    clips: Sequence[Any]

    def first_item(self, sample: int) -> int:
        """Return the number of the item that begins video number ``sample``."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, key: int) -> Any: ...


@runtime_checkable
class HasCameras(ClipDataset, Protocol):
    """A dataset of several cameras of which some may be left out, for ``dust ablate_views``. Default: an error."""

    views: Sequence[int]
    seen_views: set[int]


#: All that is optional.
PROTOCOLS: tuple[type, ...] = (
    FromConfig,
    ReadsNewClips,
    CarriesFiles,
    NamesClasses,
    LooksAhead,
    LearnsFromTraining,
    HasIdentity,
    OrdersTraining,
    SharesGroups,
    HasSlidingWindows,
    HasCameras,
)


def fitted_of(dataset: "Dataset[Any]") -> dict[str, Any]:
    """Return what the dataset learnt of its training split; nothing by default."""
    return dict(dataset.fitted) if isinstance(dataset, LearnsFromTraining) else {}


def groups_of(dataset: "Dataset[Any]") -> dict[str, str]:
    """Map id -> group of a dataset's samples that know theirs (:class:`HasGroup`)."""
    clips: Sequence[Any] = dataset.clips if isinstance(dataset, ClipDataset) else ()
    grouped = ((clip.id, clip.group if isinstance(clip, HasGroup) else "") for clip in clips)
    return {str(name): group for name, group in grouped if group}


def files_of(dataset: "Dataset[Any]") -> dict[str, str]:
    """Return the files that checkpoints carry of the dataset's folder; none by default."""
    return dict(dataset.carried_files) if isinstance(dataset, CarriesFiles) else {}
