"""The command line, and how files and overrides become one frozen configuration."""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from dust.config.defaults import CORE, KEYS, flatten, get_cfg
from dust.config.foreign import FOREIGN_KEYS
from dust.config.infer import infer
from dust.config.schema import Problem, set_value
from dust.config.sources import EQUALS, Setting, SourceError, read_overrides, read_yaml
from dust.config.validate import find_problems, list_problems
from dust.config.values import read_value
from dust.utils.errors import SHOWN, ConfigError, DataError
from dust.utils.package import matching
from dust.utils.structured import dump_yaml, parse_yaml

logger = logging.getLogger(__name__)

USAGE = """\
usage: dust --cfg FILE.yaml [FILE.yaml ...] [--opts] [KEY VALUE ...]

Train, test, extract features and predict by configurations, one after the other. `dust train --cfg ...` is the same.

  --cfg FILE.yaml ...   configurations to run in order; the first other word begins the overrides
  [--opts] KEY VALUE .. overrides, e.g. NUM_GPUS 0 TRAIN.BATCH_SIZE 4 "OUTPUT_DIR" "my runs/1"
  --num_shards N        nodes (the same as NUM_SHARDS N)
  --shard_id I          which node this is, from 0 (the same as SHARD_ID I)
  --folds N             N runs, each tested on another part of the training list; OUTPUT_DIR/pooled joins their answers
  --seeds N             N runs with other seeds; OUTPUT_DIR/seeds.json has mean and interval of their figures
  --init_method URL     where the processes meet, e.g. tcp://host:29500; by default a free port of this machine
  -h, --help            this text

`dust configs list` names the configurations that came with dust; `dust configs show NAME --whole` has every key.
First steps: dust --cfg configs/quickstart/video.yaml, on the clips of dust gen-data video data/quickstart.
"""
FLAGS = ("--cfg", "--opts", "--num_shards", "--shard_id", "--folds", "--seeds", "--init_method", "--help", "-h")
LONGEST_KEY = 200  # characters for which like ones are looked for
YAML_ENDINGS = (".yaml", ".yml")


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the words behind the command.

    Returns:
        ``cfg_files`` and ``opts`` (``[KEY, VALUE, ...]``), both lists of str; ``shard_id``, ``num_shards`` (int) and
        ``init_method`` (str), each None where it was not given. Shards given as flags also stand in ``opts``.

    Raises:
        ConfigError: words that cannot be read.
        SystemExit: 0 after ``--help``; 2, with the usage, where there are no words.
    """
    args = argparse.Namespace(cfg_files=[], opts=[], shard_id=None, num_shards=None, init_method=None)
    words = list(argv)
    if not words:
        sys.stderr.write(USAGE)
        raise SystemExit(2)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            word, words = name, [value, *words]
        if word in ("-h", "--help"):
            sys.stdout.write(USAGE)
            raise SystemExit(0)
        if word == "--cfg":
            args.cfg_files += _take_files(words)
        elif word in ("--shard_id", "--num_shards"):
            number = _take_number(word, words)
            setattr(args, word[2:], number)
        elif word == "--init_method":
            args.init_method = _take_value(word, words)
        elif word.startswith("--") and word != "--opts":
            near = difflib.get_close_matches(word, FLAGS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            if word[2:] in KEYS:
                hint = f" A key is written without dashes and without =: {word[2:]} VALUE."
            raise ConfigError(f"unknown option {word}.{hint} Options: {', '.join(FLAGS)}")
        elif word != "--opts":
            args.opts += [word, *([_take_value(word, words)] if words else [])]
    for flag in ("num_shards", "shard_id"):
        if getattr(args, flag) is not None:
            # In front when the last key lacks its value, so that the error names that key.
            given = [flag.upper(), str(getattr(args, flag))]
            args.opts = given + args.opts if len(args.opts) % 2 else args.opts + given
    return args


def _take_files(words: list[str]) -> list[str]:
    files = []
    while words and words[0].lower().endswith(YAML_ENDINGS):
        files += matching(words.pop(0))
    if not files:
        found = f", not {words[0]!r}" if words else ""
        raise ConfigError(f"--cfg takes one or more files that end in .yaml or .yml{found}")
    return files


def _take_value(name: str, words: list[str]) -> str:
    if not words or words[0] in FLAGS:
        raise ConfigError(f"{name} lacks its value")
    return words.pop(0)


def _take_number(name: str, words: list[str]) -> int:
    value = _take_value(name, words)
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name} {value!r}: must be a whole number") from None


def load_config(path: str | os.PathLike[str] | None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> CfgNode:
    """Load the defaults, then a YAML file with what it inherits, then overrides: checked, in our names, frozen.

    Args:
        path: a .yaml or .yml file; None for the defaults alone.
        overrides: ``[KEY, VALUE, ...]`` as on the command line, or ``{KEY: value}``. A key given twice: the last wins.

    Raises:
        ConfigError: one message with all problems, numbered.
    """
    cfg = get_cfg()
    types = flatten(cfg)
    problems, settings, readable = _collect(path, overrides, set(types))
    written, wrong = _merge(cfg, types, settings, problems)
    if readable:
        refused, notes = infer(cfg, written)
        found = [*refused, *find_problems(cfg)]
        problems += [problem for problem in found if not wrong.intersection(problem.keys)]
    if problems:
        name = os.fspath(path) if path is not None else "the configuration"
        raise ConfigError(list_problems([problem.text for problem in problems], name))
    cfg.__dict__[NOTES] = tuple(notes)
    log_notes(cfg)
    cfg.freeze()
    return cfg


def load_saved_config(text: str, overrides: Sequence[str] | Mapping[str, Any] = (), what: str = "") -> CfgNode:
    """Load what a run wrote down (``config.yaml``, a checkpoint's ``cfg``), with overrides: checked, frozen.

    Keys that this version of dust does not have are left out, with a log line; those that it has beside them keep their
    defaults.

    Args:
        what: where the text comes from, for messages.

    Raises:
        ConfigError: it is no configuration, or the overrides cannot be.
    """
    try:
        saved = parse_yaml(text, what, "the configuration in it cannot be used")
    except DataError as error:
        raise ConfigError(str(error)) from error
    known = flatten(get_cfg())
    if not isinstance(saved, dict):
        raise ConfigError(f"{what}: holds no configuration")
    values = {setting.key: setting.value for setting in read_overrides(saved, set(known))}
    other = sorted(key for key, value in values.items() if key not in known and value != {})
    if other:
        logger.info("%s: left out, as this version has no such keys: %s", what, ", ".join(other))
    try:
        mine = {setting.key: setting.value for setting in read_overrides(overrides, set(known))}
    except SourceError as error:
        raise ConfigError(str(error)) from error
    return load_config(None, {key: value for key, value in values.items() if key in known} | mine)


NOTES = "__dust_notes__"


def notes(cfg: CfgNode) -> tuple[str, ...]:
    """Return what loading had to say of a configuration: names that were replaced, keys without effect,
    accumulation."""
    return cfg.__dict__.get(NOTES, ())


def log_notes(cfg: CfgNode) -> None:
    """Log the notes, as loading did; for a log file that was opened afterwards."""
    for note in notes(cfg):
        logger.info("config: %s", note)


def _collect(
    path: str | os.PathLike[str] | None, overrides: Sequence[str] | Mapping[str, Any], known: set[str]
) -> tuple[list[Problem], list[Setting], bool]:
    """Return all settings, later ones to win; and whether every source could be read."""
    problems: list[Problem] = []
    settings: list[Setting] = []
    try:
        settings += read_yaml(path) if path is not None else []
    except SourceError as error:
        problems.append(Problem((), str(error)))
    try:
        settings += read_overrides(overrides, known)
    except SourceError as error:
        problems.append(Problem((), str(error)))
    return problems, settings, not problems


def _merge(
    cfg: CfgNode, types: dict[str, Any], settings: list[Setting], problems: list[Problem]
) -> tuple[set[str], set[str]]:
    """Put the settings into cfg; append what cannot be. Returns the keys that were set, and those that are wrong."""
    last = {setting.key: setting for setting in settings}
    sections = {key.rsplit(".", depth)[0] for key in types for depth in range(1, key.count(".") + 1)}
    written, wrong = set(), set()
    unknown = 0
    for key, setting in last.items():
        text = None
        if key in types:
            try:
                set_value(cfg, key, _read(setting, types[key]))
                written.add(key)
            except ValueError as error:
                text = f"{key} ({setting.where}): {error}"
        elif key in sections:
            if setting.value not in (None, {}):
                text = f"{key} ({setting.where}): is a section, not a key; write its keys as {key}.NAME"
        elif setting.value != {}:
            unknown += 1  # looking for what is alike takes time: not for thousands
            why = _unknown(key, list(types)) if unknown <= SHOWN and len(key) < LONGEST_KEY else "unknown key"
            if "IMPORTS" in last and key.partition(".")[0] not in sections:
                why += " (files of IMPORTS add classes, not keys: write values of your own into the file)"
            text = f"{key[:LONGEST_KEY]} ({setting.where}): {why}"
        if text:
            wrong.add(key)
            problems.append(Problem((key,), text))
    return written, wrong


def _read(setting: Setting, default: Any) -> Any:
    if setting.value == {}:
        raise ValueError("is a key with a value, not a section")
    if setting.key in FOREIGN_KEYS and (setting.value is None or str(setting.value).lower() in ("none", "null", "~")):
        return None  # some of SlowFast's own files write it where a default is not None
    if setting.value is None or str(setting.value).lower() in ("none", "null", "~"):
        facts = KEYS[setting.key]
        if facts.empty is not None:
            return facts.empty
        if default in ([], ()) or (default == "" and setting.value is None):
            return default
    return read_value(setting.value, default, element=KEYS[setting.key].kind, words=KEYS[setting.key].words)


def dump(cfg: CfgNode) -> str:
    """Return a configuration as YAML: what yacs' ``cfg.dump()`` returns, in less time."""
    return dump_yaml(_dicts(cfg))


def _dicts(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _dicts(value) if isinstance(value, dict) else value for name, value in node.items()}


def _unknown(key: str, known: list[str]) -> str:
    """Tell why a key is unknown, with near misses: of the whole path, and of the last word in any section."""
    if "=" in key:
        return f"{EQUALS}: {key.lstrip('-').replace('=', ' ', 1)}"
    if key.lower().endswith(YAML_ENDINGS):
        return "a configuration file stands right behind --cfg, before the overrides"
    parent = next((name for name in known if key.startswith(name + ".")), None)
    if parent:
        return f"{parent} is a key with a value, not a section"
    near = near_misses(key, known)
    if near and near[0].upper() == key.upper():
        return f"unknown key; upper and lower case count: {near[0]}"
    return "unknown key" + (f"; did you mean {' or '.join(near)}?" if near else "")


def near_misses(key: str, known: Sequence[str]) -> list[str]:
    """Return up to three keys that ``key`` may have meant: of its own section, else of one that all systems share or
    whose name is alike. What dust acts on comes first. Another system's key is never meant."""
    by_upper = {name.upper(): name for name in known}
    upper = key.upper()
    if upper in by_upper:
        return [by_upper[upper]]
    typos = difflib.get_close_matches(upper, list(by_upper), n=2, cutoff=0.9)
    if typos:
        return [by_upper[name] for name in typos]
    section, _, leaf = upper.rpartition(".")
    sections = {name.rpartition(".")[0] for name in by_upper}
    shared = {name.upper().rpartition(".")[0] for name in CORE}
    if section not in sections:  # SWIN for VIDEO_SWIN
        shared |= {one for one in sections if section and _alike(one, section)}
    own = [name for name in by_upper if name.rpartition(".")[0] == section]
    others = [name for name in by_upper if name.rpartition(".")[0] in shared - {section}]
    steps = (
        lambda: [name for name in own if _alike(name.rpartition(".")[2], leaf)],
        lambda: [name for name in others if name.rpartition(".")[2] == leaf],
        lambda: [name for name in others if _alike(name.rpartition(".")[2], leaf)],
    )
    found = next(filter(None, (step() for step in steps)), [])
    nearest = sorted(found, key=lambda name: -difflib.SequenceMatcher(None, name, upper).ratio())
    return [by_upper[name] for name in sorted(nearest, key=lambda name: by_upper[name] in FOREIGN_KEYS)][:3]


def _alike(name: str, asked: str) -> bool:
    """Tell whether a name holds all words of what was asked for (HEADS: NUM_HEADS), begins alike, or is nearly the
    same."""
    ours, theirs = ({word.rstrip("S") for word in text.split("_")} for text in (name, asked))
    nearly = difflib.SequenceMatcher(None, name, asked).ratio() >= 0.75
    return theirs <= ours or name.startswith(asked.removeprefix("NUM_")[:4]) or nearly
