"""One picture file as uint8 RGB, the way it is shown: turned as its EXIF says, its depth brought to 8 bits."""

import os
import struct
from typing import Any

import numpy as np

from dust.decode.clip import say_once
from dust.utils.errors import VideoError
from dust.utils.files import open_file

_SIXTEEN = 65535
#: What Pillow lets through of a file that breaks its format's rules, besides what it calls no picture.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error)
_ORIENTATION = 0x0112  # the tag of CIPA DC-008 (Exif)


def read_picture(path: str) -> np.ndarray:
    """Return a picture, (H, W, 3) uint8 RGB.

    Of 16-bit values the upper 8 bits count, for grey ones as for those of colours; floating-point values are of 0 to 1.
    Transparency is left aside.

    Raises:
        VideoError: it cannot be read, or its values are of a range that nobody can know.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file(path) as file, Image.open(file) as image:
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format != "MPO":  # a photograph with its preview is one picture
                raise ValueError(f"it holds {count} pictures, and a file is one frame: save each in a file of its own")
            image.load()  # of a TIFF this turns the picture, and takes the tag away
            return _turned(_rgb(image), _orientation(image, path))
    except UnidentifiedImageError as error:  # whose own text names an open file, another each time
        raise VideoError(path, f"{os.path.basename(path)} cannot be read: it is no picture") from error
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise VideoError(path, f"{os.path.basename(path)} cannot be read: {error}") from error


def _orientation(image: Any, path: str) -> int:
    """Return how the stored picture is to be turned, 1 to 8; 1 where it does not say, or nobody can read what it
    says."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE as error:
        say_once("exif", path, f"its EXIF is damaged ({error}) and not used: the picture is read as it is stored")
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, 3) as it is shown: 5 to 8 exchange rows and columns; then both, either or none is reversed."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(picture[:: -1 if rows else 1, :: -1 if columns else 1])


def _rgb(image: Any) -> np.ndarray:
    """Return (H, W, 3) uint8 of a PIL image; ValueError where its values have no certain range."""
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image) >> 8)
    if image.mode == "I":  # 32 bits; some versions of Pillow open 16-bit pictures so
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _SIXTEEN or image.format == "TIFF":
            raise ValueError(f"32-bit values of {values.min()} to {values.max()}: save it with 8 or 16 bits")
        return _grey(values >> 8)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            what = f"floating-point values of {values.min():g} to {values.max():g}"
            raise ValueError(f"{what}, and only those of 0 to 1 are certain: divide them, or save it with 8 or 16 bits")
        return _grey(np.rint(values * 255.0))
    return np.asarray(image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)
