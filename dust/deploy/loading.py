"""``dust.load``: from a run, a checkpoint or a name in the zoo to a predictor; nothing is asked for again."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dust import zoo
from dust.config import KEYS, CfgNode, flatten, load_config, with_values
from dust.config.parser import load_saved_config
from dust.config.sources import SourceError, read_overrides
from dust.deploy.exported import build_exported, is_exported
from dust.deploy.predictor import Predictor, build_predictor, build_with_files
from dust.engine.calibration import read_temperature
from dust.engine.stages import build_inherited
from dust.engine.test import build_views, without_sweep
from dust.utils.checkpoint import is_sharded, list_checkpoints, read_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.files import read_text
from dust.utils.stages import stage_checkpoint
from dust.utils.structured import parse_yaml

logger = logging.getLogger(__name__)

#: Tasks that answer nothing about a clip: stages before the last one.
SILENT = ("Contrastive", "Masked")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Origin:
    """Where a model's settings and weights lie.

    Attributes:
        text: the configuration that the run wrote down; "" where ``file`` is one.
        file: a YAML file.
        output_dir: of the run, as it lies now.
        checkpoint: the file of weights; "" for the one that the run's test would take.
        overrides: what must be said besides.
        class_names: where the weights do not say.
    """

    text: str = ""
    file: str = ""
    output_dir: str = ""
    checkpoint: str = ""
    overrides: Mapping[str, Any] | None = None
    class_names: Sequence[str] | None = None


def load(
    source: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "",
    batch_size: int = 0,
    threshold: float = 0.0,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    config: str | os.PathLike[str] = "",
    class_names: Sequence[str] | None = None,
    procedure: str = "",
    calibrated: bool = False,
) -> Predictor:
    """Load a trained model, ready to be asked about new clips.

    Args:
        source: a run's folder (OUTPUT_DIR); the root of several stages, of which the last that answers is taken; a
            checkpoint; ``zoo://NAME``; what ``dust export`` wrote (.onnx, .xml). Configuration, class names, fitted
            values, preprocessing, sampling and views are those of the training.
        device: auto (CUDA where there is one) | cpu | cuda | cuda:1.
        dtype: float32 | bfloat16 | float16 of the forward passes; "" as the run was tested.
        batch_size: views that run through the model at once; 0 as the run was tested.
        threshold: below this probability, 0..1, the answer is "none of these".
        overrides: configuration keys with other values, ``{"TEST.NUM_SPATIAL_CROPS": 1}``.
        config: the YAML of weights that somebody else trained, which hold no configuration.
        class_names: likewise their classes, in the order of the logits; by default "0", "1", ... Of a model that reads
            names (CLIPZeroShot) the classes that it is to answer with.
        procedure: of recordings, the name of what they show; "" for the first that was trained.
        calibrated: probabilities by the temperature that the run's test has fitted (TEST.CALIBRATE).

    Raises:
        ConfigError, CheckpointError: there is no such model, or it answers nothing about a clip.
    """
    name = os.fspath(source)
    given: dict[str, Any] = dict(overrides) if isinstance(overrides, Mapping) else {**pairs_of(overrides)}
    if batch_size:
        given["TEST.BATCH_SIZE"] = batch_size
    if is_exported(name):
        _only_of_runs(name, dtype=dtype, config=os.fspath(config), class_names=class_names, procedure=procedure,
            calibrated=calibrated,
        )  # fmt: skip
        return build_exported(name, device=device, overrides=given, threshold=threshold)
    where = _device(device)
    cfg, names = find_settings(name, dtype=dtype, overrides=given, config=os.fspath(config))
    with build_carried(cfg) as (cfg, files):
        predictor = build_predictor(
            cfg,
            device=where,
            class_names=class_names or names,
            files=files,
            source=name,
            threshold=threshold,
            procedure=procedure,
        )
    if calibrated:
        predictor.calibrate(read_temperature(cfg.OUTPUT_DIR, predictor.identity.checkpoint_sha256))
    return predictor


def build_loaded(cfg: CfgNode, *, device: str = "auto", threshold: float = 0.0) -> Predictor:
    """Return the predictor of the run that cfg describes, with the checkpoint that its test would take.

    Raises:
        ConfigError, CheckpointError: there is none, or it answers nothing about a clip.
    """
    fixed = {**_fixed(Origin()), "TEST.CHECKPOINT_FILE_PATH": cfg.TEST.CHECKPOINT_FILE_PATH}
    with build_carried(build_inherited(with_values(build_views(cfg)[-1], fixed))) as (carried, files):
        where, source = _device(device), cfg.OUTPUT_DIR
        return build_predictor(carried, device=where, files=files, source=source, threshold=threshold)


def _only_of_runs(name: str, **given: Any) -> None:
    wrong = ", ".join(key for key, value in given.items() if value)
    if wrong:
        raise ConfigError(f"{name}: an exported model has its own {wrong}: leave that out, or name the run")


def find_settings(
    source: str, *, dtype: str = "", overrides: Mapping[str, Any] | None = None, config: str = ""
) -> tuple[CfgNode, Sequence[str] | None]:
    """Return the configuration by which ``source`` is asked, and the class names that its weights do not hold; see
    :func:`load`."""
    origin = find_origin(source, config=config)
    settings = {**(origin.overrides or {}), **(overrides or {}), **_fixed(origin)}
    if dtype:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
        reduced = dtype != "float32"
        settings |= {"TRAIN.MIXED_PRECISION": reduced, **({"TRAIN.AMP_DTYPE": dtype} if reduced else {})}
    settings = without_sweep(settings)
    if origin.file:
        cfg = load_config(origin.file, settings)
    else:
        cfg = load_saved_config(origin.text, settings, source)
    return build_views(cfg)[-1], origin.class_names


@contextlib.contextmanager
def build_carried(cfg: CfgNode) -> Iterator[tuple[CfgNode, dict[str, str]]]:
    """Yield the configuration with the files that its checkpoints carry, in a folder of their own in place of the
    data's; and these files, name -> text."""
    found: dict[str, str] = {}
    for path in _checkpoints_of(flatten(cfg), cfg.OUTPUT_DIR):
        saved = read_checkpoint(path)
        found |= saved.get("carried") or saved.get("files") or {}  # the name until 0.1.0
    with build_with_files(cfg, found) as carried:
        yield carried, found


def _checkpoints_of(values: Mapping[str, Any], output_dir: str) -> Iterator[Path]:
    """Yield the newest checkpoint of the run and those of the stages on which it stands, the run's own last."""
    for key in (key for key, facts in KEYS.items() if facts.stage in ("checkpoint", "weights") and values.get(key)):
        if "://" not in str(values[key]):
            with contextlib.suppress(ConfigError, CheckpointError):
                yield stage_checkpoint(str(values[key]), output_dir, key)
    yield from list_checkpoints(Path(output_dir) / "checkpoints")[-1:]


def pairs_of(words: Sequence[str]) -> dict[str, Any]:
    """Return ``[KEY, VALUE, ...]`` as a dictionary. ConfigError for a key without its value."""
    try:
        return {one.key: one.value for one in read_overrides(words, set(KEYS))}
    except SourceError as error:
        raise ConfigError(str(error)) from None


def _fixed(origin: Origin) -> dict[str, Any]:
    """Return what a prediction needs to be so, whatever the training was."""
    fixed: dict[str, Any] = {
        "TRAIN.ENABLE": False,
        "TEST.ENABLE": True,
        "FEATURES.ENABLE": False,
        "NUM_GPUS": 0,  # the model is moved to its device when it is whole
        "NUM_SHARDS": 1,
        "SHARD_ID": 0,
        "NUM_PROCS_PER_NODE": 0,
        "DATA_LOADER.NUM_WORKERS": 0,
        "DATA.CHECK_FILES": False,
        "DATA.CLASS_LIST": "",
    }
    if origin.output_dir:
        fixed["OUTPUT_DIR"] = origin.output_dir
    if origin.checkpoint:
        fixed["TEST.CHECKPOINT_FILE_PATH"] = origin.checkpoint
    return fixed


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: write auto, cpu, cuda or cuda:1") from error
    present = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= present:
        raise ConfigError(f"device {name}: this machine has {present} CUDA devices; write auto or cpu")
    return device


# --- where it lies ----------------------------------------------------------------------------------------------


def find_origin(source: str, config: str = "") -> Origin:
    """Find where settings and weights of ``source`` lie; see :func:`load`.

    Raises:
        ConfigError, CheckpointError: nowhere, with what was looked for.
    """
    if source.startswith(zoo.SCHEME):
        return _in_zoo(source, config)
    path = Path(source).expanduser()
    if path.is_file() or is_sharded(path):
        return _in_checkpoint(path, config)
    if not path.is_dir():
        raise ConfigError(f"{source}: there is no such run, checkpoint or file of weights; zoo://NAME names the zoo's")
    if (path / "config.yaml").is_file():
        return _in_run(path)
    stages = {one.parent: _values(one) for one in sorted(path.glob("*/config.yaml"))}
    answering = {folder: values for folder, values in stages.items() if _answers(folder, values)}
    if not answering:
        found = ", ".join(sorted(folder.name for folder in stages)) or "no stage with a config.yaml"
        raise ConfigError(
            f"{source}: neither a run (with config.yaml) nor the root of stages of which one answers; it holds "
            f"{found}. Name a run's folder or a checkpoint"
        )
    return _in_run(_last(answering))


def _in_run(folder: Path) -> Origin:
    return Origin(text=read_text(folder / "config.yaml"), output_dir=str(folder))


def _in_checkpoint(path: Path, config: str) -> Origin:
    folder = path.absolute().parent
    output_dir = str(folder.parent if folder.name == "checkpoints" else folder)
    if config:
        return Origin(file=config, output_dir=output_dir, checkpoint=str(path.absolute()))
    text = read_checkpoint(path).get("cfg")
    if not isinstance(text, str):
        raise CheckpointError(
            f"{path}: holds weights alone, no configuration. Say with which YAML they are used: "
            "dust.load(FILE, config=YAML), or --cfg YAML"
        )
    return Origin(text=text, output_dir=output_dir, checkpoint=str(path.absolute()))


def _in_zoo(source: str, config: str) -> Origin:
    entry = zoo.get(source.removeprefix(zoo.SCHEME))
    file = config or entry.config
    if not file:
        raise ConfigError(f"{source}: the zoo names no configuration for it; give one: config=YAML, or --cfg YAML")
    names = zoo.class_names(entry)
    sizes = {"MODEL.NUM_CLASSES": len(names)} if names else {}
    overrides = {**sizes, **pairs_of(entry.options.split())}
    if source in overrides.values():  # a part of a model that it makes up with other files, and no run's
        nowhere = f"{zoo.cached_path(entry)}.run"
        return Origin(file=file, output_dir=nowhere, overrides=overrides, class_names=names)
    return Origin(file=file, checkpoint=source, overrides=overrides, class_names=names)


def _values(config: Path) -> dict[str, Any]:
    """Return ``{key: value}`` of a run's config.yaml; empty where it cannot be read."""
    try:
        saved = parse_yaml(read_text(config), config)
    except DataError:
        return {}
    return flatten(CfgNode(saved)) if isinstance(saved, dict) else {}


def _answers(folder: Path, values: Mapping[str, Any]) -> bool:
    """Tell whether a stage can be asked about clips: it classifies, and is more than features of another stage."""
    task = str(values.get("TASK", ""))
    tested = bool(values.get("TEST.ENABLE"))
    trained = bool(values.get("TRAIN.ENABLE")) and bool(list_checkpoints(folder / "checkpoints"))
    return bool(values) and task not in SILENT and (tested or trained)


def _last(stages: Mapping[Path, Mapping[str, Any]]) -> Path:
    """Return the stage on which no other one stands; of several such the one that ran last, which is logged."""
    named = {
        Path(str(values[key])).parts[-1]
        for values in stages.values()
        for key, facts in KEYS.items()
        if facts.stage and values.get(key)
    }
    last = [folder for folder in stages if folder.name not in named] or list(stages)
    last.sort(key=lambda folder: (folder / "config.yaml").stat().st_mtime)
    if len(last) > 1:
        others = ", ".join(folder.name for folder in last[:-1])
        logger.warning("%s: %s ran last and is taken; name another to have that: %s", last[-1].parent, last[-1], others)
    return last[-1]
