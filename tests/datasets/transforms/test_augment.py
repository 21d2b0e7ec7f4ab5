"""Augmentations by name: what a list may hold, that it draws from its own stream alone, and what is refused."""

import numpy as np
import pytest
import torch

from dust.config import load_config
from dust.datasets.transforms.augment import (
    AUGMENTATION_REGISTRY,
    ColorJitter,
    Grayscale,
    augment_clip,
    build_augmentations,
)
from dust.datasets.transforms.clip import TrainTransform
from dust.datasets.transforms.randaugment import ClipRandAugment
from dust.datasets.video.video import train_transform
from dust.utils.errors import ConfigError
from dust.utils.rng import numpy_rng

RAND = "rand-m7-n4-mstd0.5-inc1"


@AUGMENTATION_REGISTRY.register()
def darken_in_test(clip, rng, *, most=40):
    return (clip.int() - int(rng.randint(0, most + 1))).clamp(0, 255).to(clip.dtype)


@AUGMENTATION_REGISTRY.register()
class HalvedInTest:
    def __call__(self, clip, rng):
        return clip[:, :, ::2]


def clip_of(seed=0, frames=3):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (frames, 3, 24, 24)).astype(np.uint8))


@pytest.mark.parametrize(
    ("keys", "entries"),
    [
        ({"auto_augment": RAND}, [{"RandAugment": {"policy": RAND}}]),
        ({"color_jitter": 0.4}, ["ColorJitter"]),
        (
            {"auto_augment": RAND, "color_jitter": 0.2, "grayscale_prob": 0.5, "interpolation": "random"},
            [
                {"RandAugment": {"policy": RAND, "interpolation": "random"}},
                {"ColorJitter": {"strength": 0.2}},
                {"Grayscale": {"prob": 0.5}},
            ],
        ),
    ],
)
def test_a_list_gives_what_the_keys_give(keys, entries):
    """Bit for bit, geometry and flip included: both draw from one stream in the same order."""
    by_key, by_list = (
        TrainTransform(crop_size=16, jitter_scales=(18, 22), **keys),
        TrainTransform(crop_size=16, jitter_scales=(18, 22), augmentations=build_augmentations(entries)),
    )
    for seed in range(10):
        outputs = []
        for one in (by_key, by_list):
            rng = numpy_rng(seed, "augment", 0, 0, 0)
            geometry = one.geometry(24, 24, rng)
            outputs.append((geometry, one(clip_of(seed), geometry, rng)))
        assert outputs[0][0] == outputs[1][0] and torch.equal(outputs[0][1], outputs[1][1])


def test_the_configuration_names_them():
    listed = ["darken_in_test", {"ColorJitter": {"strength": 0.1}}, {"darken_in_test": {"most": 3}}]
    for values in ({"AUG.LIST": listed}, {"AUG.LIST": str(listed)}):
        cfg = load_config(None, {"AUG.ENABLE": True, **values})
        assert listed == cfg.AUG.LIST
        names = [type(one).__name__ for one in train_transform(cfg).augmentations]
        assert names == ["function", "ColorJitter", "partial"]
    plain = train_transform(load_config(None, {"AUG.ENABLE": True})).augmentations
    assert [type(one) for one in plain] == [ClipRandAugment]
    plain = train_transform(load_config(None, {"AUG.ENABLE": True, "AUG.AA_TYPE": ""})).augmentations
    assert [type(one) for one in plain] == [ColorJitter]
    assert train_transform(load_config(None, {})).augmentations == []
    with pytest.raises(ConfigError, match=r"AUG.LIST \['ColorJitter'\]: acts with AUG.ENABLE True only"):
        load_config(None, {"AUG.LIST": ["ColorJitter"]})


def test_one_of_your_own_draws_from_the_stream_of_the_view():
    (augment,) = build_augmentations([{"darken_in_test": {"most": 200}}])
    clips = [augment_clip(clip_of(), [augment], numpy_rng(0, "augment", 0, 0, view)) for view in (0, 1, 0)]
    assert torch.equal(clips[0], clips[2]) and not torch.equal(clips[0], clips[1])
    assert torch.equal(clip_of(), clip_of()), "the given clip stays as it was"


def test_all_that_is_wrong_is_named_at_once():
    entries = ["ColourJitter", {"ColorJitter": {"strenght": 1}}, 3, {"a": {}, "b": {}}, {"Grayscale": {"prob": 2}}]
    with pytest.raises(ConfigError) as caught:
        build_augmentations([*entries, {"darken_in_test": {"least": 1}}, {"ColorJitter": 0.4}])
    for words in (
        "entry 1: no augmentation is called 'ColourJitter'. Did you mean ColorJitter",
        "entry 2: ColorJitter cannot be made with {'strenght': 1}",
        "entry 3: 3 is neither a name nor",
        "entry 4: {'a': {}, 'b': {}} is neither",
        "entry 5: grayscale probability 2: must be in 0..1",
        "entry 6: darken_in_test cannot be made with {'least': 1}",
        "entry 7: {'ColorJitter': 0.4} is neither",
    ):
        assert words in str(caught.value)


def test_one_that_changes_the_shape_is_named():
    augmentations = build_augmentations([{"Grayscale": None}, "HalvedInTest"])
    assert isinstance(augmentations[0], Grayscale)
    with pytest.raises(ConfigError, match=r"HalvedInTest made torch.uint8 \(3, 3, 12, 24\) of a clip of .*must keep"):
        augment_clip(clip_of(), augmentations, numpy_rng(0))


def test_a_list_comes_from_yaml_with_its_arguments_as_numbers(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("AUG: {ENABLE: True, LIST: [{ColorJitter: {strength: 0.2}}, Grayscale]}\nMODEL: {NUM_CLASSES: 2}\n")
    cfg = load_config(path, {"TRAIN.ENABLE": False, "TEST.ENABLE": False})
    assert cfg.AUG.LIST == [{"ColorJitter": {"strength": 0.2}}, "Grayscale"]
    again = tmp_path / "again.yaml"
    again.write_text(cfg.dump())
    assert load_config(again).AUG.LIST == cfg.AUG.LIST
    with pytest.raises(ConfigError, match="SOLVER.STEPS"):
        load_config(None, {"SOLVER.STEPS": [{"a": 1}], "TRAIN.ENABLE": False, "TEST.ENABLE": False})
