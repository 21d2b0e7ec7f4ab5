"""What can be known before the first step: all stages of a command are built ahead, and all problems are said at once.

A stage is built ahead of what it will be made of: every split's dataset, the task, the model (on torch's meta device,
so that it has shapes and no values), its optimizer. What an earlier stage of the same command will leave is not there
yet: whoever asks for it meets :class:`dust.utils.stages.StageToCome`, and a dataset that offers
:class:`dust.datasets.protocol.LooksAhead` is asked for the rest.
"""

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from dust import zoo
from dust.config import KEYS, CfgNode, flatten, with_values
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.loader import construct_loader
from dust.datasets.manifest.once import reading_once
from dust.datasets.protocol import LooksAhead, fitted_of
from dust.datasets.sample import unlearnt_classes
from dust.engine.backends import Backends
from dust.engine.calibration import build_problems, refuse_shared
from dust.engine.checkpoints import build_checkpoint_to_extract, build_checkpoint_to_test
from dust.engine.classes import build_with_classes
from dust.engine.extract import build_split_to_extract, layer_output
from dust.engine.hooks import build_hooks
from dust.engine.setup import build_device
from dust.engine.stages import build_inherited, build_stage, finished
from dust.engine.weights import build_weights_choice, load_trained, weights_file
from dust.models import build_model
from dust.models.optimizer import construct_optimizer
from dust.models.protocol import AssembledFromParts, ReadsClassNames, init_from
from dust.tasks import build_task
from dust.tasks.task import DataInfo, Task, metric_names
from dust.utils.checkpoint import learnt_of, list_checkpoints, load_weights, read_checkpoint
from dust.utils.errors import ConfigError, DustError, NotFitted
from dust.utils.metrics import METRIC_REGISTRY
from dust.utils.registry import build, import_extensions
from dust.utils.stages import StageToCome, expect_stages

logger = logging.getLogger(__name__)


@dataclass
class _Ahead:
    """One stage, as far as it is known.

    Attributes:
        errors: what is wrong, each once.
        trains: it will leave a checkpoint.
        class_names, fitted: what that will hold; None where its data could not be read yet.
    """

    name: str
    output_dir: str
    trains: bool = False
    errors: dict[str, DustError] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    fitted: Mapping[str, Any] | None = None

    def say(self, text: str) -> None:
        self.errors.setdefault(text, ConfigError(text))

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is wrong within, and continue behind it. What depends on a stage to come, or on what a training
        split would teach that cannot be read, ends there, too."""
        try:
            yield
        except (StageToCome, NotFitted) as error:
            logger.debug("%s: %s", self.name, error)
        except DustError as error:
            self.errors.setdefault(str(error), error)


def build_ahead(runs: Sequence[tuple[str, Any]], further: Callable[[CfgNode], Iterable[str]] = lambda cfg: ()) -> int:
    """Look at all stages of a command before the first one begins.

    Args:
        runs: (name, configuration) of each, in order.
        further: what else is wrong with a configuration; also asked of finished stages.

    Returns:
        How many of the first stages are finished: these were not looked at, for their data may be gone.

    Raises:
        DustError: one message with all problems of all stages.
    """
    done = 0
    while len(runs) > 1 and done < len(runs):
        cfg = runs[done][1]
        if not finished(functools.partial(build_stage, cfg), cfg.OUTPUT_DIR):
            break
        done += 1
    looked_at: list[_Ahead] = []
    stages: dict[Path, _Ahead] = {}
    to_come: dict[Path, Mapping[str, Any]] = {}
    notes: list[str] = []
    with _quiet(), expect_stages(to_come), reading_once():
        for number, (name, cfg) in enumerate(runs):
            stage = _Ahead(name, cfg.OUTPUT_DIR)
            looked_at.append(stage)
            for text in further(cfg):
                stage.say(text)
            if number < done:
                continue
            home = _home(cfg.OUTPUT_DIR)
            settled = build_stage_ahead(cfg, stage, stages, notes)
            if home not in stages or settled.TRAIN.ENABLE:  # who only tests what another one trained adds nothing
                stages[home], to_come[home] = stage, flatten(settled)
    _raise_if_any(looked_at, several=len(runs) > 1)
    for note in notes:
        logger.warning("%s", note)
    return done


def _home(output_dir: str) -> Path:
    return Path(os.path.abspath(output_dir))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what is logged here: it is logged again when the stage runs."""
    package = logging.getLogger("dust")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


def _raise_if_any(stages: Sequence[_Ahead], *, several: bool) -> None:
    for stage in stages:  # a list that is read for its classes alone says the beginning of what it says as a whole
        for text in list(stage.errors):
            if any(whole.startswith(f"{text}\n") for whole in stage.errors):
                del stage.errors[text]
    errors = [error for stage in stages for error in stage.errors.values()]
    if not errors:
        return
    if len(errors) == 1 and not several:
        raise errors[0]
    where: dict[str, list[str]] = {}  # what several stages have in common is said once
    for stage in stages:
        for text in stage.errors:
            where.setdefault(text, []).append(stage.name)
    lines = [f"{len(where)} problem{'s' if len(where) > 1 else ''}, and nothing was begun:"]
    for number, (text, names) in enumerate(where.items(), 1):
        of = f"{', '.join(names)}: " if several else ""
        lines.append(f"  {number}. {of}" + text.replace("\n", "\n     "))
    raise ConfigError("\n".join(lines))


def build_stage_ahead(cfg: CfgNode, stage: _Ahead, stages: Mapping[Path, _Ahead], notes: list[str]) -> Any:
    """Look at one stage; problems go into ``stage``. Returns its configuration with all that is settled.

    Args:
        stages: the earlier ones of the command.
        notes: where it is written what is no error, and strange.
    """
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE or cfg.FEATURES.ENABLE or cfg.PREDICT.ENABLE):
        keys = "TRAIN.ENABLE, TEST.ENABLE, FEATURES.ENABLE and PREDICT.ENABLE"
        stage.say(f"{keys} are all False: nothing would be done; set one True")
    _check_folder(stage)
    same = stages.get(_home(stage.output_dir))
    if same is not None and same.trains and cfg.TRAIN.ENABLE:
        stage.say(f"OUTPUT_DIR {stage.output_dir}: {same.name} of this command trains there, too")
    stage.trains = cfg.TRAIN.ENABLE
    with stage.noting():
        import_extensions(cfg.IMPORTS)
        build_device(cfg)
        if cfg.NUM_GPUS:
            build(Backends, cfg).check()
    settled: Any = cfg
    with stage.noting():
        settled = build_inherited(settled)
    with stage.noting():
        settled = build_with_classes(settled)
    if settled.MODEL.NUM_CLASSES < 0:  # and why is noted
        settled = with_values(settled, {"MODEL.NUM_CLASSES": 0})
    metrics = build_names_ahead(settled, stage)
    before = build_start_ahead(settled, stage, stages)
    info = build_data_ahead(settled, stage, before, notes)
    with stage.noting():
        task = build_task(with_values(settled, {"TEST.METRICS": metrics}), info)
        if settled.TRAIN.ENABLE and settled.TRAIN.EVAL_PERIOD:
            _check_metric(task, settled.TRAIN.BEST_METRIC)
        if settled.TEST.ENABLE:
            for problem in build_problems(settled, task.evaluation("test")):
                stage.say(problem)
    build_model_ahead(settled, stage, before, info.class_names)
    return settled


def _check_folder(stage: _Ahead) -> None:
    """Check that OUTPUT_DIR can be made."""
    home = _home(stage.output_dir)
    there = next(path for path in (home, *home.parents) if path.exists())
    if not there.is_dir():
        stage.say(f"OUTPUT_DIR {stage.output_dir}: {there} is a file; choose another folder")
    elif not os.access(there, os.W_OK | os.X_OK):
        stage.say(f"OUTPUT_DIR {stage.output_dir}: {there} cannot be written to; choose a folder that you may write to")


def build_names_ahead(cfg: CfgNode, stage: _Ahead) -> list[str]:
    """Note the names that no registry knows, those too that are asked for late. Returns the metrics that are known."""
    for used, name in ((cfg.TRAIN.ENABLE, cfg.TRAIN.DATASET), (cfg.TEST.ENABLE, cfg.TEST.DATASET)):
        with stage.noting():
            if used:
                DATASET_REGISTRY.get(name)
    for name in cfg.TEST.METRICS:
        try:
            METRIC_REGISTRY.get(name)
        except ConfigError as error:
            stage.say(f"TEST.METRICS: {error} What the task itself measures (top1_acc, ...) is not named here.")
    with stage.noting():
        build_hooks(cfg)
    return [name for name in cfg.TEST.METRICS if name in METRIC_REGISTRY]


# ---------------------------------------------------------------------------------------------------- weights at start


@dataclass(frozen=True)
class _Start:
    """The weights that a stage begins from, or works on where it trains nothing.

    Attributes:
        class_names, fitted: what such a checkpoint says; None where that is not known.
        found: there is one, or there will be.
        path, saved: its file and what that holds, where it is there.
    """

    class_names: Sequence[str] | None = None
    fitted: Mapping[str, Any] | None = None
    found: bool = False
    path: Path | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)


def build_start_ahead(cfg: CfgNode, stage: _Ahead, stages: Mapping[Path, _Ahead]) -> _Start:
    """Check that every weight file can be read which the configuration names. Nothing is downloaded."""
    train, asks = cfg.TRAIN, cfg.TEST.ENABLE or cfg.PREDICT.ENABLE
    start = _Start()
    if train.ENABLE:
        key = "TRAIN.CHECKPOINT_FILE_PATH" if train.CHECKPOINT_FILE_PATH else "MODEL.PRETRAINED"
        with stage.noting():
            start = _check_weights(stage, key, train.CHECKPOINT_FILE_PATH or cfg.MODEL.PRETRAINED)
    choices = []
    if asks and (not train.ENABLE or cfg.TEST.CHECKPOINT_FILE_PATH):
        choices.append(build_checkpoint_to_test(cfg))
    if cfg.FEATURES.ENABLE and (not train.ENABLE or cfg.FEATURES.CHECKPOINT_FILE_PATH):
        choices.append(build_checkpoint_to_extract(cfg))
    for choice in choices:
        with stage.noting():
            same = stages.get(_home(stage.output_dir))
            if not choice.name and same is not None and same.trains:  # an earlier stage trains in this very folder
                start = _Start(same.class_names, same.fitted, True)
                continue
            if "://" in choice.name:
                _check_weights(stage, choice.key, choice.name)
                start = _Start(found=True)
                continue
            try:
                path = replace(choice, fallback="" if "://" in choice.fallback else choice.fallback).find()
            except StageToCome as source:
                _check_trains(stage, source)
                earlier = stages.get(_home(source.values["OUTPUT_DIR"]))
                start = _Start(found=True) if earlier is None else _Start(earlier.class_names, earlier.fitted, True)
                continue
            if path is not None:
                saved = read_checkpoint(path)
                names, fitted = learnt_of(saved, path)
                start = _Start(names, fitted or {}, True, path, saved)
            elif "://" in choice.fallback:
                _check_weights(stage, "TRAIN.CHECKPOINT_FILE_PATH", choice.fallback)
                start = _Start(found=True)
            elif choice.key.startswith("FEATURES."):
                choice.path()  # says what to do
    return start


def _check_weights(stage: _Ahead, key: str, name: str) -> _Start:
    """Raise DustError where ``name`` means no file of weights, nor a stage that will leave one."""
    if not name:
        return _Start()
    if "://" in name:
        if name.startswith(zoo.SCHEME):
            zoo.get(name.removeprefix(zoo.SCHEME))
        return _Start(found=True)
    try:
        path = Path(weights_file(name, stage.output_dir, key))
    except StageToCome as source:
        _check_trains(stage, source)
        return _Start(found=True)
    return _Start(found=True, path=path, saved=read_checkpoint(path))


def _check_trains(stage: _Ahead, source: StageToCome) -> None:
    home = Path(source.values["OUTPUT_DIR"])
    if not source.values["TRAIN.ENABLE"] and not list_checkpoints(home / "checkpoints"):
        stage.say(
            f"{source.key} {source.name}: that stage trains nothing (its TRAIN.ENABLE is False), so it leaves none"
        )


# ------------------------------------------------------------------------------------------------------------ the data


def build_data_ahead(cfg: CfgNode, stage: _Ahead, start: _Start, notes: list[str]) -> DataInfo:
    """Build every split that is asked for. Returns what the task may know of training's, or of the checkpoint's."""
    names, fitted = start.class_names, start.fitted
    counts: Sequence[int] = ()
    tested: Sequence[str] = ()
    if cfg.TRAIN.ENABLE:
        names, fitted = None, None
        dataset = build_split_ahead(cfg, stage, "train", "train", None, None)
        if dataset is not None:
            names, counts, fitted = dataset.class_names, dataset.class_counts(), fitted_of(dataset)
    stage.class_names, stage.fitted = names, fitted
    rest = [("val", "val")] if cfg.TRAIN.ENABLE and cfg.TRAIN.EVAL_PERIOD else []
    rest += [(cfg.TEST.SPLIT, "test")] if cfg.TEST.ENABLE else []
    calibrates = cfg.TEST.ENABLE and cfg.TEST.CALIBRATE and cfg.TEST.SPLIT != "val"
    rest += [("val", "test")] if calibrates else []
    seen: dict[tuple[str, str], Any] = {}
    for split, views in rest:
        dataset = seen[split, views] = build_split_ahead(cfg, stage, split, views, names, fitted)
        if dataset is not None and views == "test":
            tested = tested or dataset.class_names
        if dataset is not None and counts and views == "test":
            notes += unlearnt_classes(names or (), counts, dataset.class_counts(), split)
    if calibrates:
        with stage.noting():
            refuse_shared(seen["val", "test"], seen[cfg.TEST.SPLIT, "test"])
    if cfg.FEATURES.ENABLE:
        for split in cfg.FEATURES.SPLITS:
            with stage.noting():
                build_split_to_extract(cfg, split, fitted)
    numbers = [str(number) for number in range(cfg.MODEL.NUM_CLASSES)]
    return DataInfo(names or tested or numbers, counts, fitted or {})


def build_split_ahead(
    cfg: CfgNode, stage: _Ahead, split: str, views: str, names: Sequence[str] | None, fitted: Mapping[str, Any] | None
) -> Any:
    """Return the dataset of a split; None where it cannot be built, or not yet.

    Args:
        fitted: what training's dataset has learnt; None where that is not known.
    """
    try:
        return construct_loader(cfg, split, names, views=views, fitted=fitted).dataset
    except StageToCome as error:
        source = error
    except NotFitted as error:
        if fitted is not None:
            stage.errors.setdefault(str(error), error)
        return None
    except DustError as error:
        stage.errors.setdefault(str(error), error)
        return None
    what = f"{source.key} {source.name}: that stage stores no features"
    if not source.values["FEATURES.ENABLE"]:
        stage.say(f"{what} (its FEATURES.ENABLE is False)")
    elif split not in source.values["FEATURES.SPLITS"]:
        stage.say(f"{what} of the {split} split; its FEATURES.SPLITS are {source.values['FEATURES.SPLITS']}")
    cls: Any = DATASET_REGISTRY.get(cfg.TEST.DATASET if views == "test" else cfg.TRAIN.DATASET)
    if not isinstance(cls, LooksAhead):
        return None
    dataset = None
    with stage.noting():
        dataset, problems = cls.look_ahead(cfg, split, names, views=views, fitted=fitted, expected=source.values)
        for problem in problems:
            stage.say(problem)
    return dataset


# -------------------------------------------------------------------------------------------------- the task, the model


def _check_metric(task: Task, best_metric: str) -> None:
    """Raise ConfigError where the evaluation says what it gives, and TRAIN.BEST_METRIC is not among it."""
    known = metric_names(task.evaluation("val"))
    if best_metric and known and not any(fnmatchcase(best_metric, name) for name in known):
        raise ConfigError(f"TRAIN.BEST_METRIC {best_metric}: is not measured; choose one of {', '.join(known)}")


def build_model_ahead(cfg: CfgNode, stage: _Ahead, start: _Start, class_names: Sequence[str]) -> None:
    """Build the model without its values, the weights that its parts begin from, its optimizer, the layer of its
    features."""
    model = None
    with stage.noting():
        try:
            with torch.device("meta"):
                model = build_model(cfg)
        except (NotImplementedError, RuntimeError) as error:  # a model that needs values to be built
            logger.debug("%s: %s is not built ahead: %s", stage.name, cfg.MODEL.MODEL_NAME, error)
    begins_elsewhere = cfg.TRAIN.CHECKPOINT_FILE_PATH or cfg.MODEL.PRETRAINED or start.found
    if model is None:  # nor does it say from which parts it begins
        named = {key: str(value) for key, value in flatten(cfg).items() if key in KEYS and value}
        for key in () if begins_elsewhere else named:
            if KEYS[key].stage == "checkpoint":
                with stage.noting():
                    _check_weights(stage, key, named[key])
        return
    if start.path is not None and not start.saved.get("frozen_sha256"):
        with stage.noting(), contextlib.suppress(NotImplementedError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing is copied to where there are no values
            if cfg.TRAIN.ENABLE:
                if not cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN:
                    load_weights(model, start.path, weights=cfg.MODEL.WEIGHTS)
            else:
                saved, weights = dict(start.saved), build_weights_choice(cfg)
                folder, head = stage.output_dir, cfg.TEST.ENABLE or cfg.PREDICT.ENABLE
                how = {"weights": weights, "head": head, "tokens": cfg.FEATURES.LAYER == "tokens"}
                load_trained(model, start.path, saved, output_dir=folder, **how)
    if cfg.TEST.ENABLE and isinstance(model, ReadsClassNames) and not stage.errors:
        with stage.noting():
            model.set_class_names(class_names)
    parts = init_from(model)
    if not begins_elsewhere:
        for key, name in parts.values():
            with stage.noting():
                _check_weights(stage, key, name)
    if cfg.TRAIN.ENABLE:
        with stage.noting():
            construct_optimizer(model, cfg)
    elif (cfg.TEST.ENABLE or cfg.PREDICT.ENABLE) and not start.found and not stage.errors:
        whole = isinstance(model, AssembledFromParts) and model.assembled_from_parts and parts
        with stage.noting():
            if not whole:
                build_checkpoint_to_test(cfg).path()  # says what to do
    if cfg.FEATURES.ENABLE:
        with stage.noting():
            layer_output(model, cfg.FEATURES.LAYER)
