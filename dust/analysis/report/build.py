"""The report of a test: which sections it has, and the page around them."""

import html
import io
import json
import logging
import math
import platform
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dust.analysis.compare import compare_runs
from dust.analysis.predictions import PREDICTIONS, REPORT, Answers, Results, read_all
from dust.analysis.report.beside import (
    ablation_section,
    comparison_section,
    picture,
    routing_section,
    timelines_section,
)
from dust.analysis.report.charts import interval_bar, line_chart, reliability_chart
from dust.analysis.report.clips import Look, of_numbers, players_section
from dust.analysis.report.data import data_section, modalities_section
from dust.analysis.report.film import encoded
from dust.analysis.report.procedures import graphs_section, mistakes_section
from dust.analysis.tuning.outcome import section_of
from dust.datasets.manifest.manifest import Clip
from dust.engine.test import AFTER_TEST_REGISTRY
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import open_file, read_bytes, write_text
from dust.utils.logging import read_json_stats
from dust.utils.statistics import (
    FEW_GROUPS,
    Interval,
    classification_intervals,
    coverage_risk,
    mean_intervals,
    measure_calibration,
    multilabel_intervals,
    reliability_bins,
)
from dust.utils.structured import dump_yaml, read_json
from dust.utils.text import counted

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
#: Rows of the table of clips; of a larger test, the wrong and the least sure.
MOST_ROWS = 20_000
#: Clips of a test above which the report waits until it is asked for.
MOST_CLIPS = 200_000
#: Pairs of classes that are listed as most confused.
PAIRS = 12
Section = tuple[str, str]


def write_report(
    run: str | Path, *, clips: int = 0, maps: bool = False, path: Path | None = None, against: Sequence[str | Path] = ()
) -> Path:
    """Write the report of a run that was tested; returns its path, ``results/report.html`` by default.

    Args:
        run: the run's folder.
        clips: so many of the clips that are wrong or least sure are shown playing, or timelines of recordings.
        maps: beside each what the model looked at.
        against: other runs, or predictions.csv, that it is compared with.

    Raises:
        DataError: the run has no results, or one of ``against`` cannot be compared with it.
    """
    folder = Path(run)
    if folder.is_file():
        raise DataError(f"{folder} is a file: a report is of a run's folder, which holds results/test.json")
    target = path or (folder / "results" if (folder / "results").is_dir() else folder) / "report.html"
    write_text(target, build_report(folder, clips=clips, maps=maps, against=against))
    return target


@AFTER_TEST_REGISTRY.register()
def report_of_test(run: Path) -> Path | None:
    """Write the report after a test, as TEST.REPORT asks; None, with a line that says why, where there is none.

    Not for more than 200,000 clips, and not for a test that answers nothing of a clip.
    """
    report = read_json(run / "results" / REPORT)
    clips = report.get("counts", {}).get("samples", 0)
    if clips > MOST_CLIPS:
        logger.info("no report.html of %d clips by itself (up to %d): dust report %s", clips, MOST_CLIPS, run)
        return None
    if not (run / "results" / PREDICTIONS).is_file() and not report.get("recordings"):
        return None
    path = write_report(run)
    logger.info("open in a browser: %s", path)
    return path


def build_report(run: Path, *, clips: int = 0, maps: bool = False, against: Sequence[str | Path] = ()) -> str:
    """Make the page's HTML; see :func:`write_report`."""
    results, *others = read_all([run, *against])
    folder = run.resolve().parent if run.resolve().name == "results" else run
    sections: list[Section] = [
        ("Summary", _summary(results)),
        ("Modalities", modalities_section(results)),
        ("Compared", comparison_section(compare_runs([results, *others])) if others else ""),
        ("Learning curves", _curves(folder)),
    ]
    for answers in results.answers:
        of = f" ({answers.name})" if answers.name else ""
        if not answers.multi_label:
            sections += [(f"Confusion{of}", _confusion(answers)), (f"Classes{of}", _classes(answers))]
        sections.append((f"Can a probability be believed?{of}", _calibration(answers)))
    sections += [
        ("Clips", _clips(results, clips, build_look(folder) if maps and clips else None)),
        ("Mistakes", mistakes_section(results.report)),
        ("Procedures", graphs_section(results.report)),
        ("Recordings", _recordings(results)),
        ("Timelines", timelines_section(results, folder, clips)),
        ("Experts", routing_section(folder)),
        ("Cameras", ablation_section(folder)),
        ("Clips that could not be read", _bad_clips(folder)),
        ("Search", section_of(folder)),
        ("The data", data_section(results, folder, measure=clips > 0)),
        ("Run", _facts(results, folder)),
        ("Configuration", _configuration(results)),
    ]
    return _page(results.name, [one for one in sections if one[1]])


def _page(name: str, sections: Sequence[Section]) -> str:
    style, script = ((HERE / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    marks = [re.sub(r"[^a-z]+", "-", title.lower()).strip("-") for title, _ in sections]
    links = "".join(
        f'<a href="#{mark}">{html.escape(title)}</a>' for mark, (title, _) in zip(marks, sections, strict=True)
    )
    bodies = "".join(
        f'<section id="{mark}"><h2>{html.escape(title)}</h2>{body}</section>'
        for mark, (title, body) in zip(marks, sections, strict=True)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(name)} - report</title><style>{style}</style></head><body><header><h1>{html.escape(name)}"
        f"</h1><nav>{links}</nav></header><main>{bodies}</main><script>{script}</script></body></html>\n"
    )


# ----------------------------------------------------------------------------------------------------------- sections


def _summary(results: Results) -> str:
    metrics = results.report.get("metrics", {})
    intervals = intervals_of(results)
    counts = results.report.get("counts", {})
    groups = len(set(results.groups))
    samples = counted(counts.get("samples", len(results.ids)), results.kind.removesuffix("s"))
    notes = [f"{samples} in {counted(groups, 'group')}"]
    if counts.get("bad_clips"):
        notes.append(f"<b>{counted(counts['bad_clips'], 'clip')} could not be read</b>")
    if groups < FEW_GROUPS:
        notes.append(f"<b>only {counted(groups, 'group')}</b>: the intervals are little more than a guess")
    notes += [html.escape(str(one)) for one in results.report.get("data_warnings", [])]
    rows = []
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            continue
        found = intervals.get(name)
        shown = bar = ""
        if found is not None:
            known = math.isfinite(found.high)
            shown = f"{found.low:.2f} to {found.high:.2f}" if known else "unknown"
            if known and not name.endswith("_s"):  # seconds have no end; of recordings shares, of clips percent
                bar = interval_bar(value, found.low, found.high, 1.0 if results.recordings else 100.0)
        text = f"{value:.0f}" if isinstance(value, int) or name in ("tp", "fp", "fn") else f"{value:.2f}"
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td class=n>{text}</td><td class=n>{shown}</td><td>{bar}</td></tr>"
        )
    head = "<tr><th>metric</th><th class=n>value</th><th class=n>95 % interval</th><th></th></tr>"
    table = f"<table>{head}{''.join(rows)}</table>"
    return f"<p>{'; '.join(notes)}.</p>{table if rows else '<p>No labels, so nothing was measured.</p>'}"


def intervals_of(results: Results) -> dict[str, Interval]:
    """Give the intervals of a test's metrics: those that it wrote, else from its predictions."""
    written = results.report.get("intervals")
    if isinstance(written, dict) and all(_is_pair(one) for one in written.values()):
        return {name: Interval(low, high, "") for name, (low, high) in written.items()}
    found: dict[str, Interval] = {}
    for answers in results.answers:
        known = answers.labelled
        if not len(known):
            continue
        part = answers.rows(known)
        measure = multilabel_intervals if answers.multi_label else classification_intervals
        each = measure(part.scores, part.labels, [results.groups[index] for index in known])
        found |= {answers.prefix + name: one for name, one in each.items() if answers.graded or name != "top5_acc"}
    for name, upper in (("pos", 1.0), ("f1", 1.0), ("tau_s", None)):
        pairs = [
            (results.recordings[one][name], group)
            for one, group in zip(results.ids, results.groups, strict=True)
            if results.recordings.get(one, {}).get(name) is not None
        ]
        if pairs:
            values = np.array([value for value, _ in pairs], float)
            found[name] = mean_intervals(values, [group for _, group in pairs], upper=upper)
    return found


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, int | float) for one in value)


def _curves(folder: Path) -> str:
    """Return loss and error by epoch, as the log has them."""
    log = folder / "stdout.log"
    if not log.is_file():
        return ""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {}, "top1_err": {}, "lr": {}}
    with open_file(log) as file, io.TextIOWrapper(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '_epoch"' not in line:
                continue
            stats = read_json_stats(line)
            try:
                kind, epoch = stats["_type"].removesuffix("_epoch"), float(stats["epoch"].split("/")[0])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for name, by_kind in curves.items():
                if isinstance(stats.get(name), int | float):
                    by_kind.setdefault(kind, []).append((epoch, float(stats[name])))
    drawn = [line_chart(name, by_kind, "epoch") for name, by_kind in curves.items()]
    return f"<div class=charts>{''.join(drawn)}</div>" if any(drawn) else ""


def _confusion(answers: Answers) -> str:
    """Return the matrix (up to 40 classes), and the pairs that are most confused."""
    known = answers.labels >= 0
    labels, predicted = answers.labels[known], answers.scores[known].argmax(axis=1)
    if not len(labels):
        return ""
    size = len(answers.classes)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, predicted), 1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(index // size), int(index % size)) for index in order if wrong.flat[index]]
    names = [html.escape(name) for name in answers.classes]
    rows = "".join(
        f'<tr class=pick data-l="{names[i]}" data-p="{names[j]}" tabindex=0><td>{names[i]}</td><td>{names[j]}</td>'
        f"<td class=n>{counts[i, j]}</td><td class=n>{100 * counts[i, j] / max(1, counts[i].sum()):.1f} %</td></tr>"
        for i, j in pairs
    )
    head = "<tr><th>label</th><th>taken for</th><th class=n>clips</th><th class=n>of the class</th></tr>"
    table = f"<h3>Most confused</h3><table>{head}{rows}</table>" if pairs else "<p>Nothing was confused.</p>"
    if size > 40:
        return f"<p>{size} classes: too many for a picture.</p>{table}"
    short, cells = [html.escape(_shortened(name)) for name in answers.classes], []
    for i in range(size):
        total = max(1, counts[i].sum())
        row = "".join(
            f'<td class="cell pick" tabindex=0 style="--v:{counts[i, j] / total:.3f}" data-l="{names[i]}" '
            f'data-p="{names[j]}" title="{names[i]} taken for {names[j]}: {counts[i, j]}">{counts[i, j] or ""}</td>'
            for j in range(size)
        )
        cells.append(f'<tr><th title="{names[i]}">{short[i]}</th>{row}</tr>')
    head = "".join(
        f'<th class=turn title="{name}"><span>{one}</span></th>' for name, one in zip(names, short, strict=True)
    )
    return (
        "<p>Rows are labels, columns predictions. A click on a cell shows its clips below.</p><div class=wide>"
        f"<table class=matrix><tr><td></td>{head}</tr>{''.join(cells)}</table></div>{table}"
    )


def _shortened(name: str, most: int = 24) -> str:
    """Return a name that fits beside a matrix: names of one kind often differ at their ends."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}\u2026{name[-most // 2 :]}"


def _classes(answers: Answers) -> str:
    known = answers.labels >= 0
    labels, predicted = answers.labels[known], answers.scores[known].argmax(axis=1)
    if not len(labels):
        return ""
    rows = []
    for number, name in enumerate(answers.classes):
        support, given = int((labels == number).sum()), int((predicted == number).sum())
        hits = int(((labels == number) & (predicted == number)).sum())
        if not support and not given:
            continue
        recall, precision = (100 * hits / count if count else 0.0 for count in (support, given))
        f1 = 200 * hits / (support + given)
        cells = "".join(f"<td class=n>{value:.1f}</td>" for value in (precision, recall, f1))
        rows.append(f"<tr><td>{html.escape(name)}</td><td class=n>{support}</td>{cells}</tr>")
    head = "".join(f"<th class=n>{name}</th>" for name in ("clips", "precision", "recall", "F1"))
    head = f"<tr><th>class</th>{head}</tr>"
    return f"<div class=tall><table class=sortable>{head}{''.join(rows)}</table></div>"


def _calibration(answers: Answers) -> str:
    """Return reliability, calibration figures, and what answering only when sure would give."""
    known = answers.labelled
    part = answers.rows(known)
    if not answers.graded or not len(known):
        return ""
    if part.no_probabilities:
        return f"<p>{part.no_probabilities}, so nothing is said of them.</p>"
    scores = np.clip(part.scores, 0, 1)
    found = measure_calibration(scores, part.labels)
    if answers.multi_label:
        confidence, right = scores.ravel(), part.labels.ravel() > 0
    else:
        confidence, right = scores.max(axis=1), scores.argmax(axis=1) == part.labels
    figures = (
        f"<p>Expected calibration error {100 * found.ece:.1f} % (15 bins of equal size), Brier score "
        f"{found.brier:.3f}, negative log-likelihood {found.nll:.3f}. Points below the line: more is claimed than "
        "holds.</p>"
    )
    chart = reliability_chart(reliability_bins(confidence, right))
    if answers.multi_label:
        return f"{figures}<div class=charts>{chart}</div>"
    rows = []
    for row in coverage_risk(confidence, right):
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1f} %"
        values = (row["threshold"], row["answered"], f"{row['coverage']:.1f} %", accuracy)
        rows.append(f"<tr>{''.join(f'<td class=n>{value}</td>' for value in values)}</tr>")
    names = ("answer from", "clips", "answered", "right of these")
    head = f"<tr>{''.join(f'<th class=n>{name}</th>' for name in names)}</tr>"
    return f"{figures}<div class=charts>{chart}<table>{head}{''.join(rows)}</table></div>"


def _clips(results: Results, count: int, look: Look | None) -> str:
    """Return a table that can be filtered, and the wrong and least sure clips playing."""
    if not results.answers or results.answers[0].multi_label:
        return ""
    answers = results.answers[0]
    best = answers.scores.argmax(axis=1)
    sure, told = answers.scores.max(axis=1), answers.graded and not answers.no_probabilities
    wrong = (best != answers.labels) & (answers.labels >= 0)
    order = np.lexsort((np.where(wrong, -sure, sure), ~wrong))  # wrong ones first, the surest of them first of all
    names = np.array([*answers.classes, ""], object)
    rows = [
        [results.ids[i], names[answers.labels[i]], names[best[i]], round(float(sure[i]), 4) if told else None]
        for i in order[:MOST_ROWS]
    ]
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")
    left_out = (
        f"<p>{len(order) - MOST_ROWS} clips that are right and sure are left out.</p>" if len(order) > MOST_ROWS else ""
    )
    printed = f"<p class=printed>The first 50 of {len(order)}.</p>" if len(order) > 50 else ""
    return (
        '<p><label>Filter <input id="filter" type="search" placeholder="part of a name or class"></label> '
        '<button id="all" type="button">show all</button> <span id="shown" role="status"></span></p>'
        f'{left_out}<div class=tall><table id="clips" class=sortable><thead><tr><th>clip</th><th>label</th>'
        "<th>prediction</th><th class=n>confidence</th></tr></thead><tbody></tbody></table></div>"
        f"{printed}{players_section(results, answers, order[:count], look)}"
        f'<script type="application/json" id="data">{data}</script>'
    )


def build_look(run: Path) -> Look:
    """Return what makes the film of what the run's model looked at in a clip, for the class that it answered; of series
    and point tracks the picture of what their parts add.

    ConfigError where such a model has no map."""
    from dust.analysis.explain import explain, write_pictures  # what no report of a test needs
    from dust.analysis.explain.draw import heat
    from dust.deploy.loading import load
    from dust.deploy.reading_fused import FusedReader, series_of

    predictor = load(run, device="cpu")

    def look(clip: Clip, answer: str) -> str:
        if of_numbers(clip.path):
            source = series_of(clip) if isinstance(predictor.reader, FusedReader) else clip.path
            found = explain(predictor, source, target=answer, method="none")
            with tempfile.TemporaryDirectory(prefix="dust-") as there:
                return "".join(map(picture, write_pictures(replace(found, frames=None), Path(there), "clip")))
        found = explain(predictor, clip, target=answer, occlusion=False)
        if found.map is None or found.frames is None:
            raise ConfigError(f"--maps: {found.why_no_map or 'there is no video'}")
        return encoded(heat(found.frames, found.map.values.numpy()), clip.path)

    return look


def _recordings(results: Results) -> str:
    """Return figures of whole recordings (KeyStep), the worst first."""
    if not results.recordings:
        return ""
    names: tuple[str, ...] = ("f1", "pos", "tau_s", "tp", "fp", "fn")
    if any("false_alarms" in one for one in results.recordings.values()):
        names += ("mistakes_found", "mistakes_missed", "false_alarms")
    rows = []
    for name, one in sorted(results.recordings.items(), key=lambda pair: pair[1].get("f1") or 0.0):
        values = ("" if one.get(key) is None else f"{one[key]:.3g}" for key in names)
        rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(f'<td class=n>{value}</td>' for value in values)}</tr>")
    head = "<th>recording</th>" + "".join(f"<th class=n>{name}</th>" for name in names)
    return f"<div class=tall><table class=sortable><tr>{head}</tr>{''.join(rows)}</table></div>"


def _bad_clips(folder: Path) -> str:
    file = folder / "bad_clips.csv"
    if not file.is_file():
        return ""
    lines = read_bytes(file).decode("utf-8", errors="replace").splitlines()
    shown = html.escape("\n".join(lines[:201]))
    more = f"<p>... and {len(lines) - 201} more in {html.escape(str(file))}</p>" if len(lines) > 201 else ""
    return f"<pre>{shown}</pre>{more}" if len(lines) > 1 else ""


def _facts(results: Results, folder: Path) -> str:
    import torch

    import dust

    report = results.report
    facts = {
        "run": str(folder),
        results.kind: str(len(results.ids)),
        "checkpoint": f"{report.get('checkpoint', '')} sha256 {report.get('checkpoint_sha256', 'unknown')}".strip(),
        "configuration": f"sha256 {report.get('config_sha256', 'unknown')}",
        "made by": f"dust {dust.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
        "again": f"dust --cfg {shlex.quote(f'{folder}/config.yaml')} TRAIN.ENABLE False",
    }
    rows = "".join(f"<tr><th>{name}</th><td><code>{html.escape(text)}</code></td></tr>" for name, text in facts.items())
    return f"<table>{rows}</table>"


def _configuration(results: Results) -> str:
    if not results.config:
        return ""
    return f"<details><summary>all keys</summary><pre>{html.escape(dump_yaml(results.config))}</pre></details>"
