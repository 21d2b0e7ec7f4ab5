"""TimeSformer against the authors' numbers (timesformer_*), against timm's ViT, and by laws."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F

from dust.models.layers import Attention, DropPath
from dust.models.timesformer import DividedBlock, TimeSformer
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors, part, randomised

CASES = [
    f"timesformer_{name}"
    for name in (
        "divst_base", "divst_load_frames_4to8", "divst_load_frames_8to3", "divst_load_img_32to48", "divst_nobias_gray",
        "divst_runtime_frames_4to8", "divst_runtime_img_32to32x48", "divst_runtime_img_32to48", "grad_divst",
        "grad_joint", "grad_space", "joint_base", "joint_load_frames_4to6", "joint_load_img_48to32", "space_base",
        "space_runtime_img_32to16", "vitimage_to_divst", "vitimage_to_joint", "vitimage_to_space",
    )
]  # fmt: skip
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_frames": 4, "num_classes": 7}


def model_of(facts):
    arguments = {key: value for key, value in facts["args"].items() if key not in ("norm_layer", "norm_eps")}
    return TimeSformer(**arguments)


def tiny(**arguments):
    torch.manual_seed(0)
    return TimeSformer(**{**TINY, **arguments}).eval()


# ---------------------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    facts, tensors = golden_tensors(case)
    model = model_of(facts)
    weights = part(tensors, "weight")
    if "load" in case or "vitimage" in case:
        load_weights(model, weights)
        state = model.state_dict()
        loaded = part(tensors, "loaded")
        assert loaded
        for key, value in {**weights, **loaded}.items():
            assert torch.equal(state[key], value), key
    else:
        model.load_state_dict(weights, strict=True)

    blocks = {}
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, inputs, out, number=number: blocks.__setitem__(number, out))
    if "grad" in case:
        logits = model.train()(tensors["input"])
        loss = F.cross_entropy(logits, tensors["labels"])
        loss.backward()
        torch.testing.assert_close(loss, tensors["loss"][0], atol=1e-5, rtol=0)
        gradients = part(tensors, "grad")
        assert gradients.keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=0, msg=name)
    else:
        logits = model.eval()(tensors["input"])
    torch.testing.assert_close(logits, tensors["logits"], atol=1e-4, rtol=0)
    for key, expected in part(tensors, "block_out").items():
        out = blocks[int(key)]
        if isinstance(out, tuple):
            out = torch.cat([out[0], out[1].flatten(1, 2)], dim=1)
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)
    features = model.forward_head(model.forward_features(tensors["input"]), pre_logits=True)
    torch.testing.assert_close(features, tensors["features"], atol=1e-4, rtol=0)

    model.double().eval()
    torch.testing.assert_close(model(tensors["input"].double()), tensors["logits_f64"], atol=1e-9, rtol=0)


def test_sizes_of_the_published_models():
    with torch.device("meta"):
        counts = {
            kind: (sum(p.numel() for p in model.parameters()), len(model.state_dict()))
            for kind in ("divided_space_time", "joint_space_time", "space_only")
            for model in [TimeSformer(attention_type=kind)]
        }
        twelve = sum(p.numel() for p in TimeSformer(num_classes=12).parameters())
    assert counts == {
        "divided_space_time": (121_566_352, 249),
        "joint_space_time": (86_112_400, 153),
        "space_only": (86_106_256, 152),
    }
    assert twelve == 121_267_980


# ------------------------------------------------------------------------------------------------ timm's image ViT


def image_vit():
    torch.manual_seed(3)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=7
    )
    return randomised(vit).eval()


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
def test_equals_timms_image_vit_on_one_frame(kind):
    vit, model = image_vit(), tiny(attention_type=kind, num_frames=1)
    report = load_weights(model, vit.state_dict())
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(image.unsqueeze(2)), vit(image), atol=1e-5, rtol=0)
    assert not report.unexpected and not report.fresh_head


def test_a_new_divided_model_is_the_image_model_on_each_frame():
    vit, model = image_vit(), tiny()
    load_weights(model, vit.state_dict())
    image = torch.randn(2, 3, 32, 32)
    still = image.unsqueeze(2).expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(model(still), vit(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [3, 6])
def test_weights_loaded_for_another_number_of_frames_answer_as_a_model_that_meets_it(frames):
    model, other = randomised(tiny()).eval(), tiny(num_frames=frames)
    load_weights(other, model.state_dict())
    video = torch.randn(2, 3, frames, 32, 32)
    assert not torch.equal(other.time_embed[:, 0], other.time_embed[:, -1])
    torch.testing.assert_close(other(video), model(video), atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------------------- initialisation


def test_initialisation():
    model = tiny(embed_dim=192)
    for block in model.blocks:
        assert not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any()
    assert not model.time_embed.any()
    assert (model.norm.weight == 1).all() and not model.norm.bias.any() and not model.head.bias.any()
    for weights in (model.pos_embed, model.blocks[0].attn.qkv.weight, model.blocks[1].mlp.fc2.weight):
        assert weights.std().item() == pytest.approx(0.02, rel=0.1)
    limit = (3 * 8 * 8) ** -0.5  # torch's own rule for convolutions
    assert model.patch_embed.proj.weight.abs().max() <= limit
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)


def test_drop_path_rates_rise_linearly_and_belong_to_a_block():
    model = tiny(depth=12, drop_path_rate=0.1)
    rates = [block.drop_path.rate for block in model.blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])
    assert tiny(depth=1).blocks[0].drop_path.rate == 0


def test_drop_path_drops_whole_items_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop.train()(torch.ones(4000, 3, 2)).flatten(1)
    assert (out == out[:, :1]).all()
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(torch.ones(5, 3)), torch.ones(5, 3))


def test_drop_path_never_drops_the_bias_of_temporal_fc():
    block = DividedBlock(8, 2, mlp_ratio=2, qkv_bias=True, drop=0.0, attn_drop=0.0, drop_path=1 - 1e-9).train()
    torch.nn.init.normal_(block.temporal_fc.bias)
    cls, patches = torch.randn(2, 1, 8), torch.randn(2, 4, 3, 8)
    cls_out, patches_out = block(cls, patches)  # everything is dropped but that bias
    torch.testing.assert_close(cls_out, cls)
    torch.testing.assert_close(patches_out, patches + block.temporal_fc.bias)


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    attention = Attention(12, 3, qkv_bias=True).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = attention.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 2.0).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(attention(x), expected)


def test_dropout_works_in_training_only():
    model = randomised(tiny(drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3))
    video = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(model(video), model(video))
    model.train()
    assert not torch.equal(model(video), model(video))


# ------------------------------------------------------------------------------------------- other shapes, switches


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (2, 3, 9, 32, 32), (1, 3, 4, 8, 64), (1, 3, 2, 40, 8)])
def test_any_frame_count_and_image_size_in_forward(kind, shape):
    logits = tiny(attention_type=kind)(torch.randn(shape))
    assert logits.shape == (shape[0], 7) and logits.isfinite().all()


def test_an_oblong_model():
    model = tiny(img_size=(32, 48))
    assert model.pos_embed.shape == (1, 1 + 4 * 6, 48)
    assert model(torch.randn(1, 3, 4, 32, 48)).shape == (1, 7)
    assert model(torch.randn(1, 3, 4, 64, 48)).shape == (1, 7)


def test_an_empty_batch():
    model = tiny().train()
    logits = model(torch.empty(0, 3, 4, 32, 32))
    assert logits.shape == (0, 7)
    logits.sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_token_order_is_class_then_place_then_time():
    model = tiny()
    model.norm = torch.nn.Identity()
    model.blocks = torch.nn.ModuleList()
    torch.nn.init.normal_(model.time_embed)
    video = torch.randn(1, 3, 4, 32, 32)
    tokens = model.forward_features(video)
    n, t = 6, 2  # row 1, column 2 of the 4x4 grid; third frame
    patch = video[:, :, t, 8:16, 16:24]
    expected = model.patch_embed.proj(patch).flatten() + model.pos_embed[0, 1 + n] + model.time_embed[0, t]
    torch.testing.assert_close(tokens[0, 1 + n * 4 + t], expected)
    torch.testing.assert_close(tokens[0, 0], model.cls_token[0, 0] + model.pos_embed[0, 0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attention_type": "divided"}, "'divided'"),
        ({"embed_dim": 50}, "50 is not a multiple of num_heads 4"),
        ({"img_size": 30}, "30x30"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        ({"num_frames": 0, "depth": -1, "num_heads": 0}, "num_frames is 0.*depth is -1.*num_heads is 0"),
        ({"num_classes": -2}, "num_classes is -2"),
        ({"pos_embed_resize": "cubic"}, "'cubic'"),
        ({"img_size": (32, 36), "pos_embed_resize": "x"}, "'x'.*32x36"),
    ],
)
def test_impossible_arguments_are_named_all_at_once(arguments, words):
    with pytest.raises(ConfigError, match=words):
        TimeSformer(**{**TINY, **arguments})


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (torch.zeros(3, 4, 32, 32), r"\(3, 4, 32, 32\).*five dimensions"),
        (torch.zeros(1, 4, 3, 32, 32), "in_chans=3"),
        (torch.zeros(1, 3, 4, 32, 33), "multiples of patch_size=8"),
        (torch.zeros(1, 3, 0, 32, 32), "multiples"),
        (torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8), "uint8.*normalise"),
    ],
)
def test_impossible_video_is_named(video, words):
    with pytest.raises(DustError, match=words):
        tiny()(video)


def test_from_config_takes_everything_from_where_people_write_it():
    node = SimpleNamespace(
        ATTENTION_TYPE="joint_space_time", PATCH_SIZE=8, EMBED_DIM=48, DEPTH=2, NUM_HEADS=4, MLP_RATIO=2.0,
        QKV_BIAS=False, DROP_RATE=0.1, ATTN_DROP_RATE=0.2, DROP_PATH_RATE=0.3,
        INIT_STD=0.2, TIME_EMBED_STD=1.0,
    )  # fmt: skip
    cfg = SimpleNamespace(
        TIMESFORMER=node,
        DATA=SimpleNamespace(TRAIN_CROP_SIZE=40, NUM_FRAMES=6, INPUT_CHANNEL_NUM=[3]),
        MODEL=SimpleNamespace(NUM_CLASSES=5, ACT_CHECKPOINT=True, POS_EMBED_RESIZE="bicubic"),
    )
    model = TimeSformer(**TimeSformer.from_config(cfg))
    assert (model.grid, model.num_frames, model.num_classes) == ((5, 5), 6, 5)
    assert model.act_checkpoint and model.pos_embed_resize == "bicubic"
    assert 0.8 < model.time_embed.std() < 1.2 and 0.15 < model.blocks[0].attn.qkv.weight.std() < 0.25
    assert model.blocks[1].drop_path.rate == 0.3 and model.blocks[0].attn.attn_drop == 0.2
    assert model.blocks[0].attn.qkv.bias is None and model.blocks[0].mlp.fc1.out_features == 96
