"""What a report shows of other files and runs: timelines, routes, cameras left out, and runs to compare with."""

import base64
import html
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dust.analysis.compare import Comparison
from dust.analysis.predictions import Results, read_table
from dust.utils.files import file_stems, read_bytes
from dust.utils.text import counted

#: Rows of a table that others continue.
ROWS = 20


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Return a table of texts; the first ``words`` columns hold words, the others numbers."""
    heads = "".join(f"<th{' class=n' if n >= words else ''}>{html.escape(one)}</th>" for n, one in enumerate(head))
    lines = [
        "".join(f"<td{' class=n' if n >= words else ''}>{html.escape(one)}</td>" for n, one in enumerate(row))
        for row in rows
    ]
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def picture(path: Path) -> str:
    """Return a PNG file as an image of the page; "" where there is none."""
    if not path.is_file():
        return ""
    data = base64.b64encode(read_bytes(path)).decode()
    return f'<img class=wide alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}">'


def timelines_section(results: Results, folder: Path, count: int) -> str:
    """Show the timelines of the ``count`` worst recordings, as the test drew them."""
    ids = sorted(results.recordings)
    stems = dict(zip(ids, file_stems(ids), strict=True))
    worst = sorted(ids, key=lambda one: results.recordings[one].get("f1") or 0.0)[:count]
    drawn = [(one, picture(folder / "results" / "timelines" / f"{stems[one]}.png")) for one in worst]
    return "".join(f"<h3>{html.escape(one)}</h3>{image}" for one, image in drawn if image)


def ablation_section(folder: Path) -> str:
    """Show what ``dust ablate-views`` found for each subset of the cameras."""
    path = folder / "view_ablation" / "views.csv"
    if not path.is_file():
        return ""
    head, rows = read_table(path)
    shown = [[*row[:2], *(f"{float(cell):.2f}" for cell in row[2:])] for row in rows]
    return f"<div class=tall>{table(head, shown)}</div>{picture(path.with_name('views.png'))}"


def routing_section(folder: Path) -> str:
    """Show which expert was selected for the clips of each group, from ``routing.csv``."""
    path = folder / "results" / "routing.csv"
    if not path.is_file():
        return ""
    _, rows = read_table(path)  # id, path, group, selected, routes
    pairs = Counter((row[2], row[3]) for row in rows)
    groups, experts = (sorted({pair[side] for pair in pairs}, key=lambda one: (len(one), one)) for side in (0, 1))
    lines = [[group or "no label", *(str(pairs[group, one] or "") for one in experts)] for group in groups]
    return f"<p>Clips of each group (rows) by the expert that was selected (columns).</p>{table(['', *experts], lines)}"


def comparison_section(comparisons: Sequence[Comparison]) -> str:
    """Show each comparison of this run with another: figures with intervals, and clips whose answer changed."""
    parts = []
    for one in comparisons:
        notes = [f"{counted(one.clips, one.kind.removesuffix('s'))} in {counted(one.groups, 'group')}", *one.notes]
        rows = []
        for name, found in one.metrics.items():
            known = math.isfinite(found.high)
            bounds = f"{found.low:+.2f} to {found.high:+.2f}" if known else "unknown"
            p = f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
            rows.append([name, f"{found.a:.2f}", f"{found.b:.2f}", f"{found.difference:+.2f}", bounds, p])
        head = ["metric", "this run", one.b, "difference", "95 % interval", "p"]
        parts.append(f"<h3>{html.escape(one.b)}</h3><p>{html.escape('; '.join(notes))}.</p>{table(head, rows)}")
        if one.changed:
            changed = [[name, label, was, now, kind] for _, name, label, was, now, kind in one.changed[:ROWS]]
            more = f"<p>... and {len(one.changed) - ROWS} more</p>" if len(one.changed) > ROWS else ""
            head = ["answer changed", "label", "this run", one.b, ""]
            parts.append(f"<div class=tall>{table(head, changed, words=5)}</div>{more}")
        if one.configuration:
            parts.append(
                f"<details><summary>keys that differ</summary><pre>{_lines(one.configuration)}</pre></details>"
            )
    note = "<p>A difference is the other run minus this one, on the clips of both.</p>"
    return note + "".join(parts) if parts else ""


def _lines(texts: Sequence[str]) -> str:
    return html.escape("\n".join(texts))
