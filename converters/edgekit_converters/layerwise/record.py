"""Keeps, beside an int8 file, the float file that it was quantised from and where each layer stands in it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from edgekit_converters.layerwise.places import FLOAT_DATA, Place, float_file, write_places
from edgekit_converters.quantize.graph import Graph, after_activation, layers
from edgekit_converters.quantize.onnx_graph import GraphEditor
from edgekit_converters.quantize.onnx_static import match_layers
from edgekit_converters.quantize.planner import GELU, GELU_FLOOR, Planned
from edgekit_converters.quantize.schemes.tflite_edit import TfliteEdit
from edgekit_converters.quantize.tflite_graph import TfliteGraph, TfliteLayer
from edgekit_converters.quantize.trained import Trained
from edgekit_runtime.errors import ConversionError

__all__ = ["record_onnx", "record_tflite"]

_LARGE = 1024  # bytes of a constant that goes into the file beside the model

Weights = Mapping[str, NDArray[np.float32]]


def record_onnx(source: Path, folder: Path, made: Planned, weights: Weights) -> None:
    """Keep the float ONNX file in ``folder``, with the weights that were trained, and write its table of layers.

    Args:
        source: Exported from the graph of ``made``.
        folder: Of the int8 file.
        made: The plan and its graph.
        weights: Weights of that graph by layer, in order of execution.

    Raises:
        ConversionError: The file has no place for a trained weight (E0727).
    """
    editor = GraphEditor(onnx.load(source))
    editor.fold_transposes()
    kinds, floors = _known(made.graph)
    places = []
    for name, nodes in match_layers(editor, weights).items():
        for number, node in enumerate(nodes):
            _put_back_onnx(editor, node, name, made.trained)
            reads = str(node.input[1] if node.op_type == "Gather" else node.input[0])
            if editor.weight(reads) is not None:  # the first step of a recurrent layer reads its constant state
                continue
            places.append(
                Place(
                    module=_call(name, number),
                    kind=kinds[name],  # type: ignore[arg-type]
                    input=reads,
                    output=_onnx_end(editor, node),
                    floor=floors.get(name),
                )
            )
    model = editor.finish()
    _save(model, folder)
    order = {str(tensor): number for number, node in enumerate(model.graph.node) for tensor in node.output}
    write_places(sorted(places, key=lambda place: order[place.output]), folder)


def _save(model: onnx.ModelProto, folder: Path) -> None:
    """Write the model with its constants in a file beside it, so that nobody has to hold all of them in RAM."""
    (folder / FLOAT_DATA).unlink(missing_ok=True)  # the library would append
    external_data_helper.convert_model_to_external_data(model, location=FLOAT_DATA, size_threshold=_LARGE)
    onnx.save(model, folder / float_file("onnx"))
    data = folder / FLOAT_DATA
    if data.is_file():
        data.chmod((folder / float_file("onnx")).stat().st_mode)  # the library lets the owner alone read it


def record_tflite(source: Path, folder: Path, made: Planned, weights: Weights) -> None:
    """Keep the float TFLite file in ``folder`` and write its table of layers; see ``record_onnx``."""
    file = TfliteGraph(source)
    kinds, floors = _known(made.graph)
    found = file.match(weights)
    edit = TfliteEdit(source.read_bytes())
    for name, calls in found.items():
        _put_back_tflite(edit, calls[0], name, made.trained)
    (folder / float_file("tflite")).write_bytes(edit.pack())
    places = [
        Place(
            module=_call(name, number),
            kind=kinds[name],  # type: ignore[arg-type]
            input=f"{layer.input}:{file.name(layer.input)}",
            output=f"{layer.output}:{file.name(layer.output)}",
            floor=floors.get(name),
        )
        for name, calls in found.items()
        for number, layer in enumerate(calls)
        if not file.is_constant(layer.input)
    ]
    order = {output: number for number, (_, _, outputs) in enumerate(file.operators()) for output in outputs}
    write_places(sorted(places, key=lambda place: order[int(place.output.partition(":")[0])]), folder)


def _call(name: str, number: int) -> str:
    return f"{name}#{number + 1}" if number else name


def _known(graph: Graph) -> tuple[dict[str, str], dict[str, float]]:
    """Give the kind of each layer, and the floor of those that a GELU alone reads."""
    kinds, floors = {}, {}
    for name, kind, node in layers(graph):
        kinds[name] = kind
        users = list(after_activation(node).users)
        if len(users) == 1 and users[0].target is GELU:
            floors[name] = GELU_FLOOR
    return kinds, floors


def _onnx_end(graph: GraphEditor, node: onnx.NodeProto) -> str:
    """Give the tensor behind a layer's bias and its ReLU, as far as nothing else reads what lies before."""
    end = str(node.output[0])
    for kinds in (("Add",), ("Relu", "Clip")):
        readers = graph.readers(end)
        if len(readers) != 1 or readers[0].op_type not in kinds or graph.is_output(end) or node.op_type == "Gather":
            continue
        constant = any(graph.weight(str(name)) is not None for name in readers[0].input)
        if kinds != ("Add",) or (node.op_type == "MatMul" and constant):
            end = str(readers[0].output[0])
    return end


def _put_back_onnx(graph: GraphEditor, node: onnx.NodeProto, name: str, trained: Trained) -> None:
    """Give a layer of the float file the weight and bias that it was trained with."""
    weight, bias = trained.get(f"{name}.weight"), trained.get(f"{name}.bias")
    if weight is not None:
        held = graph.weight(node.input[1])
        turned = held is not None and held.shape == weight.T.shape and not _holds_rows(node)
        _put(graph, str(node.input[1]), weight.T if turned else weight, name)
    if bias is None:
        return
    if node.op_type != "MatMul":
        _put(graph, str(node.input[2]), bias, name)
        return
    for reader in graph.readers(str(node.output[0])):
        for tensor in reader.input if reader.op_type == "Add" else ():
            if graph.weight(str(tensor)) is not None:
                _put(graph, str(tensor), bias, name)


def _holds_rows(node: onnx.NodeProto) -> bool:
    """Tell whether dimension 0 of a node's weight counts output channels."""
    return node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)


def _put(graph: GraphEditor, tensor: str, value: NDArray[np.float32], layer: str) -> None:
    held = next((each for each in graph.graph.initializer if each.name == tensor), None)
    if held is None or int(np.prod(held.dims)) != value.size:
        raise _no_place(layer)
    shaped = np.ascontiguousarray(value.reshape(tuple(held.dims)), np.float32)
    held.CopyFrom(numpy_helper.from_array(shaped, tensor))


def _put_back_tflite(edit: TfliteEdit, layer: TfliteLayer, name: str, trained: Trained) -> None:
    weight, bias = trained.get(f"{name}.weight"), trained.get(f"{name}.bias")
    orders = {"CONV_2D": (0, 2, 3, 1), "DEPTHWISE_CONV_2D": (1, 2, 3, 0)}
    if weight is not None:
        edit.put(layer.weight, weight.transpose(orders[layer.operator]) if layer.operator in orders else weight)
    if bias is not None:
        if layer.bias < 0:
            raise _no_place(name)
        edit.put(layer.bias, bias)


def _no_place(layer: str) -> ConversionError:
    what = f"the float file has no place for what {layer} was trained with"
    return ConversionError("E0727", what, fix="run again with --debug and report the model")
