"""The rows on which a lane is furthest from the reference, with what went in: where a person should look first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.metrics import Unit, json_number, number_json
from edgekit_runtime.rows import IMAGES, RawRows

__all__ = ["MOST_ROWS", "RowDifference", "Thumbnail", "raw_row", "target_texts", "worst_places"]

MOST_ROWS: Final = 20
_SIDE = 64  # pixels of a thumbnail at most
_CHARACTERS = 2000  # of a text at most: 20 rows of many lanes go into one report


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture of an input.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: 1 (grey) or 3 (RGB).
        pixels: Row by row, uint8.
    """

    height: int
    width: int
    channels: int
    pixels: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDifference:
    """One row.

    Attributes:
        row: Its place, from 0.
        raw: Text, or thumbnail of an image; None for rows of other numbers or unknown ones.
        reference: Answer of the reference, in words.
        lane: Answer of the lane, in words.
        target: The right answer, in words; empty where it is not known.
        changed: Whether the answer is another one.
        difference: How far apart the outputs are; NaN where an output is.
        unit: Of ``difference``.
    """

    row: int
    raw: str | Thumbnail | None
    reference: str
    lane: str
    target: str
    changed: bool
    difference: float
    unit: Unit

    def as_json(self) -> dict[str, object]:
        """Give the JSON-ready form."""
        raw: object = self.raw
        if isinstance(self.raw, Thumbnail):
            raw = {name: getattr(self.raw, name) for name in ("height", "width", "channels")}
            raw["pixels"] = self.raw.pixels.hex()
        return {
            "row": self.row,
            "raw": raw,
            "reference": self.reference,
            "lane": self.lane,
            "target": self.target,
            "changed": self.changed,
            "difference": number_json(self.difference),
            "unit": self.unit.value,
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` gave."""
        raw = held["raw"]
        if isinstance(raw, dict):
            raw = Thumbnail(**{**raw, "pixels": bytes.fromhex(raw["pixels"])})
        texts = {name: str(held[name]) for name in ("reference", "lane", "target")}
        return cls(
            row=int(held["row"]),
            raw=raw,
            changed=bool(held["changed"]),
            difference=json_number(held["difference"]),
            unit=Unit(held["unit"]),
            **texts,
        )


def worst_places(differences: NDArray[np.float64], changed: NDArray[np.bool_] | None) -> list[int]:
    """Give the places of the 20 worst rows: NaN first, then changed answers, then the largest difference."""
    moved = np.zeros(len(differences), np.bool_) if changed is None else changed
    unknown = np.isnan(differences)
    order = np.lexsort((-np.nan_to_num(differences), ~moved, ~unknown))
    return [int(place) for place in order[:MOST_ROWS] if unknown[place] or moved[place] or differences[place] > 0]


def raw_row(rows: RawRows | None, place: int) -> str | Thumbnail | None:
    """Give what went in at ``place``, as a report can show it."""
    if rows is None:
        return None
    if rows.texts:
        text = rows.texts[place]
        return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}..."
    return _thumbnail(rows.arrays[IMAGES][place]) if IMAGES in rows.arrays else None


def _thumbnail(image: NDArray[Any]) -> Thumbnail | None:
    planes = image[:, :, None] if image.ndim == 2 else image
    if planes.ndim != 3 or planes.shape[2] not in (1, 3):
        return None
    stride = max(1, -(-max(planes.shape[:2]) // _SIDE))
    small = planes[::stride, ::stride]
    if small.dtype != np.uint8:
        span = float(np.nanmax(small) - np.nanmin(small)) or 1.0
        small = np.nan_to_num((small - np.nanmin(small)) * (255.0 / span)).astype(np.uint8)
    height, width, channels = small.shape
    return Thumbnail(height=height, width=width, channels=channels, pixels=np.ascontiguousarray(small).tobytes())


def target_texts(
    targets: Sequence[Any] | NDArray[Any] | None, names: Sequence[str], places: Sequence[int]
) -> list[str]:
    """Write the right answers of some rows out; empty texts where they are not known."""
    if targets is None:
        return [""] * len(places)
    found = [np.asarray(targets[place]).tolist() for place in places]
    return [names[each] if isinstance(each, int) and 0 <= each < len(names) else _plain(each) for each in found]


def _plain(target: object) -> str:
    return "nothing" if target == -1 else str(target)
