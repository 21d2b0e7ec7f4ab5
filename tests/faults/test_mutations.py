"""Mutated clips: no crash, no hang, and every frame that is given out is a sound decoder's, or the clip is reported."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.datasets.clip_files import write_clip
from tests.helpers import ROOT, VIDEOS, needs_videos

DEADLINE_S = 120  # for one file; the slowest takes about ten on a busy machine
MEMORY = 8 << 30  # bytes of addresses that a reader may take: a header that promises a giant picture must not get it
SEED, COUNT, PARTS = 20, 400, 8
#: Small clips of every container and codec that there is.
SOURCES = (
    "decord_pancake.mkv", "decord_rot90.mov", "decord_rot180.mov", "ivid_example1.mp4", "mma_demo.mp4", "mma_part0.mp4",
    "mma_stdet.mp4", "mma_test.avi", "tc_av1.mkv", "tc_bt709_full_range.mp4", "tc_h264_10bits.mp4", "tc_h265_video.mp4",
    "k400like/mma_test_g12.mp4", "k400like/skv_bikes_g250.mp4", "bad/bframes8.mp4", "bad/editlist.mp4", "bad/flv1.flv",
    "bad/fragmented.mp4", "bad/hevc_opengop.mp4", "bad/interlaced.mp4", "bad/mjpeg.avi", "bad/mpeg2.mpg",
    "bad/mpeg4_packed.avi", "bad/mpy_no_duration.webm", "bad/opengop.mp4", "bad/ts.ts", "bad/vfr.mp4",
    "bad/vfr_jump.mkv", "bad/vp9_altref.webm",
)  # fmt: skip


def flip(data: bytearray, rng: random.Random, first: int, last: int, bits: int) -> None:
    for _ in range(bits):
        data[rng.randrange(first, last)] ^= 1 << rng.randrange(8)


def mutate(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """(what was done, the mutated bytes)."""
    data, size = bytearray(content), len(content)
    at, length = rng.randrange(size), min(rng.choice([1, 16, 500, 4096, 20000]), size // 4)
    kind = rng.choice(["bits", "bits", "header", "end", "cut", "insert", "remove", "swap", "zeros", "ones", "double"])
    if kind == "bits":
        flip(data, rng, 0, size, rng.choice([1, 8, 60]))
    elif kind == "header":
        flip(data, rng, 0, min(size, 2048), rng.choice([1, 2, 8]))
    elif kind == "end":  # where many files keep their tables
        flip(data, rng, max(0, size - 4096), size, rng.choice([1, 2, 8]))
    elif kind == "cut":
        del data[max(at, 1) :]
    elif kind == "insert":
        data[at:at] = rng.randbytes(length)
    elif kind == "remove":
        del data[at : at + length]
    elif kind == "swap":
        other = rng.randrange(size)
        a, b = sorted((min(at, size - length), min(other, size - length)))
        if b - a >= length:
            data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    elif kind == "double":
        data[at:at] = data[at : at + length]
    else:
        hole = min(length, size - at)
        data[at : at + hole] = bytes(hole) if kind == "zeros" else b"\xff" * hole
    return f"{kind} at {at} of {size}, {length}", bytes(data)


def limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def judged(pairs: list[tuple[Path, Path]], seed: int) -> list[dict]:
    """What tests.faults.mutant says of each (mutated, original); the one that ended it is "broken" too."""
    words = [sys.executable, "-m", "tests.faults.mutant", str(seed), *(str(path) for pair in pairs for path in pair)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = {"cwd": ROOT, "env": env, "capture_output": True, "text": True, "timeout": DEADLINE_S * len(pairs)}
    try:
        done = subprocess.run(words, preexec_fn=limit_memory if os.name == "posix" else None, **options)
    except subprocess.TimeoutExpired as error:
        out, end = (error.stdout or b"").decode(), f"not done after {DEADLINE_S} s"
    else:
        out, end = done.stdout, f"ended with {done.returncode}: {done.stderr[-600:]}"
    found = [json.loads(line) for line in out.splitlines()]
    if len(found) < len(pairs):
        found.append({"broken": [end], "noticed": True, "same": False})
    return found


def test_mutations_of_small_clips(tmp_path):
    kinds = {
        "a.mp4": {"options": {"g": "12", "bf": "2"}, "container": {"movflags": "+faststart"}},
        "a.mkv": {"options": {"g": "12", "bf": "2"}},
        "a.webm": {"codec": "libvpx", "options": {"g": "20", "cpu-used": "8"}},
        "a.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    }
    pairs, said, rng = [], [], random.Random(5)
    for name, how in kinds.items():
        original = write_clip(tmp_path / name, 40, **how)
        for number in range(3):
            what, data = mutate(original.read_bytes(), rng)
            mutated = tmp_path / f"{number}_{name}"
            mutated.write_bytes(data)
            pairs.append((mutated, original))
            said.append(f"{name}: {what}")
    found = judged(pairs, seed=5)
    assert len(found) == len(pairs)
    assert not {what: one["broken"] for what, one in zip(said, found, strict=True) if one["broken"]}
    assert sum(bool(one["checked"]) for one in found) >= 8, "most mutations do damage"


@pytest.mark.mutations
@needs_videos
@pytest.mark.parametrize("part", range(PARTS))
def test_four_hundred_mutated_clips(tmp_path, part):
    """A share of them, in minutes; ``SEED`` and ``COUNT`` of the environment choose others."""
    seed, count = int(os.environ.get("SEED", SEED)), int(os.environ.get("COUNT", COUNT))

    def one(number: int) -> tuple[str, dict]:
        original = VIDEOS / SOURCES[number % len(SOURCES)]
        rng = random.Random(1000 * seed + number)
        what, data = mutate(original.read_bytes(), rng)
        mutated = tmp_path / f"{number}{original.suffix}"
        mutated.write_bytes(data)
        (verdict,) = judged([(mutated, original)], number)
        mutated.unlink()
        return f"{number}: {original.name}: {what}", verdict

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = dict(pool.map(one, range(part, count, PARTS)))
    unnoticed = sum(not one["noticed"] for one in found.values())
    sys.stderr.write(f"{len(found)} mutated clips, {unnoticed} of them damaged and not noticed even by decoding all\n")
    broken = {what: one["broken"] for what, one in found.items() if one["broken"]}
    assert not broken, "\n".join(f"{what}: {'; '.join(said)}" for what, said in broken.items())
