"""The TFLite interpreter, from LiteRT, tflite-runtime or TensorFlow.

An interpreter shared by threads without a lock gives wrong answers and says nothing (12 wrong and 138,460 exceptions in
160,000 calls), so every run holds a lock.
"""

import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.engines.base import InputCheck, check_signature
from edgekit_runtime.engines.registry import EngineRow
from edgekit_runtime.errors import BundleError, UsageError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["LiteRtEngine"]


class _Interpreter(Protocol):
    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> list[dict[str, object]]: ...
    def get_output_details(self) -> list[dict[str, object]]: ...
    def set_tensor(self, index: int, value: NDArray[np.generic]) -> None: ...
    def invoke(self) -> None: ...
    def get_tensor(self, index: int) -> NDArray[np.generic]: ...


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of the file: where it is, and how float32 becomes its integers (scale 0 = it does not)."""

    index: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    scale: np.float32
    zero_point: int

    def logical_dtype(self, wanted: str) -> str:
        quantized = self.scale > 0 and self.dtype.kind in "iu"
        return "float32" if quantized and wanted == "float32" else self.dtype.name

    def quantize(self, value: NDArray[np.generic]) -> NDArray[np.generic]:
        """``clip(rint(x / scale) + zero_point)``, in the range of the tensor's type.

        Source: LiteRT 8-bit quantization specification.
        """
        limits = np.iinfo(self.dtype.name)
        codes = np.rint(value.astype(np.float32) / self.scale) + np.float32(self.zero_point)
        quantized: NDArray[np.generic] = codes.clip(limits.min, limits.max).astype(self.dtype)
        return quantized

    def dequantize(self, codes: NDArray[np.generic]) -> NDArray[np.float32]:
        """``(q - zero_point) * scale``."""
        return (codes.astype(np.float32) - np.float32(self.zero_point)) * self.scale


class LiteRtEngine:
    """Engine over one interpreter and its lock."""

    def __init__(
        self,
        model: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int,
        row: EngineRow,
    ) -> None:
        self.name: Final = row.name
        self.version: Final = row.version
        library = importlib.import_module(row.module)
        options = {"num_threads": threads}
        if not row.delegates:
            options["experimental_op_resolver_type"] = library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        # The interpreter keeps pointers into the file, so the bytes must live as long as it does.
        self._model: bytes | None = model
        try:
            interpreter = cast("_Interpreter", library.Interpreter(model_content=model, **options))
            interpreter.allocate_tensors()
        except Exception as error:
            raise BundleError("E0513", f"{row.name} refuses the model", why=str(error)) from error
        found_inputs = _tensors(interpreter.get_input_details())
        found_outputs = _tensors(interpreter.get_output_details())
        check_signature(inputs, _signature(found_inputs, inputs), "input")
        check_signature(outputs, _signature(found_outputs, outputs), "output")
        self._check = InputCheck(inputs)
        self._inputs: Final = tuple(_bind(spec, found_inputs) for spec in inputs)
        self._outputs: Final = tuple(_bind(spec, found_outputs) for spec in outputs)
        self._lock: Final = threading.Lock()
        self._interpreter: _Interpreter | None = interpreter

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        self._check(feeds)
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise UsageError("E0910", "the model is closed")
            try:
                for name, tensor, converts in self._inputs:
                    value = feeds[name]
                    interpreter.set_tensor(tensor.index, tensor.quantize(value) if converts else value)
                interpreter.invoke()
                # get_tensor copies: the buffers themselves are overwritten by the next run.
                values = [interpreter.get_tensor(tensor.index) for _, tensor, _ in self._outputs]
            except Exception as error:
                raise BundleError("E0912", f"{self.name} failed while running the model", why=str(error)) from error
        return {
            name: tensor.dequantize(value) if converts else value
            for (name, tensor, converts), value in zip(self._outputs, values, strict=True)
        }

    def close(self) -> None:
        with self._lock:
            self._interpreter = None
            self._model = None


def _tensors(details: list[dict[str, object]]) -> dict[str, _Tensor]:
    found = {}
    for row in details:
        scale, zero_point = cast("tuple[float, int]", row["quantization"])
        shape = tuple(int(size) for size in cast("Sequence[int]", row["shape"]))
        dtype = np.dtype(cast("type[np.generic]", row["dtype"]))
        tensor = _Tensor(int(cast("int", row["index"])), dtype, shape, np.float32(scale), int(zero_point))
        found[str(row["name"])] = tensor
    return found


def _signature(found: Mapping[str, _Tensor], specs: Sequence[TensorSpec]) -> dict[str, tuple[str, tuple[int, ...]]]:
    wanted = {spec.tensor: spec.dtype for spec in specs}
    return {name: (tensor.logical_dtype(wanted.get(name, "")), tensor.shape) for name, tensor in found.items()}


def _bind(spec: TensorSpec, found: Mapping[str, _Tensor]) -> tuple[str, _Tensor, bool]:
    tensor = found[spec.tensor]
    return spec.name, tensor, tensor.dtype.name != spec.dtype
