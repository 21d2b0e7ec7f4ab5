"""Whole recordings of procedures to be tested: their frames or stored embeddings, and the steps that were completed."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.keystep.files import RECORDINGS, ProcedureData, Recording
from dust.datasets.keystep.frames import PIECE, FrameReader, names_of_outputs, procedures_of
from dust.datasets.keystep.layouts import read_object_states
from dust.datasets.keystep.windows import (
    EmbeddingWindows,
    WindowRules,
    check_components,
    checked_names,
    expected_embeddings,
)
from dust.datasets.sample import BadClip
from dust.decode.reader import open_clip
from dust.procedure.graph import ProcedureGraph, required_steps
from dust.procedure.metrics import has_errors
from dust.procedure.mistakes import Mistake, true_mistakes
from dust.procedure.step_decoder import OBJECTS
from dust.procedure.table import Procedure, state_vectors
from dust.utils.errors import ConfigError, DataError, VideoError

logger = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class ProcedureRecordings(Dataset[Any]):
    """Recordings in pieces of consecutive frames, in order; the evaluation puts them together.

    KEYSTEP.DTYPE ``video``: input ``frames`` uint8 (T, C, 1, H, W); ``embedding``: input ``frame_embeddings`` (T, D),
    the whole recording at once. An item also has ``first``, the number of its first frame, and ``facts`` of the
    recording: num_frames, fps, steps, labelled, procedure (:class:`Procedure`), errors (whether something went wrong in
    it), detections (of each frame) and states (class of the object detector -> components' states). The last two are
    empty unless they are asked for. Further ``graph`` (:class:`ProcedureGraph`) and ``mistakes``, the true ones.

    A recording that cannot be read, or lacks the object states that are asked for, is a BadClip.

    Args:
        data: recordings with labels.
        class_names: the outputs that the model was trained on.
        reader: of frames; None for embeddings.
        embeddings: arguments of :class:`EmbeddingWindows`, which holds those of each recording; None for frames.
        objects: read object states.
        exe_mode: see :func:`dust.procedure.windows.output_names`.
        fitted: what the training split's dataset learnt: the encoder that embeddings must be of.

    Attributes:
        clips: the recordings.
        class_names: the components, and the mistakes that have outputs.
    """

    def __init__(
        self,
        *,
        data: ProcedureData,
        class_names: Sequence[str] | None = None,
        reader: FrameReader | None = None,
        embeddings: Mapping[str, Any] | None = None,
        objects: bool = False,
        exe_mode: str = "no_error",
        fitted: Mapping[str, Any] | None = None,
    ) -> None:
        self.class_names = checked_names(data, exe_mode, class_names)
        if objects and not data.state_names:
            raise DataError(unnamed_states(data.source))
        self.data, self.reader, self.objects = data, reader, objects
        self.embeddings = None if embeddings is None else EmbeddingWindows(**embeddings, fitted=fitted)
        self.clips: list[Recording] = data.recordings if self.embeddings is None else self.embeddings.clips
        readable = [one for one in self.clips if one.num_frames]
        if not all(one.fps for one in readable):
            raise DataError(unknown_rates(data.source, readable))
        chunk = PIECE if self.embeddings is None else 2**62
        self._items = [(r, t) for r, one in enumerate(self.clips) for t in range(0, max(1, one.num_frames), chunk)]
        self._chunk = chunk

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        objects = cfg.KEYSTEP.DECODE.MODE in OBJECTS
        if cfg.KEYSTEP.DTYPE == "video":
            data = procedures_of(cfg, split)
            check_components(cfg, data)
            frames = {"data": data, "class_names": class_names, "reader": FrameReader.of(cfg), "objects": objects}
            return {**frames, "exe_mode": cfg.KEYSTEP.EXE_MODE}
        stored = EmbeddingWindows.from_config(cfg, split, class_names, views="test")
        stored["data"] = with_rates(stored["data"], cfg.DATA.INDEX_CACHE)
        whole = {"data": stored["data"], "class_names": class_names, "embeddings": stored, "objects": objects}
        return {**whole, "exe_mode": cfg.KEYSTEP.EXE_MODE}

    @classmethod
    def for_clips(
        cls, cfg, manifest: ProcedureData, fitted: Mapping[str, Any], features: Any = None
    ) -> "ProcedureRecordings":
        """Return a test's dataset of new recordings of videos.

        Args:
            features: of KEYSTEP.DTYPE ``embedding``: their embeddings, with the face of a FeatureStore.
        """
        more = {"objects": cfg.KEYSTEP.DECODE.MODE in OBJECTS, "exe_mode": cfg.KEYSTEP.EXE_MODE}
        if cfg.KEYSTEP.DTYPE == "video":
            return cls(data=manifest, reader=FrameReader.of(cfg), **more)
        if features is None:
            raise ConfigError(f"KEYSTEP.DTYPE {cfg.KEYSTEP.DTYPE}: a new video has no stored embeddings")
        stored = {"data": manifest, "rules": WindowRules.of(cfg), "features": features, "dim": cfg.KEYSTEP.EMBED_DIM}
        return cls(data=manifest, embeddings=stored, fitted=fitted, **more)

    @classmethod
    def look_ahead(
        cls,
        cfg,
        split: str,
        class_names: Sequence[str] | None = None,
        *,
        views: str | None = None,
        fitted: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any],
    ) -> tuple[None, list[str]]:
        """Check no more, without embeddings, than that recordings have rates, and states where these are asked for."""
        data = with_rates(procedures_of(cfg, split, frames=False), cfg.DATA.INDEX_CACHE)
        problems = expected_embeddings(cfg, expected)
        if not all(one.fps for one in data.recordings):
            problems.append(unknown_rates(data.source, data.recordings))
        if cfg.KEYSTEP.DECODE.MODE in OBJECTS and not data.state_names:
            problems.append(unnamed_states(data.source))
        return None, problems

    @classmethod
    def class_names_of(cls, cfg, split: str) -> Sequence[str]:
        return names_of_outputs(cfg, split)

    def __len__(self) -> int:
        return len(self._items)

    def group_starts(self) -> list[int]:
        """Return the first item of each recording: the pieces of one go to one process."""
        return [index for index, (_, frame) in enumerate(self._items) if frame == 0]

    def class_counts(self) -> list[int]:
        """Return how often each component is installed or removed."""
        steps = [step // 3 for one in self.clips for _, step in one.steps]
        return np.bincount(steps, minlength=len(self.class_names)).tolist()

    def __getitem__(self, index: int) -> Any:
        recording, first = self._items[index]
        one = self.clips[recording]
        if not one.num_frames:
            return BadClip(one.id, one.path, "could not be read when its frames were counted")
        frames = np.arange(first, min(first + self._chunk, one.num_frames))
        try:
            if self.embeddings is not None:
                inputs = {"frame_embeddings": self.embeddings.read(recording, frames)}
            else:
                assert self.reader is not None
                inputs = {"frames": self.reader.read(one.path, frames)[:, :, None]}
            facts = self._facts(one)
        except VideoError as error:
            return BadClip(one.id, one.path, error.reason)
        except DataError as error:
            return BadClip(one.id, one.object_states or one.path, str(error))
        return {"inputs": inputs, "label": None, "first": first, "facts": facts, "id": one.id, "path": one.path}

    def _facts(self, one: Recording) -> dict[str, Any]:
        procedure, graph = self.data.procedure(one.procedure), self.data.graph(one.procedure)
        detections: list[Any] = [()] * one.num_frames
        if self.objects:
            if not one.object_states:
                raise DataError(f"{one.id} has no object states (<recording>_results_pred.csv)")
            detections = read_object_states(one.object_states, one.num_frames, len(self.data.state_names))
        return {
            "num_frames": one.num_frames,
            "fps": one.fps,
            "steps": list(one.steps),
            "labelled": bool(one.states),
            "procedure": procedure,
            "procedure_name": one.procedure,
            "errors": has_errors(
                [step for _, step in one.steps], required_steps(procedure), [s for _, s in one.states]
            ),
            "graph": graph,
            "mistakes": _mistakes(one, graph, procedure),
            "detections": detections,
            "states": state_vectors(self.data.state_names) if self.objects else {},
        }


def _mistakes(one: Recording, graph: ProcedureGraph, procedure: Procedure) -> list[Mistake]:
    """Return those that somebody labelled, else those that follow from steps, states and the graph."""
    if one.mistakes is not None:
        return [Mistake(*labelled) for labelled in one.mistakes]
    return true_mistakes(one.steps, one.states, graph, procedure.start_state) if one.states else []


def unnamed_states(source: str) -> str:
    return f"{source} does not name the object detector's states: procedure.json has none"


def with_rates(data: ProcedureData, index_cache: str = "") -> ProcedureData:
    """Return the recordings with the frames per second of their video files, where the list leaves them open."""
    return replace(data, recordings=[_with_rate(one, index_cache) for one in data.recordings])


def _with_rate(recording: Recording, index_cache: str) -> Recording:
    if recording.fps or not os.path.isfile(recording.path):
        return recording
    try:
        with open_clip(recording.path, index_cache=index_cache or None) as reader:
            return replace(recording, fps=reader.fps)
    except VideoError as error:
        logger.warning("%s: its frames per second cannot be read: %s", recording.path, error.reason)
        return recording


def unknown_rates(source: str, recordings: Sequence[Recording]) -> str:
    """Return what to do about recordings of which nobody knows the frames per second."""
    unknown = [one.id for one in recordings if not one.fps]
    listed = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
    return (
        f"{source}: no frames per second for {listed}: write them into the column fps of {RECORDINGS}, delays are "
        "measured in seconds (a video file says them itself, a folder of pictures does not)"
    )
