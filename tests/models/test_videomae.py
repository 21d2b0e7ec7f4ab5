"""VideoMAE, the classifier, against the authors' numbers (videomae_*), and by laws."""

import math
from types import SimpleNamespace

import pytest
import torch
from timm.models import group_parameters

from dust.models.optimizer import parameter_groups
from dust.models.videomae_vit import VideoMAE, VideoMAEAttention, VideoMAEBlock, sinusoid_table
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.helpers import golden_json, golden_tensors, noise_of, part, randomised

TINY = {
    "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 8, "num_classes": 7,
    "init_scale": 1.0,
}  # fmt: skip


def tiny(**arguments):
    torch.manual_seed(0)
    return randomised(VideoMAE(**{**TINY, **arguments})).eval()


# ---------------------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("case", ["videomae_ft_a", "videomae_ft_b"])
def test_golden(case):
    facts, tensors = golden_tensors(case)
    model = VideoMAE(**facts["args"]).eval()
    model.load_state_dict(part(tensors, "weight"), strict=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)
    features = model.forward_head(model.forward_features(tensors["input"]), pre_logits=True)
    torch.testing.assert_close(features, tensors["features"], atol=1e-4, rtol=0)


def test_golden_parameter_groups():
    facts = golden_json("videomae_cast_param_groups")
    model = tiny(depth=facts["depth"])
    groups = parameter_groups(
        model, weight_decay=facts["weight_decay"], zero_wd_1d=True, layer_decay=facts["layer_decay"]
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert ours == {name: (group["lr_scale"], group["weight_decay"]) for name, group in facts["videomae"].items()}


@pytest.mark.parametrize(
    ("sizes", "classes", "count"),
    [
        ({"embed_dim": 384, "num_heads": 6}, 400, 22.0e6),
        ({}, 174, 86_361_006),
        ({}, 400, 86.5e6),
        ({"embed_dim": 1024, "depth": 24, "num_heads": 16}, 400, 304.3e6),
        ({"embed_dim": 1280, "depth": 32, "num_heads": 16}, 400, 632.1e6),
    ],
)
def test_sizes_of_the_published_models(sizes, classes, count):
    with torch.device("meta"):
        model = VideoMAE(num_classes=classes, **sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        count, abs=0 if isinstance(count, int) else 0.05e6
    )


# ------------------------------------------------------------------------------------------------ laws of the parts


def test_sinusoid_table_is_the_formula():
    table = sinusoid_table(5, 6)
    assert table.shape == (1, 5, 6) and table.dtype == torch.float32
    for position in range(5):
        for channel in range(6):
            angle = position / 10000 ** (2 * (channel // 2) / 6)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[0, position, channel].item() == pytest.approx(expected, abs=1e-7)


def test_attention_equals_the_formula():
    attention = randomised(VideoMAEAttention(12, 3, qkv_bias=True)).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    bias = torch.cat([attention.q_bias, torch.zeros(12).double(), attention.v_bias])
    q, k, v = (x @ attention.qkv.weight.T + bias).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 2.0).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(attention(x), expected)


def test_token_order_is_time_then_row_then_column():
    model = tiny()
    model.blocks = torch.nn.ModuleList()
    video = noise_of(1, 3, 8, 32, 32)
    token = model.patch_embed.proj(video[:, :, 4:6, 8:16, 24:32]).flatten()
    number = 2 * 16 + 1 * 4 + 3
    expected = token + sinusoid_table(number + 1, 48)[0, number]
    torch.testing.assert_close(model.forward_features(video)[0, number], expected)


def test_layer_scale_of_zero_closes_a_block():
    block = VideoMAEBlock(8, 2, init_values=0.5)
    assert (block.gamma_1 == 0.5).all() and (block.gamma_2 == 0.5).all()
    torch.nn.init.zeros_(block.gamma_1), torch.nn.init.zeros_(block.gamma_2)
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x), x)


def test_without_mean_pooling_the_first_token_is_the_feature():
    model = tiny(use_mean_pooling=False)
    assert "norm.weight" in model.state_dict() and "fc_norm.weight" not in model.state_dict()
    tokens = model.forward_features(noise_of(2, 3, 8, 32, 32))
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, 0])


# ------------------------------------------------------------------------------------------ other shapes, switches


@pytest.mark.parametrize(("frames", "size"), [(2, 32), (12, 32), (8, (40, 24)), (4, 16)])
def test_another_size_in_forward_is_a_model_of_that_size(frames, size):
    height, width = (size, size) if isinstance(size, int) else size
    video = noise_of(2, 3, frames, height, width)
    logits = tiny()(video)
    torch.testing.assert_close(logits, tiny(all_frames=frames, img_size=size)(video))
    still = video[:, :, :1].expand_as(video)
    assert (tiny()(still) - logits).abs().max() > 1e-3


def test_initialisation():
    torch.manual_seed(0)
    model = VideoMAE(**{**TINY, "embed_dim": 192, "init_scale": 0.001})
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            assert not parameter.any(), name
    rates = [block.drop_path.rate for block in VideoMAE(**{**TINY, "depth": 5, "drop_path_rate": 0.2}).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_a_reset_head_is_scaled_too():
    model = VideoMAE(**{**TINY, "init_scale": 0.001}).double()
    model.reset_classifier(500)
    assert model.head.weight.dtype == torch.float64
    assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    model.reset_classifier(0)
    assert model(noise_of(1, 3, 8, 32, 32).double()).shape == (1, 48)


def test_dropout_works_in_training_only():
    model = tiny(drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3, fc_drop_rate=0.3)
    video = noise_of(2, 3, 8, 32, 32)
    assert torch.equal(model(video), model(video))
    model.train()
    assert not torch.equal(model(video), model(video))


def test_layers_for_layer_decay():
    layers = group_parameters(tiny(), tiny().group_matcher(), reverse=True)
    assert {name: layer for name, layer in layers.items() if not name.startswith("blocks.")} == {
        "patch_embed.proj.weight": 0, "patch_embed.proj.bias": 0,
        "fc_norm.weight": 3, "fc_norm.bias": 3, "head.weight": 3, "head.bias": 3,
    }  # fmt: skip
    assert all(layer == int(name.split(".")[1]) + 1 for name, layer in layers.items() if name.startswith("blocks."))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"embed_dim": 50}, "embed_dim 50 is not a multiple of num_heads 4"),
        ({"img_size": (32, 30)}, "image width 30 is not a multiple of patch_size 8"),
        ({"all_frames": 7, "drop_path_rate": 1.0}, "drop_path_rate is 1.0.*frames 7 is not a multiple of tubelet"),
        ({"tubelet_size": 0, "depth": -1, "num_heads": 0}, "depth is -1.*tubelet_size is 0.*num_heads is 0"),
        ({"num_classes": -2, "fc_drop_rate": -0.1}, "num_classes is -2.*fc_drop_rate is -0.1"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_named_all_at_once(arguments, words):
    with pytest.raises(ConfigError, match=words):
        VideoMAE(**{**TINY, **arguments})


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (torch.zeros(3, 8, 32, 32), r"\(3, 8, 32, 32\).*five dimensions"),
        (torch.zeros(1, 4, 8, 32, 32), "in_chans=3"),
        (torch.zeros(1, 3, 8, 32, 33), "multiples of patch_size=8"),
        (torch.zeros(1, 3, 7, 32, 32), "multiple of tubelet_size=2"),
        (torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), "uint8.*normalise"),
    ],
)
def test_impossible_video_is_named(video, words):
    with pytest.raises(DustError, match=words):
        tiny()(video)


# --------------------------------------------------------------------------------------------- other files' weights


def hugging_face(state, joint_biases=False):
    """A state dict of the authors' in Hugging Face's names; their newer code has the biases inside query and value."""
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in (
            ("decoder.blocks.", "decoder.decoder_layers."),
            ("encoder.norm.", "videomae.layernorm."),
            ("encoder.blocks.", "videomae.encoder.layer."),
            ("encoder.patch_embed.proj", "videomae.embeddings.patch_embeddings.projection"),
            ("patch_embed.proj", "videomae.embeddings.patch_embeddings.projection"),
            ("attn.proj", "attention.output.dense"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            key = key.replace(ours, theirs)
        key = "videomae.encoder.layer." + key.removeprefix("blocks.") if key.startswith("blocks.") else key
        key = key.replace("head.", "classifier.") if key.startswith("head.") else key
        if key.endswith("attn.qkv.weight"):
            for name, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[key.replace("attn.qkv", f"attention.attention.{name}")] = third
            continue
        for letter, name in {"q": "query", "v": "value"}.items():
            theirs = f"attention.attention.{name}.bias" if joint_biases else f"attention.attention.{letter}_bias"
            key = key.replace(f"attn.{letter}_bias", theirs)
        renamed[key] = tensor
    return renamed


def variants(state):
    yield "bare", state
    yield "model", {"model": state}
    yield "DeepSpeed", {"module": state}
    yield "backbone", {"model": {f"backbone.{key}": value for key, value in state.items()}}
    yield "wrapped", {f"module.{key}": value for key, value in state.items()}
    yield "Hugging Face", hugging_face(state)
    yield "Hugging Face, newer", hugging_face(state, joint_biases=True)
    yield (
        "Hugging Face, the trunk alone",
        {key.removeprefix("videomae."): value for key, value in hugging_face(state).items()},
    )


@pytest.mark.parametrize("layout", [name for name, _ in variants({})])
def test_every_layout_gives_the_authors_numbers(layout):
    facts, tensors = golden_tensors("videomae_ft_a")
    model = VideoMAE(**facts["args"]).eval()
    report = load_weights(model, dict(variants(part(tensors, "weight")))[layout], strict=True)
    assert report.complete
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)


def test_a_joint_bias_of_queries_keys_and_values_is_split():
    stored, model = tiny(), tiny()
    state = stored.state_dict()
    expected = stored(noise_of(1, 3, 8, 32, 32))
    for i in range(2):
        q_bias, v_bias = (state.pop(f"blocks.{i}.attn.{name}_bias") for name in "qv")
        state[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q_bias, torch.randn(48), v_bias])  # the keys' has no effect
    report = load_weights(model, state, strict=True)
    torch.testing.assert_close(model(noise_of(1, 3, 8, 32, 32)), expected)
    assert any("blocks.1.attn.qkv.bias" in note for note in report.notes)


def test_hugging_faces_small_model_warns_of_its_heads(caplog):
    small = {**TINY, "embed_dim": 384, "depth": 1}
    state = hugging_face(VideoMAE(**{**small, "num_heads": 6}).state_dict())
    report = load_weights(VideoMAE(**{**small, "num_heads": 16}), state)
    assert any("num_heads=16" in note and "trained with 6" in note for note in report.notes)
    assert "trained with 6" in caplog.text
    assert not any("heads" in note for note in load_weights(VideoMAE(**{**small, "num_heads": 6}), state).notes)


def test_other_classes_keep_a_fresh_head_and_another_architecture_is_refused():
    stored, model = tiny(num_classes=9), tiny()
    before = model.head.weight.clone()
    report = load_weights(model, stored.state_dict())
    assert report.fresh_head and torch.equal(model.head.weight, before)
    assert torch.equal(model.fc_norm.weight, stored.fc_norm.weight)
    with pytest.raises(CheckpointError, match=r"does not fit VideoMAE.*\(96, 3, 2, 8, 8\) in the file"):
        load_weights(tiny(), tiny(embed_dim=96).state_dict())


def test_from_config_takes_everything_from_where_people_write_it():
    node = SimpleNamespace(
        PATCH_SIZE=8, TUBELET_SIZE=4, EMBED_DIM=48, DEPTH=2, NUM_HEADS=3, MLP_RATIO=2.0, QKV_BIAS=False, DROP_RATE=0.1,
        ATTN_DROP_RATE=0.2, DROP_PATH_RATE=0.3, HEAD_DROP_RATE=0.4, INIT_VALUES=0.5, USE_MEAN_POOLING=False,
        INIT_SCALE=0.0, INIT_STD=0.2,
    )  # fmt: skip
    cfg = SimpleNamespace(
        VIDEOMAE=node,
        DATA=SimpleNamespace(TRAIN_CROP_SIZE=40, NUM_FRAMES=12, INPUT_CHANNEL_NUM=[3]),
        MODEL=SimpleNamespace(NUM_CLASSES=5, ACT_CHECKPOINT=True),
    )
    model = VideoMAE(**VideoMAE.from_config(cfg))
    assert model.positions.table.shape == (1, 3 * 25, 48) and model.num_classes == 5 and model.num_heads == 3
    block = model.blocks[1]
    assert block.attn.q_bias is None and block.gamma_1[0] == 0.5 and block.mlp.fc1.out_features == 96
    assert (model.pos_drop.p, block.attn.attn_drop, block.drop_path.rate, model.fc_dropout.p) == (0.1, 0.2, 0.3, 0.4)
    assert model.fc_norm is None and not model.head.weight.any() and model.act_checkpoint
    assert 0.15 < block.attn.qkv.weight.std() < 0.25
