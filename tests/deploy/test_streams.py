"""A stream's windows have the numbers of the same windows read by number; and what they cost."""

import copy
import threading
import tracemalloc
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

import dust
from dust.datasets.manifest.manifest import Clip
from dust.decode.reader import VideoReader
from dust.deploy.jobs import LongVideos
from dust.deploy.report import Output
from dust.engine import overlap
from dust.utils.errors import ConfigError, DataError, VideoError
from tests.datasets.clip_files import write_clip
from tests.decode.test_live import Fake, pair
from tests.helpers import VIDEOS, needs_videos


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("long") / "long.mp4", 100, options={"bf": "2"})


def read_windows(model, path, stream, count):
    """The logits of the same windows, read by number as a test reads its views."""
    dataset = model.reader.dataset
    views = [[number * stream.rule.step + offset for offset in stream.rule.offsets] for number in range(count)]
    item = dataset.read_views(Clip("x", str(path), None), lambda length, fps: views)
    (record,) = model.loop([item])
    crops = len(dataset.eval_transform.geometry(64, 64).crops)
    return record["outputs"].numpy().reshape(count, crops, -1).mean(axis=1)


def test_windows_are_those_read_by_number(model, long):
    stream = model.stream(long)
    found = list(stream)
    logits = read_windows(model, long, stream, len(found))
    np.testing.assert_allclose(np.stack([one.logits for one in found]), logits, atol=1e-5)
    assert [one.start for one in found] == pytest.approx([stream.rule.step / 25 * n for n in range(len(found))])
    assert found[0].end == pytest.approx(stream.rule.length / 25) and found[-1].end <= 4.0 + 1 / 25
    assert stream.notes == [] and stream.duration == pytest.approx(4.0)
    assert "0.00-" in repr(found[0]) and found[0].to_json()["start"] == 0


@needs_videos
@pytest.mark.parametrize("name", ["mma_demo.mp4", "bad/rot90.mp4", "bad/vfr.mp4"])
def test_windows_of_real_files(model, name):
    stream = model.stream(VIDEOS / name, stride=2.0)
    found = list(stream)
    with VideoReader(VIDEOS / name) as reader:
        assert stream.frames.fps == pytest.approx(reader.fps)
    logits = read_windows(model, VIDEOS / name, stream, len(found))
    np.testing.assert_allclose(np.stack([one.logits for one in found]), logits, atol=1e-5)


def test_window_and_stride_in_seconds(model, long):
    found = list(model.stream(long, window=1.0, stride=0.5))
    assert [one.start for one in found[:3]] == pytest.approx([0, 0.48, 0.96], abs=0.03)
    assert all(one.end - one.start == pytest.approx(1.0, abs=0.05) for one in found)


def test_an_array_streams_too(model):
    frames = np.random.RandomState(0).randint(0, 255, (30, 32, 40, 3), np.uint8)
    found = list(model.stream(frames))
    assert len(found) > 5 and found[0].path == "array"
    with pytest.raises(DataError, match="uint8"):
        model.stream(frames.astype(np.float32))


def test_a_folder_of_several_kinds_of_pictures(model, tmp_path, monkeypatch):
    rng = np.random.RandomState(0)
    for name in ("both", "alone"):
        (tmp_path / name).mkdir()
    for number in range(40):
        picture = Image.fromarray(rng.randint(0, 255, (32, 40, 3), np.uint8))
        for folder in ("both", "alone"):
            picture.save(tmp_path / folder / f"img_{number}.png")
        Image.new("RGB", (32, 40)).save(tmp_path / "both" / f"depth_{number}.png")
    monkeypatch.setattr(model.reader, "frame_pattern", "img_*.png")
    found = {}
    for name in ("both", "alone"):
        job = LongVideos(model, output=Output(tmp_path / f"{name}.out"), overlay=True)
        ((found[name], _),) = job.run([str(tmp_path / name)])
        assert (tmp_path / f"{name}.out" / f"{name}.overlay.mp4").is_file()
    assert len(found["both"].rows) > 1
    np.testing.assert_array_equal(found["both"].probabilities, found["alone"].probabilities)
    with av.open(str(tmp_path / "both.out" / "both.overlay.mp4")) as container:
        assert len(list(container.decode(video=0))) == 40


def test_what_cannot_be_streamed(model, run, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        model.stream(tmp_path / "a.mp4")
    whole = dust.load(run, overrides={"DATA.SAMPLING": "whole_clip"}, device="cpu")
    with pytest.raises(ConfigError, match="--window SECONDS"):
        whole.stream(write_clip(tmp_path / "b.mp4", 5))


class Camera(Fake):
    """A camera that gives pictures, the same one again and again."""

    def __init__(self, count, **more):
        super().__init__(count, **more)
        picture = np.random.RandomState(0).randint(0, 255, (48, 64, 3), np.uint8)
        self.frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        self.taken = threading.Semaphore(20)  # so that no frame is dropped, however slow the machine

    def decode(self, stream):
        from fractions import Fraction

        for number in range(self.count):
            self.taken.acquire()
            frame = self.frame
            frame.pts, frame.time_base = number, Fraction(1, 25)
            yield frame


class Event:
    def synchronize(self):
        pass


def test_a_camera_answers_at_once(model):
    camera = Camera(60)
    stream = model.stream("camera:0", opener=lambda _: pair(camera), retries=0)
    found = []
    for one in stream:
        found.append(one)
        for _ in range(8):
            camera.taken.release()
        if len(found) == 3:
            camera.taken.release(100)  # whatever waits may end
            break
    assert stream.live and all(one.delay is not None and one.delay >= 0 for one in found)
    assert found[0].start == 0 and found[1].start > 0
    span = model.preprocess["frames"] * model.preprocess["sampling_rate"] / 30
    assert found[0].end - found[0].start == pytest.approx(span, abs=0.08)


def test_a_live_answer_does_not_wait_for_the_next_window_on_a_device(model, monkeypatch):
    """The meta device plays a GPU, on which a file's windows are answered while the next one is under way."""
    meta, runs = torch.device("meta"), []
    monkeypatch.setattr(overlap, "sent_to_host", lambda tensor: (torch.zeros(tensor.shape), Event()))

    def forward(_, inputs):
        runs.append(1)
        return torch.zeros(len(inputs["video"]), len(model.classes), device=meta)

    away = copy.copy(model)
    away.loop = replace(model.loop, device=meta, forward=forward)
    camera = Camera(60)
    for done, _ in enumerate(away.stream("camera:0", opener=lambda _: pair(camera), retries=0), start=1):
        assert len(runs) == done
        camera.taken.release(100 if done == 3 else 8)
        if done == 3:
            break


@pytest.mark.slow
def test_a_live_source_does_not_fill_the_memory(model):
    """Less than 5 MB more from frame 2,000 to frame 20,000."""
    camera = Camera(20_000)
    stream = model.stream("camera:0", opener=lambda _: pair(camera), retries=0, stride=2.0)
    sizes = {}
    tracemalloc.start()
    try:
        original = stream._item

        def counted(window):
            return original(window)

        stream._item = counted
        frames = stream.frames

        class Counted:
            def __iter__(self):
                for frame in frames:
                    camera.taken.release()
                    if frame.number in (2000, 19_990):
                        sizes[frame.number] = tracemalloc.get_traced_memory()[0]
                    yield frame

        with frames:
            stream.frames = Counted()
            stream.frames.orientation = frames.orientation
            assert sum(1 for _ in stream._predict()) > 100
    finally:
        tracemalloc.stop()
    assert sizes[19_990] - sizes[2000] < 5e6
