"""One picture file as uint8 RGB, the way it is shown: turned as its EXIF says, its depth brought to 8 bits."""

import os
from typing import Any

import numpy as np

from dust.utils.errors import VideoError
from dust.utils.files import open_file

_SIXTEEN = 65535


def read_picture(path: str) -> np.ndarray:
    """A picture, (H, W, 3) uint8 RGB.

    Of 16-bit values the upper 8 bits count, for grey ones as for those of colours; floating-point values are of 0 to 1.
    Transparency is left aside.

    Raises:
        VideoError: it cannot be read, or its values are of a range that nobody can know.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with open_file(path) as file, Image.open(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except UnidentifiedImageError as error:  # whose own text names an open file, another each time
        raise VideoError(path, f"{os.path.basename(path)} cannot be read: it is no picture") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise VideoError(path, f"{os.path.basename(path)} cannot be read: {error}") from error


def _rgb(image: Any) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image; ValueError where its values have no certain range."""
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
