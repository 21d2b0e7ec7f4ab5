"""Every variant of the layouts that dust reads: loaded right, so that answers are the source's, or refused by name.

What no tensor shows (activation, heads, epsilon, pooling without a norm, where a block's norms stand) is said in the
report, and compared where a folder's configuration says it (tests/utils/checkpoint/test_hub.py).
"""

from functools import partial

import pytest
import timm
import timm.models.vision_transformer as timm_vit
import torch
import torchvision

from dust.models.cast import CAST
from dust.models.cast_weights import frozen_sha256, load_experts
from dust.models.clip_vit import CLIPVisual
from dust.models.keystep import TemporalEncoder
from dust.models.series_swin import SeriesSwin
from dust.models.slowfast import ResNet, SlowFast
from dust.models.timesformer import TimeSformer
from dust.models.torchvision_video import TorchvisionVideo
from dust.models.video_swin import VideoSwin
from dust.models.videomae_pretrain import VideoMAEPretrain
from dust.models.videomae_vit import VideoMAE
from dust.models.vjepa2 import VJEPA2
from dust.models.x3d import X3D
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError
from tests.helpers import noise_of, randomised
from tests.models.test_clip_vit import hugging_face as clip_hugging_face
from tests.models.test_clip_vit import openai
from tests.models.test_timesformer_weights import as_hugging_face
from tests.models.test_videomae_pretrain import PRETRAIN

IMAGES = noise_of(2, 3, 32, 32)
VIDEO = noise_of(2, 3, 4, 32, 32)
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7}


def changed(model, **tensors):
    """The state of ``model`` with other tensors; None takes one away."""
    state = {**model.state_dict(), **tensors}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


def refused(model, state, words):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"(?s)state dict: .*{type(model).__name__}.*{words}"):
        load_weights(model, state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# ---------------------------------------------------------------------------------- timm's image ViTs in a TimeSformer

RIGHT = ""  # equal logits
TIMM = {
    "plain": ({}, RIGHT),
    "no_embed_class": ({"no_embed_class": True}, RIGHT),
    "dynamic size": ({"dynamic_img_size": True}, RIGHT),
    "no qkv_bias": ({"qkv_bias": False}, RIGHT),
    "no proj_bias": ({"proj_bias": False}, RIGHT),
    "register tokens": ({"reg_tokens": 4}, r"reg_token \(register tokens\)"),
    "registers without positions": ({"reg_tokens": 4, "no_embed_class": True}, "register tokens"),
    "layer scale": ({"init_values": 0.01}, r"blocks\.0\.ls1\.gamma.*layer scale"),
    "qk_norm": ({"qk_norm": True}, r"q_norm.*qk_norm"),
    "norm in attention": ({"scale_attn_norm": True}, r"attn\.norm"),
    "norm in the MLP": ({"scale_mlp_norm": True}, r"mlp\.norm"),
    "no class token": ({"class_token": False, "global_pool": "avg"}, "no cls_token"),
    "mean pooling": ({"global_pool": "avg"}, "fc_norm"),
    "fc_norm on the token": ({"fc_norm": True}, "fc_norm"),
    "attention pooling": ({"global_pool": "map"}, "attention pooling"),
    "pre_norm": ({"pre_norm": True}, "norm_pre.*pre_norm"),
    "no positions": ({"pos_embed": "none"}, "no pos_embed"),
    "no last norm": ({"final_norm": False}, r"no norm\.weight"),
    "RMSNorm": ({"norm_layer": timm.layers.RmsNorm}, r"no norm\.bias"),
    "another patch": ({"patch_size": 16}, r"\(48, 3, 16, 16\) in the file.*TIMESFORMER.PATCH_SIZE"),
    "deeper": ({"depth": 3}, r"no place for blocks\.2\."),
    "shallower": ({"depth": 1}, r"no fitting blocks\.1\."),
    "narrower MLP": ({"mlp_ratio": 3.0}, r"blocks\.0\.mlp\.fc1"),
    "SwiGLU": ({"mlp_layer": timm.layers.SwiGLU}, "fc1_g"),
    "packed SwiGLU": ({"mlp_layer": timm.layers.SwiGLUPacked}, r"mlp\.fc2"),
    "parallel blocks": ({"block_fn": timm_vit.ParallelScalingBlock}, "of the model's parameters would come"),
    "two channels": ({"in_chans": 2}, r"\(48, 2, 8, 8\) in the file"),
}


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("variant", TIMM)
def test_timms_vits(variant, kind):
    arguments, words = TIMM[variant]
    try:
        vit = randomised(timm_vit.VisionTransformer(**{**VIT, **arguments}))
    except TypeError as error:
        pytest.skip(f"this timm has no such variant: {error}")
    model = TimeSformer(**VIT, num_frames=1, attention_type=kind).eval()
    if words:
        refused(model, vit.state_dict(), words)
        return
    load_weights(model, vit.state_dict())
    torch.testing.assert_close(model(IMAGES.unsqueeze(2)), vit(IMAGES), atol=1e-5, rtol=1e-5)


def test_a_head_behind_pre_logits_is_not_taken():
    vit = randomised(timm_vit.VisionTransformer(**VIT))
    model = TimeSformer(**VIT, num_frames=1, attention_type="space_only").eval()
    head = model.head.weight.clone()
    report = load_weights(model, changed(vit, **{"pre_logits.fc.weight": torch.ones(48, 48)}))
    assert report.fresh_head and torch.equal(model.head.weight, head) and any("pre_logits" in n for n in report.notes)
    tokens = model.forward_head(model.forward_features(IMAGES.unsqueeze(2)), pre_logits=True)
    torch.testing.assert_close(tokens, vit.forward_features(IMAGES)[:, 0], atol=1e-5, rtol=1e-5)


def test_positions_that_may_have_a_class_token_or_not():
    model = TimeSformer(**VIT, num_frames=1, attention_type="space_only")
    refused(model, changed(model, pos_embed=torch.ones(1, 25, 48)), "24 patch positions.*25 of patches alone")
    for stored in (17, 10, 65):  # with a class token: 4x4, 3x3, 8x8
        load_weights(model, changed(model, pos_embed=torch.ones(1, stored, 48)), strict=True)


FROM_TO = {
    ("divided_space_time", "joint_space_time"): "attention over time",
    ("divided_space_time", "space_only"): "attention over time",
    ("joint_space_time", "space_only"): r"time_embed \(attention over time",
}


@pytest.mark.parametrize("layout", [dict, as_hugging_face])
@pytest.mark.parametrize(("theirs", "ours"), FROM_TO)
def test_a_file_that_looks_at_time_is_not_cut_to_one_that_does_not(theirs, ours, layout):
    state = TimeSformer(**VIT, num_frames=4, attention_type=theirs).state_dict()
    refused(TimeSformer(**VIT, num_frames=4, attention_type=ours), layout(state), FROM_TO[theirs, ours])


# -------------------------------------------------------------------------------------------------------- VideoMAE

MAE = {**VIT, "all_frames": 4}
VIDEOMAE = {
    "own": ({}, {}, RIGHT),
    "layer scale": ({"init_values": 0.1}, {"init_values": 0.2}, RIGHT),
    "no biases": ({"qkv_bias": False}, {}, RIGHT),
    "no biases in either": ({"qkv_bias": False}, {"qkv_bias": False}, RIGHT),
    "another size and length": ({"img_size": 64, "all_frames": 8}, {}, RIGHT),
    "biases that the model lacks": ({}, {"qkv_bias": False}, "q_bias.*built without"),
    "layer scale that the model lacks": ({"init_values": 0.1}, {}, r"gamma_1.*layer scale"),
    "layer scale that the file lacks": ({}, {"init_values": 0.1}, r"no fitting blocks\.0\.gamma_1"),
    "first token": ({"use_mean_pooling": False}, {}, "USE_MEAN_POOLING False"),
    "mean of tokens": ({}, {"use_mean_pooling": False}, "fc_norm"),
    "tubelets": ({"tubelet_size": 4}, {}, "VIDEOMAE.PATCH_SIZE and TUBELET_SIZE"),
    "deeper": ({"depth": 3}, {}, r"no place for blocks\.2"),
    "shallower": ({"depth": 1}, {}, r"no fitting blocks\.1"),
}


@pytest.mark.parametrize("variant", VIDEOMAE)
def test_videomaes(variant):
    theirs, ours, words = VIDEOMAE[variant]
    source, model = randomised(VideoMAE(**{**MAE, **theirs})), VideoMAE(**{**MAE, **ours}).eval()
    if words:
        refused(model, {"module": source.state_dict()}, words)
        return
    load_weights(model, {"module": source.state_dict()}, strict=True)
    torch.testing.assert_close(model(VIDEO), source(VIDEO), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", (1, 32, 48)),  # learnt positions
        ("cls_token", (1, 1, 48)),  # InternVideo's, UMT's
        ("blocks.0.attn.scale", (4, 1, 1)),  # cosine attention of VideoMAE v2
        ("blocks.0.attn.relative_position_bias_table", (9, 4)),
    ],
)
def test_what_other_vits_of_that_layout_add(name, shape):
    model = VideoMAE(**MAE)
    refused(model, changed(model, **{name: torch.ones(shape)}), f"no place for {name}")
    pretrain = VideoMAEPretrain(**PRETRAIN)
    refused(pretrain, changed(pretrain, **{f"encoder.{name}": torch.ones(shape)}), f"no place for encoder.{name}")


# ------------------------------------------------------------------------------------------------------------ CLIP

CLIP = {"input_resolution": 32, "patch_size": 8, "width": 48, "layers": 2, "heads": 4, "output_dim": 20}
CLIPS = {  # what is in OpenAI's and OpenCLIP's file beside, or instead of, OpenAI's ViT
    "layer scale": ({"transformer.resblocks.0.ls_1.gamma": torch.ones(48)}, "layer scale"),
    "attention pooling": ({"attn_pool.query": torch.ones(1, 48)}, "attention pooling"),
    "scaled heads": ({"transformer.resblocks.1.attn.head_scale": torch.ones(4, 1, 1)}, "head_scale"),
    "norm of queries": ({"transformer.resblocks.1.attn.ln_q.weight": torch.ones(48)}, "ln_q"),
    "no norm before the blocks": ({"ln_pre.weight": None, "ln_pre.bias": None}, r"no ln_pre\.weight"),
    "no class token": ({"class_embedding": None}, "no class_embedding"),
    "no positions": ({"positional_embedding": None}, "no positional_embedding"),
    "no projection": ({"proj": None}, "CLIP.OUTPUT_DIM 0"),
    "bias of the patches": ({"conv1.bias": torch.ones(48)}, r"conv1\.bias"),
    "another patch": ({"conv1.weight": torch.ones(48, 3, 16, 16)}, "CLIP.PATCH_SIZE"),
}


@pytest.mark.parametrize("layout", [openai, dict])
@pytest.mark.parametrize("variant", CLIPS)
def test_clips(variant, layout):
    tensors, words = CLIPS[variant]
    refused(CLIPVisual(**CLIP), layout(changed(randomised(CLIPVisual(**CLIP)), **tensors)), words)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("layout", [openai, clip_hugging_face])
def test_clips_with_either_activation(activation, layout):
    source = randomised(CLIPVisual(**CLIP, activation=activation))
    model = CLIPVisual(**CLIP, activation=activation).eval()
    report = load_weights(model, layout(source.state_dict()), strict=True)
    assert any(f"{activation} and 4 heads are the model's own: no tensor shows" in note for note in report.notes)
    torch.testing.assert_close(model(IMAGES), source(IMAGES), atol=2e-2, rtol=2e-2)  # OpenAI's are float16


TIMM_CLIPS = {
    "plain": ({"pre_norm": True}, RIGHT),
    "no_embed_class": ({"pre_norm": True, "no_embed_class": True}, RIGHT),
    "no qkv_bias": ({"pre_norm": True, "qkv_bias": False}, RIGHT),
    "an image ViT": ({}, r"no ln_pre\.weight.*a plain ViT"),
    "layer scale": ({"pre_norm": True, "init_values": 0.01}, "layer scale"),
    "register tokens": ({"pre_norm": True, "reg_tokens": 2}, "register tokens"),
    "mean pooling": ({"pre_norm": True, "global_pool": "avg"}, "fc_norm"),
}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("variant", TIMM_CLIPS)
def test_timms_clips(variant, activation):
    arguments, words = TIMM_CLIPS[variant]
    act_layer, norm_layer = timm.layers.get_act_layer(activation), partial(torch.nn.LayerNorm, eps=1e-5)
    vit = randomised(timm_vit.VisionTransformer(**VIT, act_layer=act_layer, norm_layer=norm_layer, **arguments))
    model = CLIPVisual(**{**CLIP, "output_dim": 0}, num_classes=7, activation=activation).eval()
    if words:
        refused(model, vit.state_dict(), words)
        return
    load_weights(model, vit.state_dict(), strict=True)
    torch.testing.assert_close(model(IMAGES), vit(IMAGES), atol=1e-5, rtol=1e-5)


def test_experts_of_cast_are_asked_too():
    model = CAST(**MAE)
    before = frozen_sha256(model)
    clip = CLIPVisual(**{**CLIP, "output_dim": 0})
    with pytest.raises(CheckpointError, match="(?s)spatial expert: .*layer scale.*temporal expert: .*pos_embed"):
        load_experts(
            model,
            spatial=changed(clip, **{"transformer.resblocks.0.ls_1.gamma": torch.ones(48)}),
            temporal=changed(VideoMAE(**MAE), pos_embed=torch.ones(1, 32, 48)),
        )
    assert frozen_sha256(model) == before


# ------------------------------------------------------------------------------------------------------------ Swin

SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
SWINS = {
    "no norm of patches": ({"patch_norm": False}, {}, "PATCH_NORM False"),
    "norm of patches": ({}, {"patch_norm": False}, r"patch_embed\.norm"),
    "no biases": ({"qkv_bias": False}, {}, RIGHT),
    "biases": ({}, {"qkv_bias": False}, "qkv.bias.*built without"),
    "deeper": ({"depths": [2, 4]}, {}, r"layers\.1\.blocks\.2"),
    "shallower": ({"depths": [2, 1]}, {}, r"layers\.1\.blocks\.1"),
    "patches": ({"patch_size": (4, 4, 4)}, {}, "Set PATCH_SIZE"),
}


@pytest.mark.parametrize("variant", SWINS)
def test_video_swins(variant):
    theirs, ours, words = SWINS[variant]
    source, model = (
        randomised(VideoSwin(**{**SWIN, "window_size": [2, 4, 4], "num_classes": 5, **more})) for more in (theirs, ours)
    )
    if words:
        refused(model, source.state_dict(), words)
        return
    load_weights(model, source.state_dict(), strict=True)
    torch.testing.assert_close(model(VIDEO), source(VIDEO), atol=1e-5, rtol=1e-5)


def test_a_window_that_lies_the_other_way_is_seen_by_its_index():
    sizes = {"patch_size": [2, 4, 4], "window_size": [2, 4, 2], "num_classes": 5}
    theirs = randomised(torchvision.models.video.SwinTransformer3d(**SWIN, **sizes))
    right, wrong = (VideoSwin(**SWIN, window_size=window, num_classes=5).eval() for window in ([2, 4, 2], [2, 2, 4]))
    load_weights(right, theirs.state_dict(), strict=True)
    torch.testing.assert_close(right(VIDEO), theirs(VIDEO), atol=1e-5, rtol=1e-5)
    refused(wrong, theirs.state_dict(), r"relative_position_index is that of another window than \(2, 2, 4\)")


def swin_v2_of_torchvision():
    swin = torchvision.models.swin_transformer
    parts = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer(patch_size=[4, 4], window_size=[4, 4], **SWIN, **parts)


def swin_v2_of_timm():
    return timm.models.swin_transformer_v2.SwinTransformerV2(img_size=64, window_size=4, **SWIN)


def swin_of_three_stages():
    sizes = {"embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8]}
    return timm.models.swin_transformer.SwinTransformer(img_size=64, window_size=4, **sizes)


@pytest.mark.parametrize(
    ("make", "words"),
    [(swin_v2_of_timm, "cosine"), (swin_v2_of_torchvision, "cosine"), (swin_of_three_stages, r"layers\.2\.")],
)
def test_image_swins_that_compute_something_else(make, words):
    refused(VideoSwin(**SWIN, window_size=[2, 4, 4], num_classes=5), make().state_dict(), words)


def test_an_image_swin_with_positions():
    model = VideoSwin(**SWIN, window_size=[2, 4, 4], num_classes=5)
    image = timm.models.swin_transformer.SwinTransformer(img_size=64, window_size=4, **SWIN)
    refused(model, changed(image, absolute_pos_embed=torch.ones(1, 256, 16)), r"absolute_pos_embed \(learnt positions")


SERIES = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_classes": 3}


def test_the_order_of_norms_follows_the_layout_of_series():
    pre, post = SeriesSwin(**SERIES, norm="pre"), SeriesSwin(**SERIES)
    v1 = {key.replace("head.", "classifier.2."): tensor for key, tensor in pre.state_dict().items()}
    load_weights(pre, v1, strict=True)
    refused(post, v1, "before attention and MLP: set SERIES_SWIN.NORM pre")
    dusts = changed(post, **{"layers.0.blocks.1.attn_mask": torch.zeros(5, 4, 4)})
    load_weights(post, dusts, strict=True)
    refused(pre, dusts, "behind attention and MLP: set SERIES_SWIN.NORM respost")


def test_a_window_of_cosine_attention_is_seen_by_its_index_alone():
    model = SeriesSwin(**SERIES, attention="cosine")
    name = "layers.0.blocks.0.attn.relative_position_index"
    load_weights(model, changed(model, **{name: (torch.arange(4)[:, None] - torch.arange(4)) + 3}), strict=True)
    refused(model, changed(model, **{name: torch.zeros(36, dtype=torch.long)}), "6 tokens, here 4.*SERIES.LENGTH")


# ---------------------------------------------------------------------------------------------------------- V-JEPA 2


def test_a_file_of_the_encoder_leaves_the_probe_as_it_is_and_a_deeper_one_is_refused():
    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "probe_depth": 2, "probe_heads": 4}
    source, model = randomised(VJEPA2(**sizes, num_classes=5)), VJEPA2(**sizes, num_classes=5).eval()
    state = {key: tensor for key, tensor in source.state_dict().items() if key.startswith("encoder.")}
    report = load_weights(model, state)
    assert report.missing and all(key.startswith(("pooler.", "head.")) for key in report.missing)
    torch.testing.assert_close(model.encoder(VIDEO), source.encoder(VIDEO))
    refused(model, VJEPA2(**{**sizes, "depth": 3}, num_classes=5).state_dict(), r"set VJEPA2\.DEPTH 3, or")
    refused(model, VJEPA2(**{**sizes, "depth": 1}, num_classes=5).state_dict(), r"set VJEPA2\.DEPTH 1, or")


def test_a_probe_of_another_depth_is_refused():
    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "probe_heads": 4, "num_classes": 5}
    model = VJEPA2(**sizes, probe_depth=3)
    for depth, says in ((1, "no fitting pooler.blocks.0"), (2, "no fitting pooler.blocks.1"), (4, "pooler.blocks.2")):
        refused(model, VJEPA2(**sizes, probe_depth=depth).state_dict(), says)


# ------------------------------------------------------------------------------------- residual networks, with stages

RESNET = {"stage_depths": (1, 2, 1, 1), "width": 8, "img_size": 32, "num_classes": 5}
SLOWFAST = {**RESNET, "num_frames": 8, "alpha": 4}
X3D_SIZES = {"width_factor": 0.5, "dim_c5": 64, "num_frames": 4, "img_size": 32, "num_classes": 5}


@pytest.mark.parametrize(
    ("model", "sizes", "deeper"),
    [
        (ResNet, RESNET, {"stage_depths": (1, 3, 1, 1)}),
        (SlowFast, SLOWFAST, {"stage_depths": (1, 3, 1, 1)}),
        (X3D, {**X3D_SIZES, "depth_factor": 1.0}, {"depth_factor": 1.4}),
    ],
)
def test_residual_networks_of_another_depth(model, sizes, deeper):
    shallow, deep = randomised(model(**sizes)), randomised(model(**{**sizes, **deeper}))
    refused(deep, shallow.state_dict(), r"has no fitting s\d\.pathway0_res\d")
    refused(shallow, deep.state_dict(), r"has no place for s\d\.pathway0_res\d.*more blocks: s\d\.pathway")


def test_kernels_of_another_length_are_not_left_out():
    """Blocks that see several frames in the model and one in the file: all fit but those kernels."""
    slow = randomised(ResNet(**{**RESNET, "arch": "slow"}))
    refused(
        ResNet(**{**RESNET, "arch": "slow_i3d"}), slow.state_dict(), r"has no fitting s2\.pathway0_res0\.branch2\.a"
    )


def test_an_image_resnet_fills_no_second_pathway_and_no_deeper_network():
    image = torchvision.models.resnet50().state_dict()
    with torch.device("meta"):
        deeper = ResNet(stage_depths=(3, 4, 23, 3), num_classes=5)
    with pytest.raises(CheckpointError, match=r"does not give the blocks of ResNet whole.*s4\.pathway0_res6"):
        load_weights(deeper, image)
    model = SlowFast(num_classes=5)
    refused(model, image, r"whole.*no fitting s2\.pathway1_res0")


@pytest.mark.parametrize("arch", ["r3d_18", "s3d"])
def test_networks_of_torchvision_come_whole(arch):
    with torch.device("meta"):
        model = TorchvisionVideo(arch=arch, num_classes=5)
    names = [name for name in model.state_dict() if name.startswith("features.") and "track" not in name]
    state = {name: torch.ones(tensor.shape) for name, tensor in model.state_dict().items() if name != names[-1]}
    with pytest.raises(CheckpointError, match=f"does not give the blocks .* no fitting {names[-1]}"):
        load_weights(model, state)


# --------------------------------------------------------------------------------------------- sequences of embeddings


def test_temporal_encoders():
    model = TemporalEncoder(seq_len=6, dim=16, depth=2, heads=4, dim_head=8, mlp_dim=24, num_classes=5)
    name = "temporal_enc.layers.2.0.fn.norm.weight"
    state = {"temporal_enc.cls_token": torch.zeros(1, 1, 16), name: torch.ones(16), **model.state_dict()}
    refused(model, state, r"blocks\.2\.norm1\.weight")
    refused(model, changed(model, **{"blocks.1.attn.qkv.bias": torch.ones(96)}), "built without")


# ------------------------------------------------------------------------------ the libraries themselves, if installed


@pytest.mark.parametrize("variant", ["videomae", "first token", "timesformer", "clip", "clip gelu"])
def test_transformers_models(variant):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 192, "num_labels": 7,
    }  # fmt: skip
    if "clip" in variant:
        activation = "gelu" if "gelu" in variant else "quick_gelu"
        config = transformers.CLIPVisionConfig(**sizes, projection_dim=20, hidden_act=activation)
        theirs = randomised(transformers.CLIPVisionModelWithProjection(config))
        model, expected = CLIPVisual(**CLIP, activation=activation).eval(), theirs(IMAGES).image_embeds
    else:
        timesformer = variant == "timesformer"
        name = "Timesformer" if timesformer else "VideoMAE"
        config = getattr(transformers, f"{name}Config")(**sizes, num_frames=4, layer_norm_eps=1e-6)
        config.use_mean_pooling = variant != "first token"
        theirs = randomised(getattr(transformers, f"{name}ForVideoClassification")(config))
        mean = config.use_mean_pooling
        model = TimeSformer(**VIT, num_frames=4) if timesformer else VideoMAE(**MAE, use_mean_pooling=mean)
        model, expected = model.eval(), theirs(VIDEO.transpose(1, 2)).logits
    load_weights(model, theirs.state_dict(), strict=True)
    inputs = IMAGES if "clip" in variant else VIDEO
    torch.testing.assert_close(model(inputs), expected, atol=1e-4, rtol=1e-4)
