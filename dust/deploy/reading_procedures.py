"""Recordings of a procedure that no list names: videos, or folders of pictures."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dust.config import CfgNode
from dust.datasets.keystep.data import ProcedureData, Recording, read_procedure, with_graphs
from dust.datasets.keystep.files import PROCEDURE, read_new_recordings
from dust.datasets.keystep.frames import procedures_of
from dust.datasets.keystep.recordings import ProcedureRecordings
from dust.datasets.sample import BadClip
from dust.decode.reader import open_clip
from dust.deploy.feature_stage import build_embedder
from dust.deploy.reading import Reader, Reading, names_of
from dust.procedure.windows import output_names
from dust.utils.errors import ConfigError, DataError, VideoError

PREDICTIONS = "_results_pred.csv"  # of an object detector, beside the recording


class ProcedureReader(Reader):
    """Reads whole recordings for a test of ProcedureRecordings, in pieces.

    Args:
        dataset_of: ``dataset_of(data)``: the dataset of these recordings.
        data: the procedures, without recordings.
        procedure: the name of what is being done.
        span: frames of a window.
        default_fps: for recordings whose files do not say.
        facts: how a source becomes what the model sees.
        frame_pattern: DATA.FRAME_PATTERN, which pictures of a folder are its frames.
    """

    def __init__(
        self,
        dataset_of: Callable[[ProcedureData], ProcedureRecordings],
        data: ProcedureData,
        procedure: str,
        span: int,
        facts: Mapping[str, Any],
        frame_pattern: str = "",
    ) -> None:
        self.dataset_of, self.data, self.procedure, self.span = dataset_of, data, procedure, span
        self.description, self.frame_pattern = dict(facts), frame_pattern

    def read_list(self, path: str) -> Sequence[Any]:
        return read_new_recordings(path, self.data)

    def read(self, source: Any) -> Reading:
        if isinstance(source, Recording):
            one = source
        elif isinstance(source, str | os.PathLike):
            name, path = names_of(source)
            one = Recording(name, path, procedure=self.procedure, object_states=_object_states(Path(path)))
        else:
            raise DataError(f"a recording is a video file or a folder of pictures, not a {type(source).__name__}")
        reading = Reading(one.id, one.path)
        try:
            with open_clip(one.path, pattern=self.frame_pattern) as reader:
                one = replace(one, num_frames=len(reader), fps=one.fps or reader.fps)
                reading.damage = reader.report.reason
        except VideoError as error:
            reading.error = error.reason
            return reading
        if one.num_frames < self.span:
            reading.warnings.append(f"only {one.num_frames} frames, a window has {self.span}: the first is repeated")
        try:
            dataset = self.dataset_of(replace(self.data, recordings=[one]))
        except DataError as error:
            reading.error = str(error)
            return reading
        reading.items = _pieces(dataset)
        return reading


def _pieces(dataset: ProcedureRecordings) -> Iterator[dict[str, Any] | BadClip]:
    """Yield the pieces of a recording, read when they are asked for: a recording may be long."""
    try:
        for index in range(len(dataset)):
            yield dataset[index]
    finally:
        if dataset.reader is not None:
            dataset.reader.close()


def _object_states(path: Path) -> str:
    beside = path.with_name(f"{path.stem if path.is_file() else path.name}{PREDICTIONS}")
    return str(beside) if beside.is_file() else ""


def build_procedure_reader(
    cfg: CfgNode,
    class_names: Sequence[str],
    fitted: Mapping[str, Any],
    files: Mapping[str, str],
    device: torch.device,
    procedure: str = "",
) -> ProcedureReader:
    """Return the reader of recordings of the procedure that was trained.

    Args:
        fitted: what the training noted of its embeddings.
        files: what the checkpoint carries; without its procedure.json the data folder is read.
        device: on which the stage runs that made these embeddings.
        procedure: a name of those in it; "" for the first.

    Raises:
        DataError: no such procedure, or other components than the model has.
    """
    if PROCEDURE in files:
        with tempfile.TemporaryDirectory(prefix="dust-") as folder:
            path = Path(folder, PROCEDURE)
            path.write_text(files[PROCEDURE], encoding="utf-8")
            data = replace(read_procedure(path), source="the checkpoint's procedure")
    else:
        data = replace(procedures_of(cfg, "test", labels=False, frames=False), recordings=[])
    data, outputs = with_graphs(data, cfg.KEYSTEP.GRAPH), output_names(data.components, cfg.KEYSTEP.EXE_MODE)
    if list(class_names) != outputs:
        raise ConfigError(f"{data.source}: components {outputs}, where the model has {list(class_names)}")
    name = procedure or next(iter(data.start_states))
    data.procedure(name)  # says which there are

    node = cfg.KEYSTEP
    embedder = cache(lambda: build_embedder(cfg, fitted.get("embeddings", {}), device))  # when a video is read

    def dataset_of(data: ProcedureData) -> ProcedureRecordings:
        made = embedder()(data) if node.DTYPE == "embedding" else None
        return ProcedureRecordings.for_clips(cfg, data, fitted, made)

    span = (node.FRAMES - 1) * (node.SKIP_FACTOR + 1) + 1
    facts = {
        "input": "recording",
        "procedure": name,
        "frames": node.FRAMES,
        "span": span,
        "crop_size": cfg.DATA.TRAIN_CROP_SIZE,
        "decoder": node.DECODE.MODE,
    }
    return ProcedureReader(dataset_of, data, name, span, facts, cfg.DATA.FRAME_PATTERN)
