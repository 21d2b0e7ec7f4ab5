"""How one stage finds what another left: a stage is named by the folder that it wrote, beside one's own."""

import os
from pathlib import Path

from dust.utils.checkpoint import is_sharded, is_weights_folder, list_checkpoints
from dust.utils.errors import CheckpointError, ConfigError


def stage_path(name: str, output_dir: str | os.PathLike, key: str = "") -> Path:
    """Where a stage (or a file of one) lies: ``name`` beside ``output_dir``, else ``name`` as a path.

    Args:
        name: ``stage2_series`` for ``<output_dir>/../stage2_series``, or any path.
        output_dir: OUTPUT_DIR of the stage that asks.
        key: the configuration key that holds ``name``, for the error.

    Raises:
        ConfigError: neither exists; says how a stage is run first.
    """
    places = list(dict.fromkeys([Path(output_dir).absolute().parent / name, Path(name).absolute()]))
    for path in places:
        if path.exists():
            return path
    raise ConfigError(
        f"{key + ' ' if key else ''}{name}: there is no {' and no '.join(map(str, places))}. Run that stage first (all "
        "stages in one command: --cfg stage1.yaml stage2.yaml ... OUTPUT_DIR folder), or name another "
        "folder or file."
    )


def stage_checkpoint(name: str, output_dir: str | os.PathLike, key: str = "") -> Path:
    """The weights that ``name`` means: that file (or folder of Hugging Face's), or the newest checkpoint of that stage.

    Raises:
        ConfigError: there is no such stage.
        CheckpointError: the stage has no checkpoint yet.
    """
    path = stage_path(name, output_dir, key)
    if path.is_file() or is_sharded(path) or (is_weights_folder(path) and not (path / "checkpoints").is_dir()):
        return path
    found = [one for one in list_checkpoints(path / "checkpoints") if "_iter_" not in one.name]
    if not found:
        raise CheckpointError(
            f"{key + ' ' if key else ''}{name}: {path / 'checkpoints'} holds no finished epoch. Run that stage first."
        )
    return found[-1]


def stage_features(name: str, output_dir: str | os.PathLike, key: str = "") -> Path:
    """The folder of features that ``name`` means: a stage's ``features``, or that folder itself.

    Raises:
        ConfigError: there is no such stage or folder.
    """
    path = stage_path(name, output_dir, key)
    return path / "features" if (path / "features").is_dir() or (path / "checkpoints").is_dir() else path
