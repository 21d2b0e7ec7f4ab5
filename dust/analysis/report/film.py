"""Films that lie inside a page: clips made small."""

import base64
import io

import av
import numpy as np

from dust.decode.reader import open_clip
from dust.decode.segment import Segment, part_of
from dust.utils.errors import VideoError

#: Of the small copy: frames, its longer side in pixels, and frames per second.
FRAMES, SIDE, RATE = 32, 160, 8


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


def encoded(frames: np.ndarray, path: str, *, side: int = SIDE) -> str:
    """Give frames (T, H, W, 3) uint8 as HTML: H.264 in mp4, ``side`` pixels wide at most, with its middle frame as the
    picture that stands there until it plays, and on paper.

    VideoError, which names ``path``, where they cannot be encoded."""
    from PIL import Image

    scale = side / max(frames.shape[1:3])
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
