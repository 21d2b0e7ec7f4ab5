"""Clips made small enough to lie inside a page."""

import base64
import html
import io
from collections.abc import Callable

import av
import numpy as np

from dust.analysis.predictions import Answers, Results
from dust.config import flatten
from dust.datasets.manifest.manifest import Clip
from dust.decode.reader import open_clip
from dust.decode.segment import SECONDS, Segment, part_of
from dust.utils.errors import VideoError
from dust.utils.text import counted

#: Of the small copy: frames, its longer side in pixels, and frames per second.
FRAMES, SIDE, RATE = 32, 160, 8


#: From a clip and a class to a film, as HTML.
Look = Callable[[Clip, str], str]


def players_section(results: Results, answers: Answers, order: np.ndarray, look: Look | None) -> str:
    """Show clips playing, in this order; one line where none can, as of points and series."""
    unit = str(flatten(results.config).get("DATA.SEGMENT_UNIT", SECONDS))
    films, reasons = [], []
    told = answers.graded and not answers.no_probabilities
    for index in map(int, order):
        best = int(answers.scores[index].argmax())
        name, path = results.ids[index], results.paths[index]
        try:
            segment = Segment.of_id(name, path, unit)
            film = small_video(path, segment)
            if look is not None:
                film += look(Clip(name, path, None, segment=segment), answers.classes[best])
        except VideoError as error:
            film = f"<p class=gone>{html.escape(error.reason)}</p>"
            reasons.append(error.reason)
        sure = f", {100 * float(answers.scores[index, best]):.0f} %" if told else ""
        caption = f"<bdi>{html.escape(name)}</bdi><br><b>{_verdict(answers, index, best)}{sure}</b>"
        films.append(f"<figure>{film}<figcaption>{caption}</figcaption></figure>")
    if reasons and len(reasons) == len(films):
        return f"<p>None of {counted(len(films), 'clip')} can be shown: {html.escape(reasons[0])}</p>"
    return f"<div class=players>{''.join(films)}</div>"


def _verdict(answers: Answers, index: int, best: int) -> str:
    label = int(answers.labels[index])
    names = [f"<bdi>{html.escape(answers.classes[one])}</bdi>" for one in (label, best)]
    if label < 0:
        return f"answered {names[1]}"
    return f"{names[0]}, right" if label == best else f"{names[0]} taken for {names[1]}"


def small_video(path: str, segment: Segment | None = None) -> str:
    """Give a clip as a video of the page: up to 32 frames over its whole length, 160 pixels wide at most.

    Args:
        segment: which part of the file is the clip; None for all of it.

    Raises:
        VideoError: the clip cannot be read.
    """
    with part_of(open_clip(path), segment) as reader:
        count = len(reader)
        wanted = sorted(
            {round(step * (count - 1) / max(1, min(count, FRAMES) - 1)) for step in range(min(count, FRAMES))}
        )
        frames = reader.frames(wanted)
        if reader.report.damaged:
            raise VideoError(path, reader.report.reason)
    return encoded(frames, path)


def encoded(frames: np.ndarray, path: str) -> str:
    """Give frames (T, H, W, 3) uint8 as HTML: H.264 in mp4, 160 pixels wide at most, with its middle frame as the
    picture that stands there until it plays, and on paper.

    VideoError, which names ``path``, where they cannot be encoded."""
    from PIL import Image

    scale = SIDE / max(frames.shape[1:3])
    height, width = (max(2, round(size * min(1.0, scale)) // 2 * 2) for size in frames.shape[1:3])
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "30", "preset": "veryfast"}
            for array in frames:
                frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(width, height, interpolation="AREA")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:  # a build of FFmpeg without H.264 gives the second
        raise VideoError(path, f"its small copy cannot be made: {error}") from error
    picture = io.BytesIO()
    still = Image.fromarray(np.ascontiguousarray(frames[len(frames) // 2]))
    still.resize((width, height), Image.Resampling.BOX).save(picture, "jpeg", quality=80)
    film, poster = (
        f"data:{kind};base64,{base64.b64encode(held.getvalue()).decode()}"
        for kind, held in (("video/mp4", buffer), ("image/jpeg", picture))
    )
    return f'<video src="{film}" poster="{poster}" controls loop muted playsinline preload="metadata"></video>'
