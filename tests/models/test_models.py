"""What every registered model must do. A model is tested by being registered: a name without a case here fails."""

import copy
import re

import pytest
import torch
from timm.models import group_parameters

from dust.config import get_cfg
from dust.models import MODEL_REGISTRY, build_model
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError

_VIDEO = {"video": (2, 3, 4, 32, 32)}
_TIMESFORMER = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_frames": 4}
_VIDEO_SWIN = {"embed_dim": 16, "depths": [2, 1, 2], "num_heads": [2, 4, 4], "window_size": [2, 3, 3]}
_SERIES_SWIN = {"embed_dim": 16, "depths": [2, 3], "num_heads": [2, 4], "window_size": 4}
_FUSED_VIDEO = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": [2, 2, 2]}
_FUSION = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
_FUSION |= {"video_feature_dim": 6, "fusion_dim": 8}

_TEMPORAL = {"seq_len": 6, "dim": 16, "depth": 2, "heads": 4, "dim_head": 8, "mlp_dim": 24}
_TRACKS = {"num_views": 2, "num_points": 12, "view_dim": 8}
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 4}
_VJEPA2 = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "probe_depth": 2, "probe_heads": 4}
_VJEPA21 = {"version": "2.1", "embed_dim": 24, "depth": 12, "num_heads": 2, "probe_depth": 1, "probe_heads": 2}
_CLIP = {"input_resolution": 32, "patch_size": 8, "width": 48, "layers": 2, "heads": 4}
# name: (arguments for a small one, shapes of its inputs), as many as a model has variants
SMALL = [
    ("VideoMAE", {**_VIT, "init_scale": 1.0}, _VIDEO),
    ("VideoMAE", {**_VIT, "init_scale": 1.0, "init_values": 0.1, "tubelet_size": 4, "use_mean_pooling": False}, _VIDEO),
    ("CLIPVisual", {**_CLIP, "output_dim": 20}, _VIDEO),
    ("CLIPVisual", {**_CLIP, "output_dim": 0}, {"video": (2, 3, 32, 32)}),
    ("VJEPA2", _VJEPA2, _VIDEO),
    ("VJEPA2", {**_VJEPA21, "num_clips": 2, "mlp_ratio": 1.0}, _VIDEO),
    ("CAST", _VIT, _VIDEO),
    ("TimeSformer", {**_TIMESFORMER, "attention_type": "divided_space_time"}, _VIDEO),
    ("TimeSformer", {**_TIMESFORMER, "attention_type": "joint_space_time"}, _VIDEO),
    ("TimeSformer", {**_TIMESFORMER, "attention_type": "space_only"}, _VIDEO),
    ("VideoSwin", _VIDEO_SWIN, _VIDEO),
    ("SeriesSwin", _SERIES_SWIN, {"series": (2, 3, 20)}),
    ("SeriesSwin", {**_SERIES_SWIN, "attention": "cosine", "seq_len": 20, "ape": True}, {"series": (2, 3, 20)}),
    ("SeriesSwin", {**_SERIES_SWIN, "norm": "pre", "mask": "legacy", "patch_size": 3}, {"series": (2, 3, 50)}),
    ("DualSwinFusion", {**_FUSION, "mode": "concat"}, {"series": (2, 3, 20), "video_features": (2, 6)}),
    ("DualSwinFusion", {**_FUSION, "mode": "gated"}, {"series": (2, 3, 20), "video_features": (2, 6)}),
    ("DualSwinFusion", {**_FUSION, "mode": "cross_attention"}, {"series": (2, 3, 20), "video_features": (2, 5, 6)}),
    ("DualSwinFusion", {**_FUSION, "video": _FUSED_VIDEO}, {"series": (2, 3, 20), "video": (2, 3, 4, 32, 32)}),
    ("TemporalEncoder", {**_TEMPORAL, "pool": "cls"}, {"embeddings": (2, 6, 16)}),
    ("TemporalEncoder", {**_TEMPORAL, "pool": "mean"}, {"embeddings": (2, 6, 16)}),
    ("PointTrackTransformer", {**_TRACKS, "embed_dim": 16, "heads": 2}, {"tracks": (2, 2, 4, 12, 2)}),
    ("PointTrackLSTM", {**_TRACKS, "hidden_dim": 16}, {"tracks": (2, 2, 4, 12, 2)}),
]
NO_CLASSIFIERS = {"VideoMAEPretrain", "KeyStepFrameEncoder", "KeyStepVideo", "TSTL"}  # tested where they are
# what makes a model draw in training, where it is not drop_rate and drop_path_rate
RATES = {"VJEPA2": {"drop_path_rate": 0.4}, "TemporalEncoder": {"dropout": 0.2}}
NO_CHECKPOINTING = {"PointTrackTransformer", "PointTrackLSTM"}  # they are small
NO_COMPILING = {"PointTrackLSTM"}  # Dynamo refuses LSTMs
# of CAST's last block only the class tokens of the spatial stream are classified, so what its patches ask is not
WITHOUT_EFFECT = {"CAST": r"blocks\.1\.t2s_cross\."}


def models_but(*without):
    cases = [
        pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(SMALL) if case[0] not in without
    ]
    return pytest.mark.parametrize(("name", "arguments", "shapes"), cases)


every_model = models_but()


def make(name, arguments, **more):
    torch.manual_seed(0)
    model = MODEL_REGISTRY.get(name)(**{**arguments, "num_classes": 5, **more})
    with torch.no_grad():  # parameters that start at zero count too
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def inputs_of(shapes):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_every_registered_model_has_a_case():
    assert {name for name, _, _ in SMALL} | NO_CLASSIFIERS == set(MODEL_REGISTRY)


@every_model
def test_forward_backward(name, arguments, shapes):
    model, inputs = make(name, arguments).train(), inputs_of(shapes)
    logits = model(**inputs)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, key
        elif not re.match(WITHOUT_EFFECT.get(name, "$"), key):
            assert parameter.grad is not None and parameter.grad.any(), key


@every_model
def test_clips_do_not_see_each_other(name, arguments, shapes):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    alone = torch.cat([model(**{key: value[i : i + 1] for key, value in inputs.items()}) for i in range(2)])
    torch.testing.assert_close(model(**inputs), alone, atol=1e-5, rtol=0)


@every_model
def test_features_and_head(name, arguments, shapes):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    tokens = model.forward_features(**inputs)
    assert model.forward_head(tokens, pre_logits=True).shape == (2, model.num_features)
    assert torch.equal(model.forward_head(tokens), model(**inputs))


@every_model
def test_reset_classifier(name, arguments, shapes):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    model.reset_classifier(9)
    assert model(**inputs).shape == (2, 9) and model.num_classes == 9
    model.reset_classifier(0)
    assert model(**inputs).shape == (2, model.num_features)
    assert make(name, arguments, num_classes=0)(**inputs).shape == (2, model.num_features)


@every_model
def test_no_weight_decay_names_parameters(name, arguments, shapes):
    model = make(name, arguments)
    wanted = model.no_weight_decay()
    assert wanted and wanted <= set(dict(model.named_parameters()))


@every_model
def test_layers_for_layer_decay(name, arguments, shapes):
    model = make(name, arguments)
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert layers.keys() == dict(model.named_parameters()).keys()
    places = {key: place_of(key, model) for key in layers}
    blocks = sorted({place for place in places.values() if place})
    assert len(blocks) >= 2
    for key, layer in layers.items():
        if places[key]:
            assert layer == blocks.index(places[key]) + 1, key
        elif STEM.match(key):
            assert layer == 0, key
        else:
            assert layer == len(blocks) + 1, key


STEM = re.compile(
    r"(\w+_backbone\.|clip_|encoder\.)?"
    r"(patch_embed|cls_token|pos_embed|time_embed|absolute_pos_embed|class_embedding|(img|video)_mod_embed|positional_embedding|conv1|ln_pre"
    r"|eca|reducer|view_embed|fuse)"
)


def place_of(key, model):
    """(stage, block) or (block,) of a parameter; what merges patches stands with the last block of its stage."""
    numbers = re.match(r"(?:\w+_backbone\.|encoder\.)?(?:layers\.(\d+)\.|transformer\.res)?blocks\.(\d+)\.", key)
    numbers = numbers or re.match(r"lstm\.\w+_l(\d+)$", key)
    if numbers:
        return tuple(int(number) for number in numbers.groups() if number)
    merging = re.match(r"(.*layers\.(\d+))\.downsample\.", key)
    return (int(merging[2]), len(model.get_submodule(merging[1]).blocks) - 1) if merging else None


@every_model
def test_state_dict_round_trip(name, arguments, shapes, tmp_path):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    torch.save({"model_state": model.state_dict()}, tmp_path / "weights.pyth")
    other = MODEL_REGISTRY.get(name)(**arguments, num_classes=5).eval()
    report = load_weights(other, tmp_path / "weights.pyth", strict=True)
    assert report.complete and len(report.loaded) == len(model.state_dict())
    assert torch.equal(other(**inputs), model(**inputs))


@models_but(*NO_CHECKPOINTING)
def test_activation_checkpointing_changes_nothing(name, arguments, shapes):
    inputs, rates = inputs_of(shapes), RATES.get(name, {"drop_path_rate": 0.4, "drop_rate": 0.2})
    results = []
    for act_checkpoint in (False, True):
        model = make(name, arguments, act_checkpoint=act_checkpoint, **rates).train()
        torch.manual_seed(7)
        logits = model(**inputs)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))


@models_but(*NO_COMPILING)
def test_compiles_without_graph_breaks(name, arguments, shapes):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs), model(**inputs))


@every_model
def test_pickles_and_deep_copies(name, arguments, shapes):
    model, inputs = make(name, arguments).eval(), inputs_of(shapes)
    assert torch.equal(copy.deepcopy(model)(**inputs), model(**inputs))


# ------------------------------------------------------------------------------------------------------- builder


def small_cfg():
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES = 6
    cfg.DATA.TRAIN_CROP_SIZE = 32
    cfg.DATA.NUM_FRAMES = 4
    node = cfg.TIMESFORMER
    node.PATCH_SIZE, node.EMBED_DIM, node.DEPTH, node.NUM_HEADS = 8, 48, 2, 4
    return cfg


@pytest.mark.parametrize("name", ["TimeSformer", "vit_base_patch16_224"])
def test_build_model(name):
    cfg = small_cfg()
    cfg.MODEL.MODEL_NAME = name
    model = build_model(cfg)
    assert type(model).__name__ == "TimeSformer" and model.num_classes == 6 and len(model.blocks) == 2
    assert build_model(cfg, num_classes=3, depth=1).num_classes == 3


def test_build_model_takes_a_class_that_knows_only_cfg(monkeypatch):
    class TheirModel(torch.nn.Linear):
        def __init__(self, cfg):
            super().__init__(2, cfg.MODEL.NUM_CLASSES)

    monkeypatch.setitem(MODEL_REGISTRY._classes, "TheirModel", TheirModel)
    cfg = small_cfg()
    cfg.MODEL.MODEL_NAME = "TheirModel"
    assert build_model(cfg).out_features == 6
    with pytest.raises(ConfigError, match="TheirModel has no from_config.*num_classes"):
        build_model(cfg, num_classes=3)


def test_an_unknown_model_is_named_with_near_misses():
    cfg = small_cfg()
    cfg.MODEL.MODEL_NAME = "TimeSfomer"
    with pytest.raises(ConfigError, match=r"'TimeSfomer'.*TimeSformer"):
        build_model(cfg)
