"""Doors that keep the paths of version 0.1 for one release: an old module is the new one, with a warning.

A module that became a package of its name (``dust.utils.checkpoint``) offers what it did, and needs no door.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

#: Old module -> new one, both within dust.
MOVED = {
    "datasets.bitstream": "decode.bitstream",
    "datasets.csv_file": "datasets.manifest.table",
    "datasets.decoder": "decode.reader",
    "datasets.device_transform": "datasets.transforms.device",
    "datasets.epic": "datasets.video.epic",
    "datasets.formats": "datasets.manifest.formats",
    "datasets.frame_convert": "decode.pixels",
    "datasets.fused": "datasets.multimodal.fusion",
    "datasets.fused_manifest": "datasets.multimodal.fusion_manifest",
    "datasets.group_sampler": "datasets.samplers",
    "datasets.grouped": "datasets.video.tstl_groups",
    "datasets.index_cache": "decode.cache",
    "datasets.keystep_frames": "datasets.keystep.frames",
    "datasets.keystep_recordings": "datasets.keystep.recordings",
    "datasets.keystep_sampling": "datasets.keystep.sampling",
    "datasets.keystep_windows": "datasets.keystep.windows",
    "datasets.mixing": "datasets.transforms.mixing",
    "datasets.prepare": "convert.prepare",
    "datasets.procedure_files": "datasets.keystep.files",
    "datasets.procedure_layouts": "datasets.keystep.layouts",
    "datasets.randaugment": "datasets.transforms.randaugment",
    "datasets.sampling": "datasets.transforms.frames",
    "datasets.series": "datasets.multimodal.series",
    "datasets.series_split": "datasets.multimodal.series_split",
    "datasets.synthetic": "synthetic.motion",
    "datasets.synthetic_dust": "synthetic.fusion",
    "datasets.synthetic_motion_appearance": "synthetic.motion_appearance",
    "datasets.synthetic_procedure": "synthetic.keystep",
    "datasets.synthetic_tracks": "synthetic.tracks",
    "datasets.track_files": "datasets.tracks.files",
    "datasets.track_manifest": "datasets.tracks.manifest",
    "datasets.track_recordings": "datasets.tracks.recordings",
    "datasets.transform": "datasets.transforms.clip",
    "datasets.video_file": "decode.container",
    "datasets.video_index": "decode.index",
    "datasets.video_session": "decode.session",
    "datasets.windows": "datasets.video.windows",
    "engine.ablation": "analysis.tracks_ablation",
    "engine.benchmark": "benchmark",
    "engine.evaluate": "engine.evaluator",
    "engine.interrupt": "launch.signals",
    "engine.keystep_stream": "streaming.keystep",
    "engine.launch": "launch.launcher",
    "engine.lives": "launch.lives",
    "engine.place": "launch.rendezvous",
    "engine.requeue": "launch.requeue",
    "engine.stream_tracks": "streaming.tracks",
    "models.checks": "models.layers.checks",
    "models.frozen": "models.layers.frozen",
    "models.keystep_stream": "streaming.keystep",
    "models.track_stream": "streaming.tracks",
    "models.tstl_losses": "models.contrastive_losses",
    "models.tstl_votes": "models.tstl",
    "models.window_attention": "models.layers.window_attention",
    "utils.feature_files": "utils.features.formats",
    "utils.grouping": "utils.tstl_grouping",
    "utils.grouping_files": "utils.tstl_grouping_files",
    "utils.procedure": "procedure.table",
    "utils.psr_decoders": "procedure.decoders",
    "utils.psr_metrics": "procedure.metrics",
    "utils.sharded_checkpoint": "utils.checkpoint.sharded",
    "utils.step_decoder": "procedure.step_decoder",
    "utils.weights": "utils.checkpoint",
    "visualization.bars": "visualization.plots",
}


class Doors(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds old modules. The module that an old name gives is the new one itself, so that classes stay the same."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for the names in ``MOVED`` only."""
        new = MOVED.get(fullname.removeprefix("dust.")) if fullname.startswith("dust.") else None
        if new is None:
            return None
        warnings.warn(
            f"{fullname} is now dust.{new}; the old name goes with the next release", DeprecationWarning, stacklevel=2
        )
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the new module in the place of a new one."""
        module = importlib.import_module(f"dust.{MOVED[spec.name.removeprefix('dust.')]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its own spec, which the import system has just replaced."""
        replaced: Any = module.__spec__
        module.__spec__ = replaced.loader_state


def open_doors() -> None:
    """Let the import system ask here after it has looked everywhere else."""
    if not any(isinstance(finder, Doors) for finder in sys.meta_path):
        sys.meta_path.append(Doors())
