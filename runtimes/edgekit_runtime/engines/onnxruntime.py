"""ONNX Runtime on the CPU. A session is safe to share between threads."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgekit_runtime.engines.base import InputCheck, check_signature
from edgekit_runtime.errors import BundleError, UsageError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["OnnxRuntimeEngine", "adds_in_16_bits"]

_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}
_ERRORS_ONLY: Final = 3


class OnnxRuntimeEngine:
    """Engine over one ``InferenceSession``, loaded from bytes so that no external file can be read."""

    name: Final = "onnxruntime"
    version: Final[str] = onnxruntime.__version__

    def __init__(
        self, model: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, threads: int
    ) -> None:
        options = onnxruntime.SessionOptions()
        # Left alone, ORT sets thread affinities that fail in containers and prints warnings on every load.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        if adds_in_16_bits():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError("E0513", "ONNX Runtime refuses the model", why=str(error)) from error
        check_signature(inputs, _signature(session.get_inputs()), "input")
        check_signature(outputs, _signature(session.get_outputs()), "output")
        self._check = InputCheck(inputs)
        self._inputs: Final = tuple((spec.name, spec.tensor) for spec in inputs)
        self._tensors: Final = [spec.tensor for spec in outputs]
        self._names: Final = tuple(spec.name for spec in outputs)
        self._session: onnxruntime.InferenceSession | None = session

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        self._check(feeds)
        session = self._session
        if session is None:
            raise UsageError("E0910", "the model is closed")
        try:
            values = session.run(self._tensors, {tensor: feeds[name] for name, tensor in self._inputs})
        except Exception as error:
            raise BundleError("E0912", "ONNX Runtime failed while running the model", why=str(error)) from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        self._session = None


def adds_in_16_bits(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Tell whether U8S8 products could saturate here: an x86 CPU without VNNI adds pairs of them in 16 bits.

    ONNX Runtime then has to be told to use its slower exact kernels. Where VNNI is present the same setting would cost
    half of the speed, so it is not simply always on. Weights within +-64 (``quantize.seven_bit: true``) keep the fast
    kernels: the session changes no others.

    Source: ONNX Runtime documentation, "Quantize ONNX models", on U8S8 and ``reduce_range``; its
    Avx2WeightS8ToU8Transformer, which leaves weights within +-64 alone.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    try:
        with Path(cpuinfo).open(encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return True  # not Linux: nothing is known, and slow is better than wrong
    return "vnni" not in flags


def _signature(nodes: Sequence[onnxruntime.NodeArg]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {node.name: (_DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes}
