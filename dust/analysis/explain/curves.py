"""Series and point tracks with what each part adds to the answer: orange speaks for it, blue against it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.analysis.explain.occlusion import Occlusion
from dust.utils.files import replacing
from dust.utils.text import counted
from dust.visualization.plots import new_figure, plain_words

#: Channels and cameras that are drawn; of more, those that add or take most.
MOST_CHANNELS, MOST_CAMERAS = 12, 8
AGAINST, FOR = "#1f6fc4", "#d8641c"
#: What adds nothing: behind a curve, and of a line.
PALE, GREY = "#f4f2ef", "#cfcac4"


def write_series_picture(
    path: Path, series: np.ndarray, channels: Occlusion | None, stretches: Occlusion | None, title: str
) -> None:
    """Draw a series (C, T) as the model saw it: a curve for each channel over the shares of the stretches, beside it
    the channel's own share; below, the stretches' shares as bars."""
    of_channel = _of_each(channels, len(series))
    chosen = np.sort(np.argsort(-np.abs(of_channel), kind="stable")[:MOST_CHANNELS])
    bars = stretches is not None
    figure = new_figure(10, 1.0 + 0.75 * len(chosen) + 1.3 * bars)
    heights = [1] * len(chosen) + [1.6] * bars
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[6, 1], height_ratios=heights)
    paint, reach = _paint(stretches, PALE), max(float(np.abs(of_channel).max()), 1e-12)
    for row, number in enumerate(chosen):
        axes = figure.add_subplot(grid[row, 0])
        _shade(axes, stretches, paint)
        axes.plot(series[number], color="black", linewidth=1)
        axes.set(xlim=(0, series.shape[1] - 1), xticks=[], yticks=[])
        axes.set_ylabel(str(number), rotation=0, ha="right", va="center", fontsize=8)
        if channels is not None:
            _bar_beside(figure.add_subplot(grid[row, 1]), float(of_channel[number]), reach)
    if stretches is not None:
        _bars(figure.add_subplot(grid[len(chosen), 0]), stretches, "point of the series")
    left_out = len(series) - len(chosen)
    figure.suptitle(title + (f" ({counted(left_out, 'channel')} not shown)" if left_out else ""), fontsize=10)
    _save(figure, path)


def write_tracks_picture(
    path: Path, tracks: np.ndarray, visible: np.ndarray, occlusions: Sequence[Occlusion], title: str
) -> None:
    """Draw the points of each camera, (V, T, P, 2) with (V, T, P): their ways in the colour of the stretch, where they
    end in that of the point; below, the shares of stretches and of points as bars."""
    from matplotlib.collections import LineCollection

    known = {one.name.partition(".")[2]: one for one in occlusions}
    of_camera = _of_each(known.get("cameras"), len(tracks))
    of_time = _of_each(known.get("stretches"), tracks.shape[1])
    of_point = _of_each(known.get("points"), tracks.shape[2])
    chosen = np.sort(np.argsort(-np.abs(of_camera), kind="stable")[:MOST_CAMERAS])
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    paints = _paint(known.get("stretches"), GREY), _paint(known.get("points"), GREY)
    places = tracks[visible]
    low, high = (places.min(axis=0), places.max(axis=0)) if len(places) else (-np.ones(2), np.ones(2))
    edge = 0.05 * float((high - low).max()) + 1e-6
    width, height = high - low + 2 * edge
    heights = [0.4 + 3.0 * float(np.clip(height / width, 0.3, 1.5))] * rows + [1.7] * bool(known)
    figure = new_figure(3.0 * max(columns, 2), 0.4 + sum(heights))
    whole = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    pictures = whole[:rows, 0].subgridspec(rows, columns)
    below = whole[rows, 0].subgridspec(1, 2, wspace=0.1) if known else None
    for place, view in enumerate(chosen):
        axes = figure.add_subplot(pictures[place // columns, place % columns])
        both = visible[view, 1:] & visible[view, :-1]
        time, point = np.nonzero(both)
        lines = np.stack([tracks[view, time, point], tracks[view, time + 1, point]], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=paints[0](of_time[time]), linewidths=1.2))
        ends = [(p, np.flatnonzero(visible[view, :, p])[-1]) for p in np.flatnonzero(visible[view].any(axis=0))]
        if ends:
            at = np.array([tracks[view, t, p] for p, t in ends])
            colours = paints[1](of_point[[p for p, _ in ends]])
            axes.scatter(at[:, 0], at[:, 1], c=colours, s=16, edgecolors="black", linewidths=0.4, zorder=3)
        axes.set(xlim=(low[0] - edge, high[0] + edge), ylim=(high[1] + edge, low[1] - edge), xticks=[], yticks=[])
        axes.set_aspect("equal")
        share = f": {of_camera[view]:+.2f}" if "cameras" in known else ""
        axes.set_title(f"camera {view}{share}" if ends else f"camera {view}: no points", fontsize=8)
    for column, (what, words) in enumerate((("stretches", "frame"), ("points", "point"))):
        if below is not None and what in known:
            _bars(figure.add_subplot(below[0, column]), known[what], words)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _of_each(one: Occlusion | None, count: int) -> np.ndarray:
    """Return the share of the part in which each of ``count`` places along the axis lies; 0 where nothing is known."""
    return np.zeros(count) if one is None else np.repeat(one.share, np.diff(one.edges))


def _paint(one: Occlusion | None, nothing: str) -> Any:
    """Return what makes colours of shares, the largest the deepest; ``nothing`` is that of 0."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colours = LinearSegmentedColormap.from_list("for and against", (AGAINST, nothing, FOR))
    reach = 1.0 if one is None else max(float(np.abs(one.share).max()), 1e-12)
    scale = Normalize(-reach, reach)
    return lambda shares: colours(scale(np.asarray(shares)))


def _shade(axes: Any, stretches: Occlusion | None, paint: Any) -> None:
    if stretches is not None:
        for first, end, share in zip(stretches.edges[:-1], stretches.edges[1:], stretches.share, strict=True):
            axes.axvspan(first - 0.5, end - 0.5, color=paint(share), linewidth=0)


def _bars(axes: Any, one: Occlusion, words: str) -> None:
    from matplotlib.ticker import MaxNLocator

    middles = (one.edges[:-1] + one.edges[1:] - 1) / 2
    colours = [FOR if share > 0 else AGAINST for share in one.share]
    axes.bar(middles, one.share, width=np.diff(one.edges) * 0.9, color=colours)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlim=(one.edges[0] - 0.5, one.edges[-1] - 0.5))
    axes.set_xlabel(words, fontsize=8)
    axes.set_ylabel("logit lost\nwithout it", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bar_beside(axes: Any, share: float, reach: float) -> None:
    axes.barh([0], [share], color=FOR if share > 0 else AGAINST)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlim=(-1.1 * reach, 1.1 * reach), ylim=(-0.8, 0.8), xticks=[], yticks=[])
    axes.set_title(f"{share:+.2f}", fontsize=8, pad=1)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    with replacing(path, suffix=".png") as temporary:
        plain_words(figure).savefig(temporary, dpi=110)
