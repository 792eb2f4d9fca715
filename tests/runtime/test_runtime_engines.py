import sys
import threading

import numpy as np
import onnx
import pytest
import tiny_models
from onnx import TensorProto, helper

from edgekit_runtime.engines import ENGINES, choose_engine, get_engine, open_engine
from edgekit_runtime.engines.litert import _Tensor
from edgekit_runtime.errors import BundleError, MissingError, UsageError

RNG = np.random.default_rng(11)


def open_image(name, **other):
    model = tiny_models.onnx_image() if name == "onnxruntime" else tiny_models.tflite_image()
    sides = [tiny_models.specs(side) for side in tiny_models.IMAGE_IO]
    return open_engine(name, model, *sides, **other)


def open_text(name):
    model = tiny_models.onnx_text() if name == "onnxruntime" else tiny_models.tflite_text()
    return open_engine(name, model, *[tiny_models.specs(side) for side in tiny_models.TEXT_IO])


def image():
    return RNG.random(tiny_models.IMAGE_SHAPE, np.float32)


both = pytest.mark.parametrize("name", ["onnxruntime", "litert"])


@both
@pytest.mark.parametrize("threads", [1, 2])
def test_image_model_gives_the_logits_of_the_formula(name, threads):
    engine = open_image(name, threads=threads)
    for _ in range(5):
        x = image()
        np.testing.assert_allclose(engine.run({"image": x})["logits"], tiny_models.image_logits(x), atol=1e-5)


@both
def test_text_model_gives_the_logits_of_the_formula(name):
    engine = open_text(name)
    ids = RNG.integers(0, len(tiny_models.VOCABULARY), (1, tiny_models.LENGTH)).astype(np.int32)
    mask = (np.arange(tiny_models.LENGTH) < 5).astype(np.int32)[None]
    answers = engine.run({"attention_mask": mask, "input_ids": ids})
    np.testing.assert_allclose(answers["logits"], tiny_models.text_logits(ids, mask), atol=1e-5)


@both
def test_array_that_is_not_contiguous_gives_the_same_answer(name):
    engine, x = open_image(name), image()
    np.testing.assert_array_equal(
        engine.run({"image": x[:, ::-1]})["logits"], engine.run({"image": x[:, ::-1].copy()})["logits"]
    )


@both
def test_an_answer_is_not_overwritten_by_the_next_run(name):
    engine, x = open_image(name), image()
    first = engine.run({"image": x})["logits"]
    kept = first.copy()
    engine.run({"image": image()})
    np.testing.assert_array_equal(first, kept)


@both
@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        ({}, "E0903"),
        ({"x": image()}, "E0903"),
        ({"image": image(), "more": image()}, "E0903"),
        ({"image": image().astype(np.float64)}, "E0904"),
        ({"image": image().astype(">f4")}, "E0904"),
        ({"image": [[0.0]]}, "E0904"),
        ({"image": image()[0]}, "E0905"),
        ({"image": np.zeros((1, 1, 8, 8), np.float32)}, "E0905"),
        ({"image": np.full(tiny_models.IMAGE_SHAPE, np.nan, np.float32)}, "E0906"),
        ({"image": np.full(tiny_models.IMAGE_SHAPE, np.inf, np.float32)}, "E0906"),
    ],
)
def test_wrong_input_is_a_usage_error(name, feeds, code):
    engine = open_image(name)
    with pytest.raises(UsageError) as caught:
        engine.run(feeds)
    assert caught.value.code == code


@both
def test_token_outside_the_vocabulary_is_an_error_and_not_an_answer(name):
    engine = open_text(name)
    ids = np.full((1, tiny_models.LENGTH), 10_000, np.int32)
    with pytest.raises(BundleError) as caught:
        engine.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert caught.value.code == "E0912"


@both
def test_closed_engine_refuses(name):
    engine = open_image(name)
    engine.close()
    with pytest.raises(UsageError) as caught:
        engine.run({"image": image()})
    assert caught.value.code == "E0910"


@both
def test_eight_threads_share_one_engine_without_a_wrong_answer(name):
    engine = open_image(name)
    inputs = [image() for _ in range(64)]
    wanted = [engine.run({"image": x})["logits"] for x in inputs]
    start, faults = threading.Barrier(8), []

    def work(seed):
        order = np.random.default_rng(seed).integers(0, len(inputs), 400)
        start.wait()
        for place in order:
            try:
                if not np.array_equal(engine.run({"image": inputs[place]})["logits"], wanted[place]):
                    faults.append(place)
            except Exception as error:  # noqa: BLE001 - any error in a thread is a fault of the test
                faults.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []


def int8_specs():
    return [tiny_models.specs(side) for side in tiny_models.IMAGE_IO]


def test_int8_input_and_output_are_converted_with_the_scales_of_the_file():
    engine = open_engine("litert", tiny_models.tflite_image_int8(), *int8_specs())
    for _ in range(20):
        x = image()
        logits = engine.run({"image": x})["logits"]
        assert logits.dtype == np.float32
        scale, zero_point = tiny_models.INT8_OUTPUT
        codes = logits / scale + zero_point
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
        # Half a step of the output, and of each of 64 inputs and weights.
        np.testing.assert_allclose(logits, tiny_models.image_logits(x), atol=0.05)


def test_quantisation_by_hand():
    tensor = _Tensor(0, np.dtype("int8"), (1, 7), np.float32(0.5), -3)
    codes = tensor.quantize(np.array([[0.0, 0.2, 0.3, -0.3, 0.75, 100.0, -100.0]], np.float32))
    # x / 0.5 - 3, halves to even: 0, 0.4, 0.6, -0.6, 1.5, 200, -200
    assert codes.dtype == np.int8
    assert codes.tolist() == [[-3, -3, -2, -4, -1, 127, -128]]
    assert tensor.dequantize(codes)[0, :4].tolist() == [0.0, 0.0, 0.5, -0.5]


def test_int8_input_beyond_the_range_is_clipped_and_not_wrapped():
    engine = open_engine("litert", tiny_models.tflite_image_int8(), *int8_specs())
    over, top = (np.full(tiny_models.IMAGE_SHAPE, value, np.float32) for value in (7.0, 1.0))
    np.testing.assert_array_equal(engine.run({"image": over})["logits"], engine.run({"image": top})["logits"])


@both
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([("image", "z", "float32", (1, 8, 8, 1))], tiny_models.IMAGE_IO[1]),
        ([("image", "x", "float32", (1, 8, 8, 3))], tiny_models.IMAGE_IO[1]),
        ([("image", "x", "int32", (1, 8, 8, 1))], tiny_models.IMAGE_IO[1]),
        (tiny_models.IMAGE_IO[0], [("logits", "y", "float32", (1, 4))]),
        (tiny_models.IMAGE_IO[0], [("logits", "q", "float32", (1, 3))]),
    ],
)
def test_manifest_that_does_not_fit_the_file_is_refused(name, inputs, outputs):
    model = tiny_models.onnx_image() if name == "onnxruntime" else tiny_models.tflite_image()
    with pytest.raises(BundleError) as caught:
        open_engine(name, model, tiny_models.specs(inputs), tiny_models.specs(outputs))
    assert caught.value.code == "E0512"


@both
def test_input_that_the_manifest_forgets_is_refused(name):
    model = tiny_models.onnx_text() if name == "onnxruntime" else tiny_models.tflite_text()
    inputs, outputs = (tiny_models.specs(side) for side in tiny_models.TEXT_IO)
    with pytest.raises(BundleError) as caught:
        open_engine(name, model, inputs[:1], outputs)
    assert caught.value.code == "E0512"


@both
@pytest.mark.parametrize("model", [b"", b"not a model" * 50])
def test_file_that_is_no_model_is_refused(name, model):
    with pytest.raises(BundleError) as caught:
        open_engine(name, model, *[tiny_models.specs(side) for side in tiny_models.IMAGE_IO])
    assert caught.value.code == "E0513"


def test_external_data_and_custom_operators_are_refused(tmp_path, monkeypatch):
    sides = [tiny_models.specs(side) for side in tiny_models.IMAGE_IO]
    model = onnx.load_from_string(tiny_models.onnx_image())
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)  # so that a reader that looks beside the model would find the file
    custom = helper.make_model(
        helper.make_graph(
            [helper.make_node("Evil", ["x"], ["y"], domain="com.evil")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 8, 1))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3))],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.evil", 1)],
        ir_version=9,
    )
    for data in ((tmp_path / "m.onnx").read_bytes(), custom.SerializeToString()):
        with pytest.raises(BundleError) as caught:
            open_engine("onnxruntime", data, *sides)
        assert caught.value.code == "E0513"


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_wrong_number_of_threads_is_refused(threads):
    with pytest.raises(UsageError):
        open_image("onnxruntime", threads=threads)


def test_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="onnxruntime, litert"):
        get_engine("onnx-runtime")


@pytest.mark.parametrize("row", ENGINES.values(), ids=ENGINES)
def test_each_engine_says_how_to_install_it_when_it_is_missing(row, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not row.installed
    with pytest.raises(MissingError) as caught:
        open_engine(row.name, b"", (), ())
    assert caught.value.code == "E0652"
    assert "pip install" in caught.value.fix
    with pytest.raises(MissingError) as caught:
        choose_engine([row.runtime])
    assert caught.value.code == "E0651"


def test_engine_that_is_installed_but_broken_says_why(monkeypatch, tmp_path):
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("")
    (tmp_path / "tflite_runtime" / "interpreter.py").write_text("raise ImportError('numpy 1 only')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingError) as caught:
        open_engine("tflite-runtime", b"", (), ())
    assert caught.value.code == "E0653"
    assert "numpy 1 only" in caught.value.why


def test_first_installed_engine_with_a_model_is_chosen(monkeypatch):
    assert choose_engine(["onnxruntime", "litert"]).name == "onnxruntime"
    assert choose_engine(["litert"]).name == "litert"
    real = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else real(name))
    assert choose_engine(["onnxruntime", "litert"]).name == "litert"


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [("fpu avx2 fma", True), ("fpu avx2 avx_vnni", False), ("avx512f avx512_vnni", False), ("avx512f avx512bw", True)],
)
def test_exact_kernels_are_asked_for_only_on_x86_without_vnni(tmp_path, monkeypatch, flags, saturates):
    from edgekit_runtime.engines import onnxruntime as engine

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert engine.adds_in_16_bits(str(cpuinfo)) is saturates
    assert engine.adds_in_16_bits(str(tmp_path / "absent")) is True  # slow is better than wrong
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert engine.adds_in_16_bits(str(cpuinfo)) is False
