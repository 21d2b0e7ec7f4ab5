"""Is one run better than another? Paired, clip by clip, on what their tests answered."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dust.analysis.predictions import Answers, Results
from dust.config import flatten
from dust.utils.errors import DataError
from dust.utils.files import sha256_of_text, write_csv, write_text
from dust.utils.statistics import FEW_GROUPS, Difference, compare_means, compare_scores, holm, mcnemar_p
from dust.utils.text import counted

#: From this p on a difference may well be chance.
CHANCE = 0.05
#: Metrics of whole recordings that are compared, with the factor that makes them percent.
OF_RECORDINGS = {"f1": 100.0, "pos": 100.0, "tau_s": 1.0}


@dataclass
class Comparison:
    """Run b beside run a, on the clips that both have.

    Attributes:
        metrics: by name; ``p`` is corrected where several runs are compared with a.
        clips, kind, groups: how many ``clips`` or ``recordings`` both have, in how many groups.
        mcnemar: by question: clips that only a has right, that only b has right, and the p of McNemar's test.
        changed: ``(question, id, label, a's prediction, b's prediction, what happened)``, where the answers differ.
        per_class: ``(question, class, clips, recall of a, recall of b)``, percent.
        notes: what was left out, and why.
        configuration: ``KEY: a's value -> b's value``.
    """

    a: str
    b: str
    clips: int
    kind: str
    groups: int
    metrics: dict[str, Difference]
    mcnemar: dict[str, tuple[int, int, float]]
    changed: list[tuple[str, str, str, str, str, str]]
    per_class: list[tuple[str, str, int, float, float]]
    notes: list[str]
    configuration: list[str]


def compare_runs(runs: Sequence[Results], *, seed: int = 0) -> list[Comparison]:
    """Compare every run with the first; the p values are corrected by Holm for the number of these comparisons.

    Raises:
        DataError: two runs have no clip in common, or do not agree on classes or labels.
    """
    if len(runs) < 2:
        raise DataError("one run cannot be compared: name at least two")
    found = [_compare(runs[0], other, seed) for other in runs[1:]]
    for name in {name for one in found for name in one.metrics}:
        having = [one for one in found if name in one.metrics]
        for one, p in zip(having, holm([one.metrics[name].p for one in having]), strict=True):
            one.metrics[name] = replace(one.metrics[name], p=p)
    return found


def _compare(a: Results, b: Results, seed: int) -> Comparison:
    if bool(a.answers) != bool(b.answers):
        raise DataError(f"{a.name} and {b.name} answer different questions: {a.kind} here, {b.kind} there")
    notes: list[str] = []
    left, right = _common(a, b, notes)
    found = Comparison(
        a.name, b.name, len(left.ids), a.kind, len(set(left.groups)), {}, {}, [], [], notes, _changes(a, b)
    )
    if len(set(left.groups)) < FEW_GROUPS:
        notes.append(f"only {counted(len(set(left.groups)), 'group')}: the intervals are little more than a guess")
    if not a.answers:
        _compare_recordings(left, right, found, seed)
        return found
    names = [one.name for one in left.answers]
    if names != [one.name for one in right.answers]:
        columns = [", ".join(f"{one.prefix}prediction" for one in side.answers) for side in (left, right)]
        raise DataError(
            f"{a.name} has the columns {columns[0]}, {b.name} has {columns[1]}: compare runs that answer the same "
            "questions"
        )
    for first, second in zip(left.answers, right.answers, strict=True):
        _compare_answers(first, second, left, found, seed)
    if len(names) > 1 and not any(one.multi_label for one in left.answers):
        both = [np.all([_right(one) for one in side.answers], axis=0) for side in (left, right)]
        groups, known = np.array(left.groups), np.all([one.labels >= 0 for one in left.answers], axis=0)
        first, second = (100.0 * one[known] for one in both)
        found.metrics[f"all_of_{'_'.join(names)}"] = compare_means(
            first, second, groups[known].tolist(), seed=seed, bound=100.0
        )
    return found


def _common(a: Results, b: Results, notes: list[str]) -> tuple[Results, Results]:
    """Return both, restricted to the clips that both have, in one order."""
    place = {one: index for index, one in enumerate(b.ids)}
    of_a = np.array([index for index, one in enumerate(a.ids) if one in place], int)
    if not len(of_a):
        raise DataError(
            f"{a.name} ({len(a.ids)} {a.kind}, {a.ids[0]!r} for one) and {b.name} ({len(b.ids)}, {b.ids[0]!r}) have no "
            "clip in common: they were tested on other data"
        )
    if len(of_a) < len(a.ids) or len(of_a) < len(b.ids):
        hashes = [sha256_of_text("\n".join(sorted(one.ids)))[:8] for one in (a, b)]
        notes.append(
            f"compared on the {len(of_a)} {a.kind} that both have: {a.name} was tested on {len(a.ids)} "
            f"(ids {hashes[0]}), {b.name} on {len(b.ids)} (ids {hashes[1]})"
        )
    of_b = np.array([place[a.ids[index]] for index in of_a])
    return a.rows(of_a), b.rows(of_b)


def _compare_answers(a: Answers, b: Answers, left: Results, found: Comparison, seed: int) -> None:
    for name, one in ((found.a, a), (found.b, b)):
        if not len(one.labelled):
            raise DataError(
                f"{name}: no clip has a label, so nothing can be right or wrong. Labels stand in the column "
                f"{one.name or 'label'}, beside {one.prefix}prediction."
            )
    a, b = _same_classes(a, b, found)
    _check_labels(a, b, left.ids, found)
    known = a.labelled
    if len(known) < len(a.labels):
        found.notes.append(f"{counted(len(a.labels) - len(known), 'clip')} without a label left out")
    groups = [left.groups[index] for index in known]
    ids = [left.ids[index] for index in known]
    a, b = a.rows(known), b.rows(known)
    metrics = compare_scores(a.scores, b.scores, a.labels, groups, seed=seed)
    if not (a.graded and b.graded):
        lacking = found.a if not a.graded else found.b
        if metrics.pop("top5_acc", None):
            columns = ", ".join((a.missing or b.missing)[:3])
            found.notes.append(f"top5_acc is left out: {lacking} has no probabilities of all classes ({columns})")
    found.metrics |= {a.prefix + name: one for name, one in metrics.items()}
    if a.multi_label:
        return
    hits = _right(a), _right(b)
    only = int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum())
    found.mcnemar[a.name] = (*only, mcnemar_p(*hits))
    answers = a.scores.argmax(axis=1), b.scores.argmax(axis=1)
    if (answers[0] == answers[1]).all():
        of = f" ({a.name})" if a.name else ""
        found.notes.append(f"no answer differs{of}: the intervals say how far the runs may differ on other clips")
    for index in np.flatnonzero(answers[0] != answers[1]):
        kind = "now right" if hits[1][index] else "now wrong" if hits[0][index] else "wrong in another way"
        label, was, now = (a.classes[int(one[index])] for one in (a.labels, *answers))
        found.changed.append((a.name, ids[index], label, was, now, kind))
    for number in np.unique(a.labels):
        of_class = a.labels == number
        before, after = (100.0 * float(one[of_class].mean()) for one in hits)
        found.per_class.append((a.name, a.classes[number], int(of_class.sum()), before, after))


def _same_classes(a: Answers, b: Answers, found: Comparison) -> tuple[Answers, Answers]:
    """Return both with their classes in one order."""
    if a.multi_label != b.multi_label:
        raise DataError(f"{found.a} and {found.b}: one has several labels for a clip, the other has one")
    if a.graded and b.graded:
        only = sorted(set(a.classes) ^ set(b.classes))
        if only:
            raise DataError(
                f"{found.a} and {found.b} do not know the same classes: {', '.join(map(repr, only[:5]))} stand in one "
                "only"
            )
    classes = a.classes + [one for one in b.classes if one not in set(a.classes)]
    return _on(a, classes), _on(b, classes)


def _on(one: Answers, classes: list[str]) -> Answers:
    place = [classes.index(name) for name in one.classes]
    scores = np.zeros((len(one.scores), len(classes)))
    scores[:, place] = one.scores
    if one.multi_label:
        labels = np.zeros(scores.shape, int)
        labels[:, place] = one.labels
    else:
        labels = np.array([*place, -1])[one.labels]
    return replace(one, classes=classes, scores=scores, labels=labels)


def _check_labels(a: Answers, b: Answers, ids: list[str], found: Comparison) -> None:
    differ = (a.labels != b.labels).any(axis=1) if a.multi_label else a.labels != b.labels
    if not differ.any():
        return
    hashes = [sha256_of_text("\n".join(map(str, one.labels.tolist())))[:8] for one in (a, b)]
    shown = ", ".join(ids[index] for index in np.flatnonzero(differ)[:3])
    raise DataError(
        f"{found.a} and {found.b} have different labels for {int(differ.sum())} of their {len(ids)} clips ({shown}; "
        f"labels {hashes[0]} and {hashes[1]}): test both on one list"
    )


def _right(one: Answers) -> np.ndarray:
    return one.scores.argmax(axis=1) == one.labels


def _compare_recordings(a: Results, b: Results, found: Comparison, seed: int) -> None:
    for name, factor in OF_RECORDINGS.items():
        pairs = [
            (a.recordings[one].get(name), b.recordings[one].get(name), group)
            for one, group in zip(a.ids, a.groups, strict=True)
        ]
        both = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
        if len(both) < len(pairs):
            found.notes.append(f"{name} is of the {len(both)} recordings that have one in both runs")
        if both:
            first, second = (np.array([pair[side] for pair in both], float) * factor for side in (0, 1))
            bound = math.inf if name == "tau_s" else 100.0
            found.metrics[name] = compare_means(first, second, [pair[2] for pair in both], seed=seed, bound=bound)


def _changes(a: Results, b: Results) -> list[str]:
    if not a.config or not b.config:
        return []
    first, second = flatten(a.config), flatten(b.config)
    absent = "(not there)"
    return [
        f"{key}: {first.get(key, absent)} -> {second.get(key, absent)}"
        for key in sorted(first.keys() | second.keys())
        if key != "OUTPUT_DIR" and first.get(key, absent) != second.get(key, absent)
    ]


# ------------------------------------------------------------------------------------------------------------- output


def text_of(comparison: Comparison, *, shown: int = 10) -> str:
    """Say a comparison in lines for a terminal, with at most ``shown`` of what may be long."""
    one = comparison
    lines = [f"{one.a} -> {one.b}: {counted(one.clips, one.kind.removesuffix('s'))} in {counted(one.groups, 'group')}"]
    lines += [f"note: {note}" for note in one.notes]
    width = max([len("metric"), *map(len, one.metrics)])
    lines += ["", f"{'metric':{width}}  {one.a[-14:]:>14}  {one.b[-14:]:>14}  {'difference [95 %]':>26}  {'p':>7}"]
    for name, found in one.metrics.items():
        bounds = f"{found.low:+.2f}, {found.high:+.2f}" if math.isfinite(found.high) else "unknown"
        interval = f"{found.difference:+.2f} [{bounds}]"
        lines.append(f"{name:{width}}  {found.a:14.2f}  {found.b:14.2f}  {interval:>26}  {_p(found.p):>7}")
    lines += _verdict(one)
    for name, (first, second, p) in one.mcnemar.items():
        of = f" ({name})" if name else ""
        lines += ["", f"right in one run only{of}: {one.a} {first}, {one.b} {second} clips; McNemar p {_p(p)}"]
    _add(lines, "answers that changed", [
        f"{kind:20}  {name}  label {label}: {before} -> {after}" for _, name, label, before, after, kind in one.changed
    ], shown)  # fmt: skip
    moved = sorted((row for row in one.per_class if row[3] != row[4]), key=lambda row: -abs(row[4] - row[3]))
    _add(lines, "classes whose recall changed", [
        f"{name}: {before:.1f} -> {after:.1f} ({counted(count, 'clip')})" for _, name, count, before, after in moved
    ], shown)  # fmt: skip
    _add(lines, "configuration", one.configuration, shown)
    return "\n".join(lines)


def _verdict(one: Comparison) -> list[str]:
    """Say what the first metric shows, in a sentence."""
    name, found = next(iter(one.metrics.items()), ("", None))
    if found is None:
        return []
    if found.p >= CHANCE:
        return ["", f"no difference in {name} that chance would not make (p {_p(found.p)})"]
    return ["", f"{name} of {one.b} is {abs(found.difference):.2f} {'higher' if found.difference > 0 else 'lower'}: "
            f"chance alone would rarely make that (p {_p(found.p)})"]  # fmt: skip


def _add(lines: list[str], title: str, entries: list[str], shown: int) -> None:
    if entries:
        lines += ["", f"{title}:", *(f"  {entry}" for entry in entries[:shown])]
        if len(entries) > shown:
            lines.append(f"  ... and {len(entries) - shown} more")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def json_of(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return ``{metric: {a, b, difference, low, high, p}}``; of several comparisons, that under each run's name. Bounds
    that nobody knows, of a single group, are None."""
    each = {one.b: {name: _finite(asdict(found)) for name, found in one.metrics.items()} for one in comparisons}
    return each if len(comparisons) > 1 else next(iter(each.values()))


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def write_comparison(comparisons: Sequence[Comparison], folder: Path) -> list[Path]:
    """Write ``metrics.csv``, ``changed.csv``, ``per_class.csv`` and ``comparison.json`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = [
        [one.b, name, *_finite(asdict(found)).values()] for one in comparisons for name, found in one.metrics.items()
    ]
    write_csv(folder / "metrics.csv", ["run", "metric", "a", "b", "difference", "low", "high", "p"], metrics)
    changed = [[one.b, *row] for one in comparisons for row in one.changed]
    write_csv(folder / "changed.csv", ["run", "question", "id", "label", "before", "after", "what"], changed)
    classes = [[one.b, *row] for one in comparisons for row in one.per_class]
    write_csv(folder / "per_class.csv", ["run", "question", "class", "clips", "recall_a", "recall_b"], classes)
    write_text(folder / "comparison.json", json.dumps(json_of(comparisons), indent=2) + "\n")
    return [folder / name for name in ("metrics.csv", "changed.csv", "per_class.csv", "comparison.json")]
