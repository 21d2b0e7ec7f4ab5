"""Other people's weight files in a TimeSformer: Hugging Face's, timm's and DeiT's layouts, other sizes, other heads."""

import math

import pytest
import torch
from safetensors.torch import save_file

from dust.models.timesformer import TimeSformer
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError
from tests.helpers import golden_tensors, part, randomised
from tests.models.test_timesformer import image_vit, model_of, tiny

HUGGING_FACE = {
    "cls_token": "timesformer.embeddings.cls_token",
    "pos_embed": "timesformer.embeddings.position_embeddings",
    "time_embed": "timesformer.embeddings.time_embeddings",
    "patch_embed.proj.weight": "timesformer.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "timesformer.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "timesformer.layernorm.weight",
    "norm.bias": "timesformer.layernorm.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
}
HUGGING_FACE_BLOCK = {
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def as_hugging_face(weights):
    renamed = {}
    for key, value in weights.items():
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            module, kind = rest.rsplit(".", 1)
            renamed[f"timesformer.encoder.layer.{number}.{HUGGING_FACE_BLOCK[module]}.{kind}"] = value
        else:
            renamed[HUGGING_FACE[key]] = value
    return renamed


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["timesformer.", ""])
def test_hugging_faces_layout(tmp_path, name, prefix):
    facts, tensors = golden_tensors("timesformer_grad_divst")
    weights = as_hugging_face(part(tensors, "weight"))
    weights = {key.replace("timesformer.", prefix): value for key, value in weights.items()}
    save_file(weights, tmp_path / name) if name.endswith("safetensors") else torch.save(weights, tmp_path / name)
    model = model_of(facts).eval()
    report = load_weights(model, tmp_path / name, strict=True)
    assert report.complete and any("Hugging Face" in note for note in report.notes)
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)


def test_pretrained_model_argument_loads_an_official_file(tmp_path):
    facts, tensors = golden_tensors("timesformer_grad_divst")
    state = {"model." + key: value for key, value in part(tensors, "weight").items()}
    torch.save({"epoch": 14, "model_state": state, "cfg": "A: 1", "optimizer_state": {}}, tmp_path / "official.pyth")
    arguments = {key: value for key, value in facts["args"].items() if key not in ("norm_layer", "norm_eps")}
    model = TimeSformer(**arguments, pretrained_model=str(tmp_path / "official.pyth")).eval()
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)


def test_distilled_deit_loses_its_token_position_and_head():
    vit, model = image_vit(), tiny(attention_type="space_only")
    weights = dict(vit.state_dict())
    extra = {
        "dist_token": torch.randn(1, 1, 48),
        "head_dist.weight": torch.randn(7, 48),
        "head_dist.bias": torch.randn(7),
    }
    pos = weights["pos_embed"]
    weights["pos_embed"] = torch.cat([pos[:, :1], torch.full((1, 1, 48), 9.0), pos[:, 1:]], dim=1)
    report = load_weights(model, {"model": {**weights, **extra}}, strict=True)
    assert torch.equal(model.pos_embed, pos)
    assert any("dist_token" in note and "head_dist.weight" in note for note in report.notes)


def test_patch_weights_flat_grey_and_more_channels():
    weights = dict(image_vit().state_dict())
    kernel = weights["patch_embed.proj.weight"]
    flat = {**weights, "patch_embed.proj.weight": kernel.flatten(1)}
    model = tiny(attention_type="space_only")
    load_weights(model, flat, strict=True)
    assert torch.equal(model.patch_embed.proj.weight, kernel)

    grey = tiny(attention_type="space_only", in_chans=1)
    load_weights(grey, flat, strict=True)
    torch.testing.assert_close(grey.patch_embed.proj.weight, kernel[:, :1] + kernel[:, 1:2] + kernel[:, 2:])

    five = tiny(attention_type="space_only", in_chans=5)
    report = load_weights(five, weights, strict=True)
    torch.testing.assert_close(five.patch_embed.proj.weight, kernel[:, [0, 1, 2, 0, 1]] * 0.6)
    assert any("3/5" in note for note in report.notes)


def test_the_official_rule_is_nearest_along_the_sequence():
    stored = tiny(img_size=32)
    model = tiny(img_size=48)
    report = load_weights(model, stored.state_dict())
    expected = [stored.pos_embed[0, 1 + i * 16 // 36] for i in range(36)]
    assert torch.equal(model.pos_embed[0, 1:], torch.stack(expected))
    assert torch.equal(model.pos_embed[0, 0], stored.pos_embed[0, 0])
    assert any("16 -> 36 patch positions by rule official" in note for note in report.notes)


def cubic_matrix(old, new):
    """(new, old) weights of cubic convolution with a = -0.75, pixel centres at half-integers, borders repeated."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            d = abs(centre - j)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(j, 0), old - 1)] += near if d <= 1 else far
    return weights


def test_the_bicubic_rule_treats_positions_as_a_picture():
    stored, model = tiny(img_size=64), tiny(img_size=(128, 48))
    report = load_weights(model, stored.state_dict(), pos_embed_resize="bicubic")
    picture = stored.pos_embed[0, 1:].double().view(8, 8, 48)
    expected = torch.einsum("ij,jkc,lk->ilc", cubic_matrix(8, 16), picture, cubic_matrix(8, 6))
    torch.testing.assert_close(model.pos_embed[0, 1:].double(), expected.flatten(0, 1), atol=1e-6, rtol=0)
    assert any("rule bicubic" in note and "8x8 -> 16x6" in note for note in report.notes)

    by_argument = tiny(img_size=(128, 48), pos_embed_resize="bicubic")
    load_weights(by_argument, stored.state_dict())
    assert torch.equal(by_argument.pos_embed, model.pos_embed)
    official = tiny(img_size=(128, 48))
    load_weights(official, stored.state_dict())
    assert not torch.allclose(official.pos_embed, model.pos_embed, atol=1e-3)


def test_the_position_rule_is_named_even_where_nothing_is_resized():
    report = load_weights(tiny(), tiny().state_dict())
    assert any("pos_embed" in note and "official" in note for note in report.notes)


def test_impossible_position_rules():
    with pytest.raises(ConfigError, match="'nearest'"):
        load_weights(tiny(), tiny().state_dict(), pos_embed_resize="nearest")
    with pytest.raises(CheckpointError, match="24 patch positions.*not a square"):
        load_weights(tiny(), tiny(img_size=(32, 48)).state_dict(), pos_embed_resize="bicubic")


@pytest.mark.parametrize("frames", [1, 3, 4, 16, 96])
def test_time_embeddings_for_any_frame_count(frames):
    stored = randomised(tiny())
    model = tiny(num_frames=frames)
    load_weights(model, stored.state_dict(), strict=True)
    expected = torch.stack([stored.time_embed[0, i * 4 // frames] for i in range(frames)])
    assert torch.equal(model.time_embed[0], expected)


def test_another_class_count_keeps_a_fresh_head_and_says_so():
    stored, model = randomised(tiny()), tiny(num_classes=12)
    before = model.head.weight.clone()
    report = load_weights(model, stored.state_dict())
    assert ("head.weight", (7, 48), (12, 48)) in report.misshapen
    assert report.fresh_head and not report.complete and "head" in str(report)
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.norm.weight, stored.norm.weight)


def test_joint_weights_into_a_divided_model_give_temporal_twins():
    stored, model = randomised(tiny(attention_type="joint_space_time")), tiny()
    report = load_weights(model, stored.state_dict())
    assert torch.equal(model.blocks[1].temporal_attn.qkv.weight, stored.blocks[1].attn.qkv.weight)
    assert set(report.missing) == {f"blocks.{i}.temporal_fc.{kind}" for i in range(2) for kind in ("weight", "bias")}


def test_loading_leaves_the_callers_dictionary_alone():
    weights = dict(image_vit().state_dict())
    keys, pos = list(weights), weights["pos_embed"]
    load_weights(tiny(img_size=48), weights)
    assert list(weights) == keys and weights["pos_embed"] is pos
