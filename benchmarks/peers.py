"""The reading paths that the benchmark compares with, rebuilt from their published behaviour.

``slowfast_view`` does what SlowFast's PyAV backend does for one view (its behaviour at facebookresearch/SlowFast
287ec00, Apache-2.0; no line of it is here): seek to the key frame before the view's start less 1024 ticks, decode to
the end of the span, turn EVERY frame of the span into RGB, keep some, and then normalise in float32 at full resolution
before resizing and cropping. Its span is rate x (frames - 1), clamped, as there. The others give uint8 like dust.
"""

import av
import numpy as np
import torch
from torch.nn import functional as F

MARGIN = 1024  # ticks before the start from which SlowFast decodes
MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)


def slowfast_view(
    path: str,
    start: int,
    *,
    frames: int = 8,
    rate: int = 8,
    short_side: int = 256,
    crop: tuple[float, float] = (0.5, 0.5),
    crop_size: int = 224,
    threads: int = 1,
) -> torch.Tensor:
    """Return one view as float32 (3, frames, crop_size, crop_size), normalised.

    ``start`` is a frame number (the file is taken to have a constant rate, as SlowFast does); ``crop`` places the crop
    by shares of the free room (y, x).
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        tick = float(stream.duration or 1) / max(stream.frames, 1)
        first = int(start * tick)
        last = int((start + rate * (frames - 1)) * tick)
        container.seek(max(first - MARGIN, 0), any_frame=False, backward=True, stream=stream)
        decoded = {}
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts < first:
                continue
            decoded[frame.pts] = frame
            if frame.pts >= last:
                break
        pictures = [decoded[pts].to_rgb().to_ndarray() for pts in sorted(decoded)]
    clip = torch.as_tensor(np.stack(pictures))  # (N, H, W, 3)
    keep = torch.clamp(torch.linspace(0, rate * frames - 1, frames), 0, len(clip) - 1).long()
    clip = torch.index_select(clip, 0, keep).float() / 255.0
    clip = (clip - torch.tensor(MEAN)) / torch.tensor(STD)
    clip = clip.permute(3, 0, 1, 2)  # (3, T, H, W)
    height, width = clip.shape[2:]
    unit = short_side / min(height, width)
    size = (max(int(height * unit), short_side), max(int(width * unit), short_side))
    clip = F.interpolate(clip, size=size, mode="bilinear", align_corners=False)
    y = round((size[0] - crop_size) * crop[0])
    x = round((size[1] - crop_size) * crop[1])
    return clip[:, :, y : y + crop_size, x : x + crop_size].contiguous()


def decord_frames(path: str, indices: list[int], size: tuple[int, int]) -> np.ndarray:
    """Read uint8 (T, H, W, 3) by decord, scaled while decoding. ImportError where decord is not installed."""
    import decord

    reader = decord.VideoReader(path, width=size[1], height=size[0], num_threads=1)
    return reader.get_batch(indices).asnumpy()


def torchcodec_frames(path: str, indices: list[int], size: tuple[int, int] | None, mode: str = "exact") -> torch.Tensor:
    """Read uint8 (T, 3, H, W) by torchcodec. ImportError where it is not installed."""
    from torchcodec.decoders import VideoDecoder

    options = {"transforms": [_torchcodec_resize(size)]} if size is not None else {}
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=mode, **options)
    return decoder.get_frames_at(indices).data


def _torchcodec_resize(size: tuple[int, int]):
    from torchcodec.transforms import Resize

    return Resize(size=size)
