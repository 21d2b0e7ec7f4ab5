"""Small video files, written by the tests that need them, and the slow and sure way to read one."""

import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 64, 96


def texture(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """(count, H, W, 3) uint8: blocks that move and change, no two frames alike."""
    rng = np.random.RandomState(seed)
    base = np.kron(rng.randint(0, 200, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.int64)
    frames = [np.roll(base, (2 * i, 3 * i), (0, 1)) + rng.randint(0, 12, base.shape) + i % 40 for i in range(count)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def write_clip(
    path: Path,
    count: int = 60,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    rate: int = 25,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pixels: str = "yuv420p",
    container: dict[str, str] | None = None,
) -> Path:
    """Encode ``texture``; ``times``: each frame's time in units of 1/rate (default 0, 1, 2, ...).

    The same call writes the same bytes: without "bitexact" Matroska holds an identity that is drawn anew.
    """
    with av.open(str(path), "w", options={"fflags": "+bitexact", **(container or {})}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.thread_count = 1
        stream.options = options or {}
        for number, picture in enumerate(texture(count, *size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times[number] if times is not None else number
            frame.time_base = Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def patch_box(source: Path, target: Path, box: bytes, offset: int, data: bytes) -> Path:
    """A copy of an mp4 with bytes of its first ``box`` replaced, ``offset`` bytes into its content."""
    content = bytearray(source.read_bytes())
    at = content.index(box) + 4 + offset
    content[at : at + len(data)] = data
    target.write_bytes(content)
    return target


def turned(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    """A copy with another display matrix in its track header."""
    one = 1 << 16
    return patch_box(source, target, b"tkhd", 40, struct.pack(">5i", a * one, b * one, 0, c * one, d * one))


def damaged(source: Path, target: Path, kind: str, seed: int = 0) -> Path:
    """A damaged copy: "cut" (the last 40 % missing), "zeros" (a hole in the middle), "flips" (60 flipped bits in the
    second half), "dropped" (1500 bytes missing in the middle)."""
    content = bytearray(source.read_bytes())
    size, rng = len(content), random.Random(seed)
    if kind == "cut":
        del content[size * 6 // 10 | 1 :]  # an odd length: within a transport packet, too
    elif kind == "zeros":
        content[size // 2 : size // 2 + 3000] = bytes(3000)
    elif kind == "dropped":
        del content[size // 2 : size // 2 + 1500]
    else:
        for _ in range(60):
            content[rng.randrange(size // 2, size - 8)] ^= 1 << rng.randrange(8)
    target.write_bytes(content)
    return target


def scratched(source: Path, target: Path, share: float = 0.5) -> Path:
    """A copy with flipped bits inside the picture data of the first key frame after ``share`` of the packets; every
    size and time stays as it was, so that only decoding can tell."""
    with av.open(str(source)) as container:
        found = [(packet.pos, packet.size, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    place, size, _ = next(one for one in found[int(len(found) * share) :] if one[2])
    content, rng = bytearray(source.read_bytes()), random.Random(0)
    for _ in range(40):
        content[rng.randrange(place + size // 3, place + size - 8)] ^= 1 << rng.randrange(8)
    target.write_bytes(content)
    return target


def decode_all(path: Path | str, picks: set[int] | None = None) -> tuple[list[np.ndarray | None], str]:
    """Every frame, as PyAV gives them from the start, turned as the file asks; and the error that ended it, if any.

    With ``picks`` only those are kept (None stands for the others).
    """
    frames: list[np.ndarray | None] = []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        try:
            for frame in container.decode(stream):
                if picks is not None and len(frames) not in picks:
                    frames.append(None)
                    continue
                picture = frame.to_ndarray(format="rgb24")
                frames.append(np.rot90(picture, round(frame.rotation / 90)))
        except av.error.FFmpegError as error:
            return frames, str(error)
    return frames, ""
