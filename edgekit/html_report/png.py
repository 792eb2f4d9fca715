"""Turns the pixels of an input into a PNG that stands in the page itself."""

import base64
import struct
import zlib

from edgekit.parity.rows import Thumbnail

__all__ = ["png_uri"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}  # grey, RGB
_MOST = 128  # pixels on a side


def png_uri(image: Thumbnail) -> str:
    """Give a ``data:`` address of the picture.

    Args:
        image: Sides of 1 to 128 pixels.

    Raises:
        ValueError: The pixels are not as many as the sides say.

    Source: PNG, third edition (W3C 2023), sections 5, 11.2 and 13.1: 8 bits a sample, filter 0 on each line.
    """
    line = image.width * image.channels
    sound = 1 <= image.height <= _MOST and 1 <= image.width <= _MOST and image.channels in _COLOUR_TYPES
    if not sound or len(image.pixels) != image.height * line:
        raise ValueError(f"{len(image.pixels)} bytes are no picture of {image.height} x {image.width}")
    lines = (b"\0" + image.pixels[start : start + line] for start in range(0, len(image.pixels), line))
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, _COLOUR_TYPES[image.channels], 0, 0, 0)
    body = zlib.compress(b"".join(lines), 9)
    data = _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
