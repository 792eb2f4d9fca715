"""Sound files have no layer out of line; each planted fault is named at its layer, with the right word."""

from dataclasses import replace

import layer_networks as net
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.quantize.modes import Mode
from edgekit_runtime.manifest import TensorSpec

QUERY, FFN_IN = "layers.0.attention.query", "layers.0.ffn_in"


def tensor_of(files, form, module):
    """The int8 file's output tensor of a layer."""
    return next(unit.target.lane for unit in files.twin(form).units if unit.module == module)


def tflite_operator(files, module):
    file = net.TfliteFile(files.model("tflite"))
    return file, file.operator(int(tensor_of(files, "tflite", module).partition(":")[0]))


@pytest.mark.parametrize("form", ["onnx", "tflite"])
@pytest.mark.parametrize("network", ["images", "texts"])
def test_a_sound_file_has_no_layer_out_of_line(form, network, request, tmp_path):
    rows = request.getfixturevalue(network).compare(form, tmp_path)
    assert [(row.module, row.note) for row in rows if row.reason] == []


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_every_layer_of_the_plan_is_found_once_in_both_files(form, images, texts):
    for files in (images, texts):
        units = files.twin(form).units
        assert [unit.module for unit in units if unit.layer] == [layer.name for layer in files.plan.layers]


def test_doubled_output_scale_in_tflite_alone_is_a_scale(texts, tmp_path):
    file, operator = tflite_operator(texts, QUERY)
    file.scale(int(operator.outputs[0]), 2.0)
    assert texts.first("tflite", tmp_path, file.pack()) == (QUERY, "scale")
    assert texts.first("onnx", tmp_path) is None


def test_doubled_weight_scale_is_a_scale(images, tmp_path):
    file, operator = tflite_operator(images, "point")
    file.scale(int(operator.inputs[1]), 2.0)
    assert images.first("tflite", tmp_path, file.pack()) == ("point", "scale")


def test_doubled_weight_scale_of_one_channel_in_onnx_is_a_scale(texts, tmp_path):
    def double(scales):
        scales[3] *= 2
        return scales

    damaged = net.edited_onnx(texts.model("onnx"), f"{QUERY}.weight.scale", double)
    rows = texts.compare("onnx", tmp_path, damaged)
    first = next(row for row in rows if row.reason)
    assert (first.module, first.reason) == (QUERY, "scale")
    assert "channel 3" in first.note


def test_halved_input_scale_in_onnx_is_a_scale_and_not_blamed_on_a_later_layer(images, tmp_path):
    source = next(place.input for place in images.places("onnx") if place.module == "point")
    damaged = net.edited_onnx(images.model("onnx"), f"{source}.scale", lambda scale: scale / np.float32(4))
    assert images.first("onnx", tmp_path, damaged) == ("middle", "scale")  # whose output it is


def test_nan_in_one_channel_of_a_bias_is_named_with_the_channel(texts, tmp_path):
    def poison(bias):
        bias[..., 5] = np.nan
        return bias

    damaged = net.edited_onnx(texts.model("onnx"), f"{FFN_IN}.bias.broad", poison)
    rows = texts.compare("onnx", tmp_path, damaged)
    first = next(row for row in rows if row.reason)
    assert (first.module, first.reason) == (FFN_IN, "nan")
    assert "channel 5" in first.note
    tokens = sum(int(row["attention_mask"].sum()) for row in texts.rows)
    assert first.local.not_finite == tokens  # padding does not count
    assert rows[-1].inherited.not_finite == 0  # the next grid turns NaN into a code like any other
    assert rows[-1].inherited.sqnr_db < 20
    assert rows[-1].reason is None  # it only inherits


def test_nan_in_a_float_layer_of_tflite_is_named(texts, tmp_path):
    file, operator = tflite_operator(texts, "classifier")

    def poison(weight):
        weight[1] = np.nan
        return weight

    file.values(int(operator.inputs[1]), poison)
    assert texts.first("tflite", tmp_path, file.pack()) == ("classifier", "nan")


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_one_flipped_byte_of_a_weight_is_a_weight(form, images, texts, tmp_path):
    for files, module in ((images, "middle"), (texts, FFN_IN)):

        def flip(codes):
            flat = codes.reshape(-1)
            flat[7] = np.int8(flat[7] ^ 0x40)
            return codes

        if form == "onnx":
            damaged = net.edited_onnx(files.model("onnx"), f"{module}.weight.int8", flip)
        else:
            file, operator = tflite_operator(files, module)
            file.values(int(operator.inputs[1]), flip)
            damaged = file.pack()
        assert files.first(form, tmp_path, damaged) == (module, "weights")


def test_one_scale_for_a_depthwise_layer_with_uneven_channels_is_a_weight(tmp_path):
    """What a converter without scales per channel does: the small channels lose their weights."""
    torch.manual_seed(1)
    module = net.Depthwise().eval()
    with torch.no_grad():
        module.middle.weight[1::2] /= 100
    rows = net.image_rows(40, seed=0)
    files = net.write_files(
        module, net.depthwise_contract(), rows, tmp_path, mode=lambda _: Mode.STATIC, whole=True, forms=("onnx",)
    )
    assert files.first("onnx", tmp_path / "scratch") is None
    content = files.model("onnx")
    scales = {}
    net.edited_onnx(content, "middle.weight.scale", lambda value: scales.setdefault("were", value))
    largest = scales["were"].max()

    def coarse(codes):
        return np.rint(codes * (scales["were"] / largest).reshape(-1, 1, 1, 1)).astype(np.int8)

    damaged = net.edited_onnx(content, "middle.weight.int8", coarse)
    damaged = net.edited_onnx(damaged, "middle.weight.scale", lambda value: np.full_like(value, largest))
    assert files.first("onnx", tmp_path / "scratch", damaged) == ("middle", "weights")


class Twice(torch.nn.Module):
    """One layer that runs twice, the second time on values a hundredth as large."""

    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(torch.tanh(self.only(x)) * 0.01)


def test_a_call_that_fills_its_shared_grid_in_part_is_no_fault(tmp_path):
    torch.manual_seed(0)
    spec = {"dtype": "float32", "shape": (1, 16)}
    contract = ModelContract(
        inputs=(TensorSpec(name="x", tensor="x", **spec),), outputs=(TensorSpec(name="y", tensor="y", **spec),)
    )
    rng = np.random.default_rng(0)
    rows = [{"x": rng.normal(size=(1, 16)).astype(np.float32)} for _ in range(40)]
    files = net.write_files(
        Twice().eval(), contract, rows, tmp_path, mode=lambda _: Mode.STATIC, whole=False, forms=("onnx",)
    )
    found = files.compare("onnx", tmp_path / "scratch")
    assert [row.module for row in found if row.kind == "linear"] == ["only", "only#2"]
    assert [row.note for row in found if row.reason] == []
    assert found[-1].expected_db < 20  # 1 % of a grid of 8 bits


def test_a_grid_that_cuts_the_values_is_clipping(texts, tmp_path):
    """As percentile ranges do: the plan itself asks for a fifth of the range, so that no grid differs from it."""
    fifth = np.float32(0.2)
    source = next(place.input for place in texts.places("onnx") if place.module == FFN_IN)
    layers = tuple(
        replace(one, input=replace(one.input, scale=float(np.float32(one.input.scale) * fifth)))
        if one.name == FFN_IN
        else one
        for one in texts.plan.layers
    )
    planned = replace(texts, plan=replace(texts.plan, layers=layers))
    damaged = net.edited_onnx(texts.model("onnx"), f"{source}.scale", lambda scale: scale * fifth)
    assert planned.first("onnx", tmp_path, damaged) == (FFN_IN, "clipping")


def test_a_mask_that_stays_on_a_grid_is_named_before_the_layer_that_reads_it(texts, tmp_path):
    """-3.4e38 on an int8 grid: every score rounds to 0, so that attention no longer sees which token matters."""
    model = onnx.load_from_string(texts.model("onnx"))
    node = next(each for each in model.graph.node if each.op_type == "Softmax")
    scores = node.input[0]
    points = (np.float32(3.4e38 / 255), np.uint8(255))
    for name, value in zip(("m.scale", "m.zero"), points, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, helper.make_node("DequantizeLinear", ["m.q", "m.scale", "m.zero"], ["m.dq"]))
    model.graph.node.insert(place, helper.make_node("QuantizeLinear", [scores, "m.scale", "m.zero"], ["m.q"]))
    node.input[0] = "m.dq"
    module, _ = texts.first("onnx", tmp_path, model.SerializeToString())
    assert module == "before layers.0.attention.output"
