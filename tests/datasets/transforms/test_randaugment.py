"""RandAugment of clips against timm's own of pictures."""

import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment as timm_augment

from dust.datasets.transforms.randaugment import INCREASING, PLAIN, ClipRandAugment, Policy, parse_policy, posterize
from dust.utils.errors import ConfigError, DataError

VIDEOMAE = "rand-m7-n4-mstd0.5-inc1"


def rng(seed=0):
    return np.random.RandomState(seed)


def random_clip(channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 200, (3, 24, 32, channels), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def test_the_sets_of_operations_are_timms():
    assert list(PLAIN) and set(PLAIN) == set(timm_augment._RAND_TRANSFORMS)
    assert set(INCREASING) == set(timm_augment._RAND_INCREASING_TRANSFORMS)


@pytest.mark.parametrize("name", sorted({**PLAIN, **INCREASING}))
def test_arguments_equal_timms_at_every_strength(name, monkeypatch):
    ours = {**PLAIN, **INCREASING}[name]
    theirs = timm_augment.LEVEL_TO_ARG[name]
    for draw, sign in ((0.4, 1.0), (0.6, -1.0)):  # timm negates above one half
        monkeypatch.setattr(timm_augment.random, "random", lambda draw=draw: draw)
        for magnitude in np.linspace(0, 10, 41):
            expected = theirs(magnitude, {}) if theirs else ()
            assert ours(magnitude / 10, lambda sign=sign: sign) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ("rand", VIDEOMAE, "rand-m9-mstd0.5-inc1", "rand-n3-m15-mmax20-p0.7", "rand-m5-mstd101", "rand-inc0-m10")
)
def test_strings_mean_what_they_mean_to_timm(text):
    policy = parse_policy(text)
    theirs = timm_augment.rand_augment_transform(text, {})
    operation = theirs.ops[0]
    assert policy.num_ops == theirs.num_layers
    assert (policy.magnitude, policy.prob) == (operation.magnitude, operation.prob)
    assert policy.max_magnitude == (operation.magnitude_max or 10)
    assert min(policy.magnitude_std, 1e9) == min(operation.magnitude_std, 1e9) or policy.magnitude_std > 100
    if "inc0" in text and "PosterizeIncreasing" in [op.name for op in theirs.ops]:
        pytest.skip(f"timm {timm.__version__} reads inc0 as inc1, later ones as we do")
    assert [op.name for op in theirs.ops] == timm_augment.rand_augment_choices("", policy.increasing)


def test_the_published_string():
    assert parse_policy(VIDEOMAE) == Policy(magnitude=7, num_ops=4, magnitude_std=0.5, increasing=True)


@pytest.mark.parametrize(
    "text,piece",
    (
        ("augmix-m3", "'augmix'"),
        ("rand-m7-q3", "'q3'"),
        ("rand-m7-w0", "'w0'"),
        ("rand-tweights", "'tweights'"),
        ("rand-m", "'m'"),
        ("rand-mfive", "'mfive'"),
        ("rand-n0", "'n0'"),
        ("rand-n1.5", "'n1.5'"),
        ("rand-p2", "'p2'"),
        ("rand-inc2", "'inc2'"),
        ("rand-m3-m4", "'m4'"),
        ("rand--m3", "''"),
    ),
)
def test_a_bad_piece_is_named(text, piece):
    with pytest.raises(ConfigError, match="rand-m7-n4-mstd0.5-inc1") as error:  # the way out
        ClipRandAugment(text)
    assert piece in str(error.value)


def test_all_bad_pieces_are_named_at_once():
    with pytest.raises(ConfigError, match=r"'x1'.*'p7'"):
        parse_policy("rand-x1-p7")


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("name", sorted({**PLAIN, **INCREASING}))
def test_every_operation_is_timms_on_each_frame(name, channels):
    clip = random_clip(channels)
    level = {**PLAIN, **INCREASING}[name](0.7, lambda: 1.0)
    augment = ClipRandAugment("rand-inc1" if name in INCREASING else "rand", fill=128)
    out = augment.apply(clip, [(name, level, "bicubic")])
    for frame, result in zip(clip, out, strict=True):
        array = frame.permute(1, 2, 0).contiguous().numpy()
        picture = Image.fromarray(array[..., 0] if channels == 1 else array)
        fill = 128 if channels == 1 else (128,) * 3
        expected = timm_augment.NAME_TO_OP[name](picture, *level, fillcolor=fill, resample=Image.Resampling.BICUBIC)
        assert np.array_equal(
            result.permute(1, 2, 0).numpy().reshape(array.shape), np.asarray(expected).reshape(array.shape)
        )
    if name != "ColorIncreasing" and name != "Color":
        assert not torch.equal(out, clip)


def test_the_number_of_operations_follows_n_and_p():
    augment = ClipRandAugment("rand-m7-n4-p0.3")
    r = rng()
    counts = [len(augment.draw(r)) for _ in range(2000)]
    assert np.mean(counts) == pytest.approx(4 * 0.3, abs=0.07)
    assert {len(ClipRandAugment("rand-n3-p1").draw(rng(seed))) for seed in range(20)} == {3}
    assert {len(ClipRandAugment("rand-n3-p0").draw(rng(seed))) for seed in range(20)} == {0}


def test_strengths_scatter_around_m_and_stay_within_range():
    def degrees(text):
        augment, r = ClipRandAugment(text), rng()
        drawn = [op for _ in range(4000) for op in augment.draw(r)]
        return np.array([arguments[0] / 3 for name, arguments, _ in drawn if name == "Rotate"])

    assert set(np.round(np.abs(degrees("rand-m7-p1")), 6)) == {7.0}
    noisy = degrees("rand-m7-mstd0.5-p1")
    assert np.abs(noisy).mean() == pytest.approx(7, abs=0.1)
    assert np.abs(noisy).std() == pytest.approx(0.5, abs=0.07)
    assert 0.4 < (noisy > 0).mean() < 0.6
    assert np.abs(degrees("rand-m9-mstd5-p1")).max() == 10
    assert np.abs(degrees("rand-m30-mmax20-p1")).max() == 20
    uniform = np.abs(degrees("rand-m8-mstd101-p1"))
    assert uniform.min() < 0.5 and 7.5 < uniform.max() <= 8 and uniform.mean() == pytest.approx(4, abs=0.4)


def test_no_global_stream_is_read_or_moved():
    augment = ClipRandAugment("rand-m7-n4-mstd0.5-inc1-p1", interpolation="random")
    clip = random_clip()

    def states():
        return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()

    def reseed(seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    reseed(1)
    before = states()
    first = [augment(clip, rng(seed)) for seed in range(30)]
    assert states() == before
    reseed(2)
    for seed, result in enumerate(first):
        assert torch.equal(augment(clip, rng(seed)), result)


def test_other_clips_are_refused():
    augment = ClipRandAugment("rand-p1")
    with pytest.raises(ConfigError, match="float32"):
        augment(torch.rand(2, 3, 8, 8), rng())
    with pytest.raises(ConfigError, match="of 4"):
        augment(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), rng())
    with pytest.raises(ConfigError, match="'lanczos'"):
        ClipRandAugment("rand", interpolation="lanczos")


@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("size", [(24, 20), (1, 1), (2, 5)], ids=str)
def test_every_operation_runs_at_every_magnitude(increasing, size):
    """From 0 to 10 in steps of 0.1, on colours and grey: what a training draws once in a thousand clips."""
    augment = ClipRandAugment(f"rand-inc{increasing}")
    rng = np.random.RandomState(0)
    for channels in (1, 3):
        clip = torch.from_numpy(rng.randint(0, 256, (1, channels, *size), dtype=np.uint8))
        for name, level in augment._levels.items():
            for tenth in range(101):
                for sign in (1.0, -1.0):
                    arguments = level(tenth / 100, lambda sign=sign: sign)
                    out = augment.apply(clip, [(name, arguments, "bicubic")])
                    assert out.shape == clip.shape and out.dtype == torch.uint8


def test_posterize_keeps_the_highest_bits():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([values] * 3, axis=-1))
    for bits in range(1, 9):
        np.testing.assert_array_equal(
            np.asarray(posterize(picture, bits)), np.asarray(ImageOps.posterize(picture, bits))
        )
    assert not np.asarray(posterize(picture, 0)).any()


def test_what_goes_wrong_names_the_operation():
    augment = ClipRandAugment("rand-m5")
    with pytest.raises(DataError, match=r"Solarize\('x',\) on a picture of 4 x 3 pixels"):
        augment.apply(torch.zeros(1, 3, 3, 4, dtype=torch.uint8), [("Solarize", ("x",), "bicubic")])
