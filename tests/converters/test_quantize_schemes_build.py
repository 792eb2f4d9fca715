"""Weight schemes and 16-bit activations that a recipe asks for: the plan, both files, the proof, and the engines."""

import copy
import re
from dataclasses import replace
from functools import partial

import flatbuffers
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_networks
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from pydantic import ValidationError

from edgekit.recipe.schema import QuantizeModel
from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.export.contract import contract_of
from edgekit_converters.export.onnx import export_module_onnx
from edgekit_converters.export.tflite import export_module_tflite
from edgekit_converters.quantize.affine import separate_affine
from edgekit_converters.quantize.graph import layer_biases, layer_weights, layers
from edgekit_converters.quantize.grid import Range
from edgekit_converters.quantize.measure import as_rows, outputs, simulate
from edgekit_converters.quantize.modes import Mode, layer_mode
from edgekit_converters.quantize.onnx_schemes import read_onnx_codes
from edgekit_converters.quantize.onnx_static import quantize_onnx
from edgekit_converters.quantize.plan import Grid, QuantPlan, grid_from
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import prove, read_onnx, read_tflite
from edgekit_converters.quantize.rounding import AdaRound, adaround
from edgekit_converters.quantize.schemes import rounded
from edgekit_converters.quantize.schemes.choose import CodeWeights
from edgekit_converters.quantize.schemes.codes_file import CODES_FILE, load_codes, save_codes
from edgekit_converters.quantize.schemes.lookup import pack_nibbles
from edgekit_converters.quantize.schemes.proved import prove_codes
from edgekit_converters.quantize.schemes.rounded import round_weights, second_moments
from edgekit_converters.quantize.search import relax
from edgekit_converters.quantize.tflite_schemes import read_tflite_codes
from edgekit_converters.quantize.tflite_static import quantize_tflite
from edgekit_converters.quantize.write import _products
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.statistics import sqnr_db

TEXT = Task.TEXT_CLASSIFICATION
INT4 = QuantizeSpec(calibration_rows=6, weights="int4", embedding="int4", techniques=False)
SCHEMES = {
    "int4": INT4,
    "int4 per channel": replace(INT4, block=0, embedding="int8"),
    "power-of-two": replace(INT4, weights="power-of-two", embedding="int8"),
    "codebook": replace(INT4, weights="codebook"),
    "int16": QuantizeSpec(activations="int16", ffn_output="static", techniques=False),
}


class Given:
    """One small model, traced and exported once; every scheme writes from it."""

    def __init__(self, folder) -> None:
        # 64 wide, one feed-forward of 64 and one of 48: blocks of 32 fit some layers and not others.
        layers = tuple(tiny_networks.LayerConfig(heads=2, ffn=ffn) for ffn in (64, 48))
        model = tiny_networks.text_classifier(hidden=64, layers=layers, scale=0.1)
        self.folder, self.graph = folder, tiny_networks.traced(model)
        self.feeds = tiny_networks.text_feeds(12)
        self.rows = as_rows(self.graph, self.feeds, trim=True)
        self.full = as_rows(self.graph, self.feeds, trim=False)
        contract = contract_of(model.config)
        export_module_onnx(self.graph, contract, folder / "float.onnx", opset=21)
        export_module_tflite(separate_affine(self.graph), contract, folder / "float.tflite")
        self.weights = layer_weights(self.graph)
        self.made: dict[str, Written] = {}

    def plan(self, how: QuantizeSpec) -> QuantPlan:
        bits = 16 if how.activations == "int16" else 8
        finish = CodeWeights(how=how)
        planner = Planner(mode=layer_mode(TEXT, how), whole_network=False, techniques=False, bits=bits, finish=finish)
        made = planner.make(self.graph, self.rows)
        self.graph = made.graph
        return made.plan

    def written(self, name: str) -> "Written":
        if name not in self.made:
            self.made[name] = Written(self, self.plan(SCHEMES[name]), name.replace(" ", "_"))
        return self.made[name]


class Written:
    """A plan in both files."""

    def __init__(self, given: Given, plan: QuantPlan, name: str) -> None:
        self.plan, self.weights = plan, layer_weights(given.graph)
        self.onnx, self.tflite = given.folder / f"{name}.onnx", given.folder / f"{name}.tflite"
        quantize_onnx(given.folder / "float.onnx", self.onnx, plan, self.weights, activations="uint8")
        quantize_tflite(given.folder / "float.tflite", self.tflite, plan, self.weights, ())

    def onnx_logits(self, feeds, *, exact: bool = False) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = onnxruntime.InferenceSession(self.onnx.read_bytes(), options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, row)[0] for row in feeds])

    def tflite_logits(self, feeds) -> np.ndarray:
        runner = Interpreter(str(self.tflite), num_threads=1).get_signature_runner()
        return np.concatenate([next(iter(runner(**row).values())) for row in feeds])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Given:
    return Given(tmp_path_factory.mktemp("schemes"))


@pytest.mark.parametrize("name", SCHEMES)
def test_both_files_hold_the_plan_and_answer_as_it_was_simulated(given, name) -> None:
    written = given.written(name)
    coded = [layer for layer in written.plan.layers if layer.is_coded]
    assert (not coded) is (name == "int16")
    onnx_found = read_onnx(written.onnx, written.plan, written.weights)
    tflite_found = read_tflite(written.tflite, written.plan, written.weights)
    for found, codes in (
        (onnx_found, read_onnx_codes(written.onnx)),
        (tflite_found, read_tflite_codes(written.tflite)),
    ):
        prove(written.plan, written.weights, layer_biases(given.graph), found)
        assert prove_codes(written.plan, codes) == len(coded)
    simulated = simulate(given.graph, written.plan, given.full)
    error_db = sqnr_db(outputs(given.graph, given.full), simulated)
    assert 15 < error_db < 60  # it costs something, and is no nonsense
    for answers in (written.onnx_logits(given.feeds), written.tflite_logits(given.feeds)):
        # int4: the engines round inputs on grids a little unlike the simulated ones. The others round none at run time.
        assert sqnr_db(simulated, answers) > (error_db + 15 if "int4" in name else 80)


@pytest.mark.parametrize(
    ("name", "said"),
    [("int4", "measured x int4"), ("power-of-two", "float x power-of-two"), ("int16", "int16 x int8")],
)
def test_a_build_says_what_its_products_multiply(given, name, said) -> None:
    assert _products(given.written(name).plan, "uint8") == said


@pytest.mark.parametrize("name", ["int4", "int4 per channel", "power-of-two", "codebook"])
def test_one_code_that_differs_in_a_file_is_refused(given, name, tmp_path) -> None:
    written = given.written(name)
    layer = next(layer for layer in written.plan.layers if layer.is_coded and layer.kind == "linear")
    codes = layer.coded.codes.view(np.uint8)
    for path, read, transposed in (
        (written.onnx, read_onnx_codes, name.startswith("int4")),  # MatMul holds (in, out); lookups keep (out, in)
        (written.tflite, read_tflite_codes, False),
    ):
        stored = pack_nibbles(codes.T if transposed else codes).tobytes()
        data = bytearray(path.read_bytes())
        place = data.index(stored)
        data[place] ^= 1
        (tmp_path / path.name).write_bytes(data)
        with pytest.raises(ConversionError) as caught:
            prove_codes(written.plan, read(tmp_path / path.name))
        assert caught.value.code == "E0798"
        assert layer.name in str(caught.value)


def test_one_scale_or_table_value_that_differs_is_refused(given, tmp_path) -> None:
    for name, role, code in (
        ("int4", "words.scales", "E0798"),
        ("int4", "words.table", "E0799"),  # its integers are fixed: no scheme has another table
        ("power-of-two", ".scales", "E0798"),
        ("codebook", ".table", "E0798"),
        ("codebook", ".pairs", "E0799"),
    ):
        model = onnx.load(given.written(name).onnx)
        tensors = [tensor for tensor in model.graph.initializer if tensor.name.startswith("words") is ("words" in role)]
        held = next(tensor for tensor in tensors if tensor.name.endswith(role.removeprefix("words")))
        values = numpy_helper.to_array(held).copy()
        values.flat[-1] = values.flat[-1] - 1 if values.dtype == np.int32 else np.nextafter(values.flat[-1], np.inf)
        held.CopyFrom(numpy_helper.from_array(values, held.name))
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(ConversionError) as caught:
            prove_codes(given.written(name).plan, read_onnx_codes(tmp_path / "changed.onnx"))
        assert caught.value.code == code


def operators(written: Written, folder) -> dict[str, int]:
    """What onnxruntime makes of the file: its operators, and the accuracy level of fused products."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # saving an optimised graph warns that it is for this machine
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(written.onnx.read_bytes(), options, providers=["CPUExecutionProvider"])
    found: dict[str, int] = {}
    for node in onnx.load(folder / "optimised.onnx").graph.node:
        level = next((item.i for item in node.attribute if item.name == "accuracy_level"), None)
        name = node.op_type if level is None else f"{node.op_type} at level {level}"
        found[name] = found.get(name, 0) + 1
    return found


def test_onnxruntime_rounds_inputs_of_int4_products_to_int8_as_the_plan_says(given, tmp_path) -> None:
    written = given.written("int4")
    linear = [layer for layer in written.plan.layers if layer.is_coded and layer.kind == "linear"]
    assert {layer.mode for layer in linear} == {Mode.DYNAMIC}
    assert all("round its input to int8" in layer.why for layer in linear)
    # Level 4 is int8. Rows of 48 inputs have one scale per channel, which is cut into blocks that do divide them.
    assert operators(written, tmp_path)["MatMulNBits at level 4"] == len(linear)
    assert not np.array_equal(written.onnx_logits(given.feeds), written.onnx_logits(given.feeds, exact=True))


def test_onnxruntime_computes_16_bit_layers_in_float_behind_the_grid(given, tmp_path) -> None:
    found = operators(given.written("int16"), tmp_path)
    assert not [name for name in found if "Integer" in name or "NBits" in name]
    assert found["QuantizeLinear"] > 0
    held = {tensor.name: tensor for tensor in onnx.load(given.written("int16").onnx).graph.initializer}
    zeros = {held[name].data_type for name in held if name.endswith(".zero_point") and ".weight" not in name}
    assert zeros == {onnx.TensorProto.INT16}


def test_litert_holds_16_bit_activations_8_bit_weights_and_64_bit_biases(given) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(given.written("int16").tflite.read_bytes(), 0))
    graph, kinds = model.subgraphs[0], schema.TensorType
    codes = [code.builtinCode for code in model.operatorCodes]
    products = [o for o in graph.operators if codes[o.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED]
    types = [[graph.tensors[i].type for i in (*o.inputs, *o.outputs)] for o in products]
    assert types.count([kinds.INT16, kinds.INT8, kinds.INT64, kinds.INT16]) == 12  # 2 blocks of q, k, v, o, two of ffn


def test_sixteen_bits_come_closer_than_eight(given) -> None:
    expected = outputs(given.graph, given.full)
    eight = given.plan(replace(SCHEMES["int16"], activations="auto"))
    sixteen = given.written("int16").plan
    near, far = (sqnr_db(expected, simulate(given.graph, plan, given.full)) for plan in (sixteen, eight))
    assert near > far + 3


def test_a_16_bit_grid_is_symmetric_and_its_limits_give_the_scale_back() -> None:
    grid = grid_from(Range(-1.0, 3.2767), bits=16)
    assert (grid.scale, grid.zero_point, grid.codes) == (np.float32(1e-4), 0, (-32768, 32767))
    low, high = grid.limits
    assert -low == high == np.float64(np.float32(1e-4)) * 32767
    assert grid_from(Range(-6.5534, 0.0), bits=16).scale == np.float32(2e-4)
    with pytest.raises(ConversionError) as caught:
        Grid(low=0.0, high=1.0, scale=1.0, zero_point=1, bits=16)
    assert caught.value.code == "E0766"


def test_a_block_that_does_not_divide_the_inputs_becomes_one_scale_per_channel(given) -> None:
    plan = given.written("int4").plan
    assert plan.layer("layers.0.ffn_out").coded.scales.shape == (64, 2)  # 64 inputs in blocks of 32
    odd = plan.layer("layers.1.ffn_out")
    assert (odd.coded.scales.shape, odd.scheme.block) == ((64, 1), 0)
    assert "32 does not divide 48" in odd.why
    whole = given.written("int4 per channel").plan
    assert {layer.scheme.block for layer in whole.layers if layer.is_coded} == {0}
    assert not whole.layer("words").is_coded


def test_codes_are_read_back_and_others_are_refused(given, tmp_path) -> None:
    for name in ("int4", "power-of-two", "codebook"):
        plan, folder = given.written(name).plan, tmp_path / name
        folder.mkdir()
        save_codes(plan, folder)
        bare = QuantPlan.from_json(plan.to_json())
        assert bare == plan
        with pytest.raises(ConversionError) as caught:
            bare.codes()
        assert caught.value.code == "E0797"
        loaded = load_codes(bare, folder).codes()
        for layer, coded in plan.codes().items():
            assert np.array_equal(loaded[layer].dequantise(), coded.dequantise())
        data = bytearray((folder / CODES_FILE).read_bytes())
        data[-1] ^= 1
        (folder / CODES_FILE).write_bytes(data)
        for _ in range(2):  # changed, then gone
            with pytest.raises(ConversionError) as caught:
                load_codes(bare, folder)
            assert caught.value.code == "E0797"
            (folder / CODES_FILE).unlink(missing_ok=True)


def test_a_plan_from_before_schemes_reads_as_int8(given) -> None:
    plan = given.plan(replace(SCHEMES["int16"], activations="auto"))
    old = re.sub(r' *"scheme": null,\n', "", re.sub(r' *"bits": 8,\n', "", plan.to_json()))
    assert '"bits"' not in old
    assert '"scheme"' not in old
    assert QuantPlan.from_json(old) == plan


def test_second_moments_are_those_of_the_real_tokens(given) -> None:
    plan = given.written("int4").plan
    found = second_moments(given.graph, plan, given.rows)
    # The feed-forward input of block 0 is a tensor of the graph; capture it by hand.
    node = next(node for name, _, node in layers(given.graph) if name == "layers.0.ffn_in")
    seen: list[np.ndarray] = []

    class Capture(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            if n.name == str(node.args[0]):
                seen.append(value.reshape(-1, 64).double().numpy())
            return value

    with torch.no_grad():
        for row in given.rows:
            Capture(given.graph).run(*row)
    tokens = np.concatenate(seen)
    assert len(tokens) == sum(int(row["attention_mask"].sum()) for row in given.feeds)
    assert np.allclose(found["layers.0.ffn_in"], tokens.T @ tokens / len(tokens), rtol=1e-9, atol=1e-12)
    assert "words" not in found


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_a_rounding_method_gets_a_verdict_and_is_kept_only_if_it_helps(given, method, monkeypatch) -> None:
    plan = given.written("int4").plan
    monkeypatch.setattr(rounded, "adaround", partial(adaround, settings=AdaRound(steps=60, learning_rate=0.05)))
    made = round_weights(given.graph, plan, given.rows, given.rows, method=method)
    (verdict,) = made.techniques
    reference = outputs(given.graph, given.rows)
    before, after = (sqnr_db(reference, simulate(given.graph, one, given.rows)) for one in (plan, made))
    assert verdict.kept
    assert (verdict.sqnr_before_db, verdict.sqnr_after_db) == (round(before, 2), round(after, 2))
    assert after > before + 0.1
    changed = [layer.name for layer in made.layers if layer != plan.layer(layer.name)]
    assert {made.layer(name).scheme.rounding for name in changed} == {method}
    assert "layers.0.attention.query" in changed
    assert "words" not in changed
    answers = iter([reference + 1e-3, reference + 1e-2])  # nearest comes closer
    monkeypatch.setattr(rounded, "simulate", lambda *_: next(answers))
    left = round_weights(given.graph, plan, given.rows, given.rows, method=method)
    assert not left.techniques[0].kept
    assert left.layers == plan.layers


def test_weights_that_lie_behind_the_flatbuffer_are_coded_too(given, tmp_path) -> None:
    # ai-edge-quantizer moves the buffers of large models there: place and size stand in the buffer, not the bytes.
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((given.folder / "float.tflite").read_bytes(), 0))
    moved = max((buffer for buffer in model.buffers if buffer.data is not None), key=lambda buffer: len(buffer.data))
    content, moved.data, moved.size = bytes(moved.data), None, len(moved.data)

    def packed(offset: int) -> bytes:
        moved.offset = offset
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    place = -(-len(packed(2)) // 16) * 16
    (tmp_path / "float.tflite").write_bytes(packed(place).ljust(place, b"\0") + content)
    written, target = given.written("int4"), tmp_path / "int4.tflite"
    quantize_tflite(tmp_path / "float.tflite", target, written.plan, written.weights, ())
    assert prove_codes(written.plan, read_tflite_codes(target)) == len(written.plan.codes())
    again = copy.copy(written)
    again.tflite = target
    assert np.array_equal(again.tflite_logits(given.feeds), written.tflite_logits(given.feeds))


@pytest.mark.parametrize("name", ["int4", "codebook"])
def test_a_bound_takes_the_fewest_layers_from_short_codes_to_int8(given, name) -> None:
    plan = given.written(name).plan
    bound = sqnr_db(outputs(given.graph, given.rows), simulate(given.graph, plan, given.rows)) + 3
    found = relax(given.graph, plan, given.rows, min_sqnr_db=bound)
    assert found.sqnr_db >= bound
    assert 0 < len(found.relaxed) < len(plan.codes())
    for layer in found.plan.layers:
        if layer.name in found.relaxed:
            mode = Mode.STATIC if layer.name == "words" else Mode.DYNAMIC  # a table of rows has no activations
            assert (layer.mode, layer.scheme, layer.input) == (mode, None, None)
            assert layer.name == "words" or len(layer.weight_scales) == len(given.weights[layer.name])
        else:
            assert layer == plan.layer(layer.name)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"weights": "int4", "activations": "int16"}, "activations"),
        ({"weights": "codebook", "ffn_output": "static"}, "ffn_output"),
        ({"weights": "power-of-two", "all_int8": True}, "all_int8"),
        ({"weights": "codebook", "rounding": "gptq"}, "rounding"),
        ({"rounding": "adaround"}, "rounding"),
        ({"block": 64}, "block"),
        ({"weights": "int4", "block": 48}, "block"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused_by_name(keys, named) -> None:
    with pytest.raises(ValidationError) as caught:
        QuantizeModel(**keys)
    (error,) = caught.value.errors()
    assert named in (*error["loc"], error.get("ctx", {}).get("key"))
    QuantizeModel(weights="int4", rounding="gptq", block=64, embedding="int4", ffn_output="float")
