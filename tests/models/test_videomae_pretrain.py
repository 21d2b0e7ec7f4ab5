"""VideoMAE's pre-training against the authors' numbers (videomae_pretrain_*), and by laws."""

import pytest
import torch

from dust.models.videomae_pretrain import VideoMAEPretrain, tube_mask
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors, noise_of, part, randomised
from tests.models.test_videomae import hugging_face, tiny

PRETRAIN = {
    "img_size": 32, "patch_size": 8, "num_frames": 8, "encoder_embed_dim": 48, "encoder_depth": 2,
    "encoder_num_heads": 4, "decoder_embed_dim": 24, "decoder_depth": 1, "decoder_num_heads": 3, "mask_ratio": 0.75,
}  # fmt: skip


def tiny_pretrain(**arguments):
    torch.manual_seed(0)
    return randomised(VideoMAEPretrain(**{**PRETRAIN, **arguments})).eval()


def test_golden_pretraining():
    facts, tensors = golden_tensors("videomae_pretrain_a")
    model = VideoMAEPretrain(**facts["args"]).eval()
    model.load_state_dict(part(tensors, "weight"), strict=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]
    outputs = model(tensors["input"], mask=tensors["mask"])
    torch.testing.assert_close(outputs["prediction"], tensors["prediction"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs["target"], tensors["target"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs["loss"], tensors["loss"][0], atol=1e-5, rtol=0)
    assert torch.equal(outputs["mask"], tensors["mask"])

    other = VideoMAEPretrain(**facts["args"]).eval()
    load_weights(other, hugging_face(part(tensors, "weight")), strict=True)
    assert torch.equal(other(tensors["input"], mask=tensors["mask"])["loss"], outputs["loss"])


def test_size_of_the_published_pretraining():
    with torch.device("meta"):
        model = VideoMAEPretrain()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(94.2e6, abs=0.05e6)


@pytest.mark.parametrize(("ratio", "masked"), [(0.9, 176), (0.75, 147), (0.5, 98)])
def test_tube_masks(ratio, masked):
    masks = tube_mask(50, 8, 196, ratio, torch.Generator().manual_seed(0)).view(50, 8, 196)
    assert (masks == masks[:, :1]).all()  # the same places at all times
    assert (masks[:, 0].sum(dim=1) == masked).all()
    share = masks[:, 0].float().mean(dim=0)  # every place is as likely as another
    assert abs(share.mean() - masked / 196) < 1e-6 and share.min() > ratio - 0.35
    assert len({tuple(row.tolist()) for row in masks[:, 0]}) == 50
    assert torch.equal(masks.view(50, -1), tube_mask(50, 8, 196, ratio, torch.Generator().manual_seed(0)))
    assert not torch.equal(masks.view(50, -1), tube_mask(50, 8, 196, ratio, torch.Generator().manual_seed(1)))


def test_targets_are_the_tubelets_pixels():
    video = torch.rand(1, 3, 8, 32, 32)  # in 0..1
    normalised = (video - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1, 1)) / 0.25
    pixels = tiny_pretrain(mean=[0.4, 0.5, 0.6], std=[0.25] * 3, normalize_target=False).targets(normalised)
    t, row, column = 3, 1, 2
    block = video[0, :, 2 * t : 2 * t + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]  # (C, 2, 8, 8)
    expected = [block[c, i, y, x] for i in range(2) for y in range(8) for x in range(8) for c in range(3)]
    number = t * 16 + row * 4 + column
    torch.testing.assert_close(pixels[0, number], torch.stack(expected))

    standard = tiny_pretrain(mean=[0.4, 0.5, 0.6], std=[0.25] * 3).targets(normalised)[0, number].view(-1, 3)
    torch.testing.assert_close(standard, ((block.flatten(1).T - block.mean((1, 2, 3))) / block.flatten(1).std(dim=1)),
                               atol=1e-4, rtol=0)  # fmt: skip


def test_the_encoder_sees_only_what_is_not_masked():
    model, video = tiny_pretrain(), noise_of(2, 3, 8, 32, 32)
    mask = tube_mask(2, 4, 16, 0.75, torch.Generator().manual_seed(5))
    hidden = mask.view(2, 1, 4, 4, 4).repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    other = torch.where(hidden, torch.randn(2, 3, 8, 32, 32), video)
    one, two = model(video, mask=mask), model(other, mask=mask)
    assert torch.equal(one["prediction"], two["prediction"]) and not torch.allclose(one["target"], two["target"])
    changed = model(torch.where(hidden, video, torch.randn_like(video)), mask=mask)
    assert not torch.allclose(one["prediction"], changed["prediction"])
    assert model.forward_features(video, mask=mask).shape == (2, 4 * 4, 48)


def test_masks_are_drawn_anew_in_training_and_fixed_in_evaluation():
    model, video = tiny_pretrain(), noise_of(2, 3, 8, 32, 32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    evaluated = model(video)["mask"]
    assert torch.equal(before, torch.get_rng_state())  # evaluation leaves torch's stream alone
    assert torch.equal(evaluated, model(video)["mask"]) and torch.equal(evaluated[0], evaluated[1])
    given = model(video, generator=torch.Generator().manual_seed(3))["mask"]
    assert torch.equal(given, tube_mask(2, 4, 16, 0.75, torch.Generator().manual_seed(3)))
    model.train()
    masks = [model(video)["mask"] for _ in range(2)]
    assert not torch.equal(*masks) and not torch.equal(masks[0][0], masks[0][1])
    torch.manual_seed(3)
    assert torch.equal(model(video)["mask"], masks[0])


@pytest.mark.parametrize(("frames", "size"), [(4, 32), (12, 32), (8, 48)])
def test_pretraining_on_other_clips(frames, size):
    outputs = tiny_pretrain()(noise_of(1, 3, frames, size, size))
    tokens = frames // 2 * int(0.75 * (size // 8) ** 2)
    assert outputs["prediction"].shape == outputs["target"].shape == (1, tokens, 2 * 8 * 8 * 3)
    assert outputs["loss"].isfinite()


def test_pretraining_lowers_its_loss_on_one_clip_and_checkpointing_changes_nothing():
    video = noise_of(2, 3, 4, 16, 16).cumsum(dim=3)  # what stands beside a pixel tells something of it
    losses = []
    for act_checkpoint in (False, True):
        torch.manual_seed(0)
        model = VideoMAEPretrain(**{**PRETRAIN, "act_checkpoint": act_checkpoint}).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses.append([])
        for _ in range(15):
            loss = model(video, generator=torch.Generator().manual_seed(0))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[0][-1] < 0.9 * losses[0][0] and losses[0] == losses[1]


def test_the_encoder_goes_on_as_a_classifier(tmp_path):
    stored, model = tiny_pretrain(), tiny()
    torch.save({"model_state": stored.state_dict()}, tmp_path / "pretrained.pyth")
    report = load_weights(model, tmp_path / "pretrained.pyth")
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert not report.unexpected and any("decoder" in note for note in report.notes)
    assert torch.equal(model.blocks[1].attn.q_bias, stored.encoder.blocks[1].attn.q_bias)
    first = tiny(use_mean_pooling=False)
    load_weights(first, stored.state_dict())
    assert torch.equal(first.norm.weight, stored.encoder.norm.weight)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(1, 64), r"float32.*\(1, 64\).*must be bool"),
        (torch.zeros(1, 60, dtype=torch.bool), r"\(1, 60\).*\(1, 64\)"),
        (torch.zeros(1, 64, dtype=torch.bool), r"\[0\] of 64 tokens.*neither none nor all"),
        (torch.ones(1, 64, dtype=torch.bool), r"\[64\] of 64"),
        (torch.arange(128).view(2, 64) > 40, r"\[23, 64\] of 64.*equally many"),
    ],
)
def test_impossible_masks_are_named(mask, words):
    with pytest.raises(DustError, match=words):
        tiny_pretrain()(noise_of(len(mask), 3, 8, 32, 32), mask=mask)


def test_impossible_pretraining_arguments():
    with pytest.raises(ConfigError, match="mask_ratio is 1.0.*decoder_embed_dim 25.*std has 2 values"):
        VideoMAEPretrain(**{**PRETRAIN, "mask_ratio": 1.0, "decoder_embed_dim": 25, "std": (1.0, 1.0)})
    with pytest.raises(DustError, match=r"\[0\] of 64.*mask_ratio"):
        tiny_pretrain(mask_ratio=0.05)(noise_of(1, 3, 8, 32, 32))
