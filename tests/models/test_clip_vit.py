"""CLIP's visual transformer against the authors' numbers (clip_visual_*), timm's model, and by laws."""

from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters

from dust.models.clip_vit import CLIPAttention, CLIPVisual
from dust.models.layers.frozen import quick_gelu
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.helpers import golden_tensors, noise_of, part, randomised

TINY = {"input_resolution": 32, "patch_size": 8, "width": 48, "layers": 2, "heads": 4, "output_dim": 20}
CASES = ["clip_visual_a", "clip_visual_b"]


def tiny(**arguments):
    torch.manual_seed(0)
    return randomised(CLIPVisual(**{**TINY, **arguments}))


# ---------------------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    facts, tensors = golden_tensors(case)
    weights = part(tensors, "weight")
    model = CLIPVisual(**facts["args"]).eval()
    model.load_state_dict(weights, strict=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]
    torch.testing.assert_close(model(tensors["input"]), tensors["features"], atol=1e-4, rtol=0)
    tokens = model.forward_features(tensors["input"])
    torch.testing.assert_close(model.pool(tokens), tensors["features_noproj"], atol=1e-4, rtol=0)

    without = CLIPVisual(**{**facts["args"], "output_dim": 0}).eval()
    report = load_weights(without, weights, strict=True)
    assert any("no projection" in note for note in report.notes)
    torch.testing.assert_close(without(tensors["input"]), tensors["features_noproj"], atol=1e-4, rtol=0)


def test_size_of_the_published_model():
    with torch.device("meta"):
        model = CLIPVisual()
    state = model.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 86_192_640
    assert state["positional_embedding"].shape == (197, 768) and state["proj"].shape == (768, 512)
    assert state["transformer.resblocks.11.attn.in_proj_weight"].shape == (2304, 768)


def test_quick_gelu_and_its_gradient():
    x = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    expected = x * torch.sigmoid(1.702 * x)
    torch.testing.assert_close(quick_gelu(x), expected)
    (ours,), (theirs,) = (torch.autograd.grad(y.sum(), x) for y in (quick_gelu(x), expected))
    torch.testing.assert_close(ours, theirs)
    assert (quick_gelu(x) - F.gelu(x)).abs().max() > 0.01


def test_attention_equals_torchs():
    ours, theirs = randomised(CLIPAttention(12, 3)), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = noise_of(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


# ---------------------------------------------------------------------------------------------- video, sizes, switches


def test_a_video_is_the_mean_of_its_frames_class_tokens():
    model, video = tiny(), noise_of(2, 3, 4, 32, 32)
    frames = [model.forward_features(video[:, :, t])[:, 0, 0] for t in range(4)]
    torch.testing.assert_close(model(video), model.ln_post(torch.stack(frames).mean(dim=0)) @ model.proj)
    still = video[:, :, :1]
    torch.testing.assert_close(model(still.expand(-1, -1, 3, -1, -1)), model(still[:, :, 0]))
    assert model.forward_features(video).shape == (2, 4, 17, 48)


def test_a_classifier_on_the_embedding():
    model, video = tiny(num_classes=7, drop_rate=0.4, drop_path_rate=0.4), noise_of(2, 3, 2, 32, 32)
    tokens = model.forward_features(video)
    embedding = model.forward_head(tokens, pre_logits=True)
    assert embedding.shape == (2, model.num_features) == (2, 20)
    torch.testing.assert_close(model(video), embedding @ model.head.weight.T + model.head.bias)
    assert not torch.equal(model.train()(video), model(video))
    model.reset_classifier(0)
    assert torch.equal(model.eval()(video), embedding)
    assert tiny(output_dim=0, num_classes=7).head.weight.shape == (7, 48)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (16, 40)])
def test_another_size_resizes_the_positions(height, width):
    model = tiny()
    images = noise_of(2, 3, height, width)
    other = tiny(input_resolution=(height, width))
    report = load_weights(other, model.state_dict(), strict=True)
    assert any(f"4x4 -> {height // 8}x{width // 8}" in note for note in report.notes)
    torch.testing.assert_close(model(images), other(images))
    assert torch.equal(other.positional_embedding[0], model.positional_embedding[0])


def test_an_empty_batch():
    assert tiny(num_classes=7)(torch.empty(0, 3, 4, 32, 32)).shape == (0, 7)


def test_layers_for_layer_decay():
    layers = group_parameters(tiny(num_classes=3), tiny().group_matcher(), reverse=True)
    for name, layer in layers.items():
        if name.startswith("transformer."):
            assert layer == int(name.split(".")[2]) + 1, name
        elif name.startswith(("class_", "positional_", "conv1", "ln_pre")):
            assert layer == 0, name
        else:
            assert layer == 3, name


# --------------------------------------------------------------------------------------------- other files' weights


def openai(state):
    """The whole CLIP, half precision where OpenAI's file has it."""
    half = {
        key: tensor.half() if "ln_" not in key and "embedding" not in key else tensor for key, tensor in state.items()
    }
    text = {
        "text_projection": torch.zeros(4, 4),
        "logit_scale": torch.zeros(()),
        "positional_embedding": torch.zeros(77, 4),
    }
    return {**{f"visual.{key}": tensor for key, tensor in half.items()}, **text, "input_resolution": torch.tensor(32)}


def hugging_face(state, prefix="vision_model."):
    renamed = {"text_model.final_layer_norm.weight": torch.zeros(3), "logit_scale": torch.zeros(())}
    for key, tensor in state.items():
        if key == "proj":
            renamed["visual_projection.weight"] = tensor.T
            continue
        for ours, theirs in (
            ("conv1.", "embeddings.patch_embedding."),
            ("class_embedding", "embeddings.class_embedding"),
            ("positional_embedding", "embeddings.position_embedding.weight"),
            ("ln_pre.", "pre_layrnorm."),
            ("ln_post.", "post_layernorm."),
            ("transformer.resblocks.", "encoder.layers."),
            (".ln_", ".layer_norm"),
            ("attn.out_proj", "self_attn.out_proj"),
            ("c_fc", "fc1"),
            ("c_proj", "fc2"),
        ):
            key = key.replace(ours, theirs)
        if "attn.in_proj_" in key:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[prefix + key.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = third
        else:
            renamed[prefix + key] = tensor
    return renamed


@pytest.mark.parametrize("layout", [openai, hugging_face, lambda state: hugging_face(state, prefix="")])
@pytest.mark.parametrize("case", CASES)
def test_every_layout_gives_the_authors_numbers(case, layout):
    facts, tensors = golden_tensors(case)
    model = CLIPVisual(**facts["args"]).eval()
    report = load_weights(model, layout(part(tensors, "weight")), strict=True)
    assert any("not the visual tower's" in note for note in report.notes)
    tolerance = 2e-2 if layout is openai else 1e-4
    torch.testing.assert_close(model(tensors["input"]), tensors["features"], atol=tolerance, rtol=tolerance)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def timms(num_classes=20, **arguments):
    torch.manual_seed(3)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=num_classes, pre_norm=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5), act_layer=timm.layers.get_act_layer("quick_gelu"),
        **arguments,
    )  # fmt: skip
    return randomised(model)


def test_equals_timms_model():
    vit, model, images = timms(), tiny(), noise_of(2, 3, 32, 32)
    torch.nn.init.zeros_(vit.head.bias)
    load_weights(model, vit.state_dict(), strict=True)
    torch.testing.assert_close(model(images), vit(images), atol=1e-5, rtol=1e-5)


def test_timms_classifier_becomes_ours():
    vit, model, images = timms(num_classes=7), tiny(output_dim=0, num_classes=7), noise_of(2, 3, 32, 32)
    load_weights(model, vit.state_dict(), strict=True)
    torch.testing.assert_close(model(images), vit(images), atol=1e-5, rtol=1e-5)


def test_another_architecture_is_refused_and_a_projection_of_another_width_is_named():
    with pytest.raises(CheckpointError, match=r"does not fit CLIPVisual.*\(96, 3, 8, 8\) in the file"):
        load_weights(tiny(), tiny(width=96).state_dict())
    report = load_weights(tiny(), tiny(output_dim=24).state_dict())
    assert report.misshapen == [("proj", (48, 24), (48, 20))]


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 50}, "width 50 is not a multiple of heads 4"),
        ({"input_resolution": (32, 30), "layers": 0}, "layers is 0.*image width 30 is not a multiple of patch_size 8"),
        ({"drop_rate": 1.0, "output_dim": -1}, "output_dim is -1.*drop_rate is 1.0"),
    ],
)
def test_impossible_arguments_are_named_all_at_once(arguments, words):
    with pytest.raises(ConfigError, match=words):
        tiny(**arguments)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (torch.zeros(3, 32, 32), "five dimensions"),
        (torch.zeros(1, 1, 32, 32), "in_chans=3"),
        (torch.zeros(1, 3, 2, 32, 33), "multiples of patch_size=8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8.*normalise"),
    ],
)
def test_impossible_video_is_named(video, words):
    with pytest.raises(DustError, match=words):
        tiny()(video)


def test_from_config_takes_everything_from_where_people_write_it():
    node = SimpleNamespace(
        PATCH_SIZE=8, WIDTH=48, LAYERS=3, HEADS=3, OUTPUT_DIM=0, HEAD_DROP_RATE=0.1, DROP_PATH_RATE=0.2, INIT_SCALE=0.0,
        ACTIVATION="gelu",
    )  # fmt: skip
    cfg = SimpleNamespace(
        CLIP=node,
        DATA=SimpleNamespace(TRAIN_CROP_SIZE=40, INPUT_CHANNEL_NUM=[3]),
        MODEL=SimpleNamespace(NUM_CLASSES=5, ACT_CHECKPOINT=True),
    )
    model = CLIPVisual(**CLIPVisual.from_config(cfg))
    assert model.grid == (5, 5) and len(model.blocks) == 3 and model.blocks[0].attn.num_heads == 3
    assert {block.mlp.activation for block in model.blocks} == {"gelu"}
    assert model.proj is None and model.head.weight.shape == (5, 48) and not model.head.weight.any()
    assert (model.head_dropout.p, model.blocks[2].drop_path.rate, model.act_checkpoint) == (0.1, 0.2, True)
