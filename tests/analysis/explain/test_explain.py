"""dust explain: files, and what it cannot do."""

import json
import math
import sys

import av
import numpy as np
import pytest

from dust.analysis.explain import explain, write_explanation
from dust.analysis.explain.occlusion import Occlusion
from dust.cli.main import main
from dust.utils.errors import ConfigError, DataError


def test_files_of_a_clip(run, model, clips, tmp_path, capsys):
    clip = clips / "clip_15.mp4"
    assert main(["explain", str(run), str(clip), "-o", str(tmp_path), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "map by attention" in said and "video.frames" in said
    facts = json.loads((tmp_path / "clip_15.json").read_text())
    prediction = model(clip)
    assert facts["answer"] == facts["class"] == prediction.label
    assert facts["probability"] == pytest.approx(prediction.probabilities[prediction.label], abs=1e-6)
    arrays = np.load(tmp_path / "clip_15.npz")
    frames = arrays["video.frames.share"]
    assert arrays["map"].ndim == 3 and len(frames) == 2
    occlusion = facts["occlusion"]["video.frames"]
    assert frames.sum() == pytest.approx(occlusion["whole"] - occlusion["nothing"], abs=1e-4)
    with av.open(str(tmp_path / "clip_15.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 2
    assert (tmp_path / "clip_15.png").stat().st_size > 5000


def test_another_class_another_view_and_no_map(model, clips, tmp_path):
    other = next(name for name in model.classes if name != model(clips / "clip_15.mp4").label)
    found = explain(model, clips / "clip_15.mp4", target=other, method="none", view=0)
    assert (found.target, found.view, found.map) == (other, 0, None)
    assert len(write_explanation(found, tmp_path)) == 4
    alone = explain(model, clips / "clip_15.mp4", occlusion=False)
    assert alone.occlusions == [] and alone.map is not None


def test_what_cannot_be_explained(model, clips, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken\.mp4"):
        explain(model, tmp_path / "broken.mp4")
    for options, says in (
        ({"target": "blue"}, "bright, dark"),
        ({"view": 99}, "from 0"),
        ({"method": "gradcam"}, "no map"),
    ):
        with pytest.raises(ConfigError, match=says):
            explain(model, clips / "clip_15.mp4", **options)


def test_what_is_no_number_is_said_with_the_name(model, clips, monkeypatch):
    """As of a series with NaN, which no picture can show."""
    nothing = Occlusion("video.frames", np.array([0, 2]), np.array([math.nan]), np.array([math.nan]), math.nan, 0.0)
    monkeypatch.setattr(sys.modules["dust.analysis.explain.explain"], "occlude", lambda inputs, score: [nothing])
    with pytest.raises(DataError, match=r"clip_15\.mp4: what '\w+' loses is no finite number"):
        explain(model, clips / "clip_15.mp4", method="none")
