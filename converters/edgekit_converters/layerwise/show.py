"""The few lines of Python that go with a reduced fault and show it without edgekit."""

from collections.abc import Mapping
from types import MappingProxyType

from edgekit_converters.layerwise.places import Form

__all__ = ["SHOW"]

_ONNX = """import numpy as np
import onnxruntime

inputs = np.load("inputs.npz")


def run(name):
    options = onnxruntime.SessionOptions()
    # Exact sums on x86 without VNNI, as edgekit's runtime has them; drop it to see what the fast kernels do.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    feeds = {given.name: inputs[f"{name}_{i}"] for i, given in enumerate(session.get_inputs())}
    return session.run(None, feeds)[0]
"""

_TFLITE = """import numpy as np
from ai_edge_litert.interpreter import Interpreter

inputs = np.load("inputs.npz")


def run(name):
    interpreter = Interpreter(f"{name}.tflite", num_threads=1)
    interpreter.allocate_tensors()
    for i, given in enumerate(interpreter.get_input_details()):
        interpreter.set_tensor(given["index"], inputs[f"{name}_{i}"])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""

_COMPARE = """

expected, measured = np.load("expected.npz"), np.load("measured.npz")
given = run("model")
if "scale" in measured:
    given = (given.astype(np.float32) - measured["zero_point"]) * measured["scale"]
wanted = run("reference")
counts = expected["counts"].ravel()
given, wanted = given.ravel()[counts].astype(np.float64), wanted.ravel()[counts].astype(np.float64)
if "floor" in measured:
    given, wanted = np.maximum(given, measured["floor"]), np.maximum(wanted, measured["floor"])
noise, signal = np.square(wanted - given).sum(), np.square(wanted).sum()
print(f"not finite: {int((~np.isfinite(given)).sum())} of {given.size}")
print(f"SQNR: {10 * np.log10(signal / noise) if noise else np.inf:.2f} dB")
print(f"largest difference: {np.abs(wanted - given).max():.6g}")
"""

SHOW: Mapping[Form, str] = MappingProxyType({"onnx": _ONNX + _COMPARE, "tflite": _TFLITE + _COMPARE})
