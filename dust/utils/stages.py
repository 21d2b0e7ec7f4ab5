"""How one stage finds what another left: a stage is named by the folder that it wrote, beside one's own."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dust.utils.checkpoint import is_sharded, is_weights_folder, list_checkpoints
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.files import read_text
from dust.utils.structured import parse_yaml

logger = logging.getLogger(__name__)

BEST = "checkpoint_best.pyth"


class StageToCome(ConfigError):
    """What is asked for will be left by a stage of the same command that has not run yet.

    Attributes:
        key: the configuration key that names the stage.
        values: ``{key: value}`` of that stage's configuration.
    """

    def __init__(self, key: str, name: str, values: Mapping[str, Any]) -> None:
        super().__init__(f"{key + ' ' if key else ''}{name}: this stage has not run yet")
        self.key, self.name, self.values = key, name, values

    def __reduce__(self) -> tuple:
        return type(self), (self.key, self.name, self.values)


_TO_COME: ContextVar[Mapping[Path, Mapping[str, Any]] | None] = ContextVar("stages to come", default=None)


@contextlib.contextmanager
def expect_stages(stages: Mapping[Path, Mapping[str, Any]]) -> Iterator[None]:
    """Let whoever asks for one of these stages meet :class:`StageToCome`, whatever an earlier command left there.

    Args:
        stages: absolute OUTPUT_DIR -> ``{key: value}`` of its configuration; may grow meanwhile.
    """
    token = _TO_COME.set(stages)
    try:
        yield
    finally:
        _TO_COME.reset(token)


def stage_path(name: str, output_dir: str | os.PathLike, key: str = "") -> Path:
    """Return where a stage (or a file of one) lies: ``name`` beside ``output_dir``, else ``name`` as a path.

    Args:
        name: ``stage2_series`` for ``<output_dir>/../stage2_series``, or any path.
        output_dir: OUTPUT_DIR of the stage that asks.
        key: the configuration key that holds ``name``, for the error.

    Raises:
        ConfigError: neither exists; says how a stage is run first.
        StageToCome: see :func:`expect_stages`.
    """
    places = list(dict.fromkeys([Path(output_dir).absolute().parent / name, Path(name).absolute()]))
    to_come = _TO_COME.get() or {}
    for path in places:
        values = to_come.get(Path(os.path.normpath(path)))
        if values is not None:
            raise StageToCome(key, name, values)
        if path.exists():
            return path
    raise ConfigError(
        f"{key + ' ' if key else ''}{name}: there is no {' and no '.join(map(str, places))}. Run that stage first (all "
        "stages in one command: --cfg stage1.yaml stage2.yaml ... OUTPUT_DIR folder), or name another "
        "folder or file."
    )


def takes_best(checkpoint: str, patience: int) -> bool:
    """Tell whether a run is tested by its best checkpoint rather than its last.

    Args:
        checkpoint: TEST.CHECKPOINT: best | last | auto, which is best where a run may stop early.
        patience: TRAIN.EARLY_STOPPING_PATIENCE.
    """
    return checkpoint == "best" or (checkpoint == "auto" and patience > 0)


def stage_checkpoint(name: str, output_dir: str | os.PathLike, key: str = "") -> Path:
    """Return the weights that ``name`` means: that file (or folder of Hugging Face's), or the checkpoint by which that
    stage is tested (the newest finished epoch, or the best, as its own TEST.CHECKPOINT says).

    Raises:
        ConfigError: there is no such stage.
        CheckpointError: the stage has no checkpoint yet.
    """
    path = stage_path(name, output_dir, key)
    if path.is_file() or is_sharded(path) or (is_weights_folder(path) and not (path / "checkpoints").is_dir()):
        return path
    best = path / "checkpoints" / BEST
    if best.exists() and _is_tested_by_best(path / "config.yaml"):
        logger.info("%s %s: its best checkpoint, as its TEST.CHECKPOINT says: %s", key, name, best)
        return best
    found = [one for one in list_checkpoints(path / "checkpoints") if "_iter_" not in one.name]
    if not found:
        raise CheckpointError(
            f"{key + ' ' if key else ''}{name}: {path / 'checkpoints'} holds no finished epoch. Run that stage first."
        )
    return found[-1]


def _is_tested_by_best(config: Path) -> bool:
    """Tell what the configuration that a stage left says. One that cannot be read says nothing."""
    try:
        values = parse_yaml(read_text(config), config)
        return takes_best(values["TEST"]["CHECKPOINT"], values["TRAIN"]["EARLY_STOPPING_PATIENCE"])
    except (DataError, KeyError, TypeError):
        return False


def stage_features(name: str, output_dir: str | os.PathLike, key: str = "") -> Path:
    """Return the folder of features that ``name`` means: a stage's ``features``, or that folder itself.

    Raises:
        ConfigError: there is no such stage or folder.
    """
    path = stage_path(name, output_dir, key)
    return path / "features" if (path / "features").is_dir() or (path / "checkpoints").is_dir() else path
