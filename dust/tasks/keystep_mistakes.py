"""What a test says of mistakes in recordings of procedures: figures, files, and what other thresholds give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dust.procedure.graph import ProcedureGraph
from dust.procedure.mistake_metrics import MistakeScore, auc, score_mistakes, summarize_mistakes
from dust.procedure.mistakes import OMITTED, ORDER, WRONG, Mistake, MistakeRule, MistakeWatch, watch_recording
from dust.utils.files import write_csv

SWEEP = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # of the evidence for a wrong installation
Record = Mapping[str, Any]


def alarms_of(one: Record, rule: MistakeRule) -> list[Mistake]:
    """Return the alarms of a recording that was decoded."""
    watch = MistakeWatch(one["graph"], one["procedure"], rule, one["fps"])
    return watch_recording(watch, one["predicted"], one["last"], one["probabilities"], one["num_frames"])


def alarm_facts(alarms: Sequence[Mistake], fps: float, describe: Callable[[int], str]) -> list[dict[str, Any]]:
    """Return alarms as json can hold them."""
    return [
        {
            "frame": alarm.frame,
            "time": alarm.frame / fps,
            "kind": alarm.kind,
            "step": alarm.step,
            "description": describe(alarm.step),
            "score": round(alarm.score, 4),
        }
        for alarm in alarms
    ]


def score_of(one: Record, alarms: Sequence[Mistake] | None = None) -> MistakeScore:
    """Return the score of one recording; of its own alarms, or of others."""
    found = one["alarms"] if alarms is None else alarms
    return score_mistakes(one["mistakes"], found, fps=one["fps"], num_frames=one["num_frames"])


def labelled(records: Sequence[Record]) -> list[Record]:
    """Return those of which the mistakes are known."""
    return [one for one in records if one["labelled"]]


def mistake_metrics(records: Sequence[Record]) -> dict[str, float]:
    """Return ``mistake_recall``, ``mistake_precision`` (0..1), ``false_alarms_per_hour``, ``mistake_delay_s`` and
    ``mistake_auc``; of those that have a value."""
    known = labelled(records)
    if not known:
        return {}
    found = summarize_mistakes([score_of(one) for one in known])
    named = {"recall": "mistake_recall", "precision": "mistake_precision", "delay_s": "mistake_delay_s"}
    metrics = {ours: found[name] for name, ours in named.items()}
    metrics |= {"false_alarms_per_hour": found["false_alarms_per_hour"], "mistake_auc": _auc_of_recordings(known)}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def mistake_report(records: Sequence[Record], rule: MistakeRule) -> dict[str, Any]:
    """Return figures of all kinds and of each; areas under the curve of the scores; and a sweep of the evidence that it
    takes for a part to be put on wrongly."""
    known = labelled(records)
    if not known:
        return {}
    sweep = []
    for factor in SWEEP:
        changed = replace(rule, cum_conf=rule.cum_conf * factor)
        found = summarize_mistakes([score_of(one, alarms_of(one, changed)) for one in known])["kinds"][WRONG]
        names = ("recall", "precision", "false_alarms_per_hour", "delay_s")
        sweep.append({"cum_conf": changed.cum_conf, **{name: found[name] for name in names}})
    has_outputs = any(_wrong_outputs(one).size for one in known)
    return {
        **summarize_mistakes([score_of(one) for one in known]),
        "auc": {
            "recordings": _auc_of_recordings(known),
            WRONG: _auc_of_windows(known) if has_outputs else None,
            OMITTED: _auc_of_omissions(known),
        },
        "wrong_sweep": sweep if has_outputs else [],
    }


def drawings_of(records: Sequence[Record], describe: Callable[[int], str]) -> dict[str, list[list[dict[str, Any]]]]:
    """Return each graph that recordings were held against, layer by layer, with what happened at its steps: how often
    each was done, left out, out of order, and put on wrongly; for a drawing."""
    graphs: dict[str, Any] = {}
    for one in labelled(records):
        graphs.setdefault(one["procedure_name"], (one["graph"], []))[1].append(one)
    return {name: _drawing(graph, held, describe) for name, (graph, held) in graphs.items()}


def _drawing(
    graph: ProcedureGraph, held: Sequence[Record], describe: Callable[[int], str]
) -> list[list[dict[str, Any]]]:
    def times(kind: str, step: int) -> int:
        return sum(m.kind == kind and m.step == step for one in held for m in one["mistakes"])

    return [
        [
            {
                "step": node.step,
                "name": describe(node.step),
                "after": [list(group) for group in node.after],
                "optional": node.optional,
                "times": node.times,
                "repeat": node.repeat,
                "done": sum(step == node.step for one in held for _, step in one["steps"]),
                WRONG: times(WRONG, node.step + 1) if node.step % 3 == 0 else 0,
                OMITTED: times(OMITTED, node.step),
                ORDER: times(ORDER, node.step),
            }
            for node in layer
        ]
        for layer in graph.layers()
    ]


def _wrong_outputs(one: Record) -> np.ndarray:
    """Return (W, K), or (W, 0) of a model without outputs for mistakes."""
    return one["probabilities"][:, one["procedure"].num_components :]


def _auc_of_windows(known: Sequence[Record]) -> float | None:
    """Return the area under the curve of the probability that a window holds a wrong installation of a component, over
    windows and components."""
    scores, labels = [], []
    for one in known:
        outputs, last = _wrong_outputs(one), np.asarray(one["last"])
        truth = np.zeros(outputs.shape, bool)
        for mistake in one["mistakes"]:
            if mistake.kind == WRONG:
                held = (last - one["span"] < mistake.frame) & (mistake.frame <= last)
                truth[:, mistake.step // 3] |= held
        scores.append(outputs.ravel())
        labels.append(truth.ravel())
    return auc(np.concatenate(scores), np.concatenate(labels))


def _not_seen(one: Record) -> dict[int, float]:
    """Return for each step that must be done, how sure it is that no window held it."""
    found = one["probabilities"]
    steps = [node.step for node in one["graph"].nodes if not node.optional]
    return {step: 1.0 - float(found[:, step // 3].max()) if len(found) else 1.0 for step in steps}


def _auc_of_omissions(known: Sequence[Record]) -> float | None:
    """Return the area under the curve of how sure it is that a step was not seen, over recordings and the steps that
    must be done; without those that were put on wrongly alone, which is neither."""
    scores, labels = [], []
    for one in known:
        left_out = {mistake.step for mistake in one["mistakes"] if mistake.kind == OMITTED}
        wrong = {mistake.step - 1 for mistake in one["mistakes"] if mistake.kind == WRONG}
        wrong -= left_out | {step for _, step in one["steps"]}
        for step, score in _not_seen(one).items():
            if step not in wrong:
                scores.append(score)
                labels.append(step in left_out)
    return auc(scores, labels)


def _auc_of_recordings(known: Sequence[Record]) -> float | None:
    """Return the area under the curve of the largest score of any mistake in a recording, by whether there is one.
    Mistakes of order are seen by the graph alone: their alarms count with their scores."""
    scores = []
    for one in known:
        wrong = float(_wrong_outputs(one).max()) if _wrong_outputs(one).size else 0.0
        others = [alarm.score for alarm in one["alarms"]]
        scores.append(max([wrong, *_not_seen(one).values(), *others]))
    return auc(scores, [bool(one["mistakes"]) for one in known])


def write_mistakes(path: Path, records: Sequence[Record], describe: Callable[[int], str]) -> None:
    """Write ``mistakes.csv``: every mistake that was made, and every alarm."""
    lines = []
    for one in records:
        score, fps = score_of(one), one["fps"]
        verdict = "false" if one["labelled"] else ""
        rows = [(m.frame, m, "found" if i in score.pairs else "missed", score.delay_s(i), score.pairs.get(i))
                for i, m in enumerate(score.true)]  # fmt: skip
        rows += [(a.frame, a, verdict, None, i) for i, a in enumerate(score.alarms) if i not in score.pairs.values()]
        for frame, mistake, said, delay, alarm in sorted(rows, key=lambda row: row[0]):
            sure = "" if alarm is None else f"{score.alarms[alarm].score:.4f}"
            at = "" if alarm is None else f"{score.alarms[alarm].frame / fps:.2f}"
            lines.append(
                [one["id"], mistake.kind, mistake.step, describe(mistake.step), frame, f"{frame / fps:.2f}", said, at,
                 "" if delay is None else f"{delay:.2f}", sure]
            )  # fmt: skip
    header = ["recording", "kind", "step", "description", "frame", "time_s", "verdict", "alarm_s", "delay_s", "score"]
    write_csv(path, header, lines, line_end="\r\n")
