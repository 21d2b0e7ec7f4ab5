"""The clips of a test, playing within the page: videos, and point tracks."""

import contextlib
import html
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dust.analysis.predictions import Answers, Results
from dust.analysis.report.film import small_video
from dust.analysis.report.points import asked_of, is_tracks, tracks_film
from dust.config import flatten
from dust.datasets.arrays import split_reference
from dust.datasets.manifest.manifest import Clip
from dust.decode.segment import SECONDS, Segment
from dust.utils.errors import DataError, VideoError
from dust.utils.text import counted

#: Files of numbers: series, and point tracks.
OF_NUMBERS = (".npz", ".npy", ".pt", ".pth", ".csv", ".parquet", ".edf", ".bdf")
#: From a clip and a class to a film, as HTML.
Look = Callable[[Clip, str], str]


def of_numbers(path: str) -> bool:
    """Tell whether this names a file of numbers, or a part of one, ``file.npy#row``."""
    return Path(split_reference(path)[0]).suffix.lower() in OF_NUMBERS


def players_section(results: Results, answers: Answers, order: np.ndarray, look: Look | None) -> str:
    """Show clips playing, in this order; one line where none can, as of series."""
    unit = str(flatten(results.config).get("DATA.SEGMENT_UNIT", SECONDS))
    films, reasons = [], []
    told = answers.graded and not answers.no_probabilities
    for index in map(int, order):
        best = int(answers.scores[index].argmax())
        name, path = results.ids[index], results.paths[index]
        try:
            segment = Segment.of_id(name, path, unit)
            drawn = look is not None and of_numbers(path)  # of a series there is no film
            film = _film(path, segment, results, needed=not drawn)
            if look is not None:
                film += look(Clip(name, path, None, segment=segment), answers.classes[best])
        except (VideoError, DataError) as error:
            reason = error.reason if isinstance(error, VideoError) else str(error)
            film = f"<p class=gone>{html.escape(reason)}</p>"
            reasons.append(reason)
        sure = f", {100 * float(answers.scores[index, best]):.0f} %" if told else ""
        caption = f"<bdi>{html.escape(name)}</bdi><br><b>{_verdict(answers, index, best)}{sure}</b>"
        films.append(f"<figure>{film}<figcaption>{caption}</figcaption></figure>")
    if reasons and len(reasons) == len(films):
        return f"<p>None of {counted(len(films), 'clip')} can be shown: {html.escape(reasons[0])}</p>"
    return f"<div class=players>{''.join(films)}</div>"


def _film(path: str, segment: Segment | None, results: Results, *, needed: bool) -> str:
    """Return the film of a clip; "" where there is none and none is ``needed``."""
    try:
        return small_video(path, segment)
    except VideoError as error:
        if is_tracks(path):
            asked = asked_of(results.config)
            with contextlib.suppress(DataError):  # of a series, say
                return tracks_film(path, asked)
        if needed:
            raise error
        return ""


def _verdict(answers: Answers, index: int, best: int) -> str:
    label = int(answers.labels[index])
    names = [f"<bdi>{html.escape(answers.classes[one])}</bdi>" for one in (label, best)]
    if label < 0:
        return f"answered {names[1]}"
    return f"{names[0]}, right" if label == best else f"{names[0]} taken for {names[1]}"
