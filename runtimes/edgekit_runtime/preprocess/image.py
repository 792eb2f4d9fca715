"""Images to tensors in plain numpy: grey or RGB, bilinear resize as Pillow's, scale, normalise."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import BundleError, MissingError, UsageError

__all__ = ["ImagePreprocess", "convert_channels", "load_image", "resize_bilinear"]

_DTYPES: Final = frozenset(map(np.dtype, ("uint8", "float32", "float64")))
# ITU-R BT.601 luma in 16 bits, as Pillow's convert("L") has it.
_LUMA: Final = np.array([19595, 38470, 7471], np.uint32)


@lru_cache(maxsize=32)
def _taps(source: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Which source lines each wanted line is a mean of, and with which weights.

    The triangle filter is widened by the shrink factor, so that every source pixel counts (antialias).

    Source: Pillow's Resample.c, ``precompute_coeffs`` with ``BILINEAR``.
    """
    step = source / wanted
    support = max(step, 1.0)
    count = int(np.ceil(support)) * 2 + 1
    centre = (np.arange(wanted) + 0.5) * step
    first = np.maximum((centre - support + 0.5).astype(np.intp), 0)
    last = np.minimum((centre + support + 0.5).astype(np.intp), source)
    index = first[:, None] + np.arange(count)
    weights = np.maximum(1.0 - np.abs((index + 0.5 - centre[:, None]) / support), 0.0)
    weights[index >= last[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.minimum(index, source - 1), weights.astype(np.float32)


def _resize_rows(image: NDArray[np.float32], wanted: int) -> NDArray[np.float32]:
    if image.shape[0] == wanted:
        return image
    index, weights = _taps(image.shape[0], wanted)
    result = np.zeros((wanted, *image.shape[1:]), np.float32)
    for tap in range(index.shape[1]):
        result += image[index[:, tap]] * weights[:, tap, None, None]
    return result


def resize_bilinear(image: NDArray[Any], *, height: int, width: int) -> NDArray[np.float32]:
    """Resize with antialias; within 1/255 of Pillow's ``resize((width, height), BILINEAR)`` on 8-bit images.

    Args:
        image: Any real dtype, shape (H, W, C), in any unit.
        height: Wanted rows.
        width: Wanted columns.

    Returns:
        Shape (height, width, C), in the unit of ``image``, not rounded.
    """
    rows = _resize_rows(image.astype(np.float32), height)
    return np.ascontiguousarray(_resize_rows(rows.transpose(1, 0, 2), width).transpose(1, 0, 2))


def convert_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Turn (H, W, 1, 3 or 4) into (H, W, ``channels``) as Pillow's ``convert``: luma for grey, alpha is dropped.

    Raises:
        UsageError: The image has another number of channels.
    """
    have = image.shape[2]
    if have == channels:
        return image
    if have == 1:
        return np.repeat(image, channels, axis=2)
    if have not in {3, 4}:
        raise UsageError("E0915", f"an image has 1, 3 or 4 channels, not {have}")
    colour = image[..., :3]
    if channels == 3:
        return colour
    if image.dtype == np.uint8:
        grey: NDArray[Any] = ((colour @ _LUMA + 0x8000) >> 16).astype(np.uint8)
    else:
        grey = colour.astype(np.float32) @ (_LUMA / 65536).astype(np.float32)
    return grey[..., None]


def load_image(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a ``.npy`` array, or an image file if Pillow is installed, as (H, W, C) or (H, W).

    Raises:
        MissingError: No such file, or Pillow is not installed.
        UsageError: The file cannot be decoded.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingError("E0656", f"there is no image {os.fspath(path)!r}", fix="check the path")
    try:
        if file.suffix == ".npy":
            array: NDArray[Any] = np.load(file, allow_pickle=False)
            return array
        image_module, image_ops = _pillow(file)
        with image_module.open(file) as image:
            # A palette or 1-bit image has codes, not colours; a camera says in the file which way is up.
            upright = image_ops.exif_transpose(image)
            grey = upright.mode in {"L", "1"}
            return np.asarray(upright.convert("L" if grey else "RGB"))
    except MissingError:
        raise
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, DecompressionBombError, ...
        raise UsageError("E0916", f"cannot decode the image {file.name}", why=str(error)) from error


def _pillow(file: Path) -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingError(
            "E0657", f"reading {file.name} needs Pillow", fix="pip install pillow, or pass a numpy array"
        ) from None
    return Image, ImageOps


class ImagePreprocess:
    """An image as the tensor of the model contract: ``(x * scale - mean) / std``, float32 (1, H, W, channels).

    Attributes:
        height: Rows.
        width: Columns.
        channels: 1 (grey) or 3 (RGB).
    """

    def __init__(
        self, *, height: int, width: int, channels: int, scale: float, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Precompute; ``mean`` and ``std`` hold one value, or one per channel.

        Raises:
            BundleError: A value is out of range.
        """
        means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        sizes_fit = all(array.shape in {(1,), (channels,)} for array in (means, stds))
        if min(height, width) < 1 or channels not in {1, 3} or not sizes_fit or not (stds > 0).all():
            raise BundleError("E0515", "the image preprocessing is out of range", why="see preprocess.json")
        self.height, self.width, self.channels = height, width, channels
        with np.errstate(over="ignore"):
            gain, offset = scale / stds, -means / stds
        if not (np.isfinite(gain).all() and np.isfinite(offset).all()):
            raise BundleError("E0515", "the image preprocessing is not finite", why="see preprocess.json")
        self._gain: Final = gain.astype(np.float32)
        self._offset: Final = offset.astype(np.float32)
        whole = (height, width, channels)
        self._plain: Final = ((height, width), whole) if channels == 1 else (whole,)
        self._shape: Final = (1, height, width, channels)

    @classmethod
    def from_json(cls, config: Mapping[str, object]) -> "ImagePreprocess":
        """Read the content of ``preprocess.json``.

        Raises:
            BundleError: A key is missing or has the wrong type.
        """
        try:
            if config["kind"] != "image" or config["resize"] != "bilinear":
                raise BundleError("E0515", f"unknown image preprocessing {dict(config)}")
            height, width, channels = (int(cast("int", config[key])) for key in ("height", "width", "channels"))
            mean, std = (tuple(map(float, cast("list[float]", config[key]))) for key in ("mean", "std"))
            scale = float(cast("float", config["scale"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("E0515", "preprocess.json is damaged", why=f"{type(error).__name__}: {error}") from error
        return cls(height=height, width=width, channels=channels, scale=scale, mean=mean, std=std)

    def __call__(self, image: NDArray[Any] | str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
        """Give ``image``, float32 (1, height, width, channels).

        Args:
            image: uint8, float32 or float64 of shape (H, W) or (H, W, C) in the raw unit, or the path of a file.

        Raises:
            UsageError: Wrong dtype or shape, NaN or infinity.
            MissingError: A path was given that is not there, or Pillow is not.
        """
        if isinstance(image, str | os.PathLike):
            image = load_image(image)
        if not isinstance(image, np.ndarray) or image.dtype not in _DTYPES:
            kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
            raise UsageError("E0913", f"an image is a uint8, float32 or float64 array or a path, not {kind}")
        if image.shape not in self._plain:
            image = self._fit(image)
        with np.errstate(over="ignore"):  # the engine refuses infinity
            tensor = np.multiply(image.reshape(self._shape), self._gain, dtype=np.float32, casting="same_kind")
        tensor += self._offset
        return {"image": tensor}

    def _fit(self, image: NDArray[Any]) -> NDArray[Any]:
        if image.ndim not in {2, 3} or image.size == 0:
            raise UsageError("E0914", f"an image has shape (H, W) or (H, W, C), not {image.shape}")
        if image.dtype != np.uint8 and not np.isfinite(image).all():
            raise UsageError("E0906", "the image holds NaN or infinity")
        coloured = convert_channels(image if image.ndim == 3 else image[..., None], self.channels)
        return resize_bilinear(coloured, height=self.height, width=self.width)
