"""Names of foreign inputs and outputs in a form that PyTorch graphs, ONNX and TFLite signatures all take."""

import keyword
import re
from collections.abc import Sequence

__all__ = ["input_names", "output_names"]


def input_names(names: Sequence[str]) -> list[str]:
    """Give identifiers for foreign names, unlike each other: ``images:0`` becomes ``images_0``."""
    return _unlike([_identifier(name, "input") for name in names])


def output_names(names: Sequence[str]) -> list[str]:
    """Give identifiers for outputs; ONNX wants them unlike the inputs' names only where a value is both."""
    return _unlike([_identifier(name, "output") for name in names])


def _identifier(name: str, otherwise: str) -> str:
    plain = re.sub(r"\W+", "_", name).strip("_") or otherwise
    return f"{otherwise}_{plain}" if plain[0].isdigit() or keyword.iskeyword(plain) else plain


def _unlike(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        number, free = 2, name
        while free in found:
            free, number = f"{name}_{number}", number + 1
        found.append(free)
    return found
