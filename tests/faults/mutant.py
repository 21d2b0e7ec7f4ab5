"""One mutated clip, read by dust and by a plain decode from the start; run as a program, which may crash or hang.

    python -m tests.faults.mutant SEED MUTATED ORIGINAL [MUTATED ORIGINAL ...]

prints for each pair one line of json: what dust made of the mutated file, and which promise it broke, if any.

Of HEVC, where a damaged slice ends early, the decoder leaves in the rest of the picture what its memory held before,
and says nothing: such pictures depend on what was decoded before them. They count as damage that nobody can notice.
"""

import json
import logging
import random
import sys
import zlib

import av
import numpy as np

from dust.decode.reader import VideoReader
from dust.utils.errors import VideoError

MOST = 320  # frames that are compared, from the start


def reference(path: str) -> list[tuple[float, int]]:
    """(seconds, checksum) of each frame as a plain decode from the start gives it, up to the first error."""
    found: list[tuple[float, int]] = []
    try:
        with av.open(path, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                try:
                    picture = frame.to_ndarray(format="rgb24")
                except av.error.OSError:  # colours that swscale does not know count as unspecified
                    frame.colorspace, frame.color_range = 2, min(int(frame.color_range), 2)
                    picture = frame.to_ndarray(format="rgb24")
                found.append((frame.time or 0.0, checksum(np.rot90(picture, round(frame.rotation / 90)))))
                if len(found) == MOST:
                    break
    except (av.error.FFmpegError, ValueError, IndexError, AttributeError):
        pass  # AttributeError: there is no video stream
    return found


def codec_of(path: str) -> str:
    with av.open(path) as container:
        return container.streams.best("video").codec_context.name


def checksum(picture: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(picture).tobytes())


def wanted(count: int, seed: int) -> list[list[int]]:
    """What a training, a test and somebody curious ask for."""
    rng = random.Random(seed)
    begin = rng.randrange(max(1, count - 32))
    dense = [min(begin + 4 * step, count - 1) for step in range(8)]
    return [dense, [*range(0, count, max(1, count // 6))], [rng.randrange(count)], [count - 1]]


def read_some(path: str, seed: int) -> tuple[str, dict[int, tuple[float, int]]]:
    """(how the clip is reported, what was given out: number -> seconds, checksum); "" for the first: as a sound one."""
    given: dict[int, tuple[float, int]] = {}
    try:
        with VideoReader(path) as reader:
            for numbers in wanted(min(len(reader), MOST), seed):
                numbers = [number for number in numbers if number < len(reader)]  # a read may learn that it is shorter
                pictures = reader.frames(numbers)
                if reader.report.damaged:
                    return reader.report.reason, given
                given |= named(reader, numbers, pictures)
            return "", given
    except VideoError as error:
        return error.reason, given


def named(reader: VideoReader, numbers: list[int], pictures: np.ndarray) -> dict[int, tuple[float, int]]:
    return {one: (float(reader.pts[one]), checksum(picture)) for one, picture in zip(numbers, pictures, strict=True)}


def read_all(path: str) -> tuple[str, dict[int, tuple[float, int]], int]:
    """As ``read_some``, after a full check, of all frames; and how many there are."""
    try:
        with VideoReader(path) as reader:
            if reader.check().damaged:
                return reader.report.reason, {}, len(reader)
            count, given = len(reader), {}
            for begin in range(0, min(count, MOST), 32):
                numbers = list(range(begin, min(begin + 32, count, MOST)))
                given |= named(reader, numbers, reader.frames(numbers))
            return reader.report.reason, given, count
    except VideoError as error:
        return error.reason, {}, 0


def judge(mutated: str, original: str, seed: int) -> dict:
    broken = []
    some, given = read_some(mutated, seed)
    every, all_given, count = read_all(mutated)
    plain, sound = reference(mutated), reference(original)
    stale, intact = codec_of(original) == "hevc", {value for _, value in sound}

    def differing(found: dict[int, tuple[float, int]]) -> list[int]:
        """Frames that are those of no decoder: neither of their number nor, behind a lost one, of their time."""
        at_time = {round(time, 3): value for time, value in plain}
        wrong = []
        for number, (time, value) in found.items():
            right = {one[number][1] for one in (plain, sound) if number < len(one)} | {at_time.get(round(time, 3))}
            if value not in right and not (stale and number < len(plain) and plain[number][1] not in intact):
                wrong.append(number)
        return wrong

    if not some and (wrong := differing(given)):
        broken.append(f"read as sound, but frames {wrong} are those of no decoder")
    if not every:
        if wrong := differing(all_given):
            broken.append(f"checked as sound, but frames {wrong} are those of no decoder")
        if min(count, MOST) != len(plain):
            broken.append(f"checked as sound with {count} frames, a plain decode gives {len(plain)}")
        if len(plain) < len(sound):
            broken.append(f"checked as sound, but {len(plain)} of {len(sound)} frames are left")
    same = [value for _, value in plain] == [value for _, value in sound]
    return {"read": some, "checked": every, "same": same, "noticed": bool(every) or same, "broken": broken}


def main(argv: list[str]) -> None:
    logging.disable(logging.WARNING)
    seed, pairs = int(argv[0]), argv[1:]
    for mutated, original in zip(pairs[::2], pairs[1::2], strict=True):
        sys.stdout.write(json.dumps(judge(mutated, original, seed)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
