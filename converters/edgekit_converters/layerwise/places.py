"""Where each layer of a plan stands in a float file: written at the build, when weights tell a layer beyond doubt.

Beside an int8 file lie the float file that it was quantised from and this table; a damaged int8 file cannot mislead it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from edgekit_runtime.errors import ConversionError

__all__ = ["FLOAT_DATA", "PLACES_FILE", "Form", "Kind", "Place", "float_file", "read_places", "write_places"]

Form = Literal["onnx", "tflite"]
Kind = Literal["linear", "conv", "embedding"]

PLACES_FILE = "layers.json"
FLOAT_DATA = "reference.data"  # constants of the float ONNX file
_VERSION = 1


def float_file(form: Form) -> str:
    """Give the name of the float file beside an int8 one."""
    return f"reference.{form}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One call of a layer in a float file.

    Attributes:
        module: PyTorch module path; the second and later calls of one layer have a number behind it, ``gru#2``.
        kind: As the plan says.
        input: Tensor that the layer reads: activations, or ids of an embedding.
        output: Tensor behind its bias and a fused ReLU.
        floor: Value below which an output counts for nothing, because a GELU stands behind it; None = all count.
    """

    module: str
    kind: Kind
    input: str
    output: str
    floor: float | None = None


def write_places(places: Sequence[Place], folder: Path) -> None:
    """Write the table."""
    content = {"version": _VERSION, "layers": [asdict(place) for place in places]}
    (folder / PLACES_FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_places(folder: Path) -> tuple[Place, ...]:
    """Read what ``write_places`` wrote.

    Raises:
        ConversionError: The file is no such table (E0724).
    """
    path = folder / PLACES_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")  # noqa: TRY301 - one place turns all faults into one error
        return tuple(Place(**place) for place in content["layers"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConversionError(
            "E0724", f"{path} is no table of layers", why=f"{type(error).__name__}: {error}", fix="build again"
        ) from error
