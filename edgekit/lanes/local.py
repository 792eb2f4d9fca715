"""The lanes of a build machine: one student, run in PyTorch and in the engines, float and int8."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.engines import Engine, open_engine
from edgekit_runtime.manifest import Runtime, TensorSpec
from edgekit_runtime.selftest import flat_outputs

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "LANES",
    "MODEL_FILES",
    "TORCH_DYNAMIC",
    "EngineLane",
    "Lane",
    "Runs",
    "TorchDynamicLane",
    "engine_of",
    "run_engine_lane",
    "run_torch_lane",
    "torch_dynamic_lane",
]

Feeds = Mapping[str, NDArray[np.generic]]

TORCH_DYNAMIC = "torch-int8-dynamic"  # PyTorch's own int8 of a text student, for comparison; no bundle holds it

# In the order of every table: the reference first, then each format float before int8.
LANES = ("torch", TORCH_DYNAMIC, "onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")

MODEL_FILES: Mapping[Runtime, str] = MappingProxyType({"onnxruntime": "model.onnx", "litert": "model.tflite"})


class Runs(Protocol):
    """A loaded model."""

    def run(self, feeds: Feeds) -> dict[str, NDArray[np.generic]]:
        """Run the model once: every input by logical name, every output likewise."""
        ...


class Lane(Protocol):
    """What can be run and timed."""

    @property
    def name(self) -> str: ...

    def open(self) -> AbstractContextManager[Runs]:
        """Load the model on one thread."""
        ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchDynamicLane:
    """The student in PyTorch's own dynamic int8.

    Attributes:
        student: Folder with ``config.json`` and ``model.safetensors``.
        name: Of the lane.
    """

    student: Path
    name: str = TORCH_DYNAMIC

    def size_bytes(self) -> int:
        """Give the size of its weights as ``torch.save`` writes them."""
        from edgekit_converters.quantize.torch_dynamic import serialised_bytes

        return serialised_bytes(self._module())

    def _module(self) -> "nn.Module":
        from edgekit_converters.export.contract import exportable
        from edgekit_converters.quantize.torch_dynamic import quantize_torch_dynamic
        from edgekit_models.saved import load_own_model

        model = load_own_model(self.student / "config.json", self.student / "model.safetensors")
        return quantize_torch_dynamic(exportable(model))

    @contextmanager
    def open(self) -> Iterator[Runs]:
        """Quantise the student and run it on one thread."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield _TorchModule(self._module())
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class _TorchModule:
    """A module behind the interface of an engine."""

    module: "nn.Module"

    def run(self, feeds: Feeds) -> dict[str, NDArray[np.generic]]:
        import torch

        with torch.no_grad():
            logits = self.module(**{name: torch.from_numpy(value) for name, value in feeds.items()})
        return {"logits": logits.numpy()}


def torch_dynamic_lane(student: Path) -> TorchDynamicLane | None:
    """Give the lane of a text student; None for images, of which PyTorch would quantise the last layer alone."""
    from edgekit_models.saved import read_config
    from edgekit_models.text_classifier import TextConfig

    text = isinstance(read_config(student / "config.json"), TextConfig)
    return TorchDynamicLane(student=student) if text else None


def engine_of(lane: str) -> Runtime:
    """Give the engine that a lane runs in by its format."""
    return "onnxruntime" if lane.startswith("onnx") else "litert"


def run_engine_lane(lane: Lane, rows: Sequence[Feeds]) -> NDArray[np.float32]:
    """Give the answers to all rows, float32 (N, entries): logits, vectors, or all output tensors side by side."""
    with lane.open() as engine:
        answers = [engine.run(feeds) for feeds in rows]
    return np.concatenate([flat_outputs(answer, list(answer)) for answer in answers])


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
