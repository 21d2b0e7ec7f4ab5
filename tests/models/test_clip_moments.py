"""ClipMoments sees means and changes of a clip, in any order of its frames, at any size."""

import torch

from dust.models.clip_moments import LEAST_CHANGE, moments
from tests.helpers import noise_of
from tests.models.small_models import make


def test_moments_are_those_of_the_formulas():
    video = noise_of(2, 3, 5, 6, 7)
    found = moments(video)
    assert found.shape == (2, 6, 6, 7)
    torch.testing.assert_close(found[:, :3], video.mean(2))
    grey = video.mean(1)
    torch.testing.assert_close(found[:, 3], (((grey - grey.mean(1, True)) ** 2).mean(1).sqrt() + LEAST_CHANGE).log())
    still = grey.mean(1)
    torch.testing.assert_close(found[:, 4, :, :-1], (still[:, :, 1:] - still[:, :, :-1]).abs())
    torch.testing.assert_close(found[:, 5, :-1], (still[:, 1:] - still[:, :-1]).abs())
    assert not found[:, 4, :, -1].any() and not found[:, 5, -1].any()


def test_the_order_of_frames_does_not_matter_and_what_moves_does():
    model = make("ClipMoments", {"width": 4, "grid": 2, "drop_rate": 0.0}).eval()
    video = noise_of(2, 3, 6, 32, 40)
    logits = model(video)
    torch.testing.assert_close(model(video[:, :, [3, 1, 5, 0, 2, 4]]), logits, atol=1e-5, rtol=1e-5)
    still = video.mean(2, keepdim=True).expand_as(video)  # the same mean picture, without changes
    assert (model(still) - logits).abs().max() > 1e-3
    assert model(noise_of(1, 3, 1, 48, 31)).shape == (1, 5)
