"""What foreign configurations mean here: aliases, keys of features that dust lacks, TimeSformer's own defaults."""

import os
from collections.abc import Iterator

from yacs.config import CfgNode

from dust.config import foreign, slowfast
from dust.config.defaults import KEYS, OUR_MODELS, OWN_KEYS, flatten, get_cfg
from dust.config.schema import Problem, set_value
from dust.config.validate import find_problems, list_problems
from dust.config.values import same
from dust.utils.errors import ConfigError


def assert_and_infer_cfg(cfg: CfgNode) -> CfgNode:
    """Bring a configuration that was put together by hand into our names, check and freeze it, as load_config does.

    Raises:
        ConfigError: one message with all problems, numbered.
    """
    cfg.defrost()
    refused, _ = infer(cfg)
    problems = [*refused, *find_problems(cfg)]
    if problems:
        raise ConfigError(list_problems([problem.text for problem in problems]))
    cfg.freeze()
    return cfg


def infer(cfg: CfgNode, written: set[str] | None = None) -> tuple[list[Problem], list[str]]:
    """Replace foreign names by ours in place.

    Args:
        cfg: all keys, of the right types, not frozen.
        written: the keys that a file or an override set; by default those that differ from their default.

    Returns:
        Foreign keys that are refused, and notes on what was changed or has no effect.
    """
    if written is None:
        defaults = flatten(get_cfg())
        written = {key for key, value in flatten(cfg).items() if key not in defaults or not same(value, defaults[key])}
    notes = [
        *_global_batch_size(cfg, written),
        *_default_model(cfg, written),
        *_without_pool(cfg),
        *_names(cfg),
        *_pretrained(cfg),
        *_demo(cfg),
    ]
    notes += [*_of_slowfast(cfg, written), *slowfast.unread(cfg, _changed(cfg), OUR_MODELS)]
    problems = _mixup(cfg, written)
    for key, reason, refused in _foreign_values(cfg):
        if refused:
            problems.append(Problem((key,), reason))
        else:
            notes.append(reason)
    return problems, [*notes, *_accumulation(cfg)]


def _global_batch_size(cfg: CfgNode, written: set[str]) -> Iterator[str]:
    """Supply what TimeSformer's YAMLs lack: they rely on a default of 64. They are known by the name of their model."""
    name = cfg.MODEL.MODEL_NAME
    if name == "TimeSformer" or KEYS["MODEL.MODEL_NAME"].aliases.get(name) != "TimeSformer":
        return
    if "GLOBAL_BATCH_SIZE" not in written:
        cfg.GLOBAL_BATCH_SIZE = foreign.TIMESFORMER_GLOBAL_BATCH_SIZE
        yield f"GLOBAL_BATCH_SIZE {cfg.GLOBAL_BATCH_SIZE}: the default of TimeSformer's own configurations"
    start = (cfg.MODEL.PRETRAINED, cfg.TIMESFORMER.PRETRAINED_MODEL, cfg.TRAIN.CHECKPOINT_FILE_PATH)
    if "MODEL.EXPECT_PRETRAINED" not in written:
        cfg.MODEL.EXPECT_PRETRAINED = True
    if cfg.TRAIN.ENABLE and not any(start):
        yield (
            "training starts from random weights; TimeSformer itself would fetch an ImageNet ViT-B/16 here: "
            "name such a file in MODEL.PRETRAINED"
        )


def _default_model(cfg: CfgNode, written: set[str]) -> Iterator[str]:
    """Supply the name of SlowFast's default model, which its YAMLs leave out."""
    if cfg.MODEL.ARCH == "slowfast" and "MODEL.MODEL_NAME" not in written:
        cfg.MODEL.MODEL_NAME = "SlowFast"
        yield "MODEL.MODEL_NAME SlowFast: what MODEL.ARCH slowfast means where no model is named"


def _without_pool(cfg: CfgNode) -> Iterator[str]:
    """Take the pool over time from SlowFast's C2D whose name of model its code no longer knows."""
    if cfg.MODEL.MODEL_NAME == "ResNet_nopool" and cfg.MODEL.ARCH in ("c2d", "i3d"):
        cfg.MODEL.ARCH = f"slow_{cfg.MODEL.ARCH}"
        yield f"MODEL.ARCH {cfg.MODEL.ARCH}: what ResNet_nopool means"


def _of_slowfast(cfg: CfgNode, written: set[str]) -> Iterator[str]:
    """Set what SlowFast sets by itself where one of its own models runs."""
    if cfg.TRAIN.CHECKPOINT_IN_INIT and cfg.TRAIN.CHECKPOINT_FILE_PATH and not cfg.TRAIN.FINETUNE:
        cfg.TRAIN.CHECKPOINT_EPOCH_RESET = True
        yield "TRAIN.CHECKPOINT_IN_INIT True -> TRAIN.CHECKPOINT_EPOCH_RESET True: weights only"
    if cfg.MODEL.MODEL_NAME not in slowfast.MODELS:
        return
    if "TEST.ENSEMBLE_SPACE" not in written and cfg.TEST.ENSEMBLE_SPACE == "logits":
        cfg.TEST.ENSEMBLE_SPACE = "probs"
        yield f"TEST.ENSEMBLE_SPACE probs: views of a {cfg.MODEL.MODEL_NAME} are joined as SlowFast does it"
    steps, rates = cfg.SOLVER.STEPS, cfg.SOLVER.LRS
    if cfg.SOLVER.LR_POLICY == "steps_with_relative_lrs" and 0 < len(steps) < len(rates):
        cfg.SOLVER.LRS = list(rates[: len(steps)])
        yield f"SOLVER.LRS {rates[len(steps) :]} are never reached: SOLVER.STEPS has {len(steps)}"


def _changed(cfg: CfgNode) -> set[str]:
    """Return the keys of dust's own that do not hold their default."""
    return {name for name, value in flatten(cfg).items() if name in OWN_KEYS and not same(value, KEYS[name].default)}


def _names(cfg: CfgNode) -> Iterator[str]:
    """Replace the values that have a name of ours; that of an optimizer is written in lower case."""
    cfg.SOLVER.OPTIMIZING_METHOD = cfg.SOLVER.OPTIMIZING_METHOD.lower()
    for name, value in flatten(cfg).items():
        ours = KEYS[name].aliases.get(str(value)) if name in KEYS else None
        if ours:
            set_value(cfg, name, ours)
            if value:  # an empty TASK is no name
                yield f"{name} {value} -> {ours}" + (": models return logits" if value == "bce" else "")


def _pretrained(cfg: CfgNode) -> Iterator[str]:
    theirs = cfg.TIMESFORMER.PRETRAINED_MODEL
    if theirs and not cfg.MODEL.PRETRAINED:
        cfg.MODEL.PRETRAINED = theirs
    elif theirs and theirs != cfg.MODEL.PRETRAINED:
        yield f"TIMESFORMER.PRETRAINED_MODEL {theirs}: not used, MODEL.PRETRAINED {cfg.MODEL.PRETRAINED} is"


def _demo(cfg: CfgNode) -> Iterator[str]:
    """Take SlowFast's demo for a prediction; what PREDICT.* says itself stays."""
    demo, predict = cfg.DEMO, cfg.PREDICT
    if not demo.ENABLE or predict.ENABLE:
        return
    predict.ENABLE = True
    if not predict.SOURCES:
        predict.SOURCES = [f"camera:{demo.WEBCAM}"] if demo.WEBCAM >= 0 else [demo.INPUT_VIDEO]
    words = f"PREDICT.SOURCES {predict.SOURCES}"
    if demo.OUTPUT_FILE:
        predict.TIMELINE = predict.OVERLAY = True
        predict.OUTPUT = predict.OUTPUT or os.path.dirname(demo.OUTPUT_FILE) or "."
        words += f", PREDICT.OVERLAY True into PREDICT.OUTPUT {predict.OUTPUT}"
    predict.TOP = max(demo.NUM_VIS_INSTANCES, 1)
    yield f"DEMO.ENABLE True -> PREDICT.ENABLE True, {words}"


def _mixup(cfg: CfgNode, written: set[str]) -> list[Problem]:
    """Join MIXUP.ENABLE and MIXUP.ENABLED, as TimeSformer spells it; both then hold the same."""
    ours, theirs = "MIXUP.ENABLE", "MIXUP.ENABLED"
    if {ours, theirs} <= written and cfg.MIXUP.ENABLE != cfg.MIXUP.ENABLED:
        text = f"{ours} {cfg.MIXUP.ENABLE} and {theirs} {cfg.MIXUP.ENABLED} (TimeSformer's spelling): they disagree"
        return [Problem((ours, theirs), f"{text}; remove {theirs}")]
    if theirs in written:
        cfg.MIXUP.ENABLE = cfg.MIXUP.ENABLED
    cfg.MIXUP.ENABLED = cfg.MIXUP.ENABLE
    return []


def _foreign_values(cfg: CfgNode) -> Iterator[tuple[str, str, bool]]:
    """Yield (key, what to say, whether it is refused) of each foreign key that does not hold its default."""
    values, model = flatten(cfg), cfg.MODEL.MODEL_NAME
    for name in KEYS:
        taken = name == "MIXUP.ENABLED" or (name in foreign.DEMO_TAKEN and cfg.DEMO.ENABLE)
        if name not in foreign.FOREIGN_KEYS or taken or same(values[name], KEYS[name].default):
            continue
        if name == "TRAIN.CHECKPOINT_IN_INIT" and cfg.TRAIN.CHECKPOINT_FILE_PATH:
            continue
        refused = foreign.refusal(name, model, model in OUR_MODELS)
        if refused is not None:
            yield name, f"{name} {values[name]}: {refused} (default: {KEYS[name].default!r})", True
            continue
        reason = foreign.no_effect(name, model, model in OUR_MODELS)
        if reason is not None:
            yield name, f"{name} {values[name]} has no effect: {reason}", False


def _accumulation(cfg: CfgNode) -> Iterator[str]:
    """Yield what GLOBAL_BATCH_SIZE comes to."""
    batch = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    if not (cfg.TRAIN.ENABLE and cfg.GLOBAL_BATCH_SIZE > 0 and batch > 0):
        return
    factor = accumulation_steps(cfg)
    text = f"GLOBAL_BATCH_SIZE {cfg.GLOBAL_BATCH_SIZE}: each optimizer step sums {factor} batch"
    text += f"{'es' if factor > 1 else ''} of {batch} clips"
    yield text if factor * batch == cfg.GLOBAL_BATCH_SIZE else f"{text} = {factor * batch} clips"


def accumulation_steps(cfg: CfgNode) -> int:
    """Return the batches per optimizer step: GLOBAL_BATCH_SIZE over the clips of one batch on all nodes, rounded down,
    >= 1."""
    return max(cfg.GLOBAL_BATCH_SIZE // (cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS), 1)
