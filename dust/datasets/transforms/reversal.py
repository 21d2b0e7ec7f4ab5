"""Clips played backwards, where the classes say what a reversed clip shows (AUG.TIME_REVERSAL)."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dust.utils.errors import ConfigError
from dust.utils.text import near_names


def reversed_classes(
    entries: Sequence[Any], class_names: Sequence[str], key: str = "AUG.TIME_REVERSAL"
) -> dict[int, int]:
    """Map each class that is named to the class of its reversed clips, both by their places in ``class_names``.

    Args:
        entries: ``name`` of a class whose reversed clips are of it too, or ``{name: name}``, two that change places.

    Raises:
        ConfigError: every entry that is neither, names no class, or names one that is named already.
    """
    found: dict[int, int] = {}
    problems = []
    for entry in entries:
        pair = [entry, entry] if isinstance(entry, str) else [*chain(*entry.items())] if _is_pair(entry) else []
        if not pair:
            problems.append(f"{entry!r} is neither a class nor {{a: b}}, two classes that change places")
            continue
        unknown = [name for name in dict.fromkeys(pair) if name not in class_names]
        for name in unknown:
            near = near_names(name, class_names, n=1)
            problems.append(f"no class is called {name}" + (f"; did you mean {near[0]}?" if near else ""))
        if unknown:
            continue
        first, second = (list(class_names).index(name) for name in pair)
        problems += [f"{class_names[place]} is named twice" for place in {first, second} & found.keys()]
        found |= {first: second, second: first}
    if problems:
        raise ConfigError(f"{key} {list(entries)}: {'; '.join(problems)}")
    return found


def _is_pair(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping) and len(entry) == 1 and all(isinstance(name, str) for name in chain(*entry.items()))
    )


def draw_reversal(label: Any, classes: Mapping[int, int], rng: np.random.RandomState) -> tuple[bool, Any]:
    """Return (whether to play a training clip backwards, its label then): half of the clips whose classes are all
    named.

    Args:
        label: a class, several, or None.
        classes: see :func:`reversed_classes`. With none, nothing is drawn of ``rng``.
    """
    several = label if isinstance(label, tuple) else (label,)
    if not classes or any(one not in classes for one in several) or rng.uniform() >= 0.5:
        return False, label
    turned = tuple(classes[one] for one in several)
    return True, tuple(sorted(turned)) if isinstance(label, tuple) else turned[0]
