import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dust.config import load_config
from dust.utils.errors import DustError
from dust.utils.registry import build
from dust.visualization.writer import Writer, gif_bytes


def test_a_gif_holds_every_frame_in_order():
    frames = np.stack([np.full((8, 10, 3), 40 * t, np.uint8) for t in range(5)])
    image = Image.open(io.BytesIO(gif_bytes(frames, 10.0)))
    assert image.n_frames == 5 and image.size == (10, 8)
    for t in range(5):
        image.seek(t)
        assert abs(int(np.asarray(image.convert("RGB")).mean()) - 40 * t) < 3
        assert image.info["duration"] == 100


def test_without_a_board_nothing_is_written(tmp_path):
    with build(Writer, load_config(None), tmp_path) as writer:
        writer.scalars("Train", {"loss": 1.0}, 0)
    assert not list(tmp_path.iterdir())


class FakeWandb:
    """Stands for the package: notes what it is told."""

    def __init__(self):
        self.logged, self.inits, self.util = [], [], SimpleNamespace(generate_id=lambda: f"id{len(self.inits)}")

    def init(self, **kwargs):
        self.inits.append(kwargs)
        return self

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.logged.append("finished")


def test_a_resumed_run_goes_on_under_its_wandb_id(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    cfg = load_config(None, {"WANDB.ENABLE": True, "WANDB.MODE": "offline"})
    for _ in range(2):
        with build(Writer, cfg, tmp_path) as writer:
            writer.scalars("Val", {"top1_acc": 80.0}, 3)
    assert [init["id"] for init in fake.inits] == ["id0", "id0"]
    assert fake.inits[0]["config"]["MODEL"]["MODEL_NAME"] == "TimeSformer" and fake.inits[0]["mode"] == "offline"
    assert fake.logged[0] == {"Val/Top1_acc": 80.0, "Val/Top1_err": 20.0, "Val/step": 3}
    assert fake.logged.count("finished") == 2


def test_wandb_that_is_not_installed_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DustError, match="pip install"):
        build(Writer, load_config(None, {"WANDB.ENABLE": True}), tmp_path)


class FakeMlflow:
    """Stands for the package: notes what it is told, and fails from the third metric on."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        def tell(*args, **options):
            self.told.append((name, args, options))
            if name == "log_metrics" and sum(one[0] == name for one in self.told) > 2:
                raise ConnectionError("the server is gone")
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        return tell


def test_mlflow_goes_on_in_its_run_and_never_ends_ours(tmp_path, monkeypatch, caplog):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    cfg = load_config(None, {"MLFLOW.ENABLE": True, "MLFLOW.TRACKING_URI": "http://x"})
    for _ in range(2):
        with build(Writer, cfg, tmp_path) as writer:
            writer.scalars("Val", {"top1_acc": 80.0}, 3)
    assert [one for one in fake.told if one[0] == "start_run"] == [
        ("start_run", (), {"run_name": tmp_path.name}), ("start_run", (), {"run_id": "abc"})
    ]  # fmt: skip
    metrics = next(one for one in fake.told if one[0] == "log_metrics")
    assert metrics[1] == ({"Val/Top1_acc": 80.0, "Val/Top1_err": 20.0, "Val/step": 3.0},)
    assert metrics[2] == {"step": 3}
    (params,) = (one[1][0] for one in fake.told if one[0] == "log_params")
    assert params["MODEL.MODEL_NAME"] == "TimeSformer" and all(len(value) <= 500 for value in params.values())
    with build(Writer, cfg, tmp_path) as writer:
        for step in range(3):
            writer.scalars("Val", {"loss": 1.0}, step)
    assert caplog.text.count("the server is gone. The run continues without it") == 1


def test_the_run_there_ends_although_a_line_was_refused(tmp_path, monkeypatch):
    """Else the next stage could begin none of its own."""
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with build(Writer, load_config(None, {"MLFLOW.ENABLE": True}), tmp_path) as writer:
        for step in range(4):
            writer.scalars("Val", {"loss": 1.0}, step)
    assert fake.told[-1][0] == "end_run"


def test_mlflow_that_is_not_installed_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(DustError, match=r"dust-video\[mlflow\]"):
        build(Writer, load_config(None, {"MLFLOW.ENABLE": True}), tmp_path)


def test_a_service_that_cannot_be_reached_at_the_start_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    def gone(**options):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_experiment=lambda name: None, start_run=gone))
    with build(Writer, load_config(None, {"MLFLOW.ENABLE": True}), tmp_path) as writer:
        writer.scalars("Val", {"loss": 1.0}, 1)
    assert "MLflow: no route. The run continues without it" in caplog.text
