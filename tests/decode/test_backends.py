"""What reads clips can be handed in: our own reader, torchcodec's, a user's; and what each must have."""

import logging
import sys

import numpy as np
import pytest
from PIL import Image

from dust.datasets.manifest.manifest import Clip as ListedClip
from dust.datasets.manifest.manifest import Manifest
from dust.datasets.sample import BadClip
from dust.datasets.transforms.clip import EvalTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.datasets.video.video import VideoDataset
from dust.decode.clip import DECODER_REGISTRY, Clip, _checked_class, reader_class
from dust.decode.reader import FrameFolderReader, FrameRequest, VideoReader, open_clip
from dust.decode.torchcodec_reader import TorchCodecReader
from dust.utils.errors import ConfigError, VideoError
from tests.datasets.clip_files import write_clip
from tests.helpers import VIDEOS, needs_videos


@pytest.fixture(autouse=True)
def looked_at_anew(monkeypatch):
    monkeypatch.setattr("dust.utils.registry._SAID", set())
    _checked_class.cache_clear()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", 40, options={"bf": "2", "g": "12"})


@pytest.fixture
def torchcodec():
    """Skips, and says why, where torchcodec is not installed or does not load."""
    try:
        TorchCodecReader.require()
    except ConfigError as error:
        pytest.skip(str(error))


@DECODER_REGISTRY.register()
class NegativeInTest(VideoReader):
    """Pictures as negatives."""

    def read(self, requests):
        return [255 - pictures for pictures in super().read(requests)]


@DECODER_REGISTRY.register()
class LackingInTest:
    def __init__(self, path, **options):
        self.path, self.width = path, 3

    def reads(self, requests):
        return []


def dataset_of(*paths, **options):
    clips = [ListedClip(f"clip_{i}", str(path), 0) for i, path in enumerate(paths)]
    sampler = ClipSampler(mode="dense", num_frames=4, sampling_rate=4, target_fps=25)
    transform = EvalTransform(crop_size=64, short_side=64)
    manifest = Manifest(clips, ["a"], "test", True)
    return VideoDataset(manifest=manifest, sampler=sampler, eval_transform=transform, centre=True, **options)


def test_ours_is_the_default_and_folders_need_no_decoder(clip, tmp_path):
    assert type(open_clip(clip)) is type(open_clip(clip, decoder="pyav")) is VideoReader
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert type(open_clip(tmp_path, decoder="NegativeInTest")) is FrameFolderReader
    with pytest.raises(ConfigError, match=r"no decoder is called 'torchcodek'. Did you mean torchcodec"):
        open_clip(clip, decoder="torchcodek")


def test_one_of_your_own_feeds_a_dataset(clip):
    plain, negative = dataset_of(clip)[0], dataset_of(clip, decoder="NegativeInTest")[0]
    assert (negative["inputs"]["video"] == 255 - plain["inputs"]["video"]).all()


def test_one_that_lacks_something_is_refused_when_the_dataset_is_made(clip, caplog):
    with pytest.raises(ConfigError, match="LackingInTest has no check, close, fps, frames, height, read, report"):
        dataset_of(clip, decoder="LackingInTest")
    assert "LackingInTest.reads: is read meant (ClipReader)?" in caplog.text


def test_torchcodec_that_is_not_installed(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=r"DATA.DECODER torchcodec .*pip install 'dust-video\[torchcodec\]'"):
        dataset_of(clip, decoder="torchcodec")


def test_torchcodec_gives_our_frames(clip, tmp_path, torchcodec):
    with open_clip(clip, decoder="torchcodec") as theirs, open_clip(clip) as ours:
        assert (len(theirs), theirs.height, theirs.width) == (len(ours), ours.height, ours.width) == (40, 64, 96)
        assert theirs.fps == pytest.approx(ours.fps) and theirs.duration == pytest.approx(ours.duration)
        np.testing.assert_allclose(theirs.pts, ours.pts, atol=1e-6)
        numbers = [39, 0, 17, 17, 5]
        difference = np.abs(theirs.frames(numbers).astype(int) - ours.frames(numbers))
        assert difference.max() <= 3, "another version of FFmpeg may round colours in another way"
        requests = [
            FrameRequest([3, 30], box=(4, 8, 40, 48), size=(20, 24)),
            FrameRequest([16], size=(128, 192), crops=((0, 0, 112, 112), (8, 40, 112, 112))),
        ]
        for number, picture in enumerate(ours.frames(range(40))):  # whole RGB frames, cut and scaled after that
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
        for one, other in zip(theirs.read(requests), open_clip(tmp_path).read(requests), strict=True):
            assert one.shape == other.shape and one.dtype == np.uint8
            assert np.abs(one.astype(int) - other).max() <= 3
        with pytest.raises(IndexError, match="frame 40 is asked for"):
            theirs.frames([40])


def test_torchcodec_says_that_it_cannot_tell_damage(clip, tmp_path, torchcodec, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = dataset_of(clip, tmp_path / "none.mp4", decoder="torchcodec")
        dataset_of(clip, decoder="torchcodec")
    assert caplog.text.count("DATA.DECODER torchcodec cannot tell damage") == 1
    item, bad = dataset[0], dataset[1]
    assert item["inputs"]["video"].shape == (1, 3, 4, 64, 64)
    assert isinstance(bad, BadClip) and bad.path.endswith("none.mp4")
    with open_clip(clip, decoder="torchcodec") as reader:
        assert not reader.report.damaged and "cannot tell damage" in reader.report.unknown
        assert reader.check().decoded == 40 and "cannot tell damage" in reader.check().unknown
    assert not open_clip(clip).report.unknown
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        open_clip(tmp_path / "text.mp4", decoder="torchcodec")


@needs_videos
@pytest.mark.parametrize("name", ["decord_rot90.mov", "decord_rot180.mov", "mma_demo.mp4", "decord_pancake.mkv"])
def test_torchcodec_on_real_clips(name, torchcodec):
    with open_clip(VIDEOS / name, decoder="torchcodec") as theirs, open_clip(VIDEOS / name) as ours:
        assert (len(theirs), theirs.height, theirs.width) == (len(ours), ours.height, ours.width)
        numbers = [len(ours) - 1, 0, len(ours) // 3]
        assert np.abs(theirs.frames(numbers).astype(int) - ours.frames(numbers)).max() <= 3


def test_every_registered_reader_has_what_is_asked():
    for name in set(DECODER_REGISTRY) - {"LackingInTest", "TorchCodecReader"}:
        assert issubclass(reader_class(name), Clip)
