"""Reads a foreign ONNX file: fixes its shapes and folds its constants on a copy; the file itself is only read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.quiet import converting
from edgekit_converters.ready.names import input_names, output_names
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["FixedOnnx", "digest_of", "fix_shapes", "run_onnx"]

_KINDS = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT32: "int32", onnx.TensorProto.INT64: "int32"}
_RUNTIME_KINDS = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "MatMulInteger", "DynamicQuantizeLinear")
# The first makes a product of two dimensions, framed by reshapes, of any product with a bias; the others give weights
# new names, from which no layer can be told. ``normalise`` does their work.
_NOT_WANTED = ["MatMulAddFusion", "ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedOnnx:
    """A copy of the user's model with fixed shapes and folded constants.

    Attributes:
        path: Of the copy.
        model: Its content.
        contract: Inputs and outputs; int64 inputs are named int32.
        digest: sha256 (hex) of the user's file and of the weight files beside it.
        int64_inputs: Names, as the contract has them, of the inputs that the file takes as int64.
    """

    path: Path
    model: onnx.ModelProto
    contract: ModelContract
    digest: str
    int64_inputs: frozenset[str]


def digest_of(path: Path, beside: Sequence[Path] = ()) -> str:
    """Give the sha256 (hex) of a file and of those that belong to it."""
    digest = sha256()
    for file in (path, *beside):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fix_shapes(path: Path, work: Path, shape: Mapping[str, tuple[int, ...]] | None) -> FixedOnnx:
    """Copy a model with fixed shapes and folded constants.

    Args:
        path: Of the user's file.
        work: Folder for the copy.
        shape: Shapes of inputs with open dimensions, by the name in the file.

    Raises:
        ConversionError: The file is damaged (E0783), is already quantised (E0784), has inputs of a type that cannot be
            taken (E0785), needs a shape (E0786), or changed while it was read (E0790).
    """
    with converting("E0783", f"'{path.name}' cannot be read as ONNX"):
        model = onnx.load(path, load_external_data=False)
        beside = [path.parent / name for name in sorted(_external(model))]
        before = digest_of(path, beside)
        model = onnx.load(path)
    if any(node.op_type in _QUANTISED for node in model.graph.node):
        raise ConversionError("E0784", f"'{path.name}' is quantised already", fix="give the float32 model")
    inputs = _fix_inputs(model, shape or {}, title=path.name)
    copy, folded = work / "fixed.onnx", work / "folded.onnx"
    with converting("E0783", f"'{path.name}' cannot be computed by ONNX Runtime"):
        for value in model.graph.output:
            if value.HasField("type"):
                value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        copy.write_bytes(model.SerializeToString(deterministic=True))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(copy, options, ["CPUExecutionProvider"], disabled_optimizers=_NOT_WANTED)
        ready = onnx.load(folded)
        contract = ModelContract(inputs=inputs, outputs=_outputs(folded, inputs))
    if digest_of(path, beside) != before:
        raise ConversionError("E0790", f"'{path.name}' changed while it was read", fix="import it again")
    wide = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.INT64}
    return FixedOnnx(
        path=folded,
        model=ready,
        contract=contract,
        digest=before,
        int64_inputs=frozenset(spec.name for spec in inputs if spec.tensor in wide),
    )


def _external(model: onnx.ModelProto) -> set[str]:
    return {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _fix_inputs(model: onnx.ModelProto, shape: Mapping[str, tuple[int, ...]], *, title: str) -> tuple[TensorSpec, ...]:
    held = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in held]
    unknown = sorted(set(shape) - {value.name for value in values})
    if unknown:
        known = ", ".join(value.name for value in values)
        raise ConversionError("E0786", f"'{title}' has no input {unknown[0]!r}", fix=f"its inputs are {known}")
    found = []
    for value, name in zip(values, input_names([value.name for value in values]), strict=True):
        kind = value.type.tensor_type
        if kind.elem_type not in _KINDS:
            given = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
            raise ConversionError(
                "E0785", f"input {value.name!r} of '{title}' is {given}", fix="export it with float32 or integer inputs"
            )
        sizes = _sizes(value, shape.get(value.name), title=title)
        for dimension, size in zip(kind.shape.dim, sizes, strict=True):
            dimension.Clear()
            dimension.dim_value = size
        found.append(TensorSpec(name=name, tensor=value.name, dtype=_KINDS[kind.elem_type], shape=sizes))  # type: ignore[arg-type]
    return tuple(found)


def _sizes(value: onnx.ValueInfoProto, wanted: tuple[int, ...] | None, *, title: str) -> tuple[int, ...]:
    """Give an input's fixed shape: what the file fixes, what the user says, and a batch of 1."""
    given = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]  # 0 where it is open
    if wanted is None:
        wanted = tuple(size or (1 if place == 0 else 0) for place, size in enumerate(given))
    fits = len(wanted) == len(given) and all(old in (0, new) for old, new in zip(given, wanted, strict=False))
    if not fits or 0 in wanted or (wanted and wanted[0] != 1):
        names = [dimension.dim_param or str(dimension.dim_value) for dimension in value.type.tensor_type.shape.dim]
        example = {value.name: tuple(size or (128 if place else 1) for place, size in enumerate(given))}
        raise ConversionError(
            "E0786",
            f"input {value.name!r} of '{title}' has the shape ({', '.join(names)})",
            why="a model for a device has fixed shapes and a batch of 1",
            fix=f"say it: load_ready(..., shape={example}), on the command line by rows in an .npz; "
            "export again if the batch is fixed to another number",
        )
    return wanted


def _outputs(path: Path, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Run the model once to see what it gives; a file's own word on its outputs is often wrong."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    results = run_onnx(session, [np.ones(spec.shape, np.dtype(spec.dtype)) for spec in inputs])
    names = [row.name for row in session.get_outputs()]
    found = []
    for name, tensor, value in zip(output_names(names), names, results, strict=True):
        kind = "float32" if np.issubdtype(value.dtype, np.floating) else "int32"
        found.append(TensorSpec(name=name, tensor=tensor, dtype=kind, shape=tuple(value.shape)))  # type: ignore[arg-type]
    return tuple(found)


def run_onnx(session: onnxruntime.InferenceSession, values: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Run a session on inputs in its order; integers get the width that the file asks for."""
    rows = session.get_inputs()
    feeds = {row.name: value.astype(_RUNTIME_KINDS[row.type]) for row, value in zip(rows, values, strict=True)}
    return list(session.run(None, feeds))
