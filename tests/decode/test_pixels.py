import av
import numpy as np
import pytest
import torch
from PIL import Image

from dust.decode.pixels import FrameConverter, FrameRequest, Orientation
from dust.utils.errors import DustError

FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "rgb24", "nv12"]
FULL_COLOUR = {"yuv444p", "gray", "rgb24"}
UNBIASED = {"yuv420p", "yuvj420p", "yuv444p", "gray", "rgb24"}


def smooth(height=120, width=160):
    """(H, W, 3): slow waves, so that every sound way of scaling agrees closely."""
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 17), 128 + 100 * np.cos(y / 13), 60 + 0.5 * x + 0.3 * y], -1).astype(
        np.uint8
    )


def frame_of(picture, format="yuv420p"):
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=format)


def convert(frame, resize="swscale", orientation=None, **request):
    orientation = orientation or Orientation()
    height, width = (frame.width, frame.height) if orientation.transpose else (frame.height, frame.width)
    return FrameConverter(FrameRequest([0], **request), height, width, orientation, resize)(frame)


@pytest.mark.parametrize("format", FORMATS)
def test_no_scaling_is_the_plain_conversion(format):
    frame = frame_of(smooth(), format)
    whole = frame.to_ndarray(format="rgb24")
    assert np.array_equal(convert(frame)[0], whole)
    assert np.array_equal(convert(frame, box=(11, 23, 51, 77))[0], whole[11:62, 23:100])
    assert np.array_equal(convert(frame, box=(11, 23, 51, 77), size=(51, 77))[0], whole[11:62, 23:100])
    crops = ((0, 0, 40, 50), (7, 9, 40, 50))
    for found, (y, x, h, w) in zip(convert(frame, box=(10, 20, 60, 70), crops=crops), crops, strict=True):
        assert np.array_equal(found, whole[10 + y : 10 + y + h, 20 + x : 20 + x + w])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(90, 131), (240, 330)])
def test_swscale_agrees_with_pillow(format, size):
    frame = frame_of(smooth(), format)
    whole = frame.to_ndarray(format="rgb24")
    for box in (None, (20, 31, 80, 99)):
        y, x, h, w = box or (0, 0, 120, 160)
        expected = Image.fromarray(whole[y : y + h, x : x + w]).resize(size[::-1], Image.Resampling.BILINEAR)
        found = convert(frame, box=box, size=size)[0]
        error = np.abs(found.astype(int) - np.asarray(expected))
        assert found.shape == (*size, 3)
        # Colour has half the resolution in 4:2:0, and a box that begins on an odd pixel may sit one source pixel off,
        # about six levels of these waves.
        assert error.mean() < (2.0 if format in FULL_COLOUR else 3.0) + (0.0 if box is None else 3.0)
        shift = np.abs(found.mean((0, 1)) - np.asarray(expected).mean((0, 1))).max()
        assert shift < (1.0 if format in UNBIASED and box is None else 3.0)


def test_crops_are_cut_from_the_scaled_picture():
    frame = frame_of(smooth())
    for resize in ("swscale", "torch"):
        whole = convert(frame, resize, size=(180, 240))[0]
        crops = ((0, 0, 112, 112), (33, 61, 112, 112), (68, 128, 112, 112))
        for found, (y, x, h, w) in zip(convert(frame, resize, size=(180, 240), crops=crops), crops, strict=True):
            assert np.array_equal(found, whole[y : y + h, x : x + w])


def test_torch_is_the_published_bilinear():
    frame = frame_of(smooth())
    whole = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float()
    for (y, x, h, w), size in (((0, 0, 120, 160), (96, 128)), ((10, 21, 70, 90), (140, 141))):
        expected = torch.nn.functional.interpolate(whole[None, :, y : y + h, x : x + w], size, mode="bilinear")[0]
        found = convert(frame, "torch", box=(y, x, h, w), size=size)[0]
        assert np.array_equal(found, expected.round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("format", ["yuv420p", "rgb24"])
@pytest.mark.parametrize("turn", [(t, r, c) for t in (False, True) for r in (False, True) for c in (False, True)])
def test_boxes_are_in_displayed_pixels(turn, format):
    orientation = Orientation(*turn)
    frame = frame_of(smooth(), format)
    shown = orientation.apply(frame.to_ndarray(format="rgb24"))
    assert np.array_equal(convert(frame, orientation=orientation)[0], shown)
    box = (12, 30, 64, 48)
    expected = Image.fromarray(np.ascontiguousarray(shown[12:76, 30:78])).resize((96, 128), Image.Resampling.BILINEAR)
    found = convert(frame, orientation=orientation, box=box, size=(128, 96))[0]
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 4


def test_a_region_keeps_its_place_when_the_picture_size_changes():
    converter = FrameConverter(FrameRequest([0], box=(30, 40, 60, 80), size=(60, 80)), 120, 160)
    small, large = (converter(frame_of(smooth(*size)))[0] for size in ((120, 160), (240, 320)))
    large_again = frame_of(smooth(240, 320)).to_ndarray(format="rgb24")[60:180, 80:240]
    expected = Image.fromarray(large_again).resize((80, 60), Image.Resampling.BILINEAR)
    assert small.shape == large.shape
    assert np.abs(large.astype(int) - np.asarray(expected)).mean() < 3.5


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"box": (0, 0, 121, 10)}, "box"),
        ({"box": (0, 0, 0, 10)}, "box"),
        ({"size": (0, 10)}, "size"),
        ({"crops": ()}, "crops"),
        ({"crops": ((0, 0, 10, 10), (0, 0, 10, 11))}, "one size"),
        ({"size": (50, 50), "crops": ((0, 0, 51, 50),)}, "50x50 scaled picture"),
    ],
)
def test_a_request_that_does_not_fit_is_an_error(request_, words):
    with pytest.raises(DustError, match=words):
        convert(frame_of(smooth()), **request_)
