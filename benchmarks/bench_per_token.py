"""What a grid of its own for each token buys ONNX.

ONNX Runtime's dynamic products round their input on one grid a tensor; LiteRT's have one for each token. The same can
be said in ONNX with kernels for static grids: divide each token by its largest magnitude, round on a fixed grid,
multiply, and scale the product back. ``PYTHONPATH=benchmarks python benchmarks/bench_per_token.py FOLDER`` takes what
``bench_minilm.py`` leaves for one length (``float.onnx``, ``static.onnx``, ``dynamic.onnx``, with ``../eval.npz``). The
new file has no technique but those of ``float.onnx``, and its word embeddings stay float. One thread, CPU time, the
files in turn. Writes ``results/per_token.json``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from record import write_result

from edgekit.parity.closeness import closeness
from edgekit_converters.quantize.grid import weight_grid

_ROUNDS = 60
_HELD = {
    "token.one": np.float32(1.0),
    "token.zero_point": np.uint8(128),
    "token.step": np.float32(1 / 127),
    "token.least": np.float32(1e-9),
    "token.axis": np.array([-1], np.int64),
}


def per_token(source: Path, target: Path) -> int:
    """Write ``source`` with int8 weights per channel and a symmetric grid per token; give the number of products."""
    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in _HELD.items())
    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()
    count = 0
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        count += 1
        x, y = node.input[0], node.output[0]
        if x not in rounded:
            nodes += _rounding(x)
            rounded.add(x)
        codes, scales = weight_grid(numpy_helper.to_array(weights[node.input[1]]).astype(np.float32), axis=1)
        held = {"int8": codes, "scale": scales, "zero_point": np.zeros(len(scales), np.int8)}
        graph.initializer.extend(numpy_helper.from_array(value, f"{y}.{part}") for part, value in held.items())
        nodes += [
            helper.make_node("DequantizeLinear", [f"{y}.{part}" for part in held], [f"{y}.weight"], axis=1),
            helper.make_node("MatMul", [f"{x}.dq", f"{y}.weight"], [f"{y}.product"]),
            helper.make_node("Mul", [f"{y}.product", f"{x}.scale"], [y]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.save(model, target)
    return count


def _rounding(x: str) -> list[onnx.NodeProto]:
    grid = ["token.one", "token.zero_point"]
    return [
        helper.make_node("Abs", [x], [f"{x}.abs"]),
        helper.make_node("ReduceMax", [f"{x}.abs", "token.axis"], [f"{x}.most"], keepdims=1),
        helper.make_node("Max", [f"{x}.most", "token.least"], [f"{x}.range"]),
        helper.make_node("Mul", [f"{x}.range", "token.step"], [f"{x}.scale"]),
        helper.make_node("Div", [x, f"{x}.scale"], [f"{x}.steps"]),
        helper.make_node("QuantizeLinear", [f"{x}.steps", *grid], [f"{x}.codes"]),
        helper.make_node("DequantizeLinear", [f"{x}.codes", *grid], [f"{x}.dq"]),
    ]


def opened(path: Path) -> onnxruntime.InferenceSession:
    """Open a file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(session: onnxruntime.InferenceSession, rows: list[dict[str, NDArray[np.int32]]]) -> NDArray[np.float32]:
    """Give the vectors of all rows."""
    return np.concatenate([np.asarray(session.run(None, row)[0]).reshape(1, -1) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    target = folder / "per-token.onnx"
    products = per_token(folder / "float.onnx", target)
    held = np.load(folder.parent / "eval.npz")
    rows = [
        {name: held[name][i : i + 1].astype(np.int32) for name in held.files} for i in range(len(held["input_ids"]))
    ]
    files = {"float": "float.onnx", "static": "static.onnx", "dynamic": "dynamic.onnx", "per_token": target.name}
    sessions = {name: opened(folder / file) for name, file in files.items()}
    took: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(_ROUNDS):
        for name, session in sessions.items():
            start = time.thread_time()
            session.run(None, rows[turn])
            took[name].append(1e3 * (time.thread_time() - start))
    reference = answers(sessions["float"], rows)
    figures: dict[str, object] = {"rows": len(rows), "tokens": rows[0]["input_ids"].shape[1], "products": products}
    for name, session in sessions.items():
        close = closeness(answers(session, rows), reference, task="text-embedding")
        figures[name] = {
            "cosine_mean": round(close.cosine_mean, 6),
            "cosine_worst": round(close.cosine_worst, 6),
            "nearest_in_blocks_of_150": close.nearest_blocks,
            "nearest_among_all": close.nearest_all,
            "cpu_ms_min": round(min(took[name]), 3),
            "file_mb": round((folder / files[name]).stat().st_size / 1e6, 2),
            "faster_than_float": round(min(took["float"]) / min(took[name]), 3),
        }
    write_result(
        "per_token",
        figures,
        command="PYTHONPATH=benchmarks python benchmarks/bench_per_token.py runs/peers/s64/edgekit",
    )


if __name__ == "__main__":
    main()
