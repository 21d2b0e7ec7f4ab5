"""Drawings of a report, as SVG text."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 520, 270, 62, 34, 28, 14
#: Each at least 3 to 1 against the paper of both themes.
COLOURS = ("#0d9488", "#b45309", "#8b5cf6", "#e11d48", "#3b82f6", "#65a30d")


def line_chart(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str) -> str:
    """Draw curves of (x, y) points by name, with a legend; points that are not finite are left out."""
    series = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in curves.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs, ys = ([point[axis] for points in series.values() for point in points] for axis in (0, 1))
    x_range, y_range = _range(xs), _range(ys)
    whole = all(x == round(x) for x in xs)
    parts = [*_axes(x_range, y_range, x_label, whole=whole), _text(WIDTH / 2, 10, title, "middle", "title")]
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = [_place(x, y, x_range, y_range) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (a, b) in zip(places, points, strict=True):
            if len(points) <= 60:
                tip = f"<title>{html.escape(name)}: {b:g} at {a:g}</title>"
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{tip}</circle>')
        x, y = LEFT + 8 + 110 * (index % 4), 17 + 14 * (index // 4)
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, y + 9, name, "start"))
    return _svg(parts, title)


def reliability_chart(bins: Sequence[tuple[int, float, float]]) -> str:
    """Draw what was claimed (x) against what was right (y) for bins of (samples, mean confidence, share right)."""
    whole = (0.0, 1.0)
    a, b = _place(0, 0, whole, whole), _place(1, 1, whole, whole)
    parts = [
        *_axes(whole, whole, "mean confidence of a bin"),
        _text(WIDTH / 2, 10, "share that is right", "middle", "title"),
    ]
    parts.append(f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" class="claim" stroke-dasharray="4 4"/>')
    largest = max((count for count, _, _ in bins), default=1)
    for count, confidence, right in bins:
        x, y = _place(confidence, right, whole, whole)
        tip = f"<title>{count} clips: confidence {confidence:.3f}, right {right:.3f}</title>"
        radius = 3 + 5 * math.sqrt(count / largest)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{COLOURS[0]}" opacity="0.8">{tip}</circle>'
        )
    return _svg(parts, "Reliability: confidence against the share that is right")


def interval_bar(value: float, low: float, high: float, largest: float) -> str:
    """Draw a value with its interval on a scale from 0 to ``largest``."""
    scale = 160 / largest if largest > 0 else 0.0
    low, high = max(0.0, low), min(largest, high)
    return (
        f'<svg class="bar" viewBox="0 0 164 14" role="img" aria-label="{low:.2f} to {high:.2f}">'
        f'<line x1="2" y1="7" x2="162" y2="7" class="grid"/>'
        f'<line x1="{2 + low * scale:.1f}" y1="7" x2="{2 + high * scale:.1f}" y2="7" stroke="{COLOURS[0]}" '
        f'stroke-width="5" opacity="0.4"/>'
        f'<circle cx="{2 + min(value, largest) * scale:.1f}" cy="7" r="4" fill="{COLOURS[0]}"/></svg>'
    )


def share_bar(percent: float) -> str:
    """Draw a share of 100 as a bar."""
    width = 1.6 * min(max(percent, 0.0), 100.0)
    return (
        f'<svg class="bar" viewBox="0 0 164 14" role="img" aria-label="{percent:.1f} of 100">'
        f'<rect x="2" y="3" width="160" height="8" class="rest"/>'
        f'<rect x="2" y="3" width="{width:.1f}" height="8" fill="{COLOURS[0]}"/></svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place(x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float]) -> tuple[float, float]:
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP - 8)


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    return [float(tick) for tick in np.arange(math.ceil(low / step) * step, high + step * 1e-6, step)]


def _axes(
    x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, *, whole: bool = False
) -> list[str]:
    """Draw lines and numbers; ``whole``: only whole numbers along x, as of epochs."""
    parts = []
    for tick in _ticks(*y_range):
        _, y = _place(x_range[0], tick, x_range, y_range)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    for tick in (one for one in _ticks(*x_range) if not whole or abs(one - round(one)) < 1e-6):
        x, _ = _place(tick, y_range[0], x_range, y_range)
        parts.append(_text(x, HEIGHT - BOTTOM + 16, f"{tick:g}", "middle"))
    return [*parts, _text(WIDTH / 2, HEIGHT - 4, x_label, "middle")]


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{html.escape(text)}</text>'


def _svg(parts: list[str], title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
