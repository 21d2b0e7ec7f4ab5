"""Sources that are asked for at the same moment share forward passes, and none fails by another."""

import asyncio
import threading
from copy import copy

import pytest
import torch

from dust.deploy.serve.batcher import Batcher, one_at_a_time


def ask(model, reads, *, told=None, workers=4, thresholds=None):
    """All at once; answers, or the errors in their place."""

    async def together():
        batcher = Batcher(model, workers=workers, told=told or (lambda _: None))
        each = thresholds or [0.0] * len(reads)
        asked = [batcher.predict(read, threshold) for read, threshold in zip(reads, each, strict=True)]
        try:
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await batcher.close()

    return asyncio.run(together())


def test_waiting_sources_share_a_batch(model, clips):
    paths = [str(clips / f"clip_{number}.mp4") for number in range(12)]
    sizes = []
    found = ask(model, [lambda path=path: model.read(path) for path in paths], told=sizes.append)
    assert sum(sizes) == 12 and max(sizes) > 1
    for one, other in zip(found, model(paths), strict=True):
        assert one.id == other.id and dict(one.probabilities) == pytest.approx(dict(other.probabilities), abs=1e-5)


def test_thresholds_do_not_mix(model, clips):
    path = str(clips / "clip_14.mp4")
    found = ask(model, [lambda: model.read(path)] * 6, thresholds=[0.0, 1.0] * 3)
    assert [one.label for one in found] == [model(path).label, "none of these"] * 3


def test_one_that_fails_fails_alone(model, clips):
    path = str(clips / "clip_14.mp4")

    def poisoned():
        reading = model.read(path)
        reading.items[0]["inputs"]["video"] = torch.zeros(1, 3, 2, 5, 7)  # no size of this model's
        return reading

    def unreadable():
        raise ValueError("nobody can read this")

    found = ask(model, [lambda: model.read(path), poisoned, unreadable, lambda: model.read(path)])
    assert found[0].ok and found[3].ok and isinstance(found[2], ValueError)
    assert isinstance(found[1], Exception) or not found[1].ok


def test_a_forward_pass_at_a_time(model, clips):
    running, most = [], []
    slow = copy(model)
    forward = model.loop.forward

    def watched(module, inputs):
        running.append(threading.get_ident())
        most.append(len(running))
        answer = forward(module, inputs)
        running.pop()
        return answer

    from dataclasses import replace

    slow.loop = replace(model.loop, forward=watched)
    shared = one_at_a_time(slow)
    path = str(clips / "clip_14.mp4")
    threads = [threading.Thread(target=lambda: list(shared.stream(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert dict(shared(path).probabilities) == pytest.approx(dict(model(path).probabilities), abs=1e-5)
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) > 4
