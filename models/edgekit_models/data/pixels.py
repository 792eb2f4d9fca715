"""From an image file to pixels of the recipe's size, by the same decoding and resize that the device uses."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.recipe.spec import ImageSpec
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.preprocess.image import convert_channels, load_image, resize_bilinear

__all__ = ["Picture", "decode_file", "decode_picture", "fit"]


class Picture(Protocol):
    """The part of Pillow's ``Image`` that is used here."""

    mode: str

    def convert(self, mode: str, /) -> "Picture": ...


def decode_file(path: Path, *, title: str) -> NDArray[np.uint8]:
    """Decode an image file, upright, as (H, W) or (H, W, 3).

    Raises:
        MissingError: Pillow is not installed.
        UsageError: E0222, the file is no image, or it is damaged or too large.
    """
    try:
        return load_image(path)
    except MissingError:
        raise
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, DecompressionBombError, ...
        cause = error.why if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise UsageError(
            "E0222", f"the image {title!r} cannot be decoded", why=cause, fix="remove the file or save it again"
        ) from error


def decode_picture(picture: Picture) -> NDArray[np.uint8]:
    """Give the pixels of a Pillow image as (H, W) or (H, W, 3)."""
    return np.asarray(picture.convert("L" if picture.mode in {"L", "1"} else "RGB"), dtype=np.uint8)


def fit(picture: NDArray[np.uint8], image: ImageSpec) -> NDArray[np.uint8]:
    """Bring pixels to the recipe's channels, height and width, rounded to uint8; shape (H, W, C)."""
    shaped = picture[..., np.newaxis] if picture.ndim == 2 else picture
    coloured = convert_channels(shaped, image.channels)
    if coloured.shape[:2] != (image.height, image.width):
        coloured = resize_bilinear(coloured, height=image.height, width=image.width)
    rounded: NDArray[np.uint8] = np.clip(np.rint(coloured), 0, 255).astype(np.uint8)
    return rounded
