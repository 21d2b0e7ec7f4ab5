"""Groups of classes: TSTL's class_grouping.json, and groups of almost one size made from what is alike.

Free of torch: the configuration reads groupings, too.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dust.utils.errors import DataError
from dust.utils.files import write_text
from dust.utils.package import found_or_shipped
from dust.utils.structured import read_json
from dust.utils.text import MAX_CLASSES

RESTARTS = 8  # starts of the search for groups, the first of them greedy
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True)
class Grouping:
    """``groups[g]`` are the classes (numbers from 0) of group g in the order of its expert's logits: every class once.

    ``class_names``, where known, are all classes in their order; data with other classes are then refused.
    """

    groups: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...] = ()

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    @cached_property
    def num_classes(self) -> int:
        return sum(len(group) for group in self.groups)

    @cached_property
    def group_of(self) -> list[int]:
        """The group of each class."""
        table = {number: index for index, group in enumerate(self.groups) for number in group}
        return [table[number] for number in range(self.num_classes)]

    @property
    def group_names(self) -> list[str]:
        return [f"group_{index}" for index in range(self.num_groups)]


# --- the file ---------------------------------------------------------------------------------------------------


def find_grouping(name: str, data_folder: str) -> Path:
    """Return the file that TSTL.GROUPING means: ``name`` in the data folder, else as a path, else one that came with
    dust."""
    beside = Path(os.path.expanduser(data_folder)) / name
    return beside if data_folder and beside.is_file() else found_or_shipped(name)


def read_grouping(path: str | os.PathLike) -> Grouping:
    """Read TSTL's ``class_grouping.json``.

    ``head_to_classes`` ({"0": [classes], ...} or a list of lists) is the grouping. ``class_to_head``, ``head_to_local``
    (the place of each class within its group), ``num_heads`` and ``num_classes`` say the same again; where they are
    there they must agree. ``class_names`` (ours) is optional.

    Raises:
        DataError: all that is wrong, with the names of the classes that are missing or stand twice.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "head_to_classes" not in content:
        raise DataError(f"{path}: has no head_to_classes, so it is no grouping; `dust group-classes` makes one")
    groups = _read_groups(path, content["head_to_classes"])
    names = content.get("class_names") or []
    if not isinstance(names, list):
        raise DataError(f"{path}: class_names is no list of names")
    problems = find_grouping_problems(groups, names, content.get("num_classes"))
    problems += _contradictions(content, groups)
    if problems:
        raise DataError(f"{path}: cannot be used: " + "; ".join(problems))
    return Grouping(tuple(map(tuple, groups)), tuple(names))


def _read_groups(path: Any, heads: Any) -> list[list[int]]:
    try:
        items = list(enumerate(heads)) if isinstance(heads, list) else [(int(key), heads[key]) for key in heads]
        groups = {index: [_whole(number) for number in numbers] for index, numbers in items}
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: head_to_classes must give each group number a list of class numbers") from error
    if sorted(groups) != list(range(len(groups))) or len(groups) != len(items):
        raise DataError(f"{path}: groups are numbered {sorted(groups)}; they count from 0 without a gap")
    return [groups[index] for index in range(len(groups))]


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != float(number):
        raise ValueError(number)
    return int(number)


def find_grouping_problems(
    groups: Sequence[Sequence[int]], class_names: Sequence[str] = (), num_classes: int | None = None
) -> list[str]:
    """Return what keeps these from being groups of classes 0, 1, ..., each exactly once."""
    counts = Counter(number for group in groups for number in group)
    total = num_classes if num_classes is not None else len(class_names) or max(counts, default=-1) + 1

    def named(numbers: Sequence[int]) -> str:
        shown = [f"{n} ({class_names[n]})" if 0 <= n < len(class_names) else str(n) for n in numbers[:10]]
        return ", ".join(shown) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")

    problems = []
    if not isinstance(total, int) or total > MAX_CLASSES:
        return [f"num_classes, or the largest class number and 1, is {total!r:.40}: at most {MAX_CLASSES:,} are taken"]
    empty = [index for index, group in enumerate(groups) if not group]
    missing = [number for number in range(total) if number not in counts]
    repeated = sorted(number for number, count in counts.items() if count > 1)
    beyond = sorted(number for number in counts if not 0 <= number < total)
    if len(groups) < 2:
        problems.append(f"{len(groups)} groups, at least 2 are needed")
    if empty:
        problems.append(f"groups without a class: {', '.join(map(str, empty))}")
    if missing:
        problems.append(f"classes in no group: {named(missing)}")
    if repeated:
        problems.append(f"classes in more than one place: {named(repeated)}")
    if beyond:
        problems.append(f"classes out of range 0..{total - 1}: {named(beyond)}")
    if class_names and len(class_names) != total:
        problems.append(f"{len(class_names)} class_names for {total} classes")
    return problems


def _contradictions(content: dict[str, Any], groups: list[list[int]]) -> list[str]:
    """Return where the entries that only repeat ``head_to_classes`` say something else."""
    found = []
    if content.get("num_heads", len(groups)) != len(groups):
        found.append(f"num_heads is {content['num_heads']}, head_to_classes has {len(groups)}")
    expected: dict[str, Any] = {
        "class_to_head": {str(number): index for index, group in enumerate(groups) for number in group},
        "head_to_local": {
            str(index): {str(number): place for place, number in enumerate(group)} for index, group in enumerate(groups)
        },
    }
    for name, value in expected.items():
        given = content.get(name)
        if given is None:
            continue
        given = {str(key): item for key, item in enumerate(given)} if isinstance(given, list) else given
        differing = [key for key in value if not isinstance(given, dict) or given.get(key) != value[key]]
        if differing or len(given) != len(value):
            what = "class" if name == "class_to_head" else "group"
            found.append(
                f"{name} contradicts head_to_classes at {what} {', '.join(differing[:10]) or 'numbers beyond'}"
            )
    return found


def write_grouping(path: str | os.PathLike, grouping: Grouping) -> None:
    """Write what :func:`read_grouping` reads, in TSTL's layout, atomically."""
    problems = find_grouping_problems(grouping.groups, grouping.class_names)
    if problems:
        raise DataError(f"{path}: not written: " + "; ".join(problems))
    write_text(path, text_of_grouping(grouping))


def text_of_grouping(grouping: Grouping) -> str:
    """Return the text of a file that :func:`read_grouping` reads."""
    content: dict[str, Any] = {
        "num_classes": grouping.num_classes,
        "num_heads": grouping.num_groups,
        "class_to_head": {str(number): index for number, index in enumerate(grouping.group_of)},
        "head_to_classes": {str(index): list(group) for index, group in enumerate(grouping.groups)},
        "head_to_local": {
            str(index): {str(number): place for place, number in enumerate(group)}
            for index, group in enumerate(grouping.groups)
        },
    }
    if grouping.class_names:
        content["class_names"] = list(grouping.class_names)
    return json.dumps(content, indent=1) + "\n"


# --- making groups ----------------------------------------------------------------------------------------------


def group_by_confusion(confusion: Any, num_groups: int, class_names: Sequence[str] = ()) -> Grouping:
    """Return groups of classes that are taken for one another.

    Args:
        confusion: (K, K) counts or shares, rows labels, columns predictions. Rows are made shares first, so that
            frequent classes do not count more; the diagonal does not matter.
        num_groups: at least 2 and at most K / 2 groups, whose sizes differ by at most one.

    Raises:
        DataError: a matrix that is not square, finite and without negative numbers, or too many groups.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"a confusion matrix of shape {matrix.shape}: it must have one row and column per class")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise DataError("a confusion matrix with numbers that are negative or not finite: it holds counts or shares")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return _grouping(shares + shares.T, num_groups, class_names)


def group_by_text(class_names: Sequence[str], num_groups: int) -> Grouping:
    """Return groups of classes whose names share words: cosine of their words, rare ones and the first (in templates
    such as SSv2's the verb) counting more. ``CamelCase`` and under_scores are words of their own."""
    words = [[word.lower() for word in _WORD.findall(name)] for name in class_names]
    known = sorted({word for row in words for word in row})
    place = {word: index for index, word in enumerate(known)}
    counts = Counter(word for row in words for word in set(row))
    vectors = np.zeros((len(words), max(1, len(known))))
    for row, vector in zip(words, vectors, strict=True):
        for position, word in enumerate(row):
            vector[place[word]] += (3.0 if position == 0 else 1.0) * np.log((1 + len(words)) / counts[word])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return _grouping(vectors @ vectors.T, num_groups, class_names)


def _grouping(similarity: np.ndarray, num_groups: int, class_names: Sequence[str]) -> Grouping:
    count = len(similarity)
    if class_names and len(class_names) != count:
        raise DataError(f"{len(class_names)} class names for a matrix of {count} classes")
    if not 2 <= num_groups <= count // 2:
        raise DataError(f"{num_groups} groups of {count} classes: choose 2 to {count // 2}, so that each has two")
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 0.0)
    sizes = [count // num_groups + (index < count % num_groups) for index in range(num_groups)]
    best, best_value = np.zeros(count, dtype=int), -np.inf
    for start in range(RESTARTS):
        assigned = _refine(_grow(similarity, sizes, start), similarity, num_groups)
        value = float(similarity[assigned[:, None] == assigned].sum())
        if value > best_value + 1e-9:
            best, best_value = assigned, value
    groups = [np.flatnonzero(best == index).tolist() for index in range(num_groups)]
    return Grouping(tuple(tuple(group) for group in sorted(groups)), tuple(class_names))


def _grow(similarity: np.ndarray, sizes: list[int], start: int) -> np.ndarray:
    """Return (K,) group numbers: each group grows from a seed by the class that is nearest to it. The seed is the class
    most like all that are left, in later starts a random one."""
    rng = np.random.RandomState(start)
    assigned = np.full(len(similarity), -1)
    for index, size in enumerate(sizes):
        free = np.flatnonzero(assigned < 0)
        seed = rng.choice(free) if start else free[similarity[np.ix_(free, free)].sum(axis=1).argmax()]
        assigned[seed] = index
        nearness = similarity[seed].copy()
        for _ in range(size - 1):
            nearest = int(np.where(assigned < 0, nearness, -np.inf).argmax())
            assigned[nearest] = index
            nearness += similarity[nearest]
    return assigned


def _refine(assigned: np.ndarray, similarity: np.ndarray, num_groups: int) -> np.ndarray:
    """Swap two classes, or move one from a larger to a smaller group, as long as that makes groups more alike inside
    (Kernighan and Lin, 1970, for many parts)."""
    count, rows = len(assigned), np.arange(len(assigned))
    for _ in range(count * num_groups):
        member = np.eye(num_groups)[assigned]  # (K, G)
        affinity = similarity @ member  # (K, G): of each class to each group
        sizes = member.sum(axis=0)
        gain = affinity - affinity[rows, assigned][:, None]  # of moving class i to group g
        swap = gain[:, assigned] + gain[:, assigned].T - 2 * similarity
        swap[assigned[:, None] == assigned] = -np.inf
        move = np.where(sizes[None, :] < sizes[assigned][:, None], gain, -np.inf)
        if max(swap.max(), move.max()) <= 1e-9:
            break
        if swap.max() >= move.max():
            i, j = np.unravel_index(swap.argmax(), swap.shape)
            assigned[i], assigned[j] = assigned[j], assigned[i]
        else:
            i, group = np.unravel_index(move.argmax(), move.shape)
            assigned[i] = group
    return assigned
