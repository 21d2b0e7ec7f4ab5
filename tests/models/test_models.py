"""What every registered model must do. A model is tested by being registered: a name without a case fails. The laws of
its numbers are in test_laws.py."""

import copy
import re

import pytest
import torch
from timm.models import group_parameters

from dust.config import get_cfg
from dust.models import MODEL_REGISTRY, build_model
from dust.models.protocol import no_weight_decay
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError
from tests.models.small_models import OPTIONAL, OTHERS, SMALL, inputs_of, make

# of CAST's last block only the class tokens of the spatial stream are classified, so what its patches ask is not; so it
# is with MViT's class token, which has no position
WITHOUT_EFFECT = {"CAST": r"blocks\.1\.t2s_cross\.", "MViT": r"blocks\.2\.attn\.(pool_q|rel_pos)"}
NO_EXEMPTIONS = {
    "SlowFast",
    "ResNet",
    "X3D",
    "TorchvisionVideo",
    "HuggingFaceVideo",
    "ClipMoments",
}  # BN.WEIGHT_DECAY says it for their norms


ONE_LAYER = {"SeriesRocket"}  # its classifier

every_model = pytest.mark.parametrize(
    ("name", "arguments", "shapes"),
    [pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(SMALL)],
)


def test_every_registered_model_has_a_case():
    cases = {name for name, _, _ in SMALL + OTHERS} | set(OPTIONAL)
    assert cases == set(MODEL_REGISTRY), "give each a small case in tests/models/small_models.py"


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
    wanted = no_weight_decay(model)
    assert bool(wanted) == (name not in NO_EXEMPTIONS) and wanted <= set(dict(model.named_parameters()))


@every_model
def test_layers_for_layer_decay(name, arguments, shapes):
    model = make(name, arguments)
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert layers.keys() == dict(model.named_parameters()).keys()
    places = {key: place_of(key, model) for key in layers}
    blocks = sorted({place for place in places.values() if place})
    if name in ONE_LAYER:
        assert len(set(layers.values())) == 1
        return
    assert len(blocks) >= 2
    for key, layer in layers.items():
        if places[key]:
            assert layer == blocks.index(places[key]) + 1, key
        elif STEM.match(key):
            assert layer == 0, key
        else:
            assert layer == len(blocks) + 1, key


STEM = re.compile(
    r"(\w+_backbone\.|clip_|encoder\.|network\.vivit\.embeddings\.)?"
    r"(patch_embed|cls_token|pos_embed|time_embed|absolute_pos_embed|class_embedding|(img|video)_mod_embed|positional_embedding|conv1|ln_pre"
    r"|eca|reducer|view_embed|fuse|s1[._]|features\.0\.)"
)


def place_of(key, model):
    """(stage, block) or (block,) of a parameter; what merges patches stands with the last block of its stage."""
    if layer := re.match(r"network\.\w+\.encoder\.layers?\.(\d+)", key):
        return (int(layer[1]),)
    numbers = re.match(r"(?:\w+_backbone\.|encoder\.)?(?:layers\.(\d+)\.|transformer\.res)?blocks\.(\d+)\.", key)
    numbers = numbers or re.match(r"lstm\.\w+_l(\d+)$|(?:s(?!1)|features\.(?=[1-9]))(\d+)", key)
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
