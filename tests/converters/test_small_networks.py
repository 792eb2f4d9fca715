"""Networks that are no chain of convolutions, as int8 files of both formats: proved equal to one plan, and run."""

from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.lanes.local import EngineLane
from edgekit_converters.export.contract import ModelContract
from edgekit_converters.export.tflite import tflite_contract
from edgekit_converters.quantize.graph import layer_biases, layer_weights, trace
from edgekit_converters.quantize.measure import as_rows, outputs
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.tflite_graph import TfliteGraph
from edgekit_converters.quantize.write import write_onnx, write_tflite
from edgekit_converters.ready.normalise import normalise
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
    """ReLU6 as a function, and a last layer whose weights lie halfway between codes, as near as float32 can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 4)
        halves = np.float32(1) / np.float32(127) * (np.arange(32, dtype=np.float32) + np.float32(0.5))
        self.head.weight.data = torch.from_numpy(np.concatenate([[1.0], halves[1:]]).astype(np.float32).reshape(4, 8))

    def forward(self, image):
        x = nn.functional.relu6(self.deep(nn.functional.relu6(self.wide(image.permute(0, 3, 1, 2)))))
        return self.head(x.mean((2, 3)))


class Steps(nn.Module):
    """A convolution with a batch norm, then steps whose weights are large enough for a transpose of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(12, 32, batch_first=True), nn.Linear(32, 4)
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)

    def forward(self, image):
        x = self.norm(self.conv(image.permute(0, 3, 1, 2))).relu()
        return self.head(self.cell(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


_CASES = {
    # module, shape of the input, one scale per weight, all operators in int8
    "branches": (Branches, (1, 6, 6, 2), False, True),
    "depthwise": (Depthwise, (1, 6, 6, 2), True, True),
    "steps": (Steps, (1, 3, 6, 2), False, False),
}


class Files:
    """Both files of one network, and what they were made from."""

    def __init__(self, case: str, folder: Path) -> None:
        make, shape, per_tensor, whole = _CASES[case]
        torch.manual_seed(4)
        logits = TensorSpec(name="logits", tensor="logits", dtype="float32", shape=(1, 4))
        image = TensorSpec(name="image", tensor="image", dtype="float32", shape=shape)
        self.contract = ModelContract(inputs=(image,), outputs=(logits,))
        graph = normalise(trace(make().eval(), self.contract.example()), [self.contract.example()]).graph
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
        name = max(found, key=lambda name: ("#" in name, name))  # ``...#3`` where a layer runs three times
        found[name].codes[0] ^= 1
        with pytest.raises(ConversionError) as caught:
            prove(files.made.plan, weights, biases, found)
        assert caught.value.code == "E0771"


def test_a_layer_with_its_bias_inside_can_be_measured_at_each_run(tmp_path) -> None:
    """Exporters write a linear layer of matrices as Gemm, one of token rows as MatMul and Add."""
    torch.manual_seed(0)
    image, logits = ((1, 24), (1, 4))
    specs = [
        TensorSpec(name=name, tensor=name, dtype="float32", shape=shape)
        for name, shape in (("image", image), ("logits", logits))
    ]
    contract = ModelContract(inputs=(specs[0],), outputs=(specs[1],))

    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(24, 4)

        def forward(self, image):
            return self.head(image)

    graph = trace(Matrix().eval(), contract.example())
    feeds = [{"image": np.random.default_rng(i).normal(size=image).astype(np.float32)} for i in range(8)]
    rows = as_rows(graph, feeds, trim=False)
    planner = Planner(mode=lambda _: Mode.DYNAMIC, whole_network=False, techniques=False)
    write_onnx(planner.make(graph, rows), contract, tmp_path / "model.onnx", activations="uint8", opset=20)
    path = tmp_path / "model.onnx"
    lane = EngineLane(name="one", engine="onnxruntime", model=path, inputs=contract.inputs, outputs=contract.outputs)
    with lane.open() as opened:
        found = np.concatenate([opened.run(row)["logits"] for row in feeds]).astype(np.float64)
    assert sqnr_db(outputs(graph, rows), found) > 30


def test_one_scale_for_all_channels_is_written_as_one(made) -> None:
    files = made("depthwise")
    graph = TfliteGraph(files.tflite)
    assert {len(graph.grid(layer.weight)[0]) for layer in graph.layers()} == {1}
    scales = [tensor for tensor in onnx.load(files.onnx).graph.initializer if tensor.name.endswith(".weight.scale")]
    assert [list(tensor.dims) for tensor in scales] == [[], [], []]


def test_weights_beside_a_half_have_the_codes_of_their_exact_quotients(made) -> None:
    """Of these weights float32 division would round some to a half that they are not at."""
    files = made("depthwise")
    weight, layer = layer_weights(files.made.graph)["head"], files.made.plan.layer("head")
    exact = [round(Fraction(float(w)) / Fraction(float(np.float32(layer.weight_scales[0])))) for w in weight.ravel()]
    short = np.rint(weight / np.float32(layer.weight_scales[0]))
    assert (short.ravel() != exact).any()
    for path in (files.onnx, files.tflite):
        assert files.stamped(path)["head"].codes.ravel().tolist() == exact


def test_weights_that_every_step_reads_stand_in_the_file_once(made) -> None:
    """Of three steps, exporters may compute the first on its state of zeros ahead."""
    steps = made("steps")
    for path in (steps.onnx, steps.tflite):
        assert sum(name.startswith("cell.weight_hh_l0") for name in steps.stamped(path)) >= 2
    held = [tensor for tensor in onnx.load(steps.onnx).graph.initializer if sorted(tensor.dims) == [32, 96]]
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
