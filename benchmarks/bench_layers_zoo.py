"""How far do sound layers of the zoo lie from the noise that is expected of them: the ground of the bounds in judge.py.

``PYTHONPATH=benchmarks python benchmarks/bench_layers_zoo.py``; trained weights as of ``python -m zoo``.
"""

import argparse
import tempfile
from pathlib import Path

import bench_zoo
import torch
from record import write_result
from zoo.registry import get_model, load_trained

from edgekit_converters.layerwise.compare import Room, compare_layers
from edgekit_converters.layerwise.network import Network
from edgekit_converters.layerwise.onnx_network import OnnxNetwork
from edgekit_converters.layerwise.places import read_places
from edgekit_converters.layerwise.result import LayerRow
from edgekit_converters.layerwise.tflite_network import TfliteNetwork
from edgekit_converters.layerwise.units import Twin
from edgekit_converters.quantize.write import write_onnx, write_tflite

_MODELS = (
    *("depthwise_fashion", "residual_fashion", "se_hardswish_fashion", "inception_fashion", "vit_fashion"),
    *("ds_cnn_keywords", "conv1d_keywords", "lstm_keywords", "conv_gru_keywords"),
)
_CALIBRATION, _ROWS = 128, 32
_ROOM = 1_000_000_000


def judge(name: str, folder: Path) -> dict[str, object]:
    """Build both files of a network and compare their layers with float."""
    module, data = load_trained(name, 0)
    contract = bench_zoo.contract_of(data)
    made, calibration = bench_zoo.plan_of(get_model(name), module, data, rows=_CALIBRATION, techniques=True)
    rows = bench_zoo.feeds_of(contract, data.eval_inputs, range(_ROWS))
    files = {form: folder / form / f"model.{form}" for form in ("onnx", "tflite")}
    for file in files.values():
        file.parent.mkdir()
    write_onnx(made, contract, files["onnx"], activations="uint8", opset=20)
    write_tflite(made, contract, files["tflite"], calibration)
    found: dict[str, object] = {}
    for form, file in files.items():
        kind = OnnxNetwork if form == "onnx" else TfliteNetwork
        reference: Network = kind(file.with_name(f"reference.{form}"))
        twin = Twin.of(reference, kind(file), read_places(file.parent), made.plan)
        named = [
            {tensor: next(row[key] for key in row if key in tensor) for tensor in reference.inputs} for row in rows
        ]
        mask = next((tensor for tensor in reference.inputs if "mask" in tensor), None)
        room = Room(ram_bytes=_ROOM, disk_bytes=_ROOM, folder=folder / "captured")
        found[form] = figures(compare_layers(twin, named, room, mask=mask))
    return found


def figures(rows: tuple[LayerRow, ...]) -> dict[str, object]:
    """Give the noise above the expected, in dB, of layers and of what stands between them."""
    above: dict[bool, list[float]] = {False: [], True: []}
    for row in rows:
        if row.expected_db is not None:
            above[row.kind == "between"].append(row.expected_db - row.local.sqnr_db)
    return {
        "layers": sum(row.kind != "between" for row in rows),
        "out_of_line": [row.module for row in rows if row.reason],
        "layers_above_expected_db_most": round(max(above[False]), 2),
        "layers_above_expected_db_least": round(min(above[False]), 2),
        "between_above_expected_db_most": round(max(above[True]), 2) if above[True] else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=_MODELS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = judge(name, Path(folder))
    write_result("layers_zoo", found, command="PYTHONPATH=benchmarks python benchmarks/bench_layers_zoo.py")


if __name__ == "__main__":
    main()
