"""The weights and biases that refinements of a plan replaced: what the float network computes with, for comparisons."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgekit_converters.quantize.graph import Graph, layer_biases, layer_weights

__all__ = ["Trained", "load_trained", "replaced", "save_trained"]

# ``LAYER.weight`` (channels first) and ``LAYER.bias``, float32; layers that kept theirs are absent.
Trained = Mapping[str, NDArray[np.float32]]

_FILE = "trained.safetensors"


def replaced(before: Graph, after: Graph) -> Trained:
    """Give what differs in ``after``, as ``before`` has it."""
    found: dict[str, NDArray[np.float32]] = {}
    for role, of in (("weight", layer_weights), ("bias", layer_biases)):
        ours, theirs = of(before), of(after)
        found |= {f"{name}.{role}": ours[name] for name in ours if not np.array_equal(ours[name], theirs[name])}
    return found


def save_trained(trained: Trained, folder: Path) -> None:
    """Write them; nothing where no refinement was kept."""
    if trained:
        save_file({name: np.ascontiguousarray(value) for name, value in trained.items()}, folder / _FILE)


def load_trained(folder: Path) -> Trained:
    """Read them back."""
    path = folder / _FILE
    return load_file(path) if path.is_file() else {}
