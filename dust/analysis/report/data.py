"""What a report says of the data, from files: clips of each class and split, leaks, lengths, sizes, modalities."""

import html
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.analysis.predictions import Results, read_table
from dust.analysis.report.beside import table
from dust.analysis.report.charts import share_bar
from dust.config import flatten
from dust.datasets.manifest.clips import Clips
from dust.decode.reader import open_clip
from dust.engine.data_lists import read_training_list
from dust.utils.errors import DataError, VideoError
from dust.utils.files import read_text
from dust.utils.text import counted

#: Clips of a split whose files are opened.
OPENED = 100
#: What ``dust check`` writes, and its columns.
CHECKED = "check.csv"
FOUND = ["level", "kind", "split", "id", "path", "detail", "action", "label"]


def data_section(results: Results, folder: Path, *, measure: bool) -> str:
    """Show how many clips of each class every split has, what splits have in common, and, with ``measure``, how long
    and how large clips are."""
    saved, train = _training(folder)
    labels: dict[str, Counter[Any]] = {
        "train": _labels_of(train),
        "val": _counter(saved.get("val_labels")),
        "test": _tested(results),
    }
    parts = [_counts({split: one for split, one in labels.items() if one}, results)]
    groups = {"train": _groups_of(train), "test": set(results.groups)}
    if groups["train"]:
        both = len(groups["train"] & groups["test"])
        parts.append(
            f"<p>{counted(len(groups['train']), 'group')} in train, {len(groups['test'])} in test; {both} in both.</p>"
        )
    leaks = [html.escape(str(one)) for one in results.report.get("data_warnings", [])]
    if leaks:
        parts.append("<ul>" + "".join(f"<li>{one}</li>" for one in leaks) + "</ul>")
    elif train is not None and "data_warnings" in results.report:
        parts.append("<p>By ids, files and groups, training and test have nothing in common.</p>")
    parts.append(_checked(str(flatten(results.config).get("DATA.PATH_TO_DATA_DIR", ""))))
    if measure:
        files = {"train": _files_of(train), "test": results.paths}
        parts.append(_measured({split: some for split, some in files.items() if some}))
    return "".join(parts)


def _training(folder: Path) -> tuple[dict[str, Any], Any]:
    try:
        return read_training_list(folder)
    except DataError:  # which the test has said already
        return {}, None


def _labels_of(clips: Any) -> Counter[Any]:
    if clips is None:
        return Counter()
    return Counter(clips.labels() if isinstance(clips, Clips) else (one.label for one in clips))


def _groups_of(clips: Any) -> set[str]:
    if clips is None:
        return set()
    return set(clips.groups() if isinstance(clips, Clips) else (one.group for one in clips)) - {"", None}


def _files_of(clips: Any) -> list[str]:
    if clips is None:
        return []
    return list(clips.paths()) if isinstance(clips, Clips) else [one.sources[0][0] for one in clips if one.sources]


def _counter(pairs: Any) -> Counter[Any]:
    """Read ``[[label, count], ...]`` as train_list.json has them."""
    try:
        return Counter({tuple(label) if isinstance(label, list) else label: int(count) for label, count in pairs or ()})
    except (TypeError, ValueError):
        return Counter()


def _tested(results: Results) -> Counter[Any]:
    if len(results.answers) != 1:
        return Counter()
    labels = results.answers[0].labels
    if labels.ndim == 2:
        return Counter(tuple(map(int, np.flatnonzero(row))) for row in labels)
    return Counter(int(one) if one >= 0 else None for one in labels)


def _counts(labels: dict[str, Counter[Any]], results: Results) -> str:
    """Show a row for each class, the totals first; classes can be named where the predictions have all of them."""
    if not labels:
        return ""
    totals = ["all", *(str(sum(one.values())) for one in labels.values())]
    rows = [totals]
    if len(results.answers) == 1 and results.answers[0].graded:
        each = [_by_class(one) for one in labels.values()]
        rows += [[name, *(str(one[n]) for one in each)] for n, name in enumerate(results.answers[0].classes)]
    unlabelled = [one[None] for one in labels.values()]
    if any(unlabelled):
        rows.append(["no label", *map(str, unlabelled)])
    return f"<div class=tall>{table(['clips', *labels], rows).replace('<table>', '<table class=sortable>')}</div>"


def _by_class(labels: Counter[Any]) -> Counter[int]:
    """Count the clips of each class; one with several labels counts for each."""
    found = Counter[int]()
    for label, times in labels.items():
        for number in label if isinstance(label, tuple) else (label,):
            found[number] += times
    return found


def _checked(root: str) -> str:
    """Show what ``dust check`` found, by kind, where it left its list; nothing of another tool's file."""
    path = Path(root) / CHECKED
    if not root or not path.is_file():
        return f"<p>Contents were not compared: <code>dust check {html.escape(root or 'DIR')}</code> does that.</p>"
    try:
        first, _, rest = read_text(path).partition("\n")
        if re.split("[,;\t]", first.strip()) != FOUND:
            return ""
        if not rest.strip():
            return "<p><code>dust check</code> found nothing.</p>"
        found = Counter((row[0], row[1], row[2]) for row in read_table(path)[1])
    except (DataError, IndexError) as error:
        return f"<p>{html.escape(str(path))} cannot be used: {html.escape(str(error))}</p>"
    lines = [[*kind, str(times)] for kind, times in sorted(found.items())]
    return f"<h3>Found by dust check</h3>{table(['level', 'kind', 'split', 'clips'], lines, words=3)}"


def _measured(files: dict[str, Sequence[str]]) -> str:
    """Show lengths, sizes and rates of up to 100 files of each split."""
    rows, notes = [], []
    for split, several in files.items():
        paths = list(dict.fromkeys(several))  # segments of a video are of one file
        chosen = [paths[int(i)] for i in np.unique(np.linspace(0, len(paths) - 1, min(OPENED, len(paths))).round())]
        seconds, sizes, rates = [], Counter[str](), Counter[str]()
        for path in chosen:
            try:
                with open_clip(path) as reader:
                    seconds.append(len(reader) / reader.fps if reader.fps else math.nan)
                    sizes[f"{reader.width} x {reader.height}"] += 1
                    rates[f"{reader.fps:.4g}"] += 1
            except VideoError:
                continue
        if not seconds:
            continue
        spread = [f"{value:.4g}" for value in np.nanquantile(seconds, (0, 0.5, 1))]
        rows.append([split, str(len(seconds)), *spread, _commonest(sizes), _commonest(rates)])
        if len(chosen) < len(paths) or len(seconds) < len(chosen):
            notes.append(f"{split}: {len(seconds)} of {len(paths)} files")
    if not rows:
        return ""
    head = ["split", "files", "shortest s", "median s", "longest s", "sizes", "frames per second"]
    told = f"<p>{'; '.join(notes)} were opened.</p>" if notes else ""
    return f"<h3>Lengths and sizes</h3><div class=wide>{table(head, rows)}</div>{told}"


def _commonest(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({times})" if len(counts) > 1 else name for name, times in counts.most_common(3))
    return shown + (f", {len(counts) - 3} more" if len(counts) > 3 else "")


def modalities_section(results: Results) -> str:
    """Show what each modality is worth: alone (heads of its own), and taken away, beside all of them together. What is
    no number is left out, with a line."""
    names: Any = flatten(results.config).get("DATA.MODALITIES") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"<p>Left out: DATA.MODALITIES of the run is {html.escape(repr(names)[:60])}, no list of names.</p>"
    written = results.report.get("metrics", {})
    metrics = {name: one for name, one in written.items() if type(one) in (int, float) and abs(one) < 1e300}
    figure = next((one for one in ("top1_acc", "map") if one in written), "")
    if len(names) < 2 or not figure:
        return ""
    known = [one.removesuffix(f"_{figure}") for one in metrics if one.endswith(f"_{figure}")]
    rows = [(f"{one} alone", f"{one}_{figure}") for one in known if any(name.startswith(one) for name in names)]
    rows += [(f"without {one.removeprefix('no_')}", f"{one}_{figure}") for one in known if one.startswith("no_")]
    odd = [one for one in written if one not in metrics and (one == figure or one.endswith(f"_{figure}"))]
    told = f"<p>Left out, being no number: {html.escape(', '.join(odd))}.</p>" if odd else ""
    if not rows or figure in odd:
        return told
    rows = [("all together", figure), *rows]
    bars = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{metrics[key]:.2f}</td><td>{share_bar(metrics[key])}</td></tr>"
        for name, key in rows
    )
    text = (
        "<p>Alone: a head of its own on what one modality's part of the model makes, trained beside the whole. "
        "Without: the whole model, which is not given this input.</p>"
    )
    return f"{text}<table><tr><th></th><th class=n>{figure}</th><th></th></tr>{bars}</table>{told}"
