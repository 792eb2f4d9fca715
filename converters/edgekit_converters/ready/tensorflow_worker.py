"""Runs in the interpreter that has TensorFlow: turns a Keras file or SavedModel into TFLite and compares both.

Started by ``from_tensorflow`` as a script; imports nothing of edgekit. Arguments: source, target, JSON of shapes by
input. Prints one line of JSON: the largest difference of both models, relative to the largest output, and the version.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_ROWS = 4


def _concrete(source: Path, shapes: dict[str, list[int]], work: Path) -> tuple[Any, Any]:
    """Give the model's function with fixed shapes, and what holds its variables."""
    if source.suffix == ".keras":
        model = tf.keras.models.load_model(source, compile=False, safe_mode=True)
        source = work / "exported"
        model.export(source, verbose=False)  # the converter does not find the variables of a Keras 3 model
    owner = tf.saved_model.load(str(source))
    compute = owner.signatures["serving_default"]
    specs = compute.structured_input_signature[1]
    given = {
        name: tf.TensorSpec(_fixed(name, spec.shape, shapes.get(name)), spec.dtype, name=name)
        for name, spec in specs.items()
    }
    return tf.function(compute).get_concrete_function(**given), owner


def _fixed(name: str, shape: Any, wanted: list[int] | None) -> list[int]:  # noqa: ANN401 - TensorFlow's shapes
    sizes = list(tf.TensorShape(shape).as_list())
    if wanted is None:
        wanted = [1 if place == 0 and size is None else size for place, size in enumerate(sizes)]
    fits = len(wanted) == len(sizes) and all(old in (None, new) for old, new in zip(sizes, wanted, strict=False))
    if not fits or None in wanted or wanted[0] != 1:
        sys.exit(f"shape of input {name!r}: {sizes}")
    return wanted


def _difference(function: Any, content: bytes) -> float:  # noqa: ANN401 - TensorFlow's functions
    runner = tf.lite.Interpreter(model_content=content).get_signature_runner()
    generator = np.random.default_rng(0)
    worst = 0.0
    for _ in range(_ROWS):
        feeds = {
            name: generator.standard_normal(row["shape"]).astype(row["dtype"])
            if np.issubdtype(row["dtype"], np.floating)
            else generator.integers(0, 2, row["shape"]).astype(row["dtype"])
            for name, row in runner.get_input_details().items()
        }
        wanted = function(**{name: tf.constant(value) for name, value in feeds.items()})
        given = runner(**feeds)
        for name, value in wanted.items():
            left = np.asarray(value, np.float64)
            error = np.abs(left - given[name]).max()
            worst = max(worst, float(error / max(np.abs(left).max(), 1e-6)) if np.isfinite(error) else float("inf"))
    return worst


def main() -> None:
    """Convert, compare, report."""
    source, target, shapes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    function, owner = _concrete(source, shapes, target.parent)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    content = converter.convert()
    target.write_bytes(content)
    report = {"difference": _difference(function, content), "tensorflow": tf.__version__}
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
