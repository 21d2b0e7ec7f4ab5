"""Segments of a long video along its time, and how likely the classes were in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.visualization.plots import new_figure, plain_words

NAMED = 12  # classes that get a colour and a curve: those with the most time, then the likeliest
GREY = "0.8"


def segments_figure(
    segments: Sequence[tuple[float, float, str, str, int]],
    times: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    length: float,
    title: str = "",
) -> Any:
    """Return a strip of coloured segments above curves of the classes' probabilities.

    Args:
        segments: (start, end, label, class, row); start and end in seconds. One of no class is grey. Each row has a
            strip; of more than NAMED those with a class that has a colour.
        times: (W,) seconds, the middle of each window.
        probabilities: (W, K) in 0..1.
        length: of the video in seconds.
    """
    from matplotlib.patches import Patch

    shown = most_shown([(start, end, name) for start, end, _, name, _ in segments], probabilities, class_names)
    colours = colours_of(shown)
    rows = sorted({row for *_, row in segments}) or [0]
    if len(rows) > NAMED:
        rows = sorted({row for *_, name, row in segments if name in colours})
    figure = new_figure(12, 3.4 + 0.6 * len(rows))
    strip, curves = figure.subplots(2, 1, sharex=True, height_ratios=(0.6 + 0.4 * len(rows), 3))
    scale, unit = (60.0, "minutes") if length > 600 else (1.0, "seconds")
    for start, end, label, name, row in segments:
        if row not in rows:
            continue
        colour, y = colours.get(name, GREY), rows.index(row)
        strip.broken_barh([(start / scale, (end - start) / scale)], (y, 1), color=colour, linewidth=0)
        if end - start > 0.08 * length:
            middle = (start + end) / 2 / scale
            dark = sum(_rgb(colour)) < 1.5
            strip.text(middle, y + 0.5, label, ha="center", va="center", fontsize=9,
                       color="white" if dark else "black", clip_on=True)  # fmt: skip
    strip.set(yticks=[], ylim=(len(rows), 0))
    strip.set_title(title, fontsize=10, loc="left")
    for label in shown:
        values = probabilities[:, list(class_names).index(label)]
        style = "-" if len(times) > 1 else "o"
        curves.plot(times / scale, values, style, color=colours[label], linewidth=1.2)
    curves.set(xlim=(0, max(length, 1e-3) / scale), ylim=(0, 1.02), ylabel="probability", xlabel=unit)
    curves.grid(axis="y", color="0.9")
    handles = [Patch(color=colours[label], label=label) for label in shown]
    grey = {name in class_names for *_, name, _ in segments if name not in colours}
    if grey:
        words = {True: "other classes", False: "none of these"}
        handles.append(Patch(color=GREY, label=", ".join(words[known] for known in sorted(grey))))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return plain_words(figure)


def colours_of(labels: Sequence[str]) -> dict[str, Any]:
    """Return a colour (R, G, B in 0..1) for each label, the strong ones of matplotlib's tab20 first."""
    from matplotlib import colormaps

    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return {label: colormaps["tab20"](order[index % 20])[:3] for index, label in enumerate(labels)}


def _rgb(colour: Any) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def most_shown(
    segments: Sequence[tuple[float, float, str]], probabilities: np.ndarray, class_names: Sequence[str]
) -> list[str]:
    """Return up to NAMED classes that get a colour, in their own order: those with the most time, then the
    likeliest."""
    seconds = dict.fromkeys(class_names, 0.0)
    for start, end, label in segments:
        if label in seconds:
            seconds[label] += end - start
    likely = dict(zip(class_names, probabilities.max(axis=0) if len(probabilities) else [], strict=False))
    order = sorted(class_names, key=lambda name: (-seconds[name], -float(likely.get(name, 0.0))))
    kept = set(order[:NAMED])
    return [name for name in class_names if name in kept]
