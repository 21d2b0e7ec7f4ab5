"""What the report of a test says of procedures: mistakes, and the graphs that recordings were held against, drawn."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from dust.analysis.report.charts import COLOURS

BOX, ROW, COLUMN, MARGIN = (196, 46), 66, 256, 14
MISTAKES = ("wrong", "omitted", "order")
WORDS = {"wrong": "put on wrongly", "omitted": "left out", "order": "out of order"}
RED = COLOURS[3]
Layers = Sequence[Sequence[Mapping[str, Any]]]


def mistakes_section(report: Mapping[str, Any]) -> str:
    """Return the figures of ``mistakes`` in test.json: a row for all kinds together and one for each; "" without
    any."""
    found = report.get("mistakes") or {}
    if not found.get("mistakes") and not found.get("alarms"):
        return ""
    names = ("mistakes", "found", "recall", "precision", "false_alarms", "false_alarms_per_hour", "delay_s")
    rows = []
    for kind, figures in (("all", found), *found.get("kinds", {}).items()):
        cells = "".join(f"<td class=n>{_number(figures.get(name))}</td>" for name in names)
        area = found.get("auc", {}).get("recordings" if kind == "all" else kind)
        rows.append(f"<tr><td>{WORDS.get(kind, kind)}</td>{cells}<td class=n>{_number(area)}</td></tr>")
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("kind", *names, "auc"))
    hours = f"<p>{found.get('hours', 0):.2f} hours of recordings. An alarm is right at or after its mistake.</p>"
    return f"{hours}<table><tr>{head}</tr>{''.join(rows)}</table>"


def graphs_section(report: Mapping[str, Any]) -> str:
    """Return each graph of ``graphs`` in test.json, drawn; "" without any."""
    drawn = [
        f"<h3>{html.escape(name)}</h3><div class=wide>{draw_graph(layers, name)}</div>"
        for name, layers in (report.get("graphs") or {}).items()
    ]
    text = (
        "<p>A step comes after those that point at it; dashed lines come from alternatives, one of which is enough. A "
        "dashed box may be left out, a double one is done several times. Below each: how often it was done, and its "
        "mistakes.</p>"
    )
    return text + "".join(drawn) if drawn else ""


def draw_graph(layers: Layers, title: str) -> str:
    """Draw steps from left to right, those of a layer one below the other, as SVG text."""
    rows = max(len(layer) for layer in layers)
    places = {
        node["step"]: (MARGIN + COLUMN * column, MARGIN + ROW * (row + (rows - len(layer)) / 2))
        for column, layer in enumerate(layers)
        for row, node in enumerate(layer)
    }
    width = MARGIN * 2 + COLUMN * (len(layers) - 1) + BOX[0]
    height = MARGIN * 2 + ROW * (rows - 1) + BOX[1]
    parts = [
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{COLOURS[0]}"/></marker></defs>'
    ]
    nodes = [node for layer in layers for node in layer]
    for node in nodes:
        for group in node["after"]:
            parts += [_arrow(places[step], places[node["step"]], len(group) > 1) for step in group]
    parts += [_box(node, *places[node["step"]]) for node in nodes]
    size = f'viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}"'
    return f'<svg class="graph" {size} role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'


def _arrow(start: tuple[float, float], end: tuple[float, float], one_of: bool) -> str:
    x, y = start[0] + BOX[0], start[1] + BOX[1] / 2
    to_x, to_y = end[0], end[1] + BOX[1] / 2
    half = max((to_x - x) / 2, 20)
    dash = ' stroke-dasharray="5 4"' if one_of else ""
    return (
        f'<path d="M{x:g},{y:g} C{x + half:g},{y:g} {to_x - half:g},{to_y:g} {to_x:g},{to_y:g}" fill="none" '
        f'stroke="{COLOURS[0]}" stroke-width="1.5" marker-end="url(#tip)"{dash}/>'
    )


def _box(node: Mapping[str, Any], x: float, y: float) -> str:
    wrong = sum(node[kind] for kind in MISTAKES)
    dash = ' stroke-dasharray="6 4"' if node["optional"] else ""
    outline = f'fill="none" stroke="{RED if wrong else COLOURS[0]}" stroke-width="1.5"{dash}'
    several = node["times"] > 1
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6" {outline}/>']
    if several:
        inner = f'x="{x + 3:g}" y="{y + 3:g}" width="{BOX[0] - 6}" height="{BOX[1] - 6}" rx="4"'
        parts.append(f"<rect {inner} {outline}/>")
    name = node["name"] + (f" x{node['times']}" if several else "")
    shown = name if len(name) <= 24 else name[:23] + "\u2026"
    told = [f"{node['done']} done", *(f"{node[kind]} {WORDS[kind]}" for kind in MISTAKES if node[kind])]
    small = ", ".join(told)
    small = small if len(small) <= 31 else f"{node['done']} done, {wrong} mistakes"
    tip = html.escape(f"{name}: {', '.join(told)}" + (", optional" if node["optional"] else ""))
    middle = x + BOX[0] / 2
    parts += [
        f'<text x="{middle:g}" y="{y + 20:g}" text-anchor="middle" class="title">{html.escape(shown)}</text>',
        f'<text x="{middle:g}" y="{y + 37:g}" text-anchor="middle" class="tick">{html.escape(small)}</text>',
    ]
    return f"<g><title>{tip}</title>{''.join(parts)}</g>"


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
