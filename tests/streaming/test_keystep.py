"""A stream gives what the whole recording gives, and what encoding every window anew gives, for much less."""

import functools

import numpy as np
import pytest
import torch

from dust.engine.inference import OutputError
from dust.models.keystep import TemporalEncoder
from dust.models.keystep_video import KeyStepVideo
from dust.models.keystep_windows import recording_windows, window_logits
from dust.procedure.step_decoder import StepDecoder
from dust.procedure.table import Procedure
from dust.procedure.windows import clip_indices, window_ends, window_padding, window_span
from dust.streaming.keystep import StepStream
from dust.utils.errors import ConfigError, DataError
from dust.utils.flops import flop_counter

TEMPORAL = {"seq_len": 5, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 24}
PROCEDURE = Procedure(frozenset(range(9)), (0, 0, 0))


def make():
    torch.manual_seed(0)
    model = KeyStepVideo(
        frames={"arch": "test_resnet", "img_size": 32, "embed_dim": 16}, temporal=TEMPORAL, num_classes=3
    )
    with torch.no_grad():  # so that digits are positive now and then
        model.temporal_encoder.head.weight.mul_(60)
    return model.eval()


def decoder(phases=1):
    return StepDecoder(window=6, cum_conf=0.8, phases=phases)


def stream_of(model, skip, phases, **more):
    rules = decoder(skip + 1 if phases == "all" else 1)
    return StepStream(
        model, rules, lambda: rules.start(PROCEDURE, {}), frames=5, skip=skip, phases=phases, **more
    )  # fmt: skip


def video(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def window_probabilities(model, embeddings, **geometry):
    last, windows = recording_windows(embeddings, **geometry)
    return last, torch.sigmoid(window_logits(model, windows))


@pytest.mark.parametrize("phases", ["first", "all"])
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("count", [3, 13, 30])
def test_stream_whole_recording_and_slow_windows_agree(skip, phases, count):
    model, frames = make(), video(count)
    embeddings = model.embed(frames[:, :, None])
    last, probabilities = window_probabilities(model, embeddings, frames=5, skip=skip, phases=phases)
    ends = window_ends(count, 5, skip, phases=phases)
    assert last.tolist() == ends.tolist()
    for end, row in zip(ends, probabilities, strict=True):  # every window encoded anew, by the datasets' indices
        indices, padding = clip_indices(int(end), 5, skip, count)
        slow = torch.sigmoid(model(frames[indices].transpose(0, 1)[None]))[0]
        torch.testing.assert_close(row, slow, atol=1e-5, rtol=0)
        assert padding == window_padding(count, 5, skip)

    rules = decoder(skip + 1 if phases == "all" else 1)
    expected = rules.decode(PROCEDURE, {}, [()] * count, last, probabilities.numpy())
    for cache in (True, False):
        stream = stream_of(model, skip, phases, cache=cache)
        updates = [stream.push(frame) for frame in frames]
        updates += [update for update in [stream.finish()] if update is not None]
        seen = [update for update in updates if update.probabilities is not None]
        assert [update.frame for update in seen] == last.tolist()
        torch.testing.assert_close(torch.stack([u.probabilities for u in seen]), probabilities, atol=1e-5, rtol=0)
        assert [step for update in updates for step in update.steps] == expected
        assert {update.padding for update in seen} == {window_padding(count, 5, skip)}
        assert stream.encoded == (count if cache else 5 * len(seen))
    assert count < 30 or expected, "the comparison of steps needs some"


def test_a_stream_encodes_in_the_precision_of_the_test():
    """Frames under autocast, windows in float32, as RecordingsEvaluation has them."""
    model, frames = make(), video(9)
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    stream = stream_of(model, 0, "first", autocast=autocast)
    updates = [stream.push(frame) for frame in frames]
    with autocast():
        embeddings = torch.cat([model.embed(frame[None, :, None]) for frame in frames]).float()
    _, probabilities = window_probabilities(model, embeddings, frames=5, skip=0, phases="first")
    found = torch.stack([update.probabilities for update in updates if update.probabilities is not None])
    torch.testing.assert_close(found, probabilities, rtol=0, atol=1e-5)
    exact = window_probabilities(model, model.embed(frames[:, :, None]), frames=5, skip=0, phases="first")[1]
    assert (exact - probabilities).abs().max() > 1e-4, "bfloat16 is seen"


def test_geometry_is_the_datasets():
    for frames, skip in ((65, 3), (5, 0), (1, 4)):
        assert window_span(frames, skip) == window_span(frames, skip)
        for count in range(1, 12):
            assert window_padding(count, frames, skip) == clip_indices(count - 1, frames, skip, count)[1]


def test_embeddings_can_be_pushed_and_a_reset_forgets():
    torch.manual_seed(0)
    model = TemporalEncoder(**TEMPORAL, dim=16, num_classes=3)
    embeddings = torch.randn(20, 16)
    _, probabilities = window_probabilities(model.eval(), embeddings, frames=5, skip=1)
    stream = stream_of(model, 1, "first")
    for _ in range(2):
        found = [stream.push(row).probabilities for row in embeddings]
        torch.testing.assert_close(torch.stack([p for p in found if p is not None]), probabilities, atol=1e-6, rtol=0)
        assert stream.encoded == 0
        stream.reset()


def test_what_is_kept_does_not_grow():
    stream = stream_of(make(), 2, "all")
    for frame in video(40):
        stream.push(frame)
    assert stream._ring.shape == (13, 16)
    assert stream.finish() is None, "all frames have been in a window"


def test_a_transform_comes_before_the_model():
    model, frames = make(), video(6)
    plain, scaled = (stream_of(model, 0, "first", transform=one) for one in (None, lambda frame: frame / 2))
    for frame in frames:
        a, b = plain.push(frame).probabilities, scaled.push(2 * frame).probabilities
    torch.testing.assert_close(a, b)


def test_cost_per_frame():
    """N = 65, D = 128, ViT-S/16 and the paper's temporal encoder: at least 50 times less than the window anew."""
    with torch.device("meta"):
        model = KeyStepVideo(frames={}, temporal={}).eval()
        with flop_counter() as naive:
            model(torch.empty(1, 3, 65, 224, 224))
        with flop_counter() as cached:
            model.embed(torch.empty(1, 3, 1, 224, 224))
            model.temporal_encoder(torch.empty(1, 65, 128))
    ratio = naive.get_total_flops() / cached.get_total_flops()
    assert ratio == pytest.approx(56.8, abs=0.5)  # fvcore's figure in the specification


def test_a_stream_has_an_objects_decoder_too():
    model = make()
    rules = StepDecoder(mode="b3", cum_conf=1.0)
    states = {0: (0, 0, 0), 1: (1, 0, 0)}
    stream = StepStream(model, rules, lambda: rules.start(PROCEDURE, states), frames=5, skip=0)
    found = [step for frame in video(6) for step in stream.push(frame, [(1, 0.6)]).steps]
    assert found == [(1, 0)]


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="PHASES 'second'"):
        window_probabilities(make(), torch.zeros(9, 16), frames=5, skip=0, phases="second")
    with pytest.raises(DataError, match="without frames"):
        window_probabilities(make(), torch.zeros(0, 16), frames=5, skip=0)
    assert np.isfinite(window_probabilities(make(), torch.zeros(1, 16), frames=5, skip=0)[1].numpy()).all()


def test_an_output_that_is_not_finite_ends_the_stream():
    model = make()
    with torch.no_grad():
        model.temporal_encoder.head.weight.fill_(float("nan"))
    stream = stream_of(model, 0, "first")
    with pytest.raises(OutputError, match=r"the window of frames 0 to 4: the model's output is not finite"):
        for frame in video(5):
            stream.push(frame)
