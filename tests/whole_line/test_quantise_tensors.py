"""A ready model of another framework becomes a bundle that takes tensors and gives tensors."""

import zipfile

import numpy as np
import onnx
import pytest
import torch
from command_line import edgekit
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import edgekit_runtime
from edgekit.quantise_only.source import open_source
from edgekit_runtime.errors import UsageError


class Net(nn.Module):
    """A small CNN with two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(picture)).mean((2, 3)))


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    module = Net().eval()
    torch.export.save(torch.export.export(module, (torch.ones(1, 2, 8, 8),)), folder / "net.pt2")
    pictures = np.random.default_rng(0).normal(size=(40, 2, 8, 8)).astype(np.float32)
    np.savez(folder / "rows.npz", picture=pictures)
    run = edgekit(
        *("build", "net.pt2", "--quantize-only", "--calibration", "rows.npz", "--keep-int8", "-o", "out"),
        *("--min-cosine", "0.99"),
        cwd=folder,
        cache=folder / "cache",
    )
    assert run.code == 0, run.err
    return folder, module, pictures


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_int8_answers_as_pytorch_does(net, engine):
    folder, module, pictures = net
    with edgekit_runtime.load(folder / "out/net-x86-64.edge", engine=engine) as model:
        (output,) = model.bundle.manifest.models["litert"].outputs
        answer = model.run(picture=pictures[:1])[output.name]
        assert model.selftest().passed
        assert model.bundle.manifest.models["onnxruntime"].precision == "int8"
    wanted = module(torch.from_numpy(pictures[:1])).detach().numpy()
    np.testing.assert_allclose(answer, wanted, atol=0.05 * np.abs(wanted).max())
    assert not np.array_equal(answer, wanted)


@pytest.mark.parametrize("option", [("--max-length", "32"), ("--text", "review")])
def test_options_of_texts_are_refused_for_a_model_of_tensors(net, option):
    folder, _, _ = net
    given = ("build", "net.pt2", "--quantize-only", "--calibration", "rows.npz", *option)
    run = edgekit(*given, cwd=folder, cache=folder / "cache")
    assert run.code == 2
    assert f"error[E0154]: {option[0]}" in run.err


def test_rows_say_the_size_of_what_the_model_leaves_open(net):
    folder, module, _ = net
    free = {"picture": {0: torch.export.Dim("rows"), 2: torch.export.Dim("height")}}
    program = torch.export.export(module, (torch.ones(2, 2, 8, 8),), dynamic_shapes=free)
    torch.export.save(program, folder / "open.pt2")
    given = ("build", "open.pt2", "--quantize-only", "--calibration", "rows.npz", "--keep-int8", "-o", "open")
    run = edgekit(*given, "--min-cosine", "0.99", cwd=folder, cache=folder / "cache")
    assert run.code == 0, run.err
    with edgekit_runtime.load(folder / "open/open-x86-64.edge", engine="onnxruntime") as model:
        (tensor,) = model.bundle.manifest.models["onnxruntime"].inputs
        assert tensor.shape == (1, 2, 8, 8)


def recurrent(path):
    """Write an ONNX file with a GRU, which has no PyTorch form here."""
    held = {"w": np.ones((1, 12, 2), np.float32), "r": np.ones((1, 12, 4), np.float32)}
    graph = helper.make_graph(
        [helper.make_node("GRU", ["picture", "w", "r"], ["all"], hidden_size=4)],
        "gru",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, (1, 1, 2))],
        [helper.make_tensor_value_info("all", TensorProto.FLOAT, (1, 1, 1, 4))],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_a_model_without_a_plan_is_refused_with_the_call_that_quantises_it(net):
    folder, _, _ = net
    recurrent(folder / "gru.onnx")
    kept = "out/net-x86-64.lanes/tflite-fp32/model.tflite"
    with zipfile.ZipFile(folder / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    (folder / "saved").mkdir()
    (folder / "saved/saved_model.pb").touch()
    tflite = "tflite_only.quantize_ready_tflite"
    for model, call in (
        ("gru.onnx", "onnx_only.quantize_ready_onnx"),
        (kept, tflite),
        ("a.keras", tflite),
        ("saved", tflite),
    ):
        with pytest.raises(UsageError) as caught:
            open_source(folder / model, max_length=8, work=folder, rows=folder / "rows.npz")
        assert caught.value.code == "E0146"
        assert call in caught.value.fix


def test_run_and_parity_take_arrays(net):
    folder, _, pictures = net
    where = {"cwd": folder, "cache": folder / "cache"}
    np.savez(folder / "one.npz", picture=pictures[:1])
    run = edgekit("run", "out/net-x86-64.edge", "one.npz", "--json", **where)
    (values,) = (value for name, value in run.json["results"][0].items() if name != "input")
    assert np.array(values).shape == (1, 3)
    parity = edgekit(
        "parity", "out/net-x86-64.edge", "--data", "rows.npz", "--gate", "min_cosine=0.99", "--json", **where
    )
    assert parity.code == 0, parity.err
    assert parity.json["comparison"]["rows"] == 40
