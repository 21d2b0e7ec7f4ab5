"""Pictures of every depth and kind become the same uint8 RGB, or an error that names the file."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps, features

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


# -- a picture given as a clip -----------------------------------------------------------------------------------


def moving(count=3):
    pixels = np.random.RandomState(0).randint(0, 255, (24, 32, 3)).astype(np.uint8)
    return [Image.fromarray(np.roll(pixels, 3 * number, 1)) for number in range(count)]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_pictures_that_move_are_read_whole_or_refused_by_name(tmp_path, name):
    first, *others = moving()
    first.save(tmp_path / name, save_all=True, append_images=others, duration=40)
    if name in ("a.gif", "a.png"):
        with open_clip(tmp_path / name) as reader:
            assert len(reader) == 3 and not reader.report.damaged
        return
    with pytest.raises(VideoError, match="an animated WebP|a TIFF of several pictures") as caught:
        open_clip(tmp_path / name)
    assert "in a folder, or as a video" in str(caught.value)
    first.save(tmp_path / name)
    with open_clip(tmp_path / name) as reader:
        assert len(reader) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_as_a_clip_is_turned_as_its_exif_says(tmp_path, orientation):
    """Beside EXIF, which it does not know, PyAV lists nothing of what a frame carries."""
    for number in (6, orientation):
        exif = Image.Exif()
        exif[274] = number
        moving()[0].save(tmp_path / f"{number}.png", exif=exif)
    with open_clip(tmp_path / f"{orientation}.png") as reader:
        (shown,) = reader.frames([0])
    with av.open(str(tmp_path / "6.png")) as container:
        if not next(container.decode(video=0)).rotation:
            pytest.skip("this FFmpeg does not read EXIF")
    with Image.open(tmp_path / f"{orientation}.png") as image:
        assert np.array_equal(shown, np.asarray(ImageOps.exif_transpose(image)))


def box(kind, *parts):
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + kind + data


def tiled(picture):
    """An AVIF (HEIF, ISO/IEC 23008-12) of one tile: what telephones write, with many."""
    head = picture.index(b"av1C") - 4
    (size,) = struct.unpack(">I", picture[head : head + 4])
    coder, tile = picture[head : head + size], picture[picture.index(b"mdat") + 4 :]
    grid = struct.pack(">4B2H", 0, 0, 0, 0, 32, 24)  # one row and one column of 32x24 pixels

    def meta(place):
        full = bytes(4)
        names = [
            b"\2\0\0\0" + struct.pack(">2H", number, 0) + kind + b"\0" for number, kind in ((1, b"grid"), (2, b"av01"))
        ]
        return box(
            b"meta", full, box(b"hdlr", full, bytes(4), b"pict", bytes(13)), box(b"pitm", full, struct.pack(">H", 1)),
            box(b"iloc", b"\1\0\0\0\x44\0", struct.pack(">H", 2),
                struct.pack(">4H2I", 1, 1, 0, 1, 0, len(grid)), struct.pack(">4H2I", 2, 0, 0, 1, place, len(tile))),
            box(b"iinf", full, struct.pack(">H", 2), *(box(b"infe", name) for name in names)),
            box(b"iref", full, box(b"dimg", struct.pack(">3H", 1, 1, 2))),
            box(b"iprp", box(b"ipco", box(b"ispe", full, struct.pack(">2I", 32, 24)), coder),
                box(b"ipma", full, struct.pack(">IHBBHBBB", 2, 1, 1, 1, 2, 2, 1, 2))),
            box(b"idat", grid),
        )  # fmt: skip

    kind = box(b"ftyp", b"avif", bytes(4), b"avifmif1")
    place = len(kind) + len(meta(0)) + 8
    return kind + meta(place) + box(b"mdat", tile)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_a_picture_in_tiles_is_not_taken_for_its_first_tile(tmp_path):
    moving()[0].save(tmp_path / "a.avif")
    with open_clip(tmp_path / "a.avif") as reader:
        assert len(reader) == 1 and (reader.height, reader.width) == (24, 32)
    (tmp_path / "tiles.avif").write_bytes(tiled((tmp_path / "a.avif").read_bytes()))
    with pytest.raises(VideoError, match="in tiles .* PNG or JPEG"):
        open_clip(tmp_path / "tiles.avif")
