"""What a foreign TFLite file takes and gives, and how it is run by the names of its signature."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.quiet import converting
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["operator_counts", "read_contract", "run_tflite", "signature"]

_KINDS = {np.dtype(np.float32): "float32", np.dtype(np.int32): "int32"}


def _interpreter(path: Path, *, delegates: bool = True) -> Any:  # noqa: ANN401 - LiteRT has no types
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=path.read_bytes(), num_threads=1, experimental_op_resolver_type=resolver)


def signature(path: Path) -> str:
    """Give the name of the one signature of a file.

    Raises:
        ConversionError: It has none or several (E0787).
    """
    names = list(_interpreter(path).get_signature_list())
    if len(names) != 1:
        raise ConversionError(
            "E0787",
            f"the TFLite file has {len(names)} signatures; one is wanted",
            fix="convert the model again with one signature, as TensorFlow 2.4 and later write it",
        )
    return str(names[0])


def read_contract(path: Path, *, title: str) -> ModelContract:
    """Give names, types and shapes of a float32 file.

    Raises:
        ConversionError: The file cannot be read (E0783), holds int8 tensors (E0784), has no single signature (E0787),
            or inputs or outputs of a type or shape that cannot be taken (E0785, E0786).
    """
    with converting("E0783", f"'{title}' cannot be read as TFLite"):
        interpreter = _interpreter(path)
        interpreter.allocate_tensors()
        tensors = interpreter.get_tensor_details()
    if any(row["dtype"] in (np.int8, np.int16) for row in tensors):
        raise ConversionError("E0784", f"'{title}' is quantised already", fix="give the float32 model")
    runner = interpreter.get_signature_runner(signature(path))
    inputs = tuple(_spec(name, row, title) for name, row in runner.get_input_details().items())
    outputs = tuple(_spec(name, row, title) for name, row in runner.get_output_details().items())
    return ModelContract(inputs=inputs, outputs=outputs)


def _spec(name: str, row: Mapping[str, Any], title: str) -> TensorSpec:
    kind, shape = np.dtype(row["dtype"]), tuple(int(size) for size in row["shape"])
    if kind not in _KINDS:
        raise ConversionError(
            "E0785", f"tensor {name!r} of '{title}' is {kind}", fix="convert with float32 or int32 inputs and outputs"
        )
    if not shape or min(shape) < 1 or any(size == -1 for size in row.get("shape_signature", ())[1:]):
        raise ConversionError(
            "E0786", f"tensor {name!r} of '{title}' has no fixed shape: {shape}", fix="convert with fixed shapes"
        )
    return TensorSpec(name=name, tensor=str(row["name"]), dtype=_KINDS[kind], shape=shape)  # type: ignore[arg-type]


def run_tflite(path: Path, feeds: list[Mapping[str, NDArray[np.generic]]]) -> list[dict[str, NDArray[np.generic]]]:
    """Give the outputs of each row by name."""
    runner = _interpreter(path).get_signature_runner(signature(path))
    return [{name: np.array(value) for name, value in runner(**feed).items()} for feed in feeds]


def operator_counts(path: Path) -> dict[str, int]:
    """Give how often each operator occurs, before any delegate takes some over."""
    counts: dict[str, int] = {}
    for row in _interpreter(path, delegates=False)._get_ops_details():  # noqa: SLF001 - there is no public list
        counts[str(row["op_name"])] = counts.get(str(row["op_name"]), 0) + 1
    return counts
