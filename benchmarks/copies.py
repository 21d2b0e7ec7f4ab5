"""Whether `dust curate` finds copies of real clips: re-encoded, cut out, begun later.

python -m benchmarks.copies CLIPS [--takes 5] [--seconds 2] [--later 0.4] [--more]   from the root of a checkout.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from torch.nn import functional as F

from dust.analysis.copies import Sketch, same_recordings, sketch
from dust.analysis.curate import families
from dust.benchmark.report import Report
from dust.decode.folders import VIDEO_SUFFIXES
from dust.decode.reader import open_clip
from dust.utils.errors import VideoError

METHOD = (
    "Takes of each file, one after the other, at about 15 frames a second and 128 pixels of height; of each take a "
    "copy of three quarters of the size at CRF 36, one that shows 75 to 90 % of each side somewhere, one that begins "
    "later; with --more also one in MPEG-4 at half the rate of frames, one lit otherwise, and one that "
    "is cut out, lit otherwise, begun later and of two thirds of the size at once. Pairs of the families that curate "
    "writes, against those of one take. The files are of different recordings."
)
RATE, HEIGHT = 15, 128


class Copy(NamedTuple):
    """What is written: every ``step``-th of these frames, with a codec and its options."""

    frames: np.ndarray
    options: dict[str, str]
    codec: str = "libx264"
    step: int = 1


def takes(
    path: Path, *, most: int, seconds: float, later: float, height: int = HEIGHT
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield frames (T, H, W, 3) uint8 of up to ``most`` takes of a file and their rate; each ``later`` seconds
    longer."""
    with open_clip(path) as reader:
        step = max(1, round(reader.fps / RATE))
        rate = max(1, round(reader.fps / step))
        span = round(seconds * rate) + round(later * rate)
        held = len(reader) // step
        count = min(most, held // span)
        for number in range(count):
            first = number * (held // count)
            frames = reader.frames([(first + one) * step for one in range(span)])
            yield resized(frames, HEIGHT, round(HEIGHT * reader.width / reader.height)), rate


def copies_of(frames: np.ndarray, later: int, rng: np.random.Generator, *, more: bool = False) -> list[Copy]:
    """Make of a take itself, three copies, and with ``more`` three of other kinds; ``later``: frames."""
    take = frames[: len(frames) - later]
    height, width = take.shape[1:3]
    small = resized(take, height * 3 // 4, width * 3 // 4)
    begun = frames[later:]
    found = [(take, 20), (small, 36), (cut_out(take, rng), 24), (begun, 24)]
    copies = [Copy(part, {"crf": str(crf), "preset": "ultrafast"}) for part, crf in found]
    if more:
        dark = lit(take, rng)
        worst = resized(lit(cut_out(begun, rng), rng), height * 2 // 3, width * 2 // 3)
        copies += [Copy(take, {"qscale": "8"}, "mpeg4", 2)]
        copies += [Copy(part, {"crf": "28", "preset": "ultrafast"}) for part in (dark, worst)]
    return copies


def cut_out(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep 75 to 90 % of each side, somewhere."""
    height, width = frames.shape[1:3]
    share = rng.uniform(0.75, 0.9)
    down, right = (int(rng.integers(0, size * (1 - share) + 1)) for size in (height, width))
    return frames[:, down : down + int(height * share), right : right + int(width * share)]


def lit(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness (gamma 0.8 to 1.25) and contrast (0.85 to 1.15)."""
    grey = 255 * (frames / 255) ** rng.uniform(0.8, 1.25)
    return ((grey - 128) * rng.uniform(0.85, 1.15) + 128).clip(0, 255).astype(np.uint8)


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return frames (T, H, W, 3) uint8 of another size, by areas."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(planes, (height, width), mode="area").round().byte()
    return scaled.permute(0, 2, 3, 1).numpy()


def write(path: Path, copy: Copy, rate: int) -> Path:
    """Encode a copy of frames of ``rate`` a second; returns the path."""
    height, width = (size // 2 * 2 for size in copy.frames.shape[1:3])
    with av.open(str(path), "w") as out:
        stream = out.add_stream(copy.codec, rate=Fraction(rate, copy.step), options=copy.options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(copy.frames[:: copy.step]):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(copy.step, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def make_set(
    files: Sequence[Path], folder: Path, *, most: int, seconds: float, later: float, more: bool = False
) -> list[int]:
    """Write takes and copies as ``0.mp4``, ``1.mp4``, ...; returns the take of each."""
    rng, owner = np.random.default_rng(0), list[int]()
    for path in files:
        for frames, rate in takes(path, most=most, seconds=seconds, later=later):
            take = owner[-1] + 1 if owner else 0
            for copy in copies_of(frames, round(later * rate), rng, more=more):
                write(folder / f"{len(owner)}.mp4", copy, rate)
                owner.append(take)
    return owner


def figures(found: Sequence[Sequence[int]], owner: Sequence[int]) -> tuple[float, float]:
    """Return (recall, precision) of the pairs within families."""
    pairs = {pair for family in found for pair in itertools.combinations(family, 2)}
    right = {(i, j) for i, j in itertools.combinations(range(len(owner)), 2) if owner[i] == owner[j]}
    return len(pairs & right) / len(right), len(pairs & right) / max(1, len(pairs))


def measure_copies(
    files: Sequence[Path], *, most: int = 5, seconds: float = 2.0, later: float = 0.4, more: bool = False
) -> Report:
    """Make the set, and look for its copies."""
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as folder:
        owner = make_set(files, Path(folder), most=most, seconds=seconds, later=later, more=more)
        begun, sketches = time.process_time(), list[Sketch]()
        for number in range(len(owner)):
            with open_clip(Path(folder) / f"{number}.mp4") as reader:
                sketches.append(sketch(reader))
        drawn = time.process_time()
        found = families(same_recordings(sketches), len(owner))
        done = time.process_time()
    recall, precision = figures(found, owner)
    row = {"clips": len(owner), "recall": round(recall, 4), "precision": round(precision, 4)}
    row |= {"draw_ms": round(1e3 * (drawn - begun) / len(owner), 1), "compare_s": round(done - drawn, 2)}
    return Report("copies", METHOD, [row], [], {"takes": most, "seconds": seconds, "later": later, "more": more})


def main() -> int:
    """Measure the clips of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="files, or folders of them, of different recordings")
    parser.add_argument("--takes", type=int, default=5, help="of a file, at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a take")
    parser.add_argument("--later", type=float, default=0.4, help="seconds by which the third copy begins later")
    parser.add_argument("--more", action="store_true", help="copies of three more kinds")
    args = parser.parse_args()
    files = [one for path in args.clips for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [one for one in files if one.suffix.lower() in VIDEO_SUFFIXES]
    try:
        report = measure_copies(files, most=args.takes, seconds=args.seconds, later=args.later, more=args.more)
    except VideoError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(report.text() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
