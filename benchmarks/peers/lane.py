"""Runs one model file in its engine, one thread, and writes its embeddings.

``PYTHONPATH=benchmarks python -m peers.lane --engine E --model FILE --rows eval.npz --out FILE``. An .onnx or .tflite
file runs in edgekit's environment whoever made it, so that all files meet the same engine; a .pte file in its own.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.work import Rows, finish

__all__ = ["ENGINES", "Call", "embed", "open_litert", "open_onnxruntime"]

Call = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.floating]]


def open_onnxruntime(path: Path) -> Call:
    """Open an .onnx file with all graph optimisations; token types, if it asks for them, are 0."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = {tensor.name: np.int64 if tensor.type == "tensor(int64)" else np.int32 for tensor in session.get_inputs()}
    first = [session.get_outputs()[0].name]

    def call(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.floating]:
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        output: NDArray[np.floating] = session.run(
            first, {name: feeds[name].astype(kind, copy=False) for name, kind in kinds.items()}
        )[0]
        return output

    return call


def open_litert(path: Path) -> Call:
    """Open a .tflite file with XNNPACK; integer outputs are turned into floats by their scale."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    # litert-torch calls the inputs serving_default_args_0 and _1, in the order of the module's arguments; files with
    # names of their own are taken by them.
    inputs = sorted(interpreter.get_input_details(), key=lambda detail: ("mask" in detail["name"], detail["name"]))
    output = interpreter.get_output_details()[0]

    def call(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.floating]:
        for detail, values in zip(inputs, (ids, mask), strict=True):
            interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        interpreter.invoke()
        found: NDArray[np.floating] = interpreter.get_tensor(output["index"])
        if found.dtype.kind in "iu":
            scale, zero_point = output["quantization"]
            found = (found.astype(np.float32) - zero_point) * np.float32(scale)
        return found

    return call


def open_executorch(path: Path) -> Call:
    """Open a .pte file, with one thread."""
    from peers.peer_executorch import open_program

    return open_program(path)


ENGINES: Mapping[str, Callable[[Path], Call]] = {
    "onnxruntime": open_onnxruntime,
    "litert": open_litert,
    "executorch": open_executorch,
}


def embed(call: Call, rows: Rows) -> NDArray[np.float32]:
    """Give the unit embeddings of all rows, (N, 384)."""
    return np.concatenate([finish(call(ids, mask), mask) for ids, mask in rows.each()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=list(ENGINES), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    call = ENGINES[arguments.engine](arguments.model)
    np.save(arguments.out, embed(call, Rows.load(arguments.rows)))


if __name__ == "__main__":
    main()
