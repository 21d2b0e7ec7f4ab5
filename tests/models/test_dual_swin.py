"""The fusion model: DUST's numbers, and what each modality may and may not change."""

import pytest
import torch

from dust.config import load_config
from dust.models import build_model
from dust.models.dual_swin import MODES, DualSwinFusion
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureWriter
from tests.helpers import golden_tensors

SMALL = {"in_chans": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
VIDEO = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": [2, 2, 2], "patch_size": [2, 4, 4]}


def small(**more):
    torch.manual_seed(0)
    return DualSwinFusion(**{**SMALL, "num_classes": 3, "video_feature_dim": 6, **more})


def test_dust_numbers():
    facts, tensors = golden_tensors("dust_fusion_len51")
    model = DualSwinFusion(**facts["args"], mask="legacy").eval()
    weights = {key.removeprefix("weight."): value for key, value in tensors.items() if key.startswith("weight.")}
    report = load_weights(model, weights)
    assert report.complete and not report.unexpected
    series, video = tensors["input"], tensors["input_video_features"]
    torch.testing.assert_close(model(series, video), tensors["logits"], atol=1e-4, rtol=0)
    features = model.series_backbone.forward_features(series).mean(dim=2)
    torch.testing.assert_close(features, tensors["features"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_both_modalities_count_and_gradients_reach_the_series(mode):
    model = small(mode=mode).train()
    series, video = torch.randn(2, 2, 20), torch.randn(2, 6, 2, 3, 3)
    logits = model(series, video)
    assert logits.shape == (2, 3)
    assert not torch.allclose(logits, model(series + 1, video)) and not torch.allclose(logits, model(series, video + 1))
    logits.sum().backward()
    assert model.series_backbone.patch_embed.proj.weight.grad.any()


def test_a_map_is_its_tokens_and_pooled_it_is_their_mean():
    model = small(mode="concat").eval()
    series, video = torch.randn(2, 2, 20), torch.randn(2, 6, 2, 3, 3)
    wanted = model(series, video.mean(dim=(2, 3, 4)))
    torch.testing.assert_close(model(series, video), wanted)
    torch.testing.assert_close(model(series, video.flatten(2).transpose(1, 2)), wanted)


def test_heads_of_one_modality_do_not_see_the_other_nor_move_the_backbone():
    model = small(unimodal_heads=True).train()
    series, video = torch.randn(2, 2, 20), torch.randn(2, 6)
    outputs, other = model(series, video), model(series, video + 1)
    torch.testing.assert_close(outputs["series"], other["series"])
    assert not torch.allclose(outputs["video"], other["video"])
    (outputs["series"].sum() + outputs["video"].sum()).backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"series_head.weight", "series_head.bias", "video_head.weight", "video_head.bias"}


def test_end_to_end_is_the_video_backbone_and_the_fusion():
    model = small(video=VIDEO).eval()
    series, video = torch.randn(2, 2, 20), torch.randn(2, 3, 4, 16, 16)
    pooled = model.video_backbone.forward_features(video).mean(dim=(2, 3, 4))
    stored = small(video_feature_dim=model.video_dim).eval()
    load_weights(stored, {k: v for k, v in model.state_dict().items() if not k.startswith("video_backbone.")})
    torch.testing.assert_close(model(series, video=video), stored(series, pooled))


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        ({}, {"video_features": torch.randn(2, 7)}, "7 channels.*made for 6"),
        ({}, {}, "give it video_features"),
        ({"video": VIDEO}, {"video_features": torch.randn(2, 6)}, "give it video$"),
        ({"mode": "cross_attention"}, {"video_features": torch.randn(2, 6)}, "FEATURES.LAYER map"),
    ],
)
def test_wrong_inputs(model, inputs, said):
    with pytest.raises(ConfigError, match=said):
        small(**model)(torch.randn(2, 2, 20), **inputs)


def test_an_unknown_mode():
    with pytest.raises(ConfigError, match="'sum': choose concat, gated, cross_attention"):
        small(mode="sum")


def fusion_config(tmp_path, **more):
    values = {
        "MODEL.MODEL_NAME": "DualSwinFusion",
        "DATA.MODALITIES": ["series", "video_features"],
        "FUSION.FEATURES_FROM": "stage3",
        "OUTPUT_DIR": str(tmp_path / "stage4"),
        "NUM_GPUS": 0,
        **more,
    }
    return load_config(None, values)


@pytest.mark.parametrize(("shape", "width"), [((12,), 12), ((12, 1, 2, 2), 12), ((5, 12), 12)])
def test_the_width_comes_from_the_stored_features(tmp_path, shape, width):
    writer = FeatureWriter(tmp_path / "stage3" / "features", "train", ["a"], shape, "float32", {})
    writer.write(0, torch.zeros(1, *shape).numpy())
    writer.finish()
    assert build_model(fusion_config(tmp_path)).video_dim == width


def test_features_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="FUSION.FEATURES_FROM stage3.*Run that stage first"):
        build_model(fusion_config(tmp_path))
    (tmp_path / "stage3").mkdir()
    with pytest.raises(DataError, match="no features of the val split"):
        build_model(fusion_config(tmp_path))


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_modality_changes_nothing_and_is_reported(mode):
    model = small(mode=mode, drop_modality=0.5, unimodal_heads=True).eval()
    series, video = torch.randn(4, 2, 20), torch.randn(4, 6, 2, 3, 3)
    said, other = model(series, video), model(torch.randn(4, 2, 20), video)
    assert set(said) == {"logits", "series", "video", "no_series", "no_video"}
    torch.testing.assert_close(said["no_series"], other["no_series"])
    assert not torch.allclose(said["no_video"], other["no_video"])
    blind = model(series, torch.randn_like(video))
    torch.testing.assert_close(said["no_video"], blind["no_video"])
    plain = small(mode=mode, unimodal_heads=True).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(series, video)["logits"], said["logits"])
    assert set(plain(series, video)) == {"logits", "series", "video"}


def test_in_training_one_of_the_two_is_missing_as_often_as_asked():
    model = small(drop_modality=0.4).train()
    series, video = torch.ones(4000, 3, 5), torch.ones(4000, 2, 6)
    without, unseen = (tokens.flatten(1).eq(0).all(dim=1) for tokens in model._drop(series, video))
    assert 0.17 < without.float().mean() < 0.23 and 0.17 < unseen.float().mean() < 0.23
    assert not (without & unseen).any()
    assert isinstance(model(torch.randn(2, 2, 20), torch.randn(2, 6)), torch.Tensor)
    with pytest.raises(ConfigError, match="drop_modality 1.0"):
        small(drop_modality=1.0)
