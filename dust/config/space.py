"""The space of values that TUNE.SPACE names: which keys vary, and between what."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dust.config.defaults import KEYS
from dust.config.values import read_value

#: Keys that are the study's own affair, or that make a trial another kind of run.
FIXED = (
    "OUTPUT_DIR", "IMPORTS", "TASK", "TRAIN.ENABLE", "TEST.ENABLE", "FEATURES.ENABLE", "PREDICT.ENABLE", "TEST.SPLIT",
    "TRAIN.AUTO_RESUME", "TSTL.GROUPS", "NUM_GPUS", "NUM_SHARDS", "SHARD_ID", "NUM_PROCS_PER_NODE",
)  # fmt: skip
FORM = "write {KEY: [value, value]} or {KEY: {low: number, high: number, log: False, step: number}}"
_RANGE = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Dimension:
    """One key that varies: over ``choices``, or from ``low`` to ``high``, both included.

    Attributes:
        log: drawn evenly in the logarithm.
        step: values are ``low + i * step``; None for every number (1 for whole ones).
        whole: the key takes whole numbers.
    """

    key: str
    choices: tuple[bool | int | float | str | None, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    def grid(self) -> tuple[Any, ...]:
        """Return all values in order; empty where there is no end of them."""
        if self.choices:
            return self.choices
        if self.step is None or self.log:
            return ()
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        values = (self.low + index * self.step for index in range(count))
        return tuple(int(value) if self.whole else float(value) for value in values)


def read_space(entries: Sequence[Any]) -> tuple[list[Dimension], list[str]]:
    """Return the dimensions that TUNE.SPACE describes, in its order, and what is wrong with it, a line for each
    problem."""
    dimensions: list[Dimension] = []
    problems: list[str] = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            problems.append(f"TUNE.SPACE {entry!r}: {FORM}")
            continue
        for key, values in entry.items():
            found, wrong = _read_dimension(key, values)
            if key in (dimension.key for dimension in dimensions):
                wrong = [f"TUNE.SPACE names {key} twice"]
            problems += wrong
            if found is not None and not wrong:
                dimensions.append(found)
    return dimensions, problems


def _read_dimension(key: str, values: Any) -> tuple[Dimension | None, list[str]]:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=2, cutoff=0.7)
        return None, [f"TUNE.SPACE {key}: unknown key" + (f"; did you mean {' or '.join(near)}?" if near else "")]
    if key in FIXED or key.startswith("TUNE."):
        return None, [f"TUNE.SPACE {key}: is the same in all trials of a study; leave it out"]
    if isinstance(values, Mapping):
        return _read_range(key, values)
    if not isinstance(values, (list, tuple)) or not values:
        return None, [f"TUNE.SPACE {key} {values!r}: {FORM}"]
    # a list as a value is written as a text, which the key reads again
    choices = tuple(str(list(value)) if isinstance(value, (list, tuple)) else value for value in values)
    wrong = [text for value in choices for text in _wrong(key, value)]
    if len({str(value) for value in choices}) < len(choices):
        wrong.append(f"TUNE.SPACE {key} {list(choices)}: a value stands there twice")
    return Dimension(key, choices), wrong


def _read_range(key: str, values: Mapping[str, Any]) -> tuple[Dimension | None, list[str]]:
    shown = f"TUNE.SPACE {key} {dict(values)}"
    facts = KEYS[key]
    kind = type(facts.default) if facts.default is not None else facts.kind
    if kind not in (int, float):
        return None, [f"{shown}: this key takes no single number; list its values: {{{key}: [value, value]}}"]
    if set(values) - set(_RANGE) or not {"low", "high"} <= set(values):
        return None, [f"{shown}: {FORM}"]
    low, high, step, log = values["low"], values["high"], values.get("step"), values.get("log", False)
    numbers = [number for number in (low, high, step) if number is not None]
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) or not math.isfinite(one) for one in numbers):
        return None, [f"{shown}: low, high and step are numbers, and finite"]
    if not isinstance(log, bool):
        return None, [f"{shown}: log is True or False"]
    whole = kind is int
    wrong = [text for value in (low, high) for text in _wrong(key, value)]
    if whole and any(number != int(number) for number in numbers):
        wrong.append(f"{shown}: this key takes whole numbers")
    if not low < high:
        wrong.append(f"{shown}: low must be less than high")
    if log and (low <= 0 or step is not None):
        wrong.append(f"{shown}: with log True, low must be above 0, and there is no step")
    if step is not None and step <= 0:
        wrong.append(f"{shown}: step must be above 0")
    if wrong:
        return None, wrong
    if whole:
        return Dimension(key, (), int(low), int(high), log, None if log else int(step or 1), whole=True), []
    return Dimension(key, (), float(low), float(high), log, None if step is None else float(step)), []


def _wrong(key: str, value: Any) -> list[str]:
    """Return what is wrong with one value of a key."""
    facts = KEYS[key]
    try:
        read = read_value(value, facts.default, element=facts.kind, words=facts.words)
    except ValueError as error:
        return [f"TUNE.SPACE {key}: {error}"]
    text = facts.wrong(key, read)
    return [f"TUNE.SPACE {text}"] if text else []


def words_of_values(values: Mapping[str, Any]) -> list[str]:
    """Write ``{key: value}`` as overrides, [KEY, VALUE, ...]; a number is read back as exactly this one."""
    return [word for key, value in values.items() for word in (key, value if isinstance(value, str) else repr(value))]
