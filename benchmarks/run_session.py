"""Runs an ONNX file on rows and keeps the outputs: ``python run_session.py MODEL ROWS.npz OUT.npy [--precise]``.

It imports numpy and onnxruntime alone, so that an emulator of another CPU starts it in seconds.
"""

import argparse

import numpy as np
import onnxruntime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("rows", help="one array per input, rows first")
    parser.add_argument("out")
    parser.add_argument("--precise", action="store_true", help="session.x64quantprecision=1")
    given = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if given.precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
    with np.load(given.rows) as held:
        rows = {name: held[name] for name in held.files}
    count = len(next(iter(rows.values())))
    outputs = [session.run(None, {name: values[i : i + 1] for name, values in rows.items()})[0] for i in range(count)]
    np.save(given.out, np.concatenate(outputs))


if __name__ == "__main__":
    main()
