"""RandAugment on tensors against Pillow's, operation by operation and as a whole."""

import pytest
import torch
from torch.nn.functional import interpolate

from dust.config import load_config
from dust.datasets.transforms.device import DeviceTransform
from dust.datasets.transforms.device_randaugment import DeviceRandAugment
from dust.datasets.transforms.randaugment import INCREASING, PLAIN, ClipRandAugment
from dust.datasets.video.video import train_transform
from dust.utils.errors import ConfigError
from dust.utils.registry import build
from dust.utils.rng import numpy_rng

GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
LEVELS = {"rand-p1": PLAIN, "rand-p1-inc1": INCREASING}


def clips():
    """Noise, soft and dark ones, one without any contrast, one of a single channel: (C, 2, 37, 52)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 2, 37, 52), dtype=torch.uint8, generator=generator)
    soft = interpolate(torch.rand(3, 2, 5, 6, generator=generator) * 255, size=(37, 52), mode="bicubic")
    soft = soft.clamp(0, 255).to(torch.uint8)
    return [noise, soft, soft // 3 + 20, torch.full_like(noise, 77), soft[:1]]


def by_pillow(augment, clip, operations):
    return augment.apply(clip.permute(1, 0, 2, 3), operations).permute(1, 0, 2, 3)


def differences(policy, name, interpolation):
    """Of all values, at magnitudes from none to full and both signs."""
    slow, fast = (kind(policy, interpolation=interpolation) for kind in (ClipRandAugment, DeviceRandAugment))
    found = []
    for level in (0.0, 0.12, 0.35, 0.5, 0.77, 1.0):
        for sign in (-1.0, 1.0):
            operations = [(name, LEVELS[policy][name](level, lambda sign=sign: sign), interpolation)]
            for clip in clips():
                before = clip.clone()
                ours = fast.apply(clip, operations)
                assert torch.equal(clip, before) and ours.dtype == torch.uint8
                found.append((ours.int() - by_pillow(slow, clip, operations).int()).abs().flatten())
    return torch.cat(found).float()


@pytest.mark.parametrize(
    ("policy", "name"),
    [(policy, name) for policy, levels in LEVELS.items() for name in levels if name not in GEOMETRY],
)
def test_point_operations_give_pillows_bytes(policy, name):
    assert not differences(policy, name, "bicubic").any()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_pixels_move_as_pillows_do(name, interpolation):
    found = differences("rand-p1", name, interpolation)
    if interpolation == "nearest":  # Pillow counts places in 65536ths
        assert (found > 0).float().mean() < 5e-4
    else:
        assert found.max() <= 1 and found.mean() < 0.02


def test_a_batch_is_what_pillow_makes_of_the_same_draws():
    """Four operations after each other: what differs by 1 may lie at a threshold of the next one."""
    policy = "rand-m9-n4-mstd0.5-inc1"
    slow, fast, video = ClipRandAugment(policy), DeviceRandAugment(policy), torch.stack([clips()[1]] * 60)
    ours = fast(video, (7, "step", 3))
    draws = [slow.draw(numpy_rng(7, "step", 3, "randaugment", i)) for i in range(len(video))]
    theirs = torch.stack([by_pillow(slow, clip, drawn) for clip, drawn in zip(video, draws, strict=True)])
    applied = [name for drawn in draws for name, _, _ in drawn]
    assert 90 < len(applied) < 150 and set(applied) == set(INCREASING)  # half of 240, of 15 kinds
    difference = (ours.int() - theirs.int()).abs().float()
    assert difference.mean() < 0.1 and (difference > 1).float().mean() < 1e-3
    for figure in (torch.mean, torch.std):
        torch.testing.assert_close(figure(ours.float()), figure(theirs.float()), atol=0.05, rtol=0)
    assert torch.equal(fast(video, (7, "step", 3)), ours) and not torch.equal(fast(video, (7, "step", 4)), ours)
    assert not torch.equal(ours[0], ours[1])


def cfg_of(*words):
    return load_config(None, ["AUG.ENABLE", "True", "AUG.RE_PROB", "0.0", *words])


def test_the_key_moves_it_from_the_workers_to_the_device():
    aug = ("AUG.AA_TYPE", "rand-m9-n2-p1-inc1")
    workers, device = cfg_of(*aug), cfg_of(*aug, "AUG.AA_WHERE", "device")
    assert train_transform(workers).augmentations and build(DeviceTransform, workers).randaugment is None
    assert not train_transform(device).augmentations
    transform = build(DeviceTransform, device)
    video = torch.stack([clips()[0]] * 3)
    batch = {"inputs": {"video": video.clone()}, "label": torch.arange(3)}
    plain = transform(batch, training=False)["inputs"]["video"]
    augmented = transform(batch, training=True, seed_words=(1, "step", 0))["inputs"]["video"]
    assert torch.equal(batch["inputs"]["video"], video) and torch.equal(plain, transform.normalize(video))
    by_hand = transform.randaugment(video, (1, "step", 0, "video"))
    assert torch.equal(augmented, transform.normalize(by_hand)) and not torch.equal(by_hand, video)
    with pytest.raises(ConfigError, match="1 or 3 channels, not of 2"):
        transform.randaugment(video[:, :2], (1,))


def test_a_list_of_augmentations_runs_in_the_workers():
    with pytest.raises(ConfigError, match="AUG.AA_WHERE device: is for AUG.AA_TYPE"):
        cfg_of("AUG.LIST", "[Grayscale]", "AUG.AA_WHERE", "device")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_a_cpus_bytes_and_nothing_waits():
    fast, video = DeviceRandAugment("rand-m9-n4-mstd0.5-inc1"), torch.stack([clips()[1]] * 20)
    ours, on_gpu = fast(video, (1,)), video.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        theirs = fast(on_gpu, (1,))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (ours.int() - theirs.cpu().int()).abs().float()
    assert difference.mean() < 0.01 and (difference > 1).float().mean() < 1e-3
