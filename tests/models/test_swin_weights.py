"""Other people's weights in VideoSwin and SeriesSwin: the authors', torchvision's, timm's, Swin-1D's, DUST's."""

import pytest
import timm
import torch
import torchvision

from dust.models.series_swin import SeriesSwin
from dust.models.video_swin import VideoSwin
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError
from tests.helpers import golden_tensors, part, randomised
from tests.models.test_swin import SERIES_CASES, model_of

OFFICIAL = "swin3d_w233_3stage_nopatchnorm"
INFLATE = ["inflate_same_window", "inflate_bicubic"]


def video_case(case):
    facts, tensors = golden_tensors(case)
    return model_of(case, facts).eval(), part(tensors, "weight", "buffer"), tensors


# ------------------------------------------------------------------------------------------------- video models


def test_an_official_file(tmp_path):
    model, state, tensors = video_case(OFFICIAL)
    torch.save({"meta": {"epoch": 30}, "state_dict": state, "optimizer": {}}, tmp_path / "swin_tiny.pth")
    report = load_weights(model, tmp_path / "swin_tiny.pth", strict=True)
    assert report.complete and not report.unexpected and len(report.loaded) == len(model.state_dict())
    assert any("Video Swin's layout" in note for note in report.notes)
    assert any("6 tables that are computed" in note for note in report.notes)
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)


def test_a_file_of_an_official_backbone_alone():
    model, state, _ = video_case(OFFICIAL)
    state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    before = model.head.weight.clone()
    report = load_weights(model, state)
    assert report.missing == ["head.weight", "head.bias"] and report.fresh_head and not report.unexpected
    assert torch.equal(model.head.weight, before)


def test_dusts_file_and_another_number_of_classes(tmp_path):
    model, state, tensors = video_case("dust_video_w244")
    torch.save(state, tmp_path / "final_3d.pth")
    assert load_weights(model, tmp_path / "final_3d.pth", strict=True).complete
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)
    model.reset_classifier(9)
    report = load_weights(model, tmp_path / "final_3d.pth")
    assert [key for key, _, _ in report.misshapen] == ["head.weight", "head.bias"] and not report.missing


def test_torchvisions_model_is_ours():
    torch.manual_seed(0)
    theirs = torchvision.models.video.SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=12, depths=[2, 3, 1], num_heads=[2, 3, 4], window_size=[3, 4, 2], num_classes=7
    )
    theirs = randomised(theirs)
    sizes = {"embed_dim": 12, "depths": [2, 3, 1], "num_heads": [2, 3, 4], "window_size": [3, 4, 2]}
    model = VideoSwin(**sizes, num_classes=7).eval()
    report = load_weights(model, theirs.state_dict(), strict=True)
    assert report.complete and any("torchvision" in note for note in report.notes)
    for shape in ((2, 3, 9, 70, 50), (1, 3, 4, 16, 24)):
        video = torch.randn(shape)
        torch.testing.assert_close(model(video), theirs(video), atol=1e-4, rtol=0)


def test_tables_of_another_window_are_left_and_named():
    model, state, _ = video_case(OFFICIAL)
    other = VideoSwin(**{**golden_tensors(OFFICIAL)[0]["args"], "window_size": (4, 4, 4)})
    report = load_weights(other, state)
    tables = [key for key in model.state_dict() if key.endswith("table")]
    assert [key for key, _, _ in report.misshapen] == tables and len(tables) == 6 and not report.missing


def test_another_architecture_is_refused():
    with pytest.raises(CheckpointError, match="does not fit VideoSwin"):
        load_weights(VideoSwin(embed_dim=48, depths=[2, 2], num_heads=[2, 4]), video_case(OFFICIAL)[1])


# ------------------------------------------------------------------------------------------------- image models


def inflated(case, **more):
    facts, tensors = golden_tensors(case)
    arguments = {key: value for key, value in facts["args"].items() if key != "window2d"}
    return VideoSwin(**{**arguments, "num_classes": 10, **more}), part(tensors, "weight2d"), part(tensors, "weight3d")


@pytest.mark.parametrize("case", INFLATE)
def test_golden_inflation(tmp_path, case):
    model, state2d, state3d = inflated(case)
    head = model.head.weight.clone()
    torch.save({"model": state2d}, tmp_path / "swin_tiny_patch4_window7_224.pth")
    report = load_weights(model, tmp_path / "swin_tiny_patch4_window7_224.pth")
    own = model.state_dict()
    assert set(report.loaded) == set(state3d) and set(report.missing) == {"head.weight", "head.bias"}
    assert not report.unexpected and not report.misshapen
    for key, value in state3d.items():
        torch.testing.assert_close(own[key], value, atol=1e-6, rtol=0, msg=key)
    assert state2d["head.weight"].shape == head.shape and torch.equal(own["head.weight"], head)
    assert any("an image model, inflated" in note for note in report.notes)


def test_inflation_leaves_what_has_other_heads():
    model, state2d, _ = inflated("inflate_same_window", num_heads=[2, 2])
    report = load_weights(model, state2d)
    assert [key for key, _, _ in report.misshapen] == ["layers.1.blocks.0.attn.relative_position_bias_table"]


IMAGE = {"embed_dim": 16, "depths": [2, 2, 1], "num_heads": [2, 4, 4]}


def timms():
    return timm.models.swin_transformer.SwinTransformer(
        img_size=64, patch_size=4, window_size=4, num_classes=6, **IMAGE
    )


def torchvisions():
    return torchvision.models.swin_transformer.SwinTransformer(
        patch_size=[4, 4], window_size=[4, 4], num_classes=6, **IMAGE
    )


@pytest.mark.parametrize("make", [timms, torchvisions])
def test_an_inflated_image_model_is_that_model_on_one_frame(make):
    torch.manual_seed(0)
    theirs = randomised(make())
    model = VideoSwin(**IMAGE, patch_size=(1, 4, 4), window_size=(1, 4, 4), num_classes=6).eval()
    report = load_weights(model, theirs.state_dict())
    assert report.missing == ["head.weight", "head.bias"] and not report.unexpected and not report.misshapen
    features = []
    theirs.norm.register_forward_hook(lambda module, inputs, out: features.append(out))
    image = torch.randn(2, 3, 64, 64)
    theirs(image)
    torch.testing.assert_close(model.forward_features(image.unsqueeze(2))[:, :, 0], features[0].movedim(-1, 1))


@pytest.mark.parametrize("make", [timms, torchvisions])
def test_a_still_video_has_an_inflated_models_patches(make):
    theirs = make()
    model = VideoSwin(**IMAGE, patch_size=(2, 4, 4), window_size=(2, 4, 4), num_classes=6).eval()
    load_weights(model, theirs.state_dict())
    image = torch.randn(1, 3, 64, 64)
    expected = theirs.patch_embed(image) if make is timms else theirs.features[0](image)
    tokens = model.patch_embed(image.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(tokens, expected.unsqueeze(1).expand(-1, 2, -1, -1, -1))


# ----------------------------------------------------------------------------------------------------- series


@pytest.mark.parametrize("case", SERIES_CASES)
def test_series_files_and_their_mask(tmp_path, case):
    facts, tensors = golden_tensors(case)
    torch.save(part(tensors, "weight", "buffer"), tmp_path / "final_1d.pth")
    model = model_of(case, facts).eval()
    report = load_weights(model, tmp_path / "final_1d.pth", strict=True)
    assert not any("legacy" in note for note in report.notes)
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=1e-4, rtol=0)

    kind = {"norm": "pre"} if "v1" in case else {"attention": "cosine"} if "v2" in case else {}
    exact = SeriesSwin(**facts["args"], **kind, mask="exact").eval()
    report = load_weights(exact, tmp_path / "final_1d.pth", strict=True)
    assert any("mask='legacy'" in note for note in report.notes)
    assert not torch.allclose(exact(tensors["input"]), tensors["logits"], atol=1e-4)


def test_our_own_file_gets_no_note():
    model = SeriesSwin(embed_dim=16, depths=[2], num_heads=[2], num_classes=3)
    assert load_weights(model, model.state_dict(), strict=True).notes == []


def test_a_series_file_of_another_width_is_refused():
    _, tensors = golden_tensors("dust_series_len100_p2")
    other = SeriesSwin(num_classes=3, seq_len=101, embed_dim=24, num_heads=[2] * 2, depths=[2, 2])
    with pytest.raises(CheckpointError, match="does not fit SeriesSwin"):
        load_weights(other, part(tensors, "weight"))
