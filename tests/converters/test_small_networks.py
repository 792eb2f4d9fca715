"""Networks that are no chain of convolutions, as int8 files of both formats: proved equal to one plan, and run."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.lanes import EngineLane
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.tflite import tflite_contract
from edgekit_converters.quantize.canonical import canonicalise
from edgekit_converters.quantize.graph import layer_biases, layer_weights, trace
from edgekit_converters.quantize.measure import as_rows, outputs
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.tflite_graph import TfliteGraph
from edgekit_converters.quantize.write import write_onnx, write_tflite
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.manifest import TensorSpec
from edgekit_runtime.statistics import sqnr_db


class Branches(nn.Module):
    """Paths of unlike range that are joined, an average pool behind, and a hard sigmoid gate."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 3, padding=1)
        self.expand = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, image):
        x = image.permute(0, 3, 1, 2)
        x = torch.cat([self.left(x).relu(), 5 * self.right(x).relu()], 1)
        x = x * nn.functional.hardsigmoid(self.expand(x.mean((2, 3), keepdim=True)))
        return self.last(nn.functional.avg_pool2d(x, 2)).mean((2, 3))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 4)

    def forward(self, image):
        x = nn.functional.relu6(self.deep(nn.functional.relu6(self.wide(image.permute(0, 3, 1, 2)))))
        return self.head(x.mean((2, 3)))


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, image):
        return self.head(self.cell(image)[0][:, -1])


_CASES = {
    # module, shape of the input, one scale per weight, all operators in int8
    "branches": (Branches, (1, 6, 6, 2), False, True),
    "depthwise": (Depthwise, (1, 6, 6, 2), True, True),
    "steps": (Steps, (1, 3, 6), False, False),
}


class Files:
    """Both files of one network, and what they were made from."""

    def __init__(self, case: str, folder: Path) -> None:
        make, shape, per_tensor, whole = _CASES[case]
        torch.manual_seed(4)
        logits = TensorSpec(name="logits", tensor="logits", dtype="float32", shape=(1, 4))
        image = TensorSpec(name="image", tensor="image", dtype="float32", shape=shape)
        self.contract = ModelContract(inputs=(image,), outputs=(logits,))
        graph = canonicalise(trace(make().eval(), self.contract.example()))
        rng = np.random.default_rng(0)
        self.feeds = [{"image": rng.normal(size=shape).astype(np.float32)} for _ in range(16)]
        rows = as_rows(graph, self.feeds, trim=False)
        planner = Planner(mode=lambda _: Mode.STATIC, whole_network=whole, techniques=False, per_tensor=per_tensor)
        self.made, self.reference = planner.make(graph, rows), outputs(graph, rows)
        self.onnx, self.tflite = folder / "model.onnx", folder / "model.tflite"
        self.said = write_onnx(self.made, self.contract, self.onnx, activations="uint8", opset=20)
        write_tflite(self.made, self.contract, self.tflite, self.feeds)

    def logits(self, path: Path) -> np.ndarray:
        engine = "onnxruntime" if path.suffix == ".onnx" else "litert"
        shape = self.contract if engine == "onnxruntime" else tflite_contract(self.contract, path)
        lane = EngineLane(name="one", engine=engine, model=path, inputs=shape.inputs, outputs=shape.outputs)
        with lane.open() as opened:
            return np.concatenate([opened.run(row)["logits"] for row in self.feeds]).astype(np.float64)

    def stamped(self, path: Path):
        read = read_onnx if path.suffix == ".onnx" else read_tflite
        return read(path, self.made.plan, layer_weights(self.made.graph))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return cache(lambda case: Files(case, tmp_path_factory.mktemp(case)))


@pytest.fixture(params=_CASES)
def files(request, made) -> Files:
    return made(request.param)


def test_both_files_answer_as_float_does_within_30_db(files) -> None:
    for path in (files.onnx, files.tflite):
        assert sqnr_db(files.reference, files.logits(path)) > 30, path.suffix


def test_a_call_that_strays_from_the_plan_is_refused(files) -> None:
    """Every call is looked at, the last one of a recurrent layer, too."""
    weights, biases = layer_weights(files.made.graph), layer_biases(files.made.graph)
    for path in (files.onnx, files.tflite):
        found = files.stamped(path)
        name = max(found)  # ``...#3`` where a layer runs three times
        found[name].codes[0] ^= 1
        with pytest.raises(ConversionError) as caught:
            prove(files.made.plan, weights, biases, found)
        assert caught.value.code == "E0771"


def test_weights_that_every_step_reads_stand_in_the_file_once(made) -> None:
    """Of three steps, exporters may compute the first on its state of zeros ahead."""
    steps = made("steps")
    for path in (steps.onnx, steps.tflite):
        assert sum(name.startswith("cell.weight_hh_l0") for name in steps.stamped(path)) >= 2
    held = [tensor for tensor in onnx.load(steps.onnx).graph.initializer if list(tensor.dims) == [8, 24]]
    assert len(held) == 1


def test_joined_paths_and_the_pool_behind_stand_on_one_grid(made) -> None:
    files = made("branches")
    left = files.made.plan.layer("left").output
    graph = TfliteGraph(files.tflite)
    (joined,) = [(inputs, outputs) for name, inputs, outputs in graph.operators() if name == "CONCATENATION"]
    points = {(float(scale[0]), int(zero[0])) for scale, zero in map(graph.grid, (*joined[0], *joined[1]))}
    assert points == {(left.scale, left.zero_point)}
    assert left.high == pytest.approx(_largest(files), rel=1e-5)
    assert len([name for name, _, _ in graph.operators() if name in ("DEQUANTIZE", "QUANTIZE")]) == 2  # the ends


def _largest(files: Files) -> float:
    """Give the largest value of both paths in float: five times the right one, that no layer writes or reads."""
    weights, biases = layer_weights(files.made.graph), layer_biases(files.made.graph)
    images = torch.from_numpy(np.concatenate([row["image"] for row in files.feeds])).permute(0, 3, 1, 2)
    parts = [torch.from_numpy(held[name]) for name in ("left", "right") for held in (weights, biases)]
    left = nn.functional.conv2d(images, parts[0], parts[1])
    right = 5 * nn.functional.conv2d(images, parts[2], parts[3], padding=1)
    return max(float(left.max()), float(right.max()))
