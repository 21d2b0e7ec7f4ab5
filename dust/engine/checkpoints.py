"""Which checkpoint a stage works on that trains nothing: a named one, or one of its own OUTPUT_DIR."""

import logging
from dataclasses import dataclass
from pathlib import Path

from dust.config import CfgNode
from dust.engine.weights import weights_file
from dust.utils import distributed
from dust.utils.checkpoint import list_checkpoints
from dust.utils.checkpoint.store import newest_of, refuse_unverified
from dust.utils.errors import CheckpointError
from dust.utils.stages import BEST, takes_best

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointChoice:
    """The places where a checkpoint may lie, in the order in which they are asked.

    Attributes:
        output_dir: of the stage; names of other stages are those of folders beside it.
        name: a file, a stage or zoo://NAME; "" for a checkpoint of ``output_dir``.
        key: the configuration key that holds ``name``.
        best: of ``output_dir`` the best rather than the last, where there is one.
        fallback: what ``output_dir`` without a checkpoint is replaced by (TRAIN.CHECKPOINT_FILE_PATH); "" for nothing.
        purpose: what is impossible without one, and what to do, for an error.
    """

    output_dir: str
    name: str = ""
    key: str = ""
    best: bool = False
    fallback: str = ""
    purpose: tuple[str, str] = ("test", "Train first, or name a file or zoo://NAME.")

    def find(self, *, together: bool = False) -> Path | None:
        """Return the checkpoint's path, or None if there is none. What is named must be there.

        Args:
            together: all processes of the run ask for it now, so that one looks through ``output_dir``.

        Raises:
            ConfigError, CheckpointError: ``name`` or ``fallback`` is nowhere; what ``output_dir`` holds is damaged.
        """
        if self.name:
            return Path(weights_file(self.name, self.output_dir, self.key))
        own = distributed.from_main(self._own) if together else self._own()
        if own is None and self.fallback:
            return Path(weights_file(self.fallback, self.output_dir, "TRAIN.CHECKPOINT_FILE_PATH"))
        return own

    def path(self, *, together: bool = False) -> Path:
        """Return :meth:`find`, or a CheckpointError that says what to do if there is none."""
        path = self.find(together=together)
        if path is None:
            purpose, way_out = self.purpose
            raise CheckpointError(
                f"there is nothing to {purpose}: {self.key} is empty and {self._checkpoints} holds no checkpoint. "
                f"{way_out}"
            )
        return path

    def _own(self) -> Path | None:
        """Return the checkpoint of ``output_dir``: the best, else the newest that is whole."""
        best = self._checkpoints / BEST
        if self.best and best.exists():
            return best
        newest = newest_of(self._checkpoints, list_checkpoints(self._checkpoints), refuse_unverified)
        if newest is not None and self.best:
            logger.warning("%s holds no best checkpoint, so the last is taken", self._checkpoints)
        return None if newest is None else newest[0]

    @property
    def _checkpoints(self) -> Path:
        return Path(self.output_dir) / "checkpoints"


def build_checkpoint_to_test(cfg: CfgNode) -> CheckpointChoice:
    """Return TEST.CHECKPOINT_FILE_PATH, else OUTPUT_DIR's last (or best), else TRAIN.CHECKPOINT_FILE_PATH."""
    return CheckpointChoice(
        cfg.OUTPUT_DIR,
        cfg.TEST.CHECKPOINT_FILE_PATH,
        "TEST.CHECKPOINT_FILE_PATH",
        best=takes_best(cfg.TEST.CHECKPOINT, cfg.TRAIN.EARLY_STOPPING_PATIENCE),
        fallback=cfg.TRAIN.CHECKPOINT_FILE_PATH,
    )


def build_checkpoint_to_extract(cfg: CfgNode) -> CheckpointChoice:
    """Return FEATURES.CHECKPOINT_FILE_PATH (a file, a stage or zoo://NAME), else OUTPUT_DIR's last or best."""
    return CheckpointChoice(
        cfg.OUTPUT_DIR,
        cfg.FEATURES.CHECKPOINT_FILE_PATH,
        "FEATURES.CHECKPOINT_FILE_PATH",
        best=takes_best(cfg.TEST.CHECKPOINT, cfg.TRAIN.EARLY_STOPPING_PATIENCE),
        purpose=("extract features with", "Name a stage (stage1_video), a file or zoo://NAME."),
    )
