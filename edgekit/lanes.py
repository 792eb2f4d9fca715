"""The lanes of a build machine: one student, run in PyTorch and in the engines, float and int8."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.engines import Engine, open_engine
from edgekit_runtime.manifest import Runtime, TensorSpec

__all__ = ["LANES", "MODEL_FILES", "EngineLane", "engine_of", "run_engine_lane", "run_torch_lane"]

Feeds = Mapping[str, NDArray[np.generic]]

# In the order of every table: the reference first, then each format float before int8.
LANES = ("torch", "onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")

MODEL_FILES: Mapping[Runtime, str] = MappingProxyType({"onnxruntime": "model.onnx", "litert": "model.tflite"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLane:
    """A model file and the engine that runs it.

    Attributes:
        name: Of the lane.
        engine: Key of ``edgekit_runtime.engines.ENGINES``.
        model: The file, or its bytes.
        inputs: What the model takes.
        outputs: What it gives.
    """

    name: str
    engine: str
    model: Path | bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def content(self) -> bytes:
        """Give the bytes of the model file."""
        return self.model if isinstance(self.model, bytes) else self.model.read_bytes()

    @contextmanager
    def open(self) -> Iterator[Engine]:
        """Load the model on one thread."""
        engine = open_engine(self.engine, self.content(), self.inputs, self.outputs, 1)
        try:
            yield engine
        finally:
            engine.close()


def engine_of(lane: str) -> Runtime:
    """Give the engine that a lane runs in by its format."""
    return "onnxruntime" if lane.startswith("onnx") else "litert"


def run_engine_lane(lane: EngineLane, rows: Sequence[Feeds]) -> NDArray[np.float32]:
    """Give the logits of all rows, float32 (N, classes)."""
    with lane.open() as engine:
        return np.concatenate([engine.run(feeds)["logits"] for feeds in rows]).astype(np.float32)


def run_torch_lane(student: Path, rows: Sequence[Feeds]) -> NDArray[np.float32]:
    """Run the float32 student in PyTorch on the same tensors, row by row, as a device does.

    Args:
        student: Folder with ``config.json`` and ``model.safetensors``.
        rows: Tensors of the model contract.
    """
    import torch

    from edgekit_converters.export.contract import exportable
    from edgekit_models.saved import load_own_model

    module = exportable(load_own_model(student / "config.json", student / "model.safetensors"))
    with torch.no_grad():
        parts = [module(**{name: torch.from_numpy(value) for name, value in feeds.items()}).numpy() for feeds in rows]
    return np.concatenate(parts).astype(np.float32)
