"""One writer for TensorBoard and the services of dust/visualization/trackers.py; without any it does nothing."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dust.config import CfgNode
from dust.utils import distributed
from dust.utils.errors import ConfigError
from dust.visualization.trackers import Tracker, build_trackers

logger = logging.getLogger(__name__)


class Writer:
    """Scalars, figures and clips by step. A disk that is full costs the curves, not the run.

    Args:
        tensorboard_dir: where event files go, or None.
        trackers: services that take the scalars too.
        confusion_matrix: also draw an evaluation's figures.
        input_clips: how many clips of an evaluated split are shown as animated GIFs.
    """

    def __init__(
        self,
        *,
        tensorboard_dir: Path | None = None,
        trackers: Sequence[Tracker] = (),
        confusion_matrix: bool = False,
        input_clips: int = 0,
    ) -> None:
        self.board: Any = None
        self.folder = tensorboard_dir
        if tensorboard_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            with self._bearing_full_disks():
                self.board = SummaryWriter(log_dir=str(tensorboard_dir))
        self.trackers = list(trackers)
        self.confusion_matrix = confusion_matrix
        self.input_clips = input_clips

    @classmethod
    def from_config(cls, cfg: CfgNode, output_dir: Path) -> dict[str, Any]:
        """Let the first process alone write; there this starts the runs of services that are on."""
        board = cfg.TENSORBOARD
        if not distributed.is_main():
            return {}
        folder = Path(board.LOG_DIR) if board.LOG_DIR else output_dir / f"runs-{cfg.TRAIN.DATASET}"
        if board.LOG_DIR and not folder.is_absolute():
            folder = output_dir / folder
        if board.ENABLE and str(folder) != str(folder).encode("utf-8", "replace").decode():
            raise ConfigError(
                f"TENSORBOARD.ENABLE True: TensorBoard cannot write to {folder}, whose name is not UTF-8: set "
                "TENSORBOARD.LOG_DIR, or choose another OUTPUT_DIR"
            )
        return {
            "tensorboard_dir": folder if board.ENABLE else None,
            "trackers": build_trackers(cfg, output_dir),
            "confusion_matrix": board.CONFUSION_MATRIX.ENABLE,
            "input_clips": board.INPUT_CLIPS,
        }

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            with self._bearing_full_disks():
                self.board.close()
        for tracker in self.trackers:
            tracker.finish()

    @contextlib.contextmanager
    def _bearing_full_disks(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.board = None
            logger.error("TensorBoard's %s cannot be written: %s. The run continues without it", self.folder, error)

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Write ``group/name`` scalars. SlowFast's names: Train/loss, Train/lr, Train/Top1_err, Val/Top1_err,
        Val/mAP."""
        if self.board is None and not self.trackers:
            return
        named = {f"{group}/{_display(name)}": value for name, value in values.items()}
        named.update(
            {f"{group}/{_display(name[:-4] + '_err')}": 100.0 - v for name, v in values.items() if _is_topk(name)}
        )
        if self.board is not None:
            with self._bearing_full_disks():
                for name, value in named.items():
                    self.board.add_scalar(name, value, step)
                self.board.flush()
        for tracker in self.trackers:
            tracker.log({**named, f"{group}/step": step}, step)

    def evaluation(self, evaluation: Any, loader: Any, step: int, name: str = "Val") -> None:
        """Write the evaluation's figures and some of the split's clips, as far as they are asked for."""
        if self.board is None:
            return
        figures = evaluation.figures() if self.confusion_matrix else {}
        items = [loader.dataset[index] for index in range(min(self.input_clips, len(loader.dataset)))]
        with self._bearing_full_disks():
            for title, figure in figures.items():
                self.board.add_figure(f"{name}/{title}", figure, step)
            for index, item in enumerate(items):
                if isinstance(item, dict) and "video" in item["inputs"]:
                    self.clip(f"{name}/clip_{index}", item["inputs"]["video"][0], step)
            self.board.flush()

    def clip(self, name: str, video: torch.Tensor, step: int, frames_per_second: float = 8.0) -> None:
        """Write a uint8 (C, T, H, W) clip as an animated GIF. (``add_video`` needs moviepy and else shows nothing.)"""
        from tensorboard.compat.proto.summary_pb2 import Summary

        frames = video.permute(1, 2, 3, 0).numpy()
        height, width = frames.shape[1:3]
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=gif_bytes(frames, frames_per_second),
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.board.file_writer.add_summary(summary, step)


def gif_bytes(frames: np.ndarray, frames_per_second: float) -> bytes:
    """Encode uint8 (T, H, W, 3) as an endless GIF."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    duration = round(1000 / frames_per_second)
    images[0].save(buffer, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return buffer.getvalue()


def _is_topk(name: str) -> bool:
    return name.startswith("top") and name.endswith("_acc")


def _display(name: str) -> str:
    if name == "map":
        return "mAP"
    return "T" + name[1:] if name.startswith("top") else name
