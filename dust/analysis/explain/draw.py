"""Maps over frames: a sheet of pictures, and a short film."""

from pathlib import Path

import av
import numpy as np
import torch

from dust.analysis.explain.occlusion import Occlusion
from dust.utils.errors import DataError
from dust.utils.files import replacing
from dust.visualization.plots import plain_words

#: Of the film: seconds about, the shorter side in pixels at least, and the height of the strip below.
SECONDS, SIDE, STRIP = 3, 320, 36
#: Frames on the sheet.
SHOWN = 8
#: How much the map covers a frame.
COVER = 0.6


def heat(frames: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """Lay a map (times, rows, columns) over frames (T, H, W, 3) uint8; the strongest place of all frames is the
    brightest."""
    if values is None:
        return frames
    from matplotlib import colormaps

    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(values.astype(np.float32))[None, None], size=frames.shape[:3], mode="trilinear"
    )[0, 0].numpy()
    strength = smooth / max(float(smooth.max()), 1e-12)
    colours = colormaps["inferno"](strength)[..., :3] * 255
    grey = frames.mean(axis=-1, keepdims=True)
    cover = COVER * strength[..., None] ** 0.5
    return (grey * (1 - cover) + colours * cover).round().astype(np.uint8)


def write_picture(
    path: Path, frames: np.ndarray, values: np.ndarray | None, occlusion: Occlusion | None, title: str
) -> None:
    """Write a sheet: frames, the same with the map, and what the answer loses without each frame."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    chosen = np.unique(np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int))
    covered = heat(frames, values)
    rows = 1 + (values is not None) + (occlusion is not None)
    figure = Figure(figsize=(1.6 * len(chosen), 1.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, len(chosen))
    for column, number in enumerate(chosen):
        for row, pictures in enumerate([frames, *([covered] if values is not None else [])]):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(pictures[number])
            axes.set_axis_off()
            if row == 0:
                axes.set_title(f"frame {number}", fontsize=8)
    if occlusion is not None:
        axes = figure.add_subplot(grid[rows - 1, :])
        middles = (occlusion.edges[:-1] + occlusion.edges[1:] - 1) / 2
        axes.bar(middles, occlusion.share, width=np.diff(occlusion.edges) * 0.9, color="#c2571a")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel("frame", fontsize=8)
        axes.set_ylabel("logit lost without it", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, fontsize=10)
    with replacing(path, suffix=".png") as temporary:
        plain_words(figure).savefig(temporary, dpi=110)


def write_film(
    path: Path, frames: np.ndarray, values: np.ndarray | None, occlusion: Occlusion | None, title: str
) -> None:
    """Write the frames as the model saw them beside the map, with the class in words and a strip of what each frame
    adds to the answer."""
    covered = heat(frames, values)
    scale = max(1, -(-SIDE // min(frames.shape[1:3])))
    pairs = frames if values is None else np.concatenate([frames, covered], axis=2)
    pairs = pairs.repeat(scale, axis=1).repeat(scale, axis=2)
    pictures = [np.concatenate([one, _strip(one.shape[1], number, len(frames), occlusion, title)])
                for number, one in enumerate(pairs)]  # fmt: skip
    height, width = (size // 2 * 2 for size in pictures[0].shape[:2])
    try:
        with replacing(path, suffix=".mp4") as temporary, av.open(str(temporary), "w") as out:
            stream = out.add_stream(
                "libx264", rate=min(8, max(2, len(frames) // SECONDS)), options={"crf": "20", "preset": "veryfast"}
            )
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for one in pictures:
                cut = np.ascontiguousarray(one[:height, :width])
                out.mux(stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))
            out.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error


def _strip(width: int, number: int, count: int, occlusion: Occlusion | None, title: str) -> np.ndarray:
    """Return (STRIP, width, 3): words, and a bar for each part, the one of this frame bright."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, STRIP), (18, 20, 24))
    draw = ImageDraw.Draw(image)
    draw.text((6, 3), title, fill="white", font=ImageFont.load_default(13))
    if occlusion is not None:
        largest = max(float(np.abs(occlusion.share).max()), 1e-12)
        for part, (first, end) in enumerate(zip(occlusion.edges[:-1], occlusion.edges[1:], strict=True)):
            left, right = (round(edge / count * (width - 1)) for edge in (first, end))
            size = round(14 * abs(float(occlusion.share[part])) / largest)
            now = first <= number < end
            colour = (
                ((255, 170, 90) if now else (150, 84, 36))
                if occlusion.share[part] > 0
                else ((120, 170, 255) if now else (52, 84, 140))
            )
            draw.rectangle((left, STRIP - 2 - size, max(left, right - 2), STRIP - 2), fill=colour)
    return np.asarray(image)
