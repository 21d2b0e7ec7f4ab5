"""The point track models against the published code's numbers (eca and tracks_viewaware), and by laws."""

import copy

import pytest
import torch

from dust.models import track_front_end
from dust.models.track_front_end import SetReducer, eca_kernel, sincos
from dust.models.tracks import ECA, PointTrackLSTM, PointTrackTransformer
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors

SMALL = {"num_views": 3, "num_points": 12, "view_dim": 8, "num_classes": 5}
TRANSFORMERS = [
    {"fusion": "concat"},
    {"fusion": "mean"},
    {"fusion": "tokens"},
    {"fusion": "tokens", "pool": "last"},
    {"fusion": "concat", "reducer": "cnn"},
]
LSTMS = [{"reducer": "set"}, {"reducer": "cnn", "pool": "last"}, {"reducer": "flat"}]
MODELS = [
    *((PointTrackTransformer, {"embed_dim": 16, "heads": 2, **arguments}) for arguments in TRANSFORMERS),
    *((PointTrackLSTM, {"hidden_dim": 16, **arguments}) for arguments in LSTMS),
]
every_model = pytest.mark.parametrize(("cls", "arguments"), MODELS, ids=lambda value: getattr(value, "__name__", None))


def make(cls, arguments, **more):
    torch.manual_seed(0)
    model = cls(**{**SMALL, **arguments, **more}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def clip(B=2, V=3, T=6, P=12, seed=1):
    """Inputs with some invisible points; every camera and frame is there."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "tracks": torch.rand((B, V, T, P, 2), generator=generator) * 2 - 1,
        "visible": torch.rand((B, V, T, P), generator=generator) > 0.3,
        "view_mask": torch.ones(B, V, dtype=torch.bool),
        "time_mask": torch.ones(B, T, dtype=torch.bool),
    }


def part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


# ---------------------------------------------------------------------------------------------- golden numbers

ECA_FACTS, ECA_TENSORS = golden_tensors("eca")
#: The published names of arguments -> ours.
NAMES = {"P": "num_points", "V": "num_views", "F": "view_dim", "nc": "num_classes", "hid": "hidden_dim"}
#: {case: the file that holds it}
VIEW_AWARE = {"a": "tracks_viewaware", "b": "tracks_viewaware_b"}


def view_aware(case):
    facts, tensors = golden_tensors(VIEW_AWARE[case])
    return facts["cases"][case], part(tensors, f"{case}.")


@pytest.mark.parametrize("case", ECA_FACTS["cases"])
def test_eca_golden(case):
    facts = ECA_FACTS["cases"][case]
    eca = ECA(channels=facts["channels"], k_size=facts["k_size"])
    eca.load_state_dict({"conv.weight": ECA_TENSORS[f"{case}.conv.weight"]})
    torch.testing.assert_close(eca(ECA_TENSORS[f"{case}.input"]), ECA_TENSORS[f"{case}.output"])


def test_eca_kernel_golden():
    table = ECA_FACTS["adaptive_kernel"]
    assert {channels: eca_kernel(int(channels)) for channels in table} == table
    assert ECA(channels=128).conv.kernel_size == (5,)


@pytest.mark.parametrize("case", VIEW_AWARE)
def test_transformer_golden(case):
    facts, tensors = view_aware(case)
    arguments = {NAMES.get(key, key): facts[key] for key in ("P", "V", "F", "heads", "layers", "nc")}
    model = PointTrackTransformer(**arguments, compat=True).eval()
    report = load_weights(model, part(tensors, "param.vat."), strict=True)
    assert report.complete
    tracks = tensors["input"].permute(0, 4, 1, 2, 3)  # (N, T, P, 2, V) -> (B, V, T, P, 2)

    frames = model.frame_features(tracks)
    torch.testing.assert_close(frames, tensors["reduce_out"], atol=1e-5, rtol=1e-5)
    pe = sincos(facts["V"], facts["F"], frames)
    torch.testing.assert_close(pe[None, None], tensors["view_pe"])
    torch.testing.assert_close(frames + pe, tensors["pos_out"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(tracks), tensors["logits"], atol=1e-5, rtol=1e-4)
    # the published code throws masks away
    ignored = {"visible": torch.zeros(tracks.shape[:-1], dtype=torch.bool)}
    assert torch.equal(model(tracks, **ignored), model(tracks))


@pytest.mark.parametrize("case", VIEW_AWARE)
def test_eca_over_views_golden(case):
    _, tensors = view_aware(case)
    model = PointTrackLSTM(num_views=tensors["input"].shape[-1], num_points=tensors["input"].shape[2], compat=True)
    model.eca.load_state_dict({"conv.weight": tensors["param.eca.conv.weight"]})
    frames = model.frame_features(tensors["input"].permute(0, 4, 1, 2, 3))  # flat: nothing but ECA's output
    torch.testing.assert_close(frames, tensors["eca_out"].flatten(3))


@pytest.mark.parametrize("case", VIEW_AWARE)
def test_lstm_golden(case):
    facts, tensors = view_aware(case)
    arguments = {NAMES[key]: facts[key] for key in ("P", "V", "nc", "hid")}
    model = PointTrackLSTM(**arguments, compat=True, per_frame=True).eval()
    load_weights(model, part(tensors, "param.lstm."), strict=True)
    tracks = tensors["input"].permute(0, 4, 1, 2, 3)
    first = model(tracks, state=model.initial_state(len(tracks)))
    torch.testing.assert_close(first["logits"], tensors["lstm_logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first["state"], (tensors["lstm_h"], tensors["lstm_c"]), atol=1e-5, rtol=1e-4)
    second = model(tracks, state=first["state"])
    torch.testing.assert_close(second["logits"], tensors["lstm_logits_second"], atol=1e-5, rtol=1e-4)
    assert torch.equal(model(tracks), first["logits"])


# --------------------------------------------------------------------------------------------------------- laws


@every_model
def test_coordinates_of_invisible_points_change_nothing(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    other = inputs["tracks"].clone()
    other[~inputs["visible"]] = float("nan")
    assert torch.equal(model(**{**inputs, "tracks": other}), model(**inputs))
    assert not torch.equal(model(**{**inputs, "visible": torch.ones_like(inputs["visible"])}), model(**inputs))


@every_model
def test_the_order_of_points_matters_only_where_it_is_said(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    shuffled = {**inputs, "tracks": inputs["tracks"][..., order, :], "visible": inputs["visible"][..., order]}
    same = torch.allclose(model(**shuffled), model(**inputs), atol=1e-5, rtol=0)
    assert same == (arguments.get("reducer", "set") == "set")


def test_padded_points_change_nothing_with_set():
    for cls, arguments in MODELS:
        if arguments.get("reducer", "set") == "set":
            model, inputs = make(cls, arguments), clip()
            tracks = torch.cat([inputs["tracks"], torch.full((2, 3, 6, 5, 2), 7.0)], dim=3)
            visible = torch.cat([inputs["visible"], torch.zeros((2, 3, 6, 5), dtype=torch.bool)], dim=3)
            longer = model(**{**inputs, "tracks": tracks, "visible": visible})
            torch.testing.assert_close(longer, model(**inputs), atol=1e-5, rtol=0)


@every_model
def test_what_a_missing_camera_holds_changes_nothing(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    inputs["view_mask"][:, 1] = False
    other = {**inputs, "tracks": inputs["tracks"].clone(), "visible": inputs["visible"].clone()}
    other["tracks"][:, 1] = float("nan")
    other["visible"][:, 1] = True
    assert torch.equal(model(**other), model(**inputs))
    there = {**inputs, "view_mask": torch.ones_like(inputs["view_mask"])}
    assert not torch.allclose(model(**there), model(**inputs), atol=1e-4)


@every_model
def test_padded_frames_change_nothing(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    tail = clip(T=3, seed=5)
    longer = {
        "tracks": torch.cat([inputs["tracks"], tail["tracks"]], dim=2),
        "visible": torch.cat([inputs["visible"], tail["visible"]], dim=2),
        "view_mask": inputs["view_mask"],
        "time_mask": torch.cat([inputs["time_mask"], torch.zeros(2, 3, dtype=torch.bool)], dim=1),
    }
    torch.testing.assert_close(model(**longer), model(**inputs), atol=1e-5, rtol=0)


@every_model
def test_masks_may_be_left_out(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    inputs["visible"][:] = True
    torch.testing.assert_close(model(inputs["tracks"]), model(**inputs), atol=1e-6, rtol=0)


@every_model
def test_nothing_seen_gives_finite_logits(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    for name in ("visible", "view_mask", "time_mask"):
        assert model(**{**inputs, name: torch.zeros_like(inputs[name])}).isfinite().all(), name


@every_model
def test_the_order_of_frames_matters(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    backwards = {**inputs, "tracks": inputs["tracks"].flip(2), "visible": inputs["visible"].flip(2)}
    assert not torch.allclose(model(**backwards), model(**inputs), atol=1e-4)


def test_renumbered_cameras_change_nothing_without_attention_over_neighbours():
    order = [2, 0, 1]
    for fusion in ("mean", "tokens"):
        model, inputs = make(PointTrackTransformer, {"embed_dim": 16, "heads": 2, "fusion": fusion}), clip()
        moved = copy.deepcopy(model)
        moved.view_embed.data = model.view_embed.data[order]
        renumbered = {**inputs, "tracks": inputs["tracks"][:, order], "visible": inputs["visible"][:, order]}
        assert model.eca.conv.kernel_size == (1,)
        torch.testing.assert_close(moved(**renumbered), model(**inputs), atol=1e-5, rtol=0)
        assert not torch.allclose(model(**renumbered), model(**inputs), atol=1e-4)


@every_model
def test_every_parameter_learns_in_training(cls, arguments):
    model = make(cls, arguments, drop_rate=0.2).train()
    model(**clip()).square().sum().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def test_set_reducer_equals_a_loop_over_visible_points():
    torch.manual_seed(0)
    reducer, inputs = SetReducer(3, 7, hidden=(4, 5)), clip(B=1, V=1, T=4)
    visible = inputs["visible"][0, 0]
    visible[2] = False
    xy = inputs["tracks"][0, 0]
    points = torch.cat([xy * visible[..., None], visible[..., None].float()], dim=-1)
    for frame in range(4):
        values = [
            reducer.fc2(reducer.fc1(torch.tensor([*xy[frame, p], 1.0])).relu()).relu()
            for p in range(12)
            if visible[frame, p]
        ]
        stack = torch.stack(values) if values else torch.zeros(1, 5)
        expected = reducer.proj(torch.cat([stack.mean(0), stack.amax(0)]))
        torch.testing.assert_close(reducer(points)[frame], expected)


@pytest.mark.parametrize("arguments", LSTMS)
def test_lstm_reads_two_windows_as_one(arguments):
    model, inputs = make(PointTrackLSTM, arguments, per_frame=True), clip(T=8)
    whole = model(**inputs)
    state, parts = model.initial_state(2), []
    for times in (slice(0, 5), slice(5, 8)):
        out = model(inputs["tracks"][:, :, times], inputs["visible"][:, :, times], state=state)
        state = out["state"]
        parts.append(out["logits"])
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    assert not any(tensor.requires_grad for tensor in state)
    alone = model(inputs["tracks"][:, :, 5:], inputs["visible"][:, :, 5:])
    assert not torch.allclose(alone, whole[:, 5:], atol=1e-4)


# -------------------------------------------------------------------------------------------- sizes and errors


def test_detached_training_equals_consecutive_windows():
    """The same outputs as without, and the gradients of windows that hand their state on, one after the other."""
    arguments = {"num_views": 2, "num_points": 5, "view_dim": 4, "hidden_dim": 6, "num_classes": 3, "drop_rate": 0.0}
    torch.manual_seed(0)
    model = PointTrackLSTM(**arguments, detach_every=4).train()
    frames = torch.randn(2, 10, 2, 4)
    out, state = model.read_frames(frames)
    whole = PointTrackLSTM(**arguments)
    whole.load_state_dict(model.state_dict())
    torch.testing.assert_close(out, whole.read_frames(frames)[0])
    out.square().sum().backward()
    carried = None
    for window in frames.split(4, dim=1):
        part, carried = whole.read_frames(window, carried)
        part.square().sum().backward()
    for one, other in zip(model.lstm.parameters(), whole.lstm.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, carried)
    whole.zero_grad()
    whole.read_frames(frames)[0].square().sum().backward()
    assert not torch.allclose(model.lstm.weight_hh_l0.grad, whole.lstm.weight_hh_l0.grad, atol=1e-4)
    with pytest.raises(ConfigError, match="detach_every is -1"):
        PointTrackLSTM(**arguments, detach_every=-1)


def test_default_sizes():
    sizes = {cls: sum(p.numel() for p in cls().parameters()) for cls in (PointTrackTransformer, PointTrackLSTM)}
    original = PointTrackTransformer(num_views=4, view_dim=500, num_points=500, heads=8, layers=2, compat=True)
    published = sum(p.numel() for p in original.parameters())
    assert round(published / 1e6, 1) == 48.5
    assert all(1e6 < size < 2e6 for size in sizes.values())
    assert published > 20 * max(sizes.values())


@every_model
def test_classifier_face(cls, arguments):
    model, inputs = make(cls, arguments), clip()
    features = model.forward_features(**inputs)
    assert features.shape == (2, model.num_features) and torch.equal(model.forward_head(features), model(**inputs))
    assert model.no_weight_decay() <= set(dict(model.named_parameters()))
    model.reset_classifier(9)
    assert model(**inputs).shape == (2, 9) and model.num_classes == 9
    model.reset_classifier(0)
    assert torch.equal(model(**inputs), features)


def test_impossible_arguments_are_named_together():
    with pytest.raises(ConfigError, match=r"num_views is 0.*drop_rate is 1.*fusion is 'sum'"):
        PointTrackTransformer(num_views=0, drop_rate=1, fusion="sum")
    with pytest.raises(ConfigError, match="256 is not a multiple of heads 7"):
        PointTrackTransformer(heads=7)
    with pytest.raises(ConfigError, match=r"layers is 0.*reducer is 'mlp'"):
        PointTrackLSTM(layers=0, reducer="mlp")
    with pytest.raises(ConfigError, match="k_size is 4"):
        ECA(channels=4, k_size=4)
    with pytest.raises(TypeError, match="hid"):
        PointTrackTransformer(hid=3)
    with pytest.raises(ConfigError, match=r"PointTrackLSTM: num_classes is -1, it must be 0 \(no head\) or more"):
        PointTrackLSTM(num_classes=-1)


def test_wrong_inputs_are_named():
    model, inputs = make(*MODELS[0]), clip()
    with pytest.raises(DustError, match=r"\(2, 3, 6, 12\).*x and y last"):
        model(inputs["tracks"][..., 0])
    with pytest.raises(DustError, match=r"tracks of 2 cameras.*num_views=3; visible.*; view_mask"):
        model(inputs["tracks"][:, :2], inputs["visible"].float(), inputs["view_mask"])
    with pytest.raises(DustError, match=r"time_mask \(2, 5\)"):
        model(inputs["tracks"], time_mask=inputs["time_mask"][:, 1:])
    with pytest.raises(DustError, match="11 points, reducer flat was built for num_points=12"):
        make(PointTrackLSTM, {"reducer": "flat"})(inputs["tracks"][..., 1:, :])


def test_any_number_of_frames_goes_through_the_reducer_in_parts():
    torch.manual_seed(0)
    reducer, points = SetReducer(3, 4), torch.rand(71, 9, 3)
    alone = torch.cat([reducer(frame[None]) for frame in points])
    torch.testing.assert_close(reducer(points), alone, atol=1e-6, rtol=0)


def test_a_gpu_reduces_all_frames_in_one_go(monkeypatch):
    torch.manual_seed(0)
    reducer, points, calls = SetReducer(3, 4), torch.rand(71, 9, 3), []
    reducer.fc1.register_forward_hook(lambda *_: calls.append(1))
    in_parts = reducer(points)
    assert len(calls) == 3
    monkeypatch.setattr(track_front_end, "in_one_go", lambda points: True)
    torch.testing.assert_close(reducer(points), in_parts, atol=1e-6, rtol=0)
    assert len(calls) == 4
