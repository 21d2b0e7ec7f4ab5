"""What a key is: its default with everything else that is known of it, said once, where the key is declared.

A key file declares its keys by :func:`section` and :class:`Key`, and its system by one :class:`System`. The checks of
single values, the reading of texts, what may change on resume, what features depend on, the stages that a run starts
from and the table in docs/CONFIG.md all follow from these declarations.
"""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from yacs.config import CfgNode

from dust.utils.errors import ConfigError

#: What another value of a key changes: what is learnt and what features are, one of them, or neither.
Affects = Literal["all", "training", "features", "nothing"]
#: What a key that names an earlier stage (or a file of one) takes from there: weights to begin with; or a checkpoint or
#: features that the result stands on, so that the run is repeated when they have changed.
Stage = Literal["weights", "checkpoint", "features"]


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the keys that it is about."""

    keys: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Key:
    """The facts of one key.

    Args:
        default: its value where nobody sets it; its type is the key's.
        doc: what it means, in one line, with the unit.
        choices: the texts that it takes, each with an explanation if it needs one: ``"a (how so) | b | ''"``. A list
            takes one or more of them, each once.
        low, above, high, below: bounds of a number: at least, more than, at most, less than. Without the last two every
            finite number is allowed that the first two allow.
        values: what it takes, in words for the reader, where a ``check`` looks at it together with other keys.
        length: number of values of a list.
        kind: type of a list's elements, or of a value that may be None, where the default does not show it.
        words: texts that a list key takes instead of a list.
        affects: what another value changes; by default what its section says. A run may be resumed with another value
            unless that affects training; stored features are others if it affects features.
        stage: what it takes from an earlier stage, where it names one.
        inherits: the section that is taken over from the checkpoint of that stage.
        empty: what a key that stands without a value means (``COLOR_JITTER:``), where the default does not say it.
        aliases: values that foreign configurations write -> ours.
    """

    default: Any
    doc: str
    _: KW_ONLY
    choices: str = ""
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    values: str = ""
    length: int | None = None
    kind: type | None = None
    words: tuple[str, ...] = ()
    affects: Affects | None = None
    stage: Stage | None = None
    inherits: str = ""
    empty: Any = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def options(self) -> dict[str, str]:
        """Each of the choices with its explanation, which may be empty."""
        found = (re.fullmatch(r"(\S+)(?: \((.*)\))?", part) for part in self.choices.split(" | ") if part)
        return {match[1].strip("'"): match[2] or "" for match in found if match}

    @cached_property
    def bounds(self) -> str:
        """``at least 0 and less than 1``; empty where the key has no bounds."""
        words = (("at least", self.low), ("more than", self.above), ("at most", self.high), ("less than", self.below))
        return " and ".join(f"{word} {bound}" for word, bound in words if bound is not None)

    @property
    def may_change_on_resume(self) -> bool:
        return self.affects in ("features", "nothing")

    @property
    def changes_features(self) -> bool:
        return self.affects in ("all", "features")

    def wrong(self, name: str, value: Any) -> str | None:
        """Return what is wrong with a value of the right type, in one line; None if nothing is."""
        if self.options and isinstance(value, list):
            if not value or len(set(value) & set(self.options)) < len(value):
                return f"{name} {value}: one or more of {', '.join(self.options)}, each once"
        elif self.options and value not in self.options:
            return f"{name} {value!r}: choose {', '.join(option or repr('') for option in self.options)}"
        if self.bounds and value is not None and not self._within(value):
            return f"{name} {value}: must be {self.bounds}"
        if self.length is not None and len(value) != self.length:
            return f"{name} {list(value)}: must have {self.length} values"
        return None

    def _within(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (value < math.inf if self.high is None else value <= self.high)
            and (self.below is None or value < self.below)
        )


def section(name: str, *, affects: Affects = "all", **keys: Key) -> dict[str, Key]:
    """Return the keys of a section (dotted where it lies in another; empty for the top) by their whole names.

    Raises:
        ConfigError: facts that are missing or do not go together, of all keys at once.
    """
    declared, missing = {}, []
    for leaf, facts in keys.items():
        whole = f"{name}.{leaf}" if name else leaf
        if not isinstance(facts, Key):
            missing.append(f"{whole} = {facts!r}: declare it by Key(default, doc, ...)")
            continue
        declared[whole] = dataclasses.replace(facts, affects=facts.affects or ("features" if facts.stage else affects))
        missing += [f"{whole}: {text}" for text in _missing(declared[whole])]
    if missing:
        raise ConfigError("\n  ".join(["keys without their facts (dust/config/schema.py):", *missing]))
    return declared


def _missing(facts: Key) -> list[str]:
    """Return what a declaration lacks."""
    default, found = facts.default, []
    if not facts.doc.strip():
        found.append("say in one line what it means (doc)")
    if facts.affects not in get_args(Affects):
        found.append(f"affects {facts.affects!r}: choose {', '.join(get_args(Affects))}")
    if facts.stage and (facts.stage not in get_args(Stage) or default != "" or not facts.may_change_on_resume):
        found.append("a key that names a stage is empty by default, takes weights, checkpoint or features from there")
    if facts.inherits and facts.stage != "checkpoint":
        found.append(f"inherits {facts.inherits}: only a checkpoint's stage says what it was made with (stage)")
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if number and not facts.bounds and not facts.values:
        found.append("say between which bounds its value lies (low, above, high, below), or in words (values)")
    if (default is None or default in ([], ())) and facts.kind is None:
        found.append("its default does not show the type of its value or elements: give the kind")
    if len(facts.options) != len(facts.choices.split(" | ")) and facts.choices:
        found.append(f"choices {facts.choices!r}: write them as 'a (what it means) | b'")
    elif facts.wrong("", default):
        found.append(f"its own default is not allowed:{facts.wrong('', default)}")
    return found


@dataclass(frozen=True)
class System:
    """What a key file adds to dust: register it in ``SYSTEMS`` of dust/config/defaults.py."""

    #: The keys by their whole names, in order.
    keys: Mapping[str, Key]
    #: Names of the models that read them.
    models: tuple[str, ...]
    #: How values go together, one problem for each that do not.
    check: Callable[[CfgNode], list[Problem]]


def gather(*parts: Mapping[str, Key]) -> dict[str, Key]:
    """Return all keys of several sections or systems, in order.

    Raises:
        ConfigError: a key that two of them declare.
    """
    keys: dict[str, Key] = {}
    for part in parts:
        twice = sorted(keys.keys() & part.keys())
        if twice:
            raise ConfigError(f"declared twice: {', '.join(twice)}")
        keys.update(part)
    return keys


def tree(keys: Mapping[str, Key]) -> CfgNode:
    """Return a configuration of these keys at their defaults."""
    root = CfgNode()
    for name, facts in keys.items():
        *sections, leaf = name.split(".")
        node = root
        for part in sections:
            if part not in node:
                node[part] = CfgNode()
            node = node[part]
        node[leaf] = copy.deepcopy(facts.default)  # a list that stood twice would be dumped as an alias
    return root


def set_value(cfg: CfgNode, name: str, value: Any) -> None:
    """Set one key, given by its whole name, of a configuration that is not frozen."""
    *sections, leaf = name.split(".")
    for part in sections:
        cfg = cfg[part]
    cfg[leaf] = value
