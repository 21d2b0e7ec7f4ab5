"""Series and point tracks with what their parts add: drawn in the colour of the sign, and summing to one whole."""

import numpy as np
import pytest
import torch
from PIL import Image

from dust.analysis.explain.curves import AGAINST, FOR, write_series_picture, write_tracks_picture
from dust.analysis.explain.explain import Explanation, write_explanation
from dust.analysis.explain.occlusion import occlude
from tests.analysis.explain.test_maps import logit, small
from tests.models.small_models import SMALL


def coloured(path, colour):
    """(H, W): which pixels are exactly of a colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.asarray(Image.open(path).convert("RGB")) == wanted).all(axis=-1)


@pytest.mark.parametrize(
    ("name", "arguments", "shapes"), [case for case in SMALL if {"series", "tracks"} & case[2].keys()]
)
def test_all_ways_to_take_an_input_apart_sum_to_one_change(name, arguments, shapes):
    model, inputs = small(name, arguments, shapes)

    def score(changed):
        with torch.no_grad():
            return float(logit(model(**changed)))

    for key in inputs.keys() & {"series", "tracks"}:
        sums = [one.share.sum() for one in occlude(inputs, score) if one.name.startswith(f"{key}.")]
        assert len(sums) == {"series": 2, "tracks": 3}[key]
        np.testing.assert_allclose(sums, sums[0], atol=1e-4)


def test_parts_that_stand_for_each_other_share_what_they_add():
    """One visible point is enough: of an order of its own, the points at its ends would have it all."""
    inputs = {"tracks": torch.zeros(1, 1, 4, 9, 2), "visible": torch.ones(1, 1, 4, 9, dtype=torch.bool)}
    points = occlude(inputs, lambda changed: float(changed["visible"].any()))[-1]
    assert points.name == "tracks.points" and not points.alone.any()
    assert points.share.sum() == pytest.approx(1) and (points.share > 0).sum() > 3


@pytest.mark.parametrize("sign", [1, -1])
def test_what_speaks_for_the_answer_is_orange(tmp_path, sign):
    series = torch.ones(1, 3, 64)
    channels, stretches = occlude({"series": series}, lambda one: sign * float(one["series"][0, 2, 48:].sum()))
    write_series_picture(tmp_path / "s.png", series[0].numpy(), channels, stretches, "pour 90 %")
    own, other = (coloured(tmp_path / "s.png", colour) for colour in ((FOR, AGAINST) if sign > 0 else (AGAINST, FOR)))
    left, right = np.array_split(own[:, : int(0.8 * own.shape[1])], [int(0.55 * own.shape[1])], axis=1)
    assert right.sum() > 5000 and not left.any() and not other.any(), "the last quarter of the curves, and its bars"


def test_files_of_tracks_and_of_a_series(tmp_path):
    """With a camera that saw nothing, and more channels than are drawn."""
    rng = np.random.default_rng(0)
    visible = np.ones((2, 8, 5), bool)
    visible[1] = False
    numbers = {"series": rng.normal(size=(14, 30)), "tracks": rng.normal(size=(2, 8, 5, 2)), "visible": visible}
    inputs = {name: torch.as_tensor(one)[None] for name, one in numbers.items()}
    found = occlude(inputs, lambda one: float(one["visible"].float().sum() + one["series"].sum()))
    whole = Explanation("a/walk.npz", "x", "x", 0.5, 0, None, "no video", found, None, numbers)
    names = [path.name for path in write_explanation(whole, tmp_path)]
    assert names == ["walk.json", "walk.npz", "walk.series.png", "walk.tracks.png"]
    assert coloured(tmp_path / "walk.tracks.png", FOR).any()
    write_tracks_picture(tmp_path / "t.png", numbers["tracks"], visible & False, [], "nothing was seen")
    write_series_picture(tmp_path / "u.png", numbers["series"], None, None, "without occlusion")
    assert not coloured(tmp_path / "t.png", FOR).any() and (tmp_path / "u.png").stat().st_size > 5000
