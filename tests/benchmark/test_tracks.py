"""The figures of the point track benchmark that something else knows: sizes and passes. No times."""

import pytest

from dust.benchmark.tracks import benchmark_tracks
from dust.config import load_config
from dust.utils.errors import ConfigError, DustError
from tests.helpers import ROOT

CFG = ROOT / "configs" / "quickstart" / "tracks_transformer.yaml"
TINY = {"TRACKS.NUM_POINTS": 8, "TRACKS.WINDOW": 20, "TRACKS.VIEWS": [0, 1]}


def test_sizes_and_passes():
    report = benchmark_tracks(load_config(CFG, TINY), rounds=1, windows=3, stride=5)
    rows = {row["case"]: row for row in report.figures}
    # two cameras, width 1000: the published model's own transformer has most of it
    assert rows["published"]["params_m"] > 10 > rows["as configured"]["params_m"]
    assert rows["published"]["times_less"] == 1.0
    for reducer in ("set", "cnn"):
        assert rows[f"{reducer}, whole windows"]["passes"] == 2 * 20 * 3
        assert rows[f"{reducer}, stream"]["passes"] == 2 * 5 * 3
    assert all(row["cpu_ms"] > 0 for row in report.figures)


def test_what_it_cannot_measure():
    with pytest.raises(DustError, match="--rounds 0"):
        benchmark_tracks(load_config(CFG), rounds=0)
    with pytest.raises(ConfigError, match="PointTrackTransformer"):
        benchmark_tracks(load_config(CFG, {"MODEL.MODEL_NAME": "PointTrackLSTM"}))
