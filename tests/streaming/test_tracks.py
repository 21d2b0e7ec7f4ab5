"""A stream gives the logits of the whole windows, and runs the front end on each frame once."""

import functools

import pytest
import torch

from dust.engine.inference import OutputError
from dust.models.tracks import PointTrackLSTM, PointTrackTransformer
from dust.streaming.tracks import TrackStream
from dust.utils.errors import ConfigError, DustError

SMALL = {"num_views": 3, "num_points": 10, "view_dim": 8, "num_classes": 4}
MODELS = [
    (PointTrackTransformer, {"embed_dim": 16, "heads": 2}),
    (PointTrackTransformer, {"embed_dim": 16, "heads": 2, "fusion": "tokens"}),
    (PointTrackTransformer, {"embed_dim": 16, "heads": 2, "reducer": "cnn"}),
    (PointTrackTransformer, {"heads": 4, "compat": True}),
    (PointTrackLSTM, {"hidden_dim": 16}),
    (PointTrackLSTM, {"hidden_dim": 16, "reducer": "flat"}),
]


def make(cls, arguments):
    torch.manual_seed(0)
    model = cls(**SMALL, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def sequence(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tracks = torch.rand((3, length, 10, 2), generator=generator) * 2 - 1
    return tracks, torch.rand((3, length, 10), generator=generator) > 0.2


def push_all(stream, tracks, visible):
    found = [stream.push(tracks[:, t], visible[:, t]) for t in range(tracks.shape[1])]
    return [window for window in found if window is not None]


@pytest.mark.parametrize(("cls", "arguments"), MODELS)
def test_a_stream_equals_whole_windows(cls, arguments):
    model, (tracks, visible) = make(cls, arguments), sequence(34)
    view_mask = torch.tensor([True, True, False])
    stream = TrackStream(model, window=20, stride=4, view_mask=view_mask)
    windows = push_all(stream, tracks, visible)
    assert [(window.start, window.stop) for window in windows] == [(0, 20), (4, 24), (8, 28), (12, 32)]
    last = stream.finish()
    assert (last.start, last.stop) == (14, 34) and stream.finish() is None
    for window in [*windows, last]:
        frames = slice(window.start, window.stop)
        whole = model(tracks[None, :, frames], visible[None, :, frames], view_mask[None])[0]
        torch.testing.assert_close(window.logits, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("cls", "arguments"), MODELS[:1] + MODELS[4:5])
def test_a_stream_computes_in_the_precision_of_the_test(cls, arguments):
    model, (tracks, visible) = make(cls, arguments), sequence(20)
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    (window,) = push_all(TrackStream(model, window=20, stride=4, autocast=autocast), tracks, visible)
    with torch.no_grad(), autocast():
        tested = model(tracks[None], visible[None])[0].float()
    exact = model(tracks[None], visible[None])[0]
    assert (window.logits - tested).abs().max() < 0.2 * (exact - tested).abs().max()


@pytest.mark.parametrize(("cls", "arguments"), MODELS[:1] + MODELS[4:5])
def test_a_short_sequence_is_a_padded_window(cls, arguments):
    model, (tracks, visible) = make(cls, arguments), sequence(7)
    stream = TrackStream(model, window=20, stride=4)
    assert not push_all(stream, tracks, visible)
    torch.testing.assert_close(stream.finish().logits, model(tracks[None], visible[None])[0], atol=1e-5, rtol=0)
    assert len(stream.timeline()) == 7


def test_the_front_end_runs_once_per_frame_ten_times_less_than_by_windows():
    model, (tracks, visible) = make(*MODELS[0]), sequence(500)
    passes = []
    model.reducer.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    stream = TrackStream(model, window=50, stride=5)
    windows = push_all(stream, tracks, visible)
    streamed = sum(passes)
    assert streamed == 3 * 500 and stream.front_end_frames == 500
    passes.clear()
    for window in windows:
        model(tracks[None, :, window.start : window.stop], visible[None, :, window.start : window.stop])
    assert len(windows) == 91 and sum(passes) == 3 * 50 * 91  # 9.1 times; 10 times once the first window is over
    passes.clear()
    for _ in range(5):
        window = stream.push(tracks[:, 0], visible[:, 0])
    assert window is not None and 10 * sum(passes) == 3 * 50


def test_timeline_votes_and_means():
    """Windows of two frames at every frame; logits are set by hand."""
    stream = TrackStream(make(*MODELS[0]), window=3, stride=1)
    tracks, visible = sequence(5)
    push_all(stream, tracks, visible)
    probabilities = torch.tensor([[0.4, 0.6, 0.0], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0]])
    stream._windows = [
        type(window)(window.start, window.stop, row.clamp(min=1e-9).log())
        for window, row in zip(stream._windows, probabilities, strict=True)
    ]
    # the frames' windows: 0 | 0 1 | 0 1 2 | 1 2 | 2
    assert [decision.label for decision in stream.timeline("vote")] == [1, 1, 1, 0, 0]
    assert [decision.label for decision in stream.timeline("mean")] == [1, 1, 0, 0, 0]
    found = [decision.probability for decision in stream.timeline("mean")]
    assert found == pytest.approx([0.6, 0.6, 1.7 / 3, 0.65, 0.9], abs=1e-5)
    assert [decision.frame for decision in stream.timeline()] == [0, 1, 2, 3, 4]


def test_a_stateful_lstm_reads_windows_as_one_sequence():
    model, (tracks, visible) = make(PointTrackLSTM, {"hidden_dim": 16, "pool": "last"}), sequence(13)
    stream = TrackStream(model, window=5, stride=5, stateful=True)
    windows = [*push_all(stream, tracks, visible), stream.finish()]
    assert [window.stop for window in windows] == [5, 10, 13]
    for window in windows:
        whole = model(tracks[None, :, : window.stop], visible[None, :, : window.stop])[0]
        torch.testing.assert_close(window.logits, whole, atol=1e-5, rtol=0)
    stream.reset()
    again = push_all(stream, tracks, visible)
    torch.testing.assert_close(again[0].logits, windows[0].logits)


def test_what_cannot_be_is_named():
    model = make(*MODELS[0])
    with pytest.raises(ConfigError, match="window 5, stride 6"):
        TrackStream(model, window=5, stride=6)
    with pytest.raises(ConfigError, match="stateful needs a PointTrackLSTM"):
        TrackStream(model, window=5, stride=5, stateful=True)
    stream = TrackStream(model, window=5)
    with pytest.raises(DustError, match=r"\(V, P, 2\), got \(10, 2\)"):
        stream.push(torch.zeros(10, 2))
    with pytest.raises(ConfigError, match="'median'"):
        stream.timeline("median")
    assert stream.timeline() == [] and stream.finish() is None


def test_an_output_that_is_not_finite_ends_the_stream():
    model, (tracks, visible) = make(*MODELS[0]), sequence(30)
    stream = TrackStream(model, window=20, stride=4)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(OutputError, match=r"frames 0 to 19: the model's output is not finite"):
        push_all(stream, tracks, visible)
