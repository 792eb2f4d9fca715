"""Captures in pieces: the same values as in one go, and never more memory than was allowed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.layerwise.capture import Store, capture, pieces
from edgekit_converters.layerwise.compare import Room, compare_layers
from edgekit_runtime.errors import UsageError

_CHILD = """
import sys
from pathlib import Path
import numpy as np
import onnx
from onnx import TensorProto, helper
from edgekit_converters.layerwise.capture import Store, capture
from edgekit_converters.layerwise.onnx_network import OnnxNetwork

folder, budget = Path(sys.argv[1]), int(sys.argv[2])
COUNT, SIZE = 20, 3_000_000  # 12 MB each: 240 MB of constants and 240 MB of activations
with (folder / "weights.bin").open("wb") as stream:
    stream.truncate(COUNT * SIZE * 4)  # zeros that take no disk
tensors, nodes = [], []
for i in range(COUNT):
    tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[1, SIZE])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", i * SIZE * 4), ("length", SIZE * 4)):
        tensor.external_data.add(key=key, value=str(value))
    tensors.append(tensor)
    nodes.append(helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, SIZE)) for name in ("x0", f"x{COUNT}")]
graph = helper.make_graph(nodes, "big", ends[:1], ends[1:], tensors)
(folder / "big.onnx").write_bytes(
    helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
)
network, store = OnnxNetwork(folder / "big.onnx"), Store(folder / "store")
row = {"x0": np.full((1, SIZE), 2.5, np.float32)}
wanted = [f"x{i + 1}" for i in range(COUNT)]
capture(network, [row], wanted, store, budget_bytes=budget)
assert all((store.get(name, 0) == 2.5).all() for name in wanted)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


def peak(folder: Path, budget: int) -> int:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), str(budget)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_a_network_whose_weights_and_activations_exceed_the_cap_runs_below_it(tmp_path):
    cap = 240_000_000
    small, large = peak(tmp_path / "small", 90_000_000), peak(tmp_path / "large", 10**12)
    assert small < cap
    assert large > 2 * cap  # what it takes in one piece


def fits(network, wanted: list[str], budget: int) -> bool:
    try:
        return bool(pieces(network, wanted, budget_bytes=budget))
    except UsageError as error:
        return error.code != "E0178"


@pytest.mark.parametrize("form", ["onnx", "tflite"])
@pytest.mark.parametrize("network", ["images", "texts"])
def test_pieces_give_the_same_values_as_the_whole(form, network, request, tmp_path):
    files = request.getfixturevalue(network)
    twin = files.twin(form)
    rows = files.named(twin)[:2]
    wanted = [unit.target.reference for unit in twin.units]
    stores = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    least = next(b for b in range(1000, 10**6, 1000) if fits(twin.reference, wanted, b))
    for store, budget in zip(stores, (10**12, least), strict=True):
        capture(twin.reference, rows, wanted, store, budget_bytes=budget)
    assert len(pieces(twin.reference, wanted, budget_bytes=10**12)) == 1
    assert len(pieces(twin.reference, wanted, budget_bytes=least)) > 3
    for name in wanted:
        whole, cut = stores[0].get(name, 1), stores[1].get(name, 1)
        assert np.abs(whole - cut).max() <= 1e-5 * np.abs(whole).max()
    assert set(stores[1].seen) == set(stores[0].seen)  # what pieces hand on is gone


def test_rows_in_turns_give_the_same_figures(images, tmp_path):
    twin = images.twin("tflite")
    rows = images.named(twin)
    found = [compare_layers(twin, rows, Room(ram_bytes=10**9, disk_bytes=disk, folder=tmp_path)) for disk in (1, 10**9)]
    for one, other in zip(*found, strict=True):
        assert one.local.sqnr_db == pytest.approx(other.local.sqnr_db, abs=1e-6)
        assert one.expected_db == (None if other.expected_db is None else pytest.approx(other.expected_db, abs=1e-6))
