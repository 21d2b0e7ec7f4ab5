"""Normalisation, erasing and mixing of clips against slow versions and laws."""

import random

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dust.config import get_cfg
from dust.datasets.transforms.device import DeviceTransform
from dust.datasets.transforms.mixing import Mix, MixUp, RandomErasing
from dust.utils.errors import ConfigError, DataError

MEAN, STD = (0.45, 0.4, 0.5), (0.225, 0.2, 0.25)
NOISES = ("cpu", "device")
WORDS = (7, "mix", 3, 0)


def random_batch(size=4, shape=(3, 2, 16, 20), classes=5):
    generator = torch.Generator().manual_seed(size)
    video = torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, classes, (size,), generator=generator)
    return {"inputs": {"video": video}, "label": label, "id": [str(i) for i in range(size)], "bad": []}


def reference(video, mean=MEAN, std=STD):
    channel = (1, -1, 1, 1, 1)
    return (video.double() / 255 - torch.tensor(mean).view(channel)) / torch.tensor(std).view(channel)


def build(**kwargs):
    return DeviceTransform(mean=MEAN, std=STD, **kwargs)


# --- normalisation ------------------------------------------------------------------------------------------------


def test_normalised_video_equals_the_formula():
    batch = random_batch()
    out = build()(batch, training=False)
    video = out["inputs"]["video"]
    assert video.dtype == torch.float32 and video.is_contiguous()
    torch.testing.assert_close(video.double(), reference(batch["inputs"]["video"]), atol=2e-6, rtol=0)
    assert out["label"] is batch["label"] and out["id"] == batch["id"]


def test_numbers_that_a_pass_without_any_left_behind_are_not_used():
    transform, batch = build(), {"inputs": {"video": torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8)}}
    mode = FakeTensorMode()
    for _ in range(2):
        with mode:
            fake = {"inputs": {"video": mode.from_tensor(batch["inputs"]["video"])}}
            assert isinstance(transform(fake, training=False)["inputs"]["video"], FakeTensor)
        assert type(transform(batch, training=False)["inputs"]["video"]) is torch.Tensor


def test_the_given_batch_is_not_changed():
    batch = random_batch()
    before = batch["inputs"]["video"].clone(), batch["label"].clone()
    transform = build(erasing=RandomErasing(probability=1.0), mixup=MixUp(num_classes=5))
    out = transform(batch, training=True, seed_words=WORDS)
    assert out is not batch and out["inputs"] is not batch["inputs"]
    assert torch.equal(batch["inputs"]["video"], before[0]) and torch.equal(batch["label"], before[1])


def test_reversed_channels_keep_their_own_mean_and_std():
    batch = random_batch()
    expected = build()(batch, training=False)["inputs"]["video"].flip(1)
    assert torch.equal(build(reverse_channels=True)(batch, training=False)["inputs"]["video"], expected)


def test_every_video_is_normalised_and_all_else_passes():
    batch = random_batch()
    batch["inputs"]["depth"] = torch.randint(0, 256, (4, 3, 1, 8, 8), dtype=torch.uint8)
    batch["inputs"]["series"] = torch.rand(4, 6, 51)
    batch["inputs"]["mask"] = torch.ones(4, 51, dtype=torch.uint8)
    out = build(erasing=RandomErasing(probability=1.0))(batch, training=True, seed_words=WORDS)["inputs"]
    assert {name: value.dtype for name, value in out.items()} == {
        "video": torch.float32,
        "depth": torch.float32,
        "series": torch.float32,
        "mask": torch.uint8,
    }
    assert out["series"] is batch["inputs"]["series"] and out["mask"] is batch["inputs"]["mask"]


def test_one_mean_serves_any_number_of_channels():
    transform = DeviceTransform(mean=[0.5], std=[0.25])
    grey = random_batch(shape=(1, 2, 4, 4))
    out = transform(grey, training=False)["inputs"]["video"]
    torch.testing.assert_close(out.double(), reference(grey["inputs"]["video"], (0.5,), (0.25,)), atol=2e-6, rtol=0)
    with pytest.raises(ConfigError, match=r"1 channels, but 3 values.*DATA.MEAN"):
        build()(grey, training=False)


def test_a_batch_without_any_clip_passes():
    batch = {"bad": ["clip"], "id": [], "path": []}
    out = build(mixup=MixUp(num_classes=5))(batch, training=True, seed_words=WORDS)
    assert out == batch


def test_evaluation_never_augments():
    batch = random_batch()
    augmenting = build(erasing=RandomErasing(probability=1.0), mixup=MixUp(num_classes=5))
    out = augmenting(batch, training=False)
    assert torch.equal(out["inputs"]["video"], build()(batch, training=False)["inputs"]["video"])
    assert out["label"] is batch["label"]


def test_what_stands_still_is_nothing_without_the_clips_mean():
    batch = random_batch()
    video = batch["inputs"]["video"]
    video[:, :, :, :8] = video[:, :, :1, :8]  # the upper half does not move
    found = build(subtract_clip_mean=True)(batch, training=False)["inputs"]["video"]
    expected = reference(video)
    expected = expected - expected.mean(dim=2, keepdim=True)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    assert found[:, :, :, :8].abs().max() < 1e-5 < found[:, :, :, 8:].abs().max()
    with pytest.raises(ConfigError, match="nothing is left of single frames"):
        build(subtract_clip_mean=True)({"inputs": {"video": video[:, :, :1]}}, training=False)


# --- randomness ---------------------------------------------------------------------------------------------------


def test_draws_come_from_the_words_alone():
    transform = build(erasing=RandomErasing(probability=0.5), mixup=MixUp(num_classes=5))
    batch = random_batch()

    def result(words, seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()
        out = transform(batch, training=True, seed_words=words)
        assert before == (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist())
        return out["inputs"]["video"], out["label"]

    first, same, other = result(WORDS, 0), result(WORDS, 1), result((7, "mix", 4, 0), 0)
    assert torch.equal(first[0], same[0]) and torch.equal(first[1], same[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
    with pytest.raises(ValueError, match="seed_words"):
        transform(batch, training=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_agree():
    batch = random_batch(6)
    transform = build(erasing=RandomErasing(probability=0.5, count=2), mixup=MixUp(num_classes=5))
    on_gpu = {**batch, "inputs": {"video": batch["inputs"]["video"].cuda()}, "label": batch["label"].cuda()}
    for step in range(10):
        words = (7, "mix", step, 0)
        ours = transform(batch, training=True, seed_words=words)
        theirs = transform(on_gpu, training=True, seed_words=words)
        assert theirs["inputs"]["video"].is_cuda and theirs["label"].is_cuda
        torch.testing.assert_close(theirs["inputs"]["video"].cpu(), ours["inputs"]["video"], atol=2e-6, rtol=0)
        torch.testing.assert_close(theirs["label"].cpu(), ours["label"])


# --- erasing ------------------------------------------------------------------------------------------------------


def erased(erasing, batch):
    plain = build()(batch, training=False)["inputs"]["video"]
    out = build(erasing=erasing)(batch, training=True, seed_words=WORDS)["inputs"]["video"]
    return out, out != plain


def test_probability_zero_and_one():
    batch = random_batch(16)
    assert not erased(RandomErasing(probability=0.0), batch)[1].any()
    assert erased(RandomErasing(probability=1.0), batch)[1].flatten(1).any(1).all()
    some = erased(RandomErasing(probability=0.5), random_batch(200, (3, 1, 8, 8)))[1].flatten(1).any(1)
    assert 0.38 < some.float().mean() < 0.62


@pytest.mark.parametrize("mode", ("pixel", "rand", "const"))
def test_the_box_is_the_same_in_all_frames(mode):
    batch = random_batch(8, (3, 4, 24, 32))
    batch["inputs"]["video"].fill_(255)  # no box value equals it
    out, changed = erased(RandomErasing(probability=1.0, mode=mode), batch)
    assert torch.equal(changed, changed[:, :1, :1].expand_as(changed))
    for clip, mask in zip(out, changed[:, 0, 0], strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all() and 0.01 < mask.float().mean() < 0.4
        values = clip[:, :, mask]  # (C, T, pixels)
        assert values.flatten(2).std(2).max() == 0 if mode != "pixel" else values.std() > 0.5
        assert (values == 0).all() if mode == "const" else (values[:, 0] != values[:, 1]).any()


def test_noise_is_standard_normal():
    batch = random_batch(16, (3, 4, 40, 40))
    out, changed = erased(RandomErasing(probability=1.0), batch)
    assert out[changed].mean() == pytest.approx(0, abs=0.03)
    assert out[changed].std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("mode", ("pixel", "rand"))
def test_a_cpu_draws_the_same_noise_by_either_key(mode):
    batch = random_batch(8)
    first, second = (erased(RandomErasing(mode=mode, probability=0.7, noise=noise), batch)[0] for noise in NOISES)
    assert torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_its_noise_without_waiting_and_repeats_it():
    video = random_batch(8, (3, 4, 40, 40))["inputs"]["video"].cuda().float()
    erasing, results = RandomErasing(probability=1.0, noise="device"), []
    for words in ((1, 2), (1, 2), (1, 3)):
        out = video.clone()
        torch.cuda.set_sync_debug_mode("error")
        try:
            erasing.erase_(out, words)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results.append(out.cpu())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    noise = results[0][results[0] != video.cpu()]
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)


def test_several_boxes_share_the_area_of_one():
    r = np.random.RandomState(0)
    one, three = RandomErasing(probability=1.0), RandomErasing(probability=1.0, count=3)
    areas = {}
    for erasing in (one, three):
        drawn = [erasing.boxes(60, 80, r) for _ in range(500)]
        assert {len(boxes) for boxes in drawn} == {erasing.count}
        assert all(y >= 0 and x >= 0 and y + h <= 60 and x + w <= 80 for boxes in drawn for y, x, h, w in boxes)
        areas[erasing.count] = np.mean([sum(h * w for _, _, h, w in boxes) for boxes in drawn]) / 4800
    assert areas[1] == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert areas[3] == pytest.approx(areas[1], abs=0.02)


def test_a_frame_without_room_stays():
    assert RandomErasing(probability=1.0).boxes(1, 1, np.random.RandomState(0)) == []


# --- mixing -------------------------------------------------------------------------------------------------------


def mixed(mixup, batch, step=0):
    out = build(mixup=mixup)(batch, training=True, seed_words=(7, "mix", step, 0))
    return build()(batch, training=False)["inputs"]["video"], out["inputs"]["video"], out["label"]


def hard(label, classes=5):
    return torch.nn.functional.one_hot(label, classes).float()


@pytest.mark.parametrize("step", range(10))
def test_mixup_is_the_weighted_mean_with_the_mirrored_batch(step):
    batch = random_batch(4)
    batch["label"] = torch.tensor([0, 1, 2, 3])
    plain, video, label = mixed(MixUp(num_classes=5, cutmix_alpha=0.0, label_smoothing=0.0), batch, step)
    lam = label[0, 0]
    assert 0 < lam < 1
    torch.testing.assert_close(video, lam * plain + (1 - lam) * plain.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(label, lam * hard(batch["label"]) + (1 - lam) * hard(batch["label"].flip(0)))


def test_cutmix_weight_is_the_share_of_pixels_in_every_frame():
    batch = random_batch(4, (3, 3, 16, 20))
    # constant clips, told apart by their values
    batch["inputs"]["video"] = (torch.arange(4) * 50).to(torch.uint8).view(4, 1, 1, 1, 1).repeat(1, 3, 3, 16, 20)
    batch["label"] = torch.tensor([0, 1, 2, 3])
    shares = []
    for step in range(60):
        plain, video, label = mixed(MixUp(num_classes=5, alpha=0.0, label_smoothing=0.0), batch, step)
        own = (video == plain).float().mean(dim=(3, 4))  # (B, C, T)
        assert torch.equal(own, own[:, :1, :1].expand_as(own))
        partner = (video == plain.flip(0)).float().mean(dim=(3, 4))
        torch.testing.assert_close(own + partner, torch.ones_like(own))
        torch.testing.assert_close(label[range(4), batch["label"]], own[:, 0, 0], atol=1e-7, rtol=0)
        torch.testing.assert_close(label[range(4), batch["label"].flip(0)], partner[:, 0, 0], atol=1e-7, rtol=0)
        shares.append(own[0, 0, 0].item())
    assert len(set(shares)) > 30 and min(shares) < 0.4 and max(shares) > 0.9


def test_a_weight_of_one_changes_nothing():
    mixup = MixUp(num_classes=5, label_smoothing=0.0)
    video, label = torch.randn(4, 3, 2, 8, 8), torch.tensor([0, 1, 2, 3])
    for mix in (Mix(), Mix(1.0, (3, 3, 0, 5))):
        out = video.clone()
        mixup.mix_(out, mix)
        assert torch.equal(out, video)
        assert torch.equal(mixup.mix_labels(label, mix), hard(label))


def test_the_smallest_weight_is_still_finite():
    video = torch.randn(2, 3, 1, 4, 4)
    out = video.clone()
    MixUp(num_classes=5).mix_(out, Mix(lam=1e-300))
    assert torch.equal(out, video.flip(0))


def test_smoothing_follows_the_rule():
    mixup = MixUp(num_classes=5, label_smoothing=0.1)
    target = mixup.mix_labels(torch.tensor([2, 4]), Mix())
    off, on = 0.1 / 5, 1 - 0.1 + 0.1 / 5
    torch.testing.assert_close(target, torch.tensor([[off, off, on, off, off], [off, off, off, off, on]]))
    for lam in (0.0, 0.3, 1.0):
        torch.testing.assert_close(mixup.mix_labels(torch.tensor([2, 4]), Mix(lam)).sum(1), torch.ones(2))


@pytest.mark.parametrize("size", (1, 3, 5))
def test_odd_batches_keep_the_middle_clip_and_its_label(size):
    batch = random_batch(size)
    for step in range(10):
        plain, video, label = mixed(MixUp(num_classes=5), batch, step)
        middle = size // 2
        torch.testing.assert_close(video[middle], plain[middle], atol=1e-6, rtol=0)
        expected = MixUp(num_classes=5).mix_labels(batch["label"], Mix())[middle]
        torch.testing.assert_close(label[middle], expected)
        assert label.shape == (size, 5)


def test_multi_hot_labels_are_mixed_as_they_are():
    target = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    out = MixUp(num_classes=3).mix_labels(target, Mix(lam=0.75))
    torch.testing.assert_close(out, torch.tensor([[0.75, 0.75, 0.25], [0.25, 0.25, 0.75]]))


def test_a_dict_of_labels_is_mixed_by_one_weight():
    batch = random_batch(2)
    batch["label"] = {"verb": torch.tensor([0, 1]), "noun": torch.tensor([2, 0])}
    _, _, label = mixed(MixUp(num_classes={"verb": 2, "noun": 3}, label_smoothing=0.0), batch)
    assert label["verb"].shape == (2, 2) and label["noun"].shape == (2, 3)
    assert label["verb"][0, 0] == label["noun"][0, 2]


def test_labels_are_soft_though_nothing_is_mixed():
    batch = random_batch(4)
    plain, video, label = mixed(MixUp(num_classes=5, probability=0.0), batch)
    assert torch.equal(video, plain)
    assert torch.equal(label.argmax(1), batch["label"])


def test_probabilities_and_weights_are_distributed_as_asked():
    mixup = MixUp(num_classes=5, alpha=0.8, probability=0.8, switch_prob=0.3)
    r = np.random.RandomState(0)
    drawn = [mixup.draw(64, 64, r) for _ in range(4000)]
    cut = np.mean([mix.box is not None for mix in drawn])
    assert np.mean([mix == Mix() for mix in drawn]) == pytest.approx(0.2, abs=0.03)
    assert cut == pytest.approx(0.8 * 0.3, abs=0.03)
    weights = [mix.lam for mix in drawn if mix.box is None and mix.lam < 1]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.02)
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)  # of Beta(0.8, 0.8)
    assert all(0 <= mix.lam <= 1 for mix in drawn)


def test_several_videos_share_one_mix():
    batch = random_batch(4)
    batch["inputs"]["depth"] = batch["inputs"]["video"].clone()
    out = build(mixup=MixUp(num_classes=5))(batch, training=True, seed_words=WORDS)["inputs"]
    assert torch.equal(out["video"], out["depth"])


# --- wrong input --------------------------------------------------------------------------------------------------


def test_what_cannot_be_mixed_is_refused():
    transform = build(mixup=MixUp(num_classes=5))
    batch = random_batch(4)
    batch["inputs"]["series"] = torch.rand(4, 6, 51)
    with pytest.raises(DataError, match="series"):
        transform(batch, training=True, seed_words=WORDS)
    batch = random_batch(4)
    batch["inputs"]["depth"] = batch["inputs"]["video"][..., :8]
    with pytest.raises(DataError, match=r"one size.*\(16, 8\)"):
        transform(batch, training=True, seed_words=WORDS)
    with pytest.raises(DataError, match=r"\(4, 3\)"):
        MixUp(num_classes=5).mix_labels(torch.rand(4, 3), Mix())
    with pytest.raises(DataError, match="'noun'"):
        MixUp(num_classes={"verb": 2}).mix_labels({"noun": torch.tensor([0])}, Mix())
    with pytest.raises(DataError, match="verb"):
        MixUp(num_classes={"verb": 2}).mix_labels(torch.tensor([0]), Mix())


@pytest.mark.parametrize(
    "make,parts",
    (
        (lambda: RandomErasing(probability=2, mode="px", count=0, min_area=0.5), ("2", "'px'", "count 0", "0.5..")),
        (lambda: RandomErasing(min_aspect=0), ("min_aspect 0",)),
        (lambda: MixUp(num_classes=0, probability=-1, alpha=-1), ("num_classes 0", "probability -1", "alpha -1")),
        (lambda: MixUp(num_classes=2, alpha=0, cutmix_alpha=0), ("one must be above 0",)),
        (lambda: DeviceTransform(mean=[0.5], std=[0.5, 0.5]), ("[0.5, 0.5]",)),
        (lambda: DeviceTransform(mean=[0.5], std=[0.0]), ("[0.0]",)),
    ),
)
def test_values_out_of_range_are_named(make, parts):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(part in str(error.value) for part in parts)


def test_the_configuration_is_read():
    cfg = get_cfg()
    plain = DeviceTransform(**DeviceTransform.from_config(cfg))
    assert (plain.mean, plain.std) == ((0.45,) * 3, (0.225,) * 3)
    assert (plain.erasing, plain.mixup, plain.reverse_channels) == (None, None, False)
    cfg.AUG.ENABLE = cfg.MIXUP.ENABLE = cfg.DATA.REVERSE_INPUT_CHANNEL = True
    cfg.AUG.RE_COUNT = 2
    cfg.MODEL.NUM_CLASSES = 12
    cfg.MIXUP.LABEL_SMOOTH_VALUE = 0.2
    full = DeviceTransform(**DeviceTransform.from_config(cfg))
    assert full.erasing == RandomErasing(probability=0.25, mode="pixel", count=2, noise="device")
    assert full.mixup == MixUp(
        num_classes=12, alpha=0.8, cutmix_alpha=1.0, probability=1.0, switch_prob=0.5, label_smoothing=0.2
    )
    assert full.reverse_channels
    cfg.AUG.RE_PROB = 0.0
    assert DeviceTransform.from_config(cfg)["erasing"] is None
    kinds = {"verb": 7, "noun": 9}  # a task whose labels are of several kinds says so
    assert DeviceTransform.from_config(cfg, kinds)["mixup"].num_classes == kinds


def test_shares_of_classes_are_mixed_and_smoothed_as_classes_are():
    mixup = MixUp(num_classes=3, label_smoothing=0.3, smooth_shares=True)
    labels, one = torch.tensor([0, 2, 1]), Mix(lam=0.25)
    hard = mixup.mix_labels(labels, one)
    torch.testing.assert_close(mixup.mix_labels(torch.nn.functional.one_hot(labels, 3), one), hard)
    shares = torch.tensor([[0.6, 0.4, 0.0], [1.0, 0.0, 0.0]])
    smooth = shares * 0.7 + 0.1
    torch.testing.assert_close(mixup.mix_labels(shares, one), 0.25 * smooth + 0.75 * smooth.flip(0))
