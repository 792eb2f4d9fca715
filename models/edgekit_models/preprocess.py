"""Preprocessing as files: what the bundle ships is what training, calibration and evaluation read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from edgekit.recipe.spec import ImageSpec
from edgekit_runtime.preprocess.image import ImagePreprocess
from edgekit_runtime.preprocess.text import TextPreprocess

__all__ = ["PREPROCESS", "TOKENIZER", "image_preprocess", "read_preprocess", "text_preprocess", "write_preprocess"]

PREPROCESS, TOKENIZER = "preprocess.json", "tokenizer.json"


def text_preprocess(max_length: int) -> dict[str, object]:
    """Give the content of ``preprocess.json`` for texts."""
    return {"kind": "text", "tokenizer": TOKENIZER, "max_length": max_length}


def image_preprocess(spec: ImageSpec) -> dict[str, object]:
    """Give the content of ``preprocess.json`` for images."""
    return {
        "kind": "image",
        "height": spec.height,
        "width": spec.width,
        "channels": spec.channels,
        "scale": spec.scale,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "resize": "bilinear",
    }


def write_preprocess(config: Mapping[str, object], folder: Path, *, tokenizer: bytes | None = None) -> None:
    """Write ``preprocess.json`` and, for texts, ``tokenizer.json``."""
    text = json.dumps(config, sort_keys=True, indent=1, allow_nan=False)
    (folder / PREPROCESS).write_text(text + "\n", encoding="utf-8")
    if tokenizer is not None:
        (folder / TOKENIZER).write_bytes(tokenizer)


def read_preprocess(folder: Path) -> TextPreprocess | ImagePreprocess:
    """Open what ``write_preprocess`` wrote, with the code that runs on the device."""
    config = cast("dict[str, object]", json.loads((folder / PREPROCESS).read_text(encoding="utf-8")))
    if config["kind"] == "image":
        return ImagePreprocess.from_json(config)
    return TextPreprocess((folder / TOKENIZER).read_bytes(), max_length=int(cast("int", config["max_length"])))
