"""EPIC-KITCHENS: trimmed clips with a verb and a noun each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.clips import Clips
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.manifest.several import one_folder
from dust.datasets.manifest.table import read_lines
from dust.datasets.video.epic_list import HEADER, find_clip, read_epic
from dust.datasets.video.video import VideoDataset
from dust.utils.errors import Problems


@DATASET_REGISTRY.register()
class EpicKitchens(VideoDataset):
    """``{train,val,test}.csv`` of ``clip_id,verb,noun`` (numbers from 0; a header may be there), beside the clips
    ``clip_id.MP4`` or ``.mp4``, which may lie in ``videos/``.

    A sample's label is {"verb": int, "noun": int}. ``class_names`` are those of all verbs, then of all nouns, and a
    clip's label in ``clips`` is the pair of its places there. In training, ``fitted["actions"]`` are the [verb, noun]
    that occur; in evaluation it is what training saw.

    Args:
        num_verbs, num_nouns: how many of each; larger labels are an error.
        fitted: ``{"actions": [[verb, noun], ...]}`` of the training split; None to take the clips' own.
        reading: the other arguments of VideoDataset.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        num_verbs: int,
        num_nouns: int,
        fitted: Mapping[str, Any] | None = None,
        **reading: Any,
    ) -> None:
        super().__init__(manifest=manifest, **reading)
        self.num_verbs, self.num_nouns = num_verbs, num_nouns
        pairs = {self._pair(label) for label in Clips.of(self.clips).used() if label is not None}
        self.fitted = dict(fitted) if fitted else {"actions": [list(pair) for pair in sorted(pairs)]}

    @classmethod
    def from_config(
        cls, cfg: Any, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        data, cast = cfg.DATA, cfg.CAST
        manifest = read_epic(
            one_folder(data.PATH_TO_DATA_DIR, "EpicKitchens"),
            split,
            num_verbs=cast.NUM_VERBS,
            num_nouns=cast.NUM_NOUNS,
            path_prefix=data.PATH_PREFIX,
            class_names=class_names,
            check_files=data.CHECK_FILES,
            group_column=data.GROUP_COLUMN,
            corrections=data.CORRECTIONS,
            extra_columns=data.EXTRA_COLUMNS,
        )
        return {
            "manifest": manifest,
            "num_verbs": cast.NUM_VERBS,
            "num_nouns": cast.NUM_NOUNS,
            **cls.reading_from_config(cfg, views or split),
        }

    @classmethod
    def read_new_clips(cls, cfg: Any, path: str) -> list[Clip]:
        """Return the clips of a csv of ``clip_id[,verb,noun]``, beside their files or with ``videos/`` there."""
        problems, folder = Problems(), Path(path).parent
        bases = [cfg.DATA.PATH_PREFIX] if cfg.DATA.PATH_PREFIX else [str(folder), str(folder / "videos")]
        names = [cells[0] for _, _, cells in read_lines(Path(path), problems, empty=False)]
        problems.raise_if_any(path)
        names = [name for name in names if name != HEADER[0]]
        found = [(name, find_clip(name, bases, True) or find_clip(name, bases, False)) for name in names]
        return [Clip(name, file or name, None) for name, file in found]

    @classmethod
    def for_clips(cls, cfg: Any, manifest: Manifest, fitted: Mapping[str, Any]) -> "EpicKitchens":
        sizes = {"num_verbs": cfg.CAST.NUM_VERBS, "num_nouns": cfg.CAST.NUM_NOUNS}
        return cls(manifest=manifest, fitted=fitted, **sizes, **cls.reading_from_config(cfg, "test"))

    def _pair(self, label: Any) -> tuple[int, int]:
        verb, noun = label
        return verb, noun - self.num_verbs

    def sample(self, clip: Clip, video: Tensor) -> dict[str, Any]:
        label = None if clip.label is None else dict(zip(("verb", "noun"), self._pair(clip.label), strict=True))
        return {"inputs": {"video": video}, "label": label, "id": clip.id, "path": clip.path}
