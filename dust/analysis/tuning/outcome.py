"""What a study came to: a table of its trials, and the best one with its interval."""

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dust.analysis.tuning.study import Study, trial_folder
from dust.config.space import words_of_values
from dust.utils.errors import DataError
from dust.utils.files import write_csv, write_text
from dust.utils.structured import read_json

#: In the study's folder, and in each trial's.
CSV, JSON, OF_TRIAL = "trials.csv", "trials.json", "trial.json"


def rows_of(study: Study) -> list[dict[str, Any]]:
    """Return a row for each trial, by number: ``number``, ``state`` (complete, pruned, failed, open), ``value``,
    ``low`` and ``high`` (its 95 % interval), ``epochs`` (of its last validation that the pruner heard of), ``error``,
    ``values``. What is not known is None."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    rows = []
    for trial in study.trials():
        low, high = trial.user_attrs.get("interval") or (None, None)
        state = states.get(trial.state.name, "open")
        value = trial.value if state == "complete" else None
        rows.append(
            {
                "number": trial.number, "state": state, "value": value, "low": low, "high": high,
                "epochs": trial.last_step, "error": trial.user_attrs.get("error"), "values": dict(trial.params),
            }
        )  # fmt: skip
    return rows


def best_of(rows: Sequence[Mapping[str, Any]], direction: str) -> Mapping[str, Any] | None:
    """Return the best of the complete trials, of equal ones the first; None if there is none."""
    complete = [row for row in rows if row["state"] == "complete"]
    sign = 1 if direction == "minimize" else -1
    return min(complete, key=lambda row: (sign * row["value"], row["number"]), default=None)


def write_tables(study: Study) -> None:
    """Write trials.csv and trials.json into the study's folder, and trial.json into that of each that is over."""
    with study.lock:
        rows = rows_of(study)
        keys = list(study.distributions)
        head = ["number", "state", "value", "low", "high", "epochs", "error", *keys]
        lines = [[row[name] for name in head[:7]] + [row["values"].get(key) for key in keys] for row in rows]
        shown = [["" if cell is None else str(cell) for cell in line] for line in lines]
        write_csv(study.root / CSV, head, shown)
        plan = study.plan
        whole = {
            "metric": plan.metric, "direction": plan.direction, "split": plan.facts.get("TUNE.SPLIT"),
            "wanted": plan.total, "best": best_of(rows, plan.direction), "trials": rows,
        }  # fmt: skip
        write_text(study.root / JSON, json.dumps(whole, indent=2) + "\n")
        for row in rows:
            file = trial_folder(study.root, row["number"]) / OF_TRIAL
            if row["state"] != "open" and file.parent.is_dir() and not file.exists():
                write_text(file, json.dumps(row, indent=2) + "\n")


def line_of(row: Mapping[str, Any], metric: str) -> str:
    """Return one trial in a line."""
    if row["state"] == "complete":
        return f"trial {row['number']}: {_figure(row, metric)}"
    epochs = f" after epoch {row['epochs']}" if row["state"] == "pruned" else ""
    return f"trial {row['number']}: {row['state']}{epochs}" + (f": {row['error']}" if row["error"] else "")


def _figure(row: Mapping[str, Any], metric: str) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{metric} {row['value']:.2f}{interval}"


def text_of(study: Study) -> str:
    """Return what the study came to so far, for a terminal."""
    rows, plan = rows_of(study), study.plan
    counts = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "failed", "open")}
    counts["not begun"] = study.left()
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{study.root}: {said}", f"table: {study.root / CSV}, {study.root / JSON}"]
    best = best_of(rows, plan.direction)
    if best is None:
        return "\n".join([*lines, "no trial is complete, so there is no best one"])
    folder = trial_folder(study.root, best["number"])
    split = plan.facts.get("TUNE.SPLIT")
    lines.append(f"best: trial {best['number']}, {_figure(best, plan.metric)} on {split}: {folder}")
    lines.append(f"  {shlex.join(words_of_values(best['values']))}")
    level = [row["number"] for row in rows if row["state"] == "complete" and row is not best and _meets(row, best)]
    if level:
        lines.append(f"  its interval holds the figures of {len(level)} more: {', '.join(map(str, level))}")
    if split != "test":
        config = shlex.quote(str(Path(folder) / "config.yaml"))
        lines.append(f"measure it on the test split: dust --cfg {config} TEST.SPLIT test")
    return "\n".join(lines)


def _meets(row: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    return best["low"] is not None and best["low"] <= row["value"] <= best["high"]


def section_of(folder: Path) -> str:
    """Return HTML of the study that a run was a trial of: all its trials, the best first. Empty for any other run."""
    if not (folder / OF_TRIAL).is_file():
        return ""
    try:
        whole = read_json(folder.parent / JSON)
        metric, split = str(whole["metric"]), str(whole["split"])
        rows = [(int(row["number"]), str(row["state"]), row, dict(row["values"])) for row in whole["trials"]]
        rows.sort(key=lambda row: _place(row[2], whole["direction"] == "minimize"))
        keys = list(dict.fromkeys(key for *_, values in rows for key in values))
        lines = []
        for number, state, row, values in rows:
            name = f"<b>{number} (this run)</b>" if folder.name == trial_folder(Path(), number).name else str(number)
            numbers = ["" if row[end] is None else f"{float(row[end]):.2f}" for end in ("value", "low", "high")]
            interval = " to ".join(filter(None, numbers[1:]))
            cells = [
                html.escape(text) for text in (state, numbers[0], interval, *(str(values.get(key)) for key in keys))
            ]
            lines.append(f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    except (DataError, ValueError, TypeError, KeyError, AttributeError):
        return ""  # not written by us
    heads = ("trial", "state", f"{metric} ({split})", "95 % interval", *keys)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    note = "The best of many figures is better than its model is, by chance alone: measure that one on the test split."
    return f"<p>{note}</p><table><tr>{head}</tr>{''.join(lines)}</table>"


def _place(row: Mapping[str, Any], minimize: bool) -> tuple[bool, float, int]:
    value = row["value"]
    return value is None, 0.0 if value is None else float(value) * (1 if minimize else -1), int(row["number"])
