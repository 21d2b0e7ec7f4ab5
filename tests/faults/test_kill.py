"""kill -9 at any instant, then the same command again: the run ends by itself and as if nothing had happened."""

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from dust.utils.checkpoint import checkpoint_name, list_checkpoints
from tests.faults.victims import KINDS, assert_same_outcome, outcome, saves, words
from tests.processes import KILL, gone, until

#: What a save does to files, in its order; the numbers of each that one or two saves make.
STAGES = (("open", 5), ("fsync", 8), ("rename", 5), ("remove", 6))


def instants(count: int, size: int, seed: int) -> Iterator[dict]:
    """``count`` ways to die, drawn: soon after the start, some saves later, at a stage of a save, within a write."""
    rng = random.Random(seed)
    for index in range(count):
        kind = ("saves", "stage", "saves", "write", "saves", "stage", "early", "stage")[index % 8]
        if kind == "early":  # reading the data, building, resuming
            yield {"after": rng.uniform(0.0, 0.6)}
        elif kind == "saves":
            yield {"saves": rng.randint(1, 2), "after": rng.uniform(0.0, 0.1)}
        elif kind == "stage":
            event, most = STAGES[index // 2 % len(STAGES)]
            yield {"kill_at": [event, rng.randint(1, most)]}
        else:
            yield {"file_size": rng.randrange(1000, size)}


def kill(zygote, argv: list[str], out: Path, way: dict) -> list[psutil.Process]:
    """Start the run and let it die in that way; its workers, if it had any yet. It may have ended before."""
    fault = {key: way[key] for key in ("kill_at", "file_size") if key in way}
    victim = zygote.start(argv, **fault)
    workers = []
    if "after" in way:
        if "saves" in way:
            saves(out / "checkpoints", victim, way["saves"])
        time.sleep(way["after"])
        workers = victim.workers()
        victim.send(KILL)
    code = victim.wait()
    assert code in (0, -KILL, -signal.SIGXFSZ), victim.said[-3000:]
    if code == 0:
        assert fault or "saves" in way, "it was to be killed"
    return workers


def unsettle(folder: Path, rng: random.Random) -> None:
    """Times of files that make no sense, as after a clock was set."""
    for path in folder.glob("checkpoint_*") if folder.is_dir() else ():
        when = time.time() + rng.uniform(-1e8, 1e8)
        os.utime(path, (when, when))


def kill_many(zygote, clips, tmp_path, kills: int, epochs: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> None:
    """Kill one run so often, each life writing checkpoints in one of these ways."""
    settings = {"SOLVER__MAX_EPOCH": epochs, "LOG_PERIOD": 100}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    zygote.finish(words(clips, whole, **settings))
    size = (whole / "checkpoints" / "checkpoint_best.pyth").stat().st_size
    rng, orphans = random.Random(seed), []
    for number, way in enumerate(instants(kills, size, seed)):
        if list_checkpoints(cut / "checkpoints")[-1:] > [cut / "checkpoints" / checkpoint_name(epochs - 4)]:
            way = {"kill_at": ["open", 1]}  # a fast machine: no further, lest the run be over before the kills are
        orphans += kill(zygote, words(clips, cut, **settings, **KINDS[rng.choice(kinds)]), cut, way)
        assert not (cut / "results").exists(), f"the run was over after {number} kills: make it longer"
        unsettle(cut / "checkpoints", rng)
    zygote.finish(words(clips, cut, **settings), clock=86400.0 * 365)
    assert_same_outcome(cut, outcome(whole))
    until(lambda: all(gone(one) for one in orphans), "the end of orphaned workers")


@pytest.mark.slow
def test_nine_kills(zygote, clips, tmp_path):
    kill_many(zygote, clips, tmp_path, kills=9, epochs=14, seed=1)


@pytest.mark.faults100
@pytest.mark.parametrize("kinds", [("plain",), ("background",), ("sharded", "sharded background"), tuple(KINDS)])
def test_a_hundred_kills(zygote, clips, tmp_path, kinds):
    kill_many(zygote, clips, tmp_path, kills=100, epochs=130, seed=3, kinds=kinds)
