"""An exported model behind the server: the answers of ``dust predict``, from its file alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dust
from dust.cli.main import main
from dust.deploy import exported
from dust.deploy.export import Request, export
from dust.models import MODEL_REGISTRY
from tests.deploy.serve.serving import call, send, serving

pytest.importorskip("fastapi")


class OfTorch:
    """A .pt2 that this test has written a moment ago; dust opens none of a stranger's."""

    def __init__(self, path):
        extra = {exported.ENTRY: ""}
        self.program = torch.export.load(path, extra_files=extra).module()
        self.manifest = extra[exported.ENTRY]

    def __call__(self, inputs):
        with torch.no_grad():
            return self.program(**inputs)


@pytest.fixture(params=["model.onnx", "model.pt2"])
def file(request, run, clips, tmp_path, monkeypatch):
    if request.param.endswith(".onnx"):
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    path = tmp_path / request.param
    export(str(run), Request(path, measured=(), check=[str(clips / "clip_14.mp4")]))
    if request.param.endswith(".pt2"):
        assert main(["serve", str(path), "--port", "0"]) == 2, "torch reads it with pickle"
        monkeypatch.setattr(exported, "open_runtime", lambda path, device: OfTorch(path))
    return path


def test_its_answers_are_those_of_predict(file, model, clips, monkeypatch):
    def nobody(name):
        raise AssertionError(f"{name}: an exported model needs no model's code")

    names = [f"clip_{number}.mp4" for number in (3, 14, 15, 16)]
    expected = [dict(model(clips / name).probabilities) for name in names]
    monkeypatch.setattr(MODEL_REGISTRY, "get", nobody)
    loaded = dust.load(file)
    alone = [dict(loaded(clips / name).probabilities) for name in names]
    with serving(loaded, files=str(clips)) as server, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: send(server.port, clips / name), names * 2))
        for (status, _, answer), own, whole in zip(found, alone * 2, expected * 2, strict=True):
            assert status == 200 and "error" not in answer
            assert answer["predictions"][0]["probabilities"] == pytest.approx(own, abs=1e-5)
            assert answer["predictions"][0]["probabilities"] == pytest.approx(whole, abs=1e-4)
        status, _, answer = call(server.port, "POST", "/predict?path=clip_15.mp4&timeline=true&top=1")
        assert status == 200 and answer["timeline"]["segments"], answer["timeline"]
        _, _, about = call(server.port, "GET", "/model")
        assert about["classes"] == model.classes
        assert about["model"]["checkpoint_sha256"] == model.identity.checkpoint_sha256
