"""The clips of a data set in the three ways that TSTL needs them: by group, of one group, or all with their group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dust.config import with_values
from dust.config.expand import grouping_of
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.clips import Clips
from dust.datasets.manifest.labels import read_class_list
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.samplers import GroupBalancedSampler
from dust.datasets.video.video import VideoDataset
from dust.utils.errors import ConfigError, DataError, Problems
from dust.utils.tstl_grouping import Grouping, text_of_grouping

ROLES = ("selector", "expert", "route")
GROUPING = "class_grouping.json"  # as checkpoints carry it


@DATASET_REGISTRY.register()
class GroupedVideo(VideoDataset):
    """A VideoDataset in any of its formats, seen through a grouping of its classes.

    ``selector``: every clip, labelled with its group. ``expert``: only the clips of ``group``'s classes, labelled with
    the place of their class in the group (with ``expert_classes`` "all" with their class). ``route``: every clip with
    its class, and ``inputs["group"]`` (V,) int64, the group that it belongs to, or -1 where it has no label.

    Args:
        manifest: the clips with their classes, of all classes of ``grouping``.
        groups_per_batch: training batches hold clips of so many groups, equally many of each; 0 = of any.
        reading: the other arguments of VideoDataset.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        grouping: Grouping,
        role: str,
        group: int = -1,
        expert_classes: str = "group",
        groups_per_batch: int = 0,
        **reading: Any,
    ) -> None:
        if role not in ROLES:
            raise ValueError(f"role {role!r} is none of {', '.join(ROLES)}")
        self.grouping, self.role, self.groups_per_batch = grouping, role, groups_per_batch
        self.carried_files = {GROUPING: text_of_grouping(grouping)}
        super().__init__(manifest=relabel(manifest, grouping, role, group, expert_classes), **reading)

    @classmethod
    def from_config(
        cls, cfg: Any, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        """Read the role from the configuration: TSTL.GROUP is an expert's, model TSTL routes, else a
        selector."""
        tstl = cfg.TSTL
        if cfg.DATA.MULTI_LABEL:
            raise ConfigError("DATA.MULTI_LABEL True: groups are for clips of one class each")
        grouping = grouping_of(cfg) if tstl.GROUPING else _no_grouping()
        role = "expert" if tstl.GROUP >= 0 else "route" if cfg.MODEL.MODEL_NAME == "TSTL" else "selector"
        whole = with_values(cfg, {"MODEL.NUM_CLASSES": grouping.num_classes})
        names = list(grouping.class_names) or None
        if names and cfg.DATA.CLASS_LIST and read_class_list(cfg.DATA.CLASS_LIST) != names:
            raise DataError(
                f"DATA.CLASS_LIST {cfg.DATA.CLASS_LIST} has other classes, or another order, than {tstl.GROUPING}"
            )
        try:
            arguments = super().from_config(whole, split, names, views=views)
        except DataError as error:
            count = grouping.num_classes
            raise DataError(
                f"{error}\n  (the number of classes, {count}, is that of TSTL.GROUPING {tstl.GROUPING})"
            ) from None
        arguments |= {"grouping": grouping, "role": role, "group": tstl.GROUP, "expert_classes": tstl.EXPERT_CLASSES}
        ours = relabel(arguments["manifest"], grouping, role, tstl.GROUP, tstl.EXPERT_CLASSES).class_names
        _check_names(ours, class_names, cfg.MODEL.NUM_CLASSES, f"{role} by {tstl.GROUPING}")
        return {**arguments, "groups_per_batch": tstl.GROUPS_PER_BATCH if role == "selector" else 0}

    @classmethod
    def for_clips(cls, cfg: Any, manifest: Manifest, fitted: Mapping[str, Any]) -> VideoDataset:
        """Return the dataset as VideoDataset does: a selector and an expert see the video alone, and a router that no
        label is known."""
        reading = cls.reading_from_config(cfg, "test")
        if cfg.MODEL.MODEL_NAME != "TSTL":
            return VideoDataset(manifest=manifest, **reading)
        return cls(manifest=manifest, grouping=grouping_of(cfg), role="route", **reading)

    def training_sampler(
        self, batch_size: int, *, seed: int, global_batch: int | None = None, rank: int = 0, world_size: int = 1
    ) -> GroupBalancedSampler | None:
        """Return the batches of training, where they are not the ordinary ones."""
        if not self.groups_per_batch:
            return None
        labels = Clips.of(self.clips).classes()
        where: dict[str, Any] = {"seed": seed, "global_batch": global_batch, "rank": rank, "world_size": world_size}
        return GroupBalancedSampler(labels, batch_size, groups_per_batch=self.groups_per_batch, **where)

    def sample(self, clip: Clip, video: Tensor) -> dict[str, Any]:
        sample = super().sample(clip, video)
        if self.role == "route" and video.ndim == 5:
            group = self.grouping.group_of[clip.label] if isinstance(clip.label, int) else -1
            sample["inputs"]["group"] = torch.full((len(video),), group)
        return sample


def relabel(manifest: Manifest, grouping: Grouping, role: str, group: int, expert_classes: str) -> Manifest:
    """Return ``manifest`` as a role sees it: other labels and class names, and for an expert fewer clips."""
    names = manifest.class_names
    problems = Problems()
    if len(names) != grouping.num_classes:
        problems.add("the grouping is of other data", f"{grouping.num_classes} classes, the data have {len(names)}")
    if role == "expert" and not 0 <= group < grouping.num_groups:
        problems.add("no such group", f"TSTL.GROUP {group}, the groups are 0 to {grouping.num_groups - 1}")
    problems.raise_if_any(manifest.source)
    if role == "route":
        return manifest
    clips = Clips.of(manifest.clips)
    if role == "selector":
        table: dict[int, int] = dict(enumerate(grouping.group_of))
        return replace(manifest, clips=_with_labels(clips, table), class_names=grouping.group_names)
    classes = grouping.groups[group]
    local = expert_classes == "group"
    table = {number: place if local else number for place, number in enumerate(classes)}
    clips = _with_labels(clips.where(table.__contains__), table)
    if not len(clips):
        raise DataError(
            f"{manifest.source}: no clip of the classes of group {group}: {', '.join(names[n] for n in classes)}"
        )
    return replace(manifest, clips=clips, class_names=[names[number] for number in classes] if local else names)


def _with_labels(clips: Clips, table: Mapping[int, int]) -> Clips:
    return clips.with_labels(lambda label: table[label] if isinstance(label, int) else label)


def _no_grouping() -> Grouping:
    raise ConfigError("TSTL.GROUPING is empty: GroupedVideo needs a file that `dust group-classes` makes")


def _check_names(ours: Sequence[str], expected: Sequence[str] | None, num_classes: int, what: str) -> None:
    problems = []
    if num_classes > 0 and len(ours) != num_classes:
        problems.append(f"MODEL.NUM_CLASSES is {num_classes}: set MODEL.NUM_CLASSES {len(ours)}")
    if expected is not None and list(expected) != list(ours):
        differing = [f"{a} / {b}" for a, b in zip(ours, expected, strict=False) if a != b][:5]
        problems.append(
            f"training (or the checkpoint) had {len(expected)} other classes, here / there: "
            f"{', '.join(differing) or 'another number'}"
        )
    if problems:
        raise DataError(f"{what}: {len(ours)} classes. " + "; ".join(problems))
