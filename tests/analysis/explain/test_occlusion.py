"""Occlusion: losses sum to the whole change, whatever the model and the input."""

import numpy as np
import pytest
import torch

from dust.analysis.explain.occlusion import PARTS, occlude
from tests.analysis.explain.test_maps import logit, small
from tests.models.small_models import SMALL


@pytest.mark.parametrize(("name", "arguments", "shapes"), [case for case in SMALL if set(case[2]) & PARTS.keys()])
def test_losses_sum_to_the_change_of_the_logit(name, arguments, shapes):
    if "video" in shapes and len(shapes["video"]) == 4:
        pytest.skip("pictures, not clips")
    model, inputs = small(name, arguments, shapes)

    def score(changed):
        with torch.no_grad():
            return float(logit(model(**changed)))

    found = occlude(inputs, score)
    assert {one.name for one in found} == {f"{key}.{part}" for key in inputs if key in PARTS for part in PARTS[key]}
    for one in found:
        assert one.share.sum() == pytest.approx(one.whole - one.nothing, abs=1e-4)
        assert one.whole == pytest.approx(score(inputs), abs=1e-6) and len(one.edges) == len(one.alone) + 1


def test_by_a_slow_loop_and_in_parts():
    series = torch.randn(1, 3, 70)
    weights = torch.randn(3, 70)
    (channels, stretches) = occlude({"series": series}, lambda inputs: float((inputs["series"][0] * weights).sum()))
    np.testing.assert_allclose(channels.alone, (series[0] * weights).sum(dim=1).numpy(), atol=1e-4)
    np.testing.assert_allclose(channels.share, channels.alone, atol=1e-4)  # of a sum each part is what it adds
    assert len(stretches.alone) == 32 and stretches.edges[-1] == 70
    first = (series[0] * weights)[:, : stretches.edges[1]].sum()
    assert stretches.alone[0] == pytest.approx(float(first), abs=1e-4)


def test_points_are_taken_away_by_being_invisible():
    inputs = {"tracks": torch.randn(1, 2, 4, 5, 2), "visible": torch.ones(1, 2, 4, 5, dtype=torch.bool)}
    seen = []
    occlude(inputs, lambda changed: float(seen.append(changed) or changed["visible"].sum()))
    assert all(one["tracks"] is inputs["tracks"] for one in seen)
    assert inputs["visible"].all(), "what was given stays as it is"
