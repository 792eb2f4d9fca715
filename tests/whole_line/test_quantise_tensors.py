"""A ready model of another framework becomes a bundle that takes tensors and gives tensors."""

import numpy as np
import pytest
import torch
from command_line import edgekit
from torch import nn

import edgekit_runtime


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


def test_run_and_parity_take_arrays(net):
    folder, _, pictures = net
    where = {"cwd": folder, "cache": folder / "cache"}
    np.savez(folder / "one.npz", picture=pictures[:1])
    run = edgekit("run", "out/net-x86-64.edge", "one.npz", "--json", **where)
    (values,) = (value for name, value in run.json["results"][0].items() if name != "input")
    assert np.array(values).shape == (1, 3)
    parity = edgekit("parity", "out/net-x86-64.edge", "--data", "rows.npz", "--min-cosine", "0.99", "--json", **where)
    assert parity.code == 0, parity.err
    assert parity.json["agreements"]["onnx-int8"]["rows"] == 40
