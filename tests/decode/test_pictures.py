"""Pictures of every depth and kind become the same uint8 RGB, or an error that names the file."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from dust.decode.pictures import read_picture
from dust.decode.reader import open_clip
from dust.utils.errors import VideoError

RAMP = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def write_deep(path, picture, codec, pixels):
    """A 16-bit colour picture, which Pillow cannot write."""
    frame = av.VideoFrame.from_ndarray(picture, format=pixels)
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, pixels
    encoder.time_base = Fraction(1, 25)
    path.write_bytes(b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None)))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bits_of_grey_and_of_colours(tmp_path, name):
    Image.fromarray(RAMP).save(tmp_path / name)
    assert np.array_equal(read_picture(str(tmp_path / name)), grey(RAMP >> 8))
    colours = np.random.RandomState(0).randint(0, 65536, (6, 8, 3)).astype(np.uint16)
    path = write_deep(tmp_path / f"colours_{name}", colours, name[2:], "rgb48be" if name == "a.png" else "rgb48le")
    assert np.array_equal(read_picture(str(path)), colours >> 8)


def test_floating_point_of_zero_to_one(tmp_path):
    shares = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(shares).save(tmp_path / "a.tiff")
    assert np.array_equal(read_picture(str(tmp_path / "a.tiff")), grey(np.rint(shares * 255)))


@pytest.mark.parametrize(
    "values, words",
    [
        (np.full((4, 4), 255, np.float32), "0 to 1"),
        (np.full((4, 4), np.nan, np.float32), "0 to 1"),
        (np.full((4, 4), -0.1, np.float32), "0 to 1"),
        (np.full((4, 4), 200, np.int32), "8 or 16 bits"),
    ],
)
def test_ranges_that_nobody_can_know_are_refused_by_name(tmp_path, values, words):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.tiff")
    Image.fromarray(values).save(tmp_path / "1.tiff")
    with open_clip(tmp_path, pattern="*.tiff") as reader, pytest.raises(VideoError, match=words) as caught:
        reader.frames([1])
    assert "1.tiff" in str(caught.value) and reader.report.damaged


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"])
def test_other_kinds_of_colours(tmp_path, mode):
    picture = Image.new("RGB", (8, 6), (255, 0, 0) if mode not in ("1", "L", "LA") else (255, 255, 255))
    suffix = "tiff" if mode in ("CMYK", "YCbCr", "PA") else "png"
    image = picture.convert("P").convert(mode) if mode == "PA" else picture.convert(mode)
    if mode == "PA":
        image = image.convert("RGBA")  # no format keeps it
    image.save(tmp_path / f"a.{suffix}", compression="tiff_lzw")  # Pillow 11.0 cannot read its own YCbCr without
    assert np.abs(read_picture(str(tmp_path / f"a.{suffix}")).astype(int) - np.asarray(picture)).max() <= 2


LOSSLESS = {"webp": {"lossless": True, "exact": True}}


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture(tmp_path, orientation, suffix):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (6, 8, 3)).astype(np.uint8))
    exif = image.getexif()
    image.save(tmp_path / f"plain.{suffix}", **LOSSLESS.get(suffix, {}))
    stored = np.asarray(Image.open(tmp_path / f"plain.{suffix}").convert("RGB"))
    (tmp_path / f"plain.{suffix}").unlink()
    exif[274] = orientation
    image.save(tmp_path / f"0.{suffix}", exif=exif, **LOSSLESS.get(suffix, {}))
    # CIPA DC-008 (Exif): where the 0th row and the 0th column of the stored picture are shown
    shown = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    assert np.array_equal(read_picture(str(tmp_path / f"0.{suffix}")), shown)
    with open_clip(tmp_path) as reader:
        assert (reader.height, reader.width) == shown.shape[:2]


def mutated(rng, block):
    """Some bytes of an EXIF block replaced, cut off or repeated."""
    block = bytearray(block)
    for _ in range(rng.randint(1, 6)):
        block[rng.randint(6, len(block))] = (0, 1, 0xFF, rng.randint(0, 256))[rng.randint(0, 4)]
    kind = rng.randint(0, 4)
    return (
        bytes(block[: rng.randint(6, len(block))])
        if kind == 0
        else bytes(block + block[6:])
        if kind == 1
        else bytes(block)
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own words about corrupt EXIF
def test_a_damaged_exif_block_never_costs_the_picture(tmp_path, suffix):
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (6, 8, 3)).astype(np.uint8))
    exif = image.getexif()
    exif[274], exif[271], exif[282] = 6, "a maker of cameras", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    whole, path, rng = exif.tobytes(), tmp_path / f"0.{suffix}", np.random.RandomState(1)
    image.save(path, **LOSSLESS.get(suffix, {}))
    stored = read_picture(str(path))
    for _ in range(150):
        image.save(path, exif=mutated(rng, whole), **LOSSLESS.get(suffix, {}))
        shown = read_picture(str(path))
        assert shown.shape in (stored.shape, stored.swapaxes(0, 1).shape)
        assert np.array_equal(np.sort(shown, axis=None), np.sort(stored, axis=None))


def test_damaged_exif_is_said(tmp_path, caplog):
    picture = np.random.RandomState(0).randint(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "0.png", exif=b"Exif\0\0MM\0*\0\0")  # a header that is cut off
    with open_clip(tmp_path) as reader:
        assert np.array_equal(reader.frames([0])[0], picture) and not reader.report.damaged
    assert "0.png: its EXIF is damaged" in caplog.text
