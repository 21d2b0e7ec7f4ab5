"""What a request becomes, without any HTTP."""

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

import dust
from dust.deploy.serve.limits import Limits, Refused
from dust.deploy.serve.service import Options, Sample, Service, Stopped, likeliest, unless_gone
from dust.engine import run_net
from dust.synthetic.tracks import generate_tracks
from tests.helpers import ROOT
from tests.runs import command_line

pytest.importorskip("prometheus_client")


def answer(service, sample, options=None):
    async def ask():
        service.start()
        try:
            return await service.predict(sample, options or Options())
        finally:
            await service.close()

    return asyncio.run(ask())


def test_places_and_folders(model):
    service = Service(model, Limits(queue=2))
    with service.place(), service.place():
        with pytest.raises(Refused, match="all 2 places") as refused, service.place():
            pass
        assert refused.value.status == 503
    service._folder = str(model.loop.device)  # never made
    with service.place():
        pass


def test_files_are_named_only_where_they_may_be(model, clips):
    with pytest.raises(Refused, match="--files DIR"):
        Service(model).named("clip_1.mp4")
    sample = Service(model, files=str(clips)).named("clip_1.mp4")
    assert Path(sample.path).name == sample.name == "clip_1.mp4"


def test_an_answer_shows_no_folder_of_the_server(model, tmp_path):
    (tmp_path / "x.mp4").write_text("no video")
    found = answer(Service(model), Sample(str(tmp_path / "x.mp4"), "mine.mp4", str(tmp_path)))
    assert found["error"] and str(tmp_path) not in str(found)


def test_a_model_without_windows_says_so_and_answers(run, clips):
    model = dust.load(run, overrides={"DATA.SAMPLING": "whole_clip"}, device="cpu")
    sample = Sample(str(clips / "clip_14.mp4"), "a.mp4")
    found = answer(Service(model), sample, Options(timeline=True))
    assert found["predictions"][0]["label"] and "--window SECONDS" in found["timeline"]["error"]
    found = answer(Service(model, window=1.0), sample, Options(timeline=True))
    assert found["timeline"]["windows"]


def test_the_files_of_a_sample_are_found_beside_each_other(tmp_path):
    """Point tracks: one camera's file is named, the others lie in the folder of uploads as in any other."""
    generate_tracks(tmp_path / "data", sequences=8, views=2, points=8, frames=12)
    keys = {"DATA.PATH_TO_DATA_DIR": tmp_path / "data", "OUTPUT_DIR": tmp_path / "run", "SOLVER.MAX_EPOCH": 1,
            "SOLVER.WARMUP_EPOCHS": 0, "TRAIN.EVAL_PERIOD": 0, "DATA_LOADER.NUM_WORKERS": 0,
            "TRACKS.VIEWS": "[0,1]"}  # fmt: skip
    words = command_line(keys)
    config = ROOT / "configs" / "quickstart" / "tracks_transformer.yaml"
    assert run_net.main(["--cfg", str(config), *words]) == 0
    for handler in list(logging.getLogger("dust").handlers):  # of the run, which is over
        logging.getLogger("dust").removeHandler(handler)
    model = dust.load(tmp_path / "run", device="cpu")
    first = next((tmp_path / "data").rglob("*_view_0.npz"))
    second = first.with_name(first.name.replace("view_0", "view_1"))
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    for path in (first, second):
        shutil.copy(path, uploads)
    sample = Sample(str(uploads / first.name), first.name, str(uploads))
    found = answer(Service(model), sample)
    assert found["predictions"][0]["probabilities"] == pytest.approx(dict(model(first).probabilities), abs=1e-5)
    assert str(uploads) not in str(found)
    (uploads / first.name).write_bytes(b"no array")
    assert answer(Service(model), sample)["error"] and str(uploads) not in str(answer(Service(model), sample))


def test_who_has_left_is_not_waited_for():
    async def check():
        ended = []

        async def work():
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        with pytest.raises(Stopped):
            await unless_gone(work(), lambda: asyncio.sleep(0))
        assert ended == [True]
        assert await unless_gone(asyncio.sleep(0, "done"), lambda: asyncio.sleep(60)) == "done"

    asyncio.run(check())


def test_the_likeliest():
    pairs = [("a", 0.1), ("b", 0.6), ("c", 0.3)]
    assert likeliest(pairs, 2) == [("b", 0.6), ("c", 0.3)] and len(likeliest(pairs, 0)) == 3


def test_a_stream_with_a_threshold_keeps_the_temperature(model, monkeypatch):
    streamed = []
    monkeypatch.setattr(type(model), "stream", lambda self, source, **how: streamed.append(self))
    monkeypatch.setattr(model, "temperature", 2.5)
    Service(model).stream("x", Options(threshold=0.4))
    assert (streamed[0].temperature, streamed[0].threshold) == (2.5, 0.4) and model.threshold == 0.0


@pytest.mark.parametrize(("window", "stride"), [(600.0, 0.001), (0.0, 1e-6)])
def test_more_open_windows_than_memory_bears_are_refused(model, window, stride):
    service = Service(model)
    assert service.training_s > 0 and service.windows(Options(window=8.0, stride=0.5)) == (8.0, 0.5)
    with pytest.raises(Refused, match="stride: at least the 64th part of the window"):
        service.windows(Options(window=window, stride=stride))
