"""VideoSwin and SeriesSwin against their authors' numbers, and by laws."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from timm.models import group_parameters

from dust.models.layers import window_attention
from dust.models.layers.window_attention import SwinBlock, log_offsets, relative_index, window_masks
from dust.models.series_swin import SeriesSwin
from dust.models.video_swin import VideoSwin
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors, part, randomised

SERIES_CASES = [
    "dust_series_len100_p2", "dust_series_len51", "swin1d_v1_len120_w7", "swin1d_v1_len51_w8", "swin1d_v2_len51_w8",
]  # fmt: skip
CASES = [
    "dust_video_w244", "swin3d_w233_3stage_nopatchnorm", "swin3d_w244_pad", "swin3d_w877_clamp", "tv_swin3d_w244",
    "tv_swin3d_w877_clamp", *SERIES_CASES,
]  # fmt: skip
CPU = torch.device("cpu")
TINY_VIDEO = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": (2, 3, 3), "num_classes": 5}
TINY_SERIES = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 8, "num_classes": 5}


def model_of(case, facts):
    if case in SERIES_CASES:
        kind = {"norm": "pre"} if "v1" in case else {"attention": "cosine"} if "v2" in case else {}
        return SeriesSwin(**facts["args"], **kind, mask="legacy")
    return VideoSwin(**facts["args"])


def video_swin(**arguments):
    torch.manual_seed(0)
    return randomised(VideoSwin(**{**TINY_VIDEO, **arguments}))


def series_swin(**arguments):
    torch.manual_seed(0)
    return randomised(SeriesSwin(**{**TINY_SERIES, **arguments}))


# ---------------------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    facts, tensors = golden_tensors(case)
    model = model_of(case, facts).eval()
    assert load_weights(model, part(tensors, "weight", "buffer"), strict=True).complete
    stages = {}
    for key in part(tensors, "stage"):
        model.get_submodule(key).register_forward_hook(lambda _, inputs, out, key=key: stages.__setitem__(key, out))
    features = model.forward_features(tensors["input"])
    logits = model.forward_head(features)
    torch.testing.assert_close(logits, tensors["logits"], atol=1e-4, rtol=0)
    if "features" in tensors:
        pooled = tensors["features"].ndim == 2
        features = model.forward_head(features, pre_logits=True) if pooled else features
        torch.testing.assert_close(features, tensors["features"], atol=1e-4, rtol=0)
    for key, expected in part(tensors, "stage").items():
        out = stages[key] if stages[key].shape == expected.shape else stages[key].movedim(-1, 1)
        torch.testing.assert_close(out, expected, atol=1e-5 * max(1, expected.abs().max().item()), rtol=0, msg=key)

    loss = F.cross_entropy(logits, torch.tensor(facts["labels_for_loss"]))
    assert loss.item() == pytest.approx(facts["cross_entropy"], abs=1e-4)
    loss.backward()
    # the file's norms under our names: each as a tensor that holds nothing else
    norms = {key: torch.full_like(tensors[f"weight.{key}"], norm) for key, norm in facts["grad_l2"].items()}
    norms = model.adapt_state_dict(norms, [])
    assert norms.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(norms[name].flatten()[0].item(), rel=1e-3), name


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("tv_")])
def test_golden_tables_that_are_computed(case):
    """Indices, Swin V2's coordinates and the legacy mask, one for one. (torchvision's are those of swin3d.)"""
    facts, tensors = golden_tensors(case)
    model = model_of(case, facts)
    compared = 0
    for key, table in part(tensors, "buffer").items():
        name, kind = key.removeprefix("backbone.").rsplit(".", 1)
        module = model.get_submodule(name)
        if kind == "relative_position_index":
            ours = relative_index(module.window, len(table), CPU).view(len(table), -1)
        elif kind == "relative_coords_table":
            ours = log_offsets(module.window, CPU).unsqueeze(0)
        else:  # attn_mask, which a block has
            stage = int(name.split(".")[1])
            tokens = math.ceil(math.ceil(facts["args"]["seq_len"] / facts["args"]["patch_size"]) / 2**stage)
            window, shift = module.attn.fit((tokens,))
            masks, numbers = window_masks((tokens,), window, shift, "legacy", CPU)
            ours = masks[numbers]
        torch.testing.assert_close(ours, table)
        compared += 1
    assert compared


def test_sizes_of_the_published_models():
    def millions(model):
        return sum(parameter.numel() for parameter in model.parameters())

    base = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
    dust = {"seq_len": 51, "num_classes": 4, "depths": (2, 2, 6, 2), "num_heads": (16,) * 4}
    with torch.device("meta"):
        assert millions(VideoSwin()) == 28_158_070
        assert millions(VideoSwin(depths=(2, 2, 18, 2))) == 49_816_678
        assert millions(VideoSwin(**base)) == 88_048_984
        assert VideoSwin(**base).num_features == 1024
        assert round(millions(SeriesSwin(**dust, embed_dim=256)) / 1e6, 2) == 189.71
        assert SeriesSwin(**dust, embed_dim=256).num_features == 2048


# ----------------------------------------------------------------------------------------- what the blocks do


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [video_swin, series_swin])
def test_cuda_is_the_same(make):
    model = make()
    x = torch.randn(2, 3, 6, 40, 36) if make is video_swin else torch.randn(2, 3, 51)
    logits = model(x)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mask", "matters"), [("exact", False), ("legacy", True)])
@pytest.mark.parametrize("norm", ["pre", "respost"])
def test_what_pads_a_window_changes_nothing_under_the_exact_mask(monkeypatch, mask, norm, matters):
    model = series_swin(mask=mask, norm=norm)
    series = torch.randn(2, 3, 44)  # 44 tokens in windows of 8, then 22: both are padded, no merging is
    with torch.no_grad():
        logits = model(series)
        pad_end = window_attention.pad_end

        def rubbish(x, multiples, first=1):
            padded = pad_end(x, multiples, first)
            if padded is x or multiples == [2]:
                return padded
            return torch.where(torch.arange(padded.shape[1]).view(-1, 1) < x.shape[1], padded, 9.0)

        monkeypatch.setattr(window_attention, "pad_end", rubbish)
        assert torch.equal(model(series), logits) != matters


def test_what_was_kept_in_inference_mode_serves_in_training():
    for function in (window_masks, relative_index, log_offsets):
        function.cache_clear()
    for model in (video_swin(), series_swin(attention="cosine")):
        x = torch.randn(1, 3, 4, 32, 32) if isinstance(model, VideoSwin) else torch.randn(1, 3, 21)
        with torch.inference_mode():
            model(x)
        model(x).sum().backward()


def test_masks_and_indices_are_in_no_checkpoint():
    for model in (video_swin(), series_swin(attention="cosine", mask="legacy")):
        assert model.state_dict().keys() == dict(model.named_parameters()).keys()


# ------------------------------------------------------------------------------------------------- any size, lengths


@pytest.mark.parametrize("mask", ["exact", "legacy"])
@pytest.mark.parametrize("arguments", [{}, {"seq_len": 20}, {"patch_size": 3}, {"norm": "pre", "attention": "cosine"}])
def test_a_series_of_any_length(mask, arguments):
    model = series_swin(mask=mask, **arguments)
    for length in (1, 2, 3, 7, 8, 9, 15, 16, 20, 33, 100):
        tokens = model.forward_features(torch.randn(2, 3, length))
        assert tokens.shape == (2, 32, math.ceil(math.ceil(length / arguments.get("patch_size", 1)) / 2))
        assert tokens.isfinite().all()


def test_zeros_fill_the_last_patch():
    model = series_swin(patch_size=4)
    series = torch.randn(2, 3, 50)
    assert torch.equal(model(series), model(F.pad(series, (0, 2))))
    clip_model, clip = video_swin(), torch.randn(1, 3, 5, 30, 33)
    assert torch.equal(clip_model(clip), clip_model(F.pad(clip, (0, 3, 0, 2, 0, 1))))


def test_seq_len_makes_the_tables_and_without_it_they_are_full():
    sizes = {"depths": (1,) * 4, "num_heads": (2,) * 4}
    rows = [
        [len(stage.blocks[0].attn.relative_position_bias_table) for stage in series_swin(**sizes, **more).layers]
        for more in ({"seq_len": 51}, {}, {"seq_len": 51, "patch_size": 4})
    ]
    assert rows == [[15, 15, 15, 13], [15] * 4, [15, 13, 7, 3]]  # 51, 26, 13, 7 tokens; 13, 7, 4, 2


def test_a_model_for_one_length_is_the_general_one_where_no_window_is_cut():
    one, general = series_swin(seq_len=40), series_swin()
    series = torch.randn(2, 3, 40)
    assert torch.equal(one(series), general(series))


def test_positions_are_for_one_length():
    model = series_swin(ape=True, seq_len=21, patch_size=2)
    assert model.absolute_pos_embed.shape == (1, 11, 16)
    assert model(torch.randn(2, 3, 21)).shape == (2, 5)
    with pytest.raises(DustError, match="30 time points.*seq_len 21"):
        model(torch.randn(2, 3, 30))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 1), (1, 3, 9, 40, 24), (2, 3, 3, 17, 50)])
def test_a_video_of_any_size(shape):
    features = video_swin().forward_features(torch.randn(shape))
    grid = [math.ceil(side / patch) for side, patch in zip(shape[2:], (2, 4, 4), strict=True)]
    assert features.shape == (shape[0], 32, grid[0], math.ceil(grid[1] / 2), math.ceil(grid[2] / 2))
    assert features.isfinite().all()


def test_an_empty_batch():
    for model, shape in ((video_swin(), (0, 3, 4, 32, 32)), (series_swin(), (0, 3, 21))):
        logits = model.train()(torch.empty(shape))
        assert logits.shape == (0, 5)
        logits.sum().backward()


# --------------------------------------------------------------------------------------------- parts and switches


def test_first_weights():
    model = VideoSwin(**{**TINY_VIDEO, "embed_dim": 96})
    attention = model.layers[0].blocks[0].attn
    for weights in (attention.qkv.weight, attention.relative_position_bias_table, model.head.weight):
        assert weights.std().item() == pytest.approx(0.02, rel=0.2)
    assert not attention.qkv.bias.any() and (model.norm.weight == 1).all()


@pytest.mark.parametrize("attention", ["dot", "cosine"])
def test_a_new_block_with_norms_behind_is_the_identity(attention):
    model = SeriesSwin(**TINY_SERIES, attention=attention)
    x = torch.randn(2, 19, 16)
    for block in model.layers[0].blocks:
        assert torch.equal(block(x), x)
    assert model.layers[0].blocks[0].attn.relative_position_bias_table.any() if attention == "dot" else True
    pre = SeriesSwin(**TINY_SERIES, norm="pre").layers[0].blocks[0]
    assert not torch.equal(pre(x), x)


def test_drop_path_rises_over_all_blocks():
    model = VideoSwin(**{**TINY_VIDEO, "depths": (1, 4), "drop_path_rate": 0.2})
    rates = [block.drop_path.rate for block in model.modules() if isinstance(block, SwinBlock)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate", "drop_path_rate", "head_drop_rate"])
def test_dropout_works_in_training_only(rate):
    model = video_swin(**{"drop_path_rate": 0.0, rate: 0.5})
    video = torch.randn(4, 3, 4, 32, 32)
    assert torch.equal(model(video), model(video))
    model.train()
    assert not torch.equal(model(video), model(video))


def test_frozen_stages():
    model = VideoSwin(**TINY_VIDEO, frozen_stages=1, drop_rate=0.5).train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(("patch_embed.", "layers.0."))}
    for module in (model.patch_embed, model.pos_drop, model.layers[0], model.layers[0].blocks[1].mlp.drop):
        assert not module.training
    assert model.layers[1].training and model.head_drop.training
    only_patches = VideoSwin(**TINY_VIDEO, frozen_stages=0).train()
    assert not only_patches.patch_embed.proj.weight.requires_grad
    assert all(parameter.requires_grad for parameter in only_patches.layers.parameters())
    assert only_patches.pos_drop.training and only_patches.layers[0].training
    assert all(parameter.requires_grad for parameter in VideoSwin(**TINY_VIDEO).parameters())


def test_no_weight_decay():
    exempt = series_swin(attention="cosine", ape=True, seq_len=20).no_weight_decay()
    assert {"absolute_pos_embed", "norm.weight", "layers.0.blocks.1.attn.logit_scale"} <= exempt
    assert {"layers.0.downsample.norm.bias", "layers.1.blocks.0.attn.cpb_mlp.0.weight"} <= exempt
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in video_swin().no_weight_decay()
    assert not {"head.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.reduction.weight"} & exempt


def test_coarse_layers_are_the_stages():
    model = video_swin()
    layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert layers["patch_embed.norm.weight"] == 0 and layers["head.weight"] == layers["norm.weight"] == 3
    assert {layer for key, layer in layers.items() if key.startswith("layers.0.")} == {1}
    assert {layer for key, layer in layers.items() if key.startswith("layers.1.")} == {2}


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (VideoSwin, {"window_size": (8, 7)}, r"window_size is \[8, 7\].*three numbers"),
        (VideoSwin, {"patch_size": 4, "frozen_stages": 5}, r"patch_size is \[4\].*frozen_stages is 5"),
        (VideoSwin, {"num_heads": (2, 4, 8)}, r"depths \[2, 2\] and num_heads \[2, 4, 8\]"),
        (VideoSwin, {"depths": (), "num_heads": ()}, "one number for each stage"),
        (VideoSwin, {"num_heads": (2, 5)}, "stage 1 has 32 channels, not a multiple of its 5 heads"),
        (VideoSwin, {"drop_path_rate": 1.0, "embed_dim": 0}, "embed_dim is 0.*drop_path_rate is 1.0"),
        (VideoSwin, {"depths": (2, 0), "num_classes": -1}, r"depths\[1\] is 0.*num_classes is -1"),
        (SeriesSwin, {"norm": "post", "mask": "none", "attention": "cos"}, "'post'.*'cos'.*'none'"),
        (SeriesSwin, {"ape": True}, "ape.*needs seq_len"),
        (SeriesSwin, {"seq_len": 0, "window_size": 0}, "window_size is 0.*seq_len is 0"),
    ],
)
def test_impossible_arguments_are_named_all_at_once(kind, arguments, words):
    tiny = TINY_VIDEO if kind is VideoSwin else TINY_SERIES
    with pytest.raises(ConfigError, match=words):
        kind(**{**tiny, **arguments})


@pytest.mark.parametrize(
    ("make", "x", "words"),
    [
        (video_swin, torch.zeros(3, 4, 32, 32), r"\(3, 4, 32, 32\).*\(B, C, T, H, W\)"),
        (video_swin, torch.zeros(1, 4, 3, 32, 32), "in_chans=3"),
        (video_swin, torch.zeros(1, 3, 0, 32, 32), "may be 0"),
        (video_swin, torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8), "uint8.*normalise"),
        (series_swin, torch.zeros(2, 51), r"SeriesSwin got series.*\(2, 51\).*\(B, C, L\)"),
        (series_swin, torch.zeros(2, 51, 3), "in_chans=3"),
        (series_swin, torch.zeros(2, 3, 51, dtype=torch.int16), "int16"),
    ],
)
def test_impossible_input_is_named(make, x, words):
    with pytest.raises(DustError, match=words):
        make()(x)


def test_from_config_of_video():
    node = SimpleNamespace(
        PATCH_SIZE=[1, 2, 2], EMBED_DIM=16, DEPTHS=[1, 2], NUM_HEADS=[2, 4], WINDOW_SIZE=[2, 2, 3], MLP_RATIO=2.0,
        QKV_BIAS=False, PATCH_NORM=False, DROP_RATE=0.1, ATTN_DROP_RATE=0.2, DROP_PATH_RATE=0.3, HEAD_DROP_RATE=0.4,
        FROZEN_STAGES=1,
    )  # fmt: skip
    cfg = SimpleNamespace(
        VIDEO_SWIN=node,
        DATA=SimpleNamespace(INPUT_CHANNEL_NUM=[4]),
        MODEL=SimpleNamespace(NUM_CLASSES=5, ACT_CHECKPOINT=True),
    )
    model = VideoSwin(**VideoSwin.from_config(cfg))
    block = model.layers[1].blocks[1]
    assert model.patch_embed.proj.weight.shape == (16, 4, 1, 2, 2) and model.num_classes == 5 and model.act_checkpoint
    assert block.attn.window == (2, 2, 3) and block.attn.qkv.bias is None and block.mlp.fc1.out_features == 64
    assert (block.drop_path.rate, block.attn.attn_drop, model.pos_drop.p, model.head_drop.p) == (0.3, 0.2, 0.1, 0.4)
    assert isinstance(model.patch_embed.norm, torch.nn.Identity)
    assert not any(p.requires_grad for p in [*model.patch_embed.parameters(), *model.layers[0].parameters()])
    assert all(p.requires_grad for p in model.layers[1].parameters())


@pytest.mark.parametrize(("missing", "channels"), [("error", 3), ("mask", 3), ("mask_channels", 6)])
def test_from_config_of_series(missing, channels):
    node = SimpleNamespace(
        PATCH_SIZE=2, EMBED_DIM=16, DEPTHS=[1, 2], NUM_HEADS=[2, 4], WINDOW_SIZE=5, MLP_RATIO=2.0, QKV_BIAS=False,
        PATCH_NORM=False, ABSOLUTE_POS_EMBED=True, NORM="pre", ATTENTION="cosine", MASK="legacy",
        DROP_RATE=0.1, ATTN_DROP_RATE=0.2, DROP_PATH_RATE=0.3,
    )  # fmt: skip
    cfg = SimpleNamespace(
        SERIES_SWIN=node,
        SERIES=SimpleNamespace(NUM_CHANNELS=3, LENGTH=51, MISSING=missing, DERIVATIVES=0),
        MODEL=SimpleNamespace(NUM_CLASSES=5, ACT_CHECKPOINT=False),
    )
    model = SeriesSwin(**SeriesSwin.from_config(cfg))
    block = model.layers[1].blocks[1]
    assert model.patch_embed.proj.weight.shape == (16, channels, 2) and model.absolute_pos_embed.shape == (1, 26, 16)
    assert block.attn.cosine and block.attn.mask == "legacy" and block.norm_first and block.attn.window == (5,)
    assert block.attn.q_bias is None and (block.drop_path.rate, block.attn.attn_drop) == (0.3, 0.2)
    cfg.SERIES.LENGTH, node.ABSOLUTE_POS_EMBED = 0, False
    assert SeriesSwin(**SeriesSwin.from_config(cfg)).seq_len is None
