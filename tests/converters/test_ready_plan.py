"""A foreign network goes the whole way: import, plan, ONNX and TFLite on one grid, proved on both files."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import ready_networks
import torch

from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import layer_biases, layer_weights, trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.tflite_static import quantize_tflite
from edgekit_converters.ready.load import load_ready
from edgekit_converters.ready.model import ReadyModel
from edgekit_converters.ready.probe import probes
from edgekit_converters.ready.tflite_file import run_tflite

LAYERS = {"products": 4, "cnn": 7, "bert": 15}
slow = pytest.mark.slow


class Line:
    """An imported network, its plan and its int8 files."""

    def __init__(self, name: str, folder: Path, *, program: bool) -> None:
        network = ready_networks.network(name)
        path = folder / f"{name}.{'pt2' if program else 'onnx'}"
        if program:
            torch.export.save(torch.export.export(network, network.example()), path)
        else:
            ready_networks.write_onnx(network, path)
        found = load_ready(path, work=folder)
        assert isinstance(found, ReadyModel)
        self.ready, self.folder = found, folder
        assert isinstance(found.module, torch.fx.GraphModule)
        rows = probes(found.module, found.contract, rows=16)
        self.feeds = [
            {spec.name: value.numpy() for spec, value in zip(found.contract.inputs, row, strict=True)} for row in rows
        ]
        with torch.no_grad():
            self.wanted = np.stack([found.module(*row)[0].numpy() for row in rows])
        graph = trace(found.module, found.contract.example())
        planner = Planner(mode=lambda _: Mode.STATIC, whole_network=name == "cnn")
        planned = planner.make(graph, as_rows(graph, self.feeds, trim=False))
        self.graph, self.plan, self.weights = planned.graph, planned.plan, layer_weights(planned.graph)

    def noise_db(self, given: np.ndarray) -> float:
        return float(10 * np.log10((self.wanted**2).sum() / ((self.wanted - given) ** 2).sum()))

    def onnx(self) -> np.ndarray:
        source, target = self.folder / "float.onnx", self.folder / "int8.onnx"
        export_module_onnx(self.graph, self.ready.contract, source, opset=20)
        quantize_onnx(source, target, self.plan, self.weights, activations="uint8")
        prove(self.plan, self.weights, layer_biases(self.graph), read_onnx(target, self.plan, self.weights))
        session = onnxruntime.InferenceSession(target)
        return np.stack([session.run(None, feed)[0] for feed in self.feeds])

    def tflite(self) -> np.ndarray:
        source, target = self.folder / "float.tflite", self.folder / "int8.tflite"
        export_module_tflite(separate_affine(self.graph), self.ready.contract, source)
        quantize_tflite(source, target, self.plan, self.weights, self.feeds)
        prove(self.plan, self.weights, layer_biases(self.graph), read_tflite(target, self.plan, self.weights))
        return np.stack([next(iter(row.values())) for row in run_tflite(target, self.feeds)])


CASES = [
    pytest.param("products", False, id="products from ONNX"),
    pytest.param("products", True, id="products from a program", marks=slow),
    pytest.param("cnn", False, id="cnn from ONNX", marks=slow),
    pytest.param("cnn", True, id="cnn from a program", marks=slow),
    pytest.param("bert", False, id="bert from ONNX", marks=slow),
    pytest.param("bert", True, id="bert from a program", marks=slow),
]


@pytest.mark.parametrize(("name", "program"), CASES)
def test_both_int8_files_hold_the_plan_of_a_foreign_network_and_stay_near_it(tmp_path, name, program):
    line = Line(name, tmp_path, program=program)
    static = [layer for layer in line.plan.layers if layer.mode is Mode.STATIC]
    assert len(static) >= LAYERS[name]
    assert line.noise_db(line.onnx()) > 30
    assert line.noise_db(line.tflite()) > 30
