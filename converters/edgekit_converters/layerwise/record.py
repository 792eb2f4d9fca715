"""Keeps, beside an int8 file, the float file that it was quantised from and where each layer stands in it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit_converters.layerwise.places import Place, float_file, write_places
from edgekit_converters.quantize.graph import Graph, after_activation, layers
from edgekit_converters.quantize.onnx_graph import GraphEditor
from edgekit_converters.quantize.onnx_static import match_layers
from edgekit_converters.quantize.planner import GELU, GELU_FLOOR
from edgekit_converters.quantize.tflite_graph import TfliteGraph

__all__ = ["record_onnx", "record_tflite"]

Weights = Mapping[str, NDArray[np.float32]]


def record_onnx(source: Path, folder: Path, graph: Graph, weights: Weights) -> None:
    """Copy the float ONNX file into ``folder`` and write its table of layers.

    Args:
        source: Exported from ``graph``.
        folder: Of the int8 file.
        graph: Rewritten float graph.
        weights: Float weights by layer, in order of execution.
    """
    shutil.copyfile(source, folder / float_file("onnx"))
    editor = GraphEditor(onnx.load(source))
    editor.fold_transposes()
    kinds, floors = _known(graph)
    places = []
    for name, nodes in match_layers(editor, weights).items():
        for number, node in enumerate(nodes):
            reads = node.input[1] if node.op_type == "Gather" else node.input[0]
            places.append(
                Place(
                    module=_call(name, number),
                    kind=kinds[name],  # type: ignore[arg-type]
                    input=str(reads),
                    output=_onnx_end(editor, node),
                    floor=floors.get(name),
                )
            )
    order = {str(made): number for number, node in enumerate(editor.nodes) for made in node.output}
    write_places(sorted(places, key=lambda place: order[place.output]), folder)


def record_tflite(source: Path, folder: Path, graph: Graph, weights: Weights) -> None:
    """Copy the float TFLite file into ``folder`` and write its table of layers; see ``record_onnx``."""
    shutil.copyfile(source, folder / float_file("tflite"))
    file = TfliteGraph(source)
    kinds, floors = _known(graph)
    places = [
        Place(
            module=_call(name, number),
            kind=kinds[name],  # type: ignore[arg-type]
            input=f"{layer.input}:{file.name(layer.input)}",
            output=f"{layer.output}:{file.name(layer.output)}",
            floor=floors.get(name),
        )
        for name, calls in file.match(weights).items()
        for number, layer in enumerate(calls)
    ]
    order = {output: number for number, (_, _, made) in enumerate(file.operators()) for output in made}
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
