"""What 16-bit sums cost without VNNI, and what the guards cost.

    PYTHONPATH=benchmarks python benchmarks/bench_saturation.py --emulator "qemu-x86_64-static -cpu Haswell"

A text classifier and a convolutional network of the zoo are built with full-range weights, with ``quantize.seven_bit:
pairs`` and with ``true``. All eval rows run on this machine; ``--rows`` of them also in the emulator, which stands for
a CPU without VNNI, with and without ``session.x64quantprecision=1``. Writes ``results/saturation.json``.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import bench_zoo
import numpy as np
import torch
from numpy.typing import NDArray
from record import write_result
from zoo.registry import load_trained
from zoo.train import eval_logits

from edgekit.recipe.spec import QuantizeSpec, Task
from edgekit_converters.quantize.graph import kernel_kinds, layer_weights, trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import layer_mode
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.proof import read_onnx
from edgekit_converters.quantize.saturation import SevenBit
from edgekit_converters.quantize.saturation_report import prove_layers
from edgekit_converters.quantize.write import write_onnx
from edgekit_converters.ready.normalise import normalise
from edgekit_runtime.statistics import sqnr_db

_MODELS = ("minilm_demo", "plain_fashion")
_GUARDS: dict[str, SevenBit] = {"full_range": False, "pairs": "pairs", "seven_bit": True}
_CALIBRATION = 64
_CHILD = Path(__file__).parent / "run_session.py"


def run(start: Sequence[str], model: Path, rows: Path, *, precise: bool) -> NDArray[np.float32]:
    """Run a file in a process of its own, which ``start`` may put into an emulator."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npy"
        command = [*start, sys.executable, str(_CHILD), str(model), str(rows), str(out), *["--precise"] * precise]
        subprocess.run(command, check=True, timeout=1800)
        return np.load(out).astype(np.float32)  # type: ignore[no-any-return]


def judge(name: str, emulator: Sequence[str], count: int) -> dict[str, object]:
    """Build one model three times and compare all ways to run it with float32."""
    module, data = load_trained(name, 0)
    contract, reference = bench_zoo.contract_of(data), eval_logits(module, data)
    text = len(contract.inputs) == 2
    ready = module.eval() if text else bench_zoo.OneInput(module).eval()
    traced = trace(ready, contract.example(), longest=contract.inputs[0].shape[1] if text else 0)
    graph = normalise(traced, [contract.example()]).graph
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train_targets))[:_CALIBRATION])
    calibration = bench_zoo.feeds_of(contract, data.train_inputs, [int(row) for row in chosen])
    task = Task.TEXT_CLASSIFICATION if text else Task.IMAGE_CLASSIFICATION
    rows = as_rows(graph, calibration, trim=text)
    every = bench_zoo.feeds_of(contract, data.eval_inputs, range(len(data.eval_targets)))
    found: dict[str, object] = {}
    for label, guard in _GUARDS.items():
        planner = Planner(
            mode=layer_mode(task, QuantizeSpec()), whole_network=not text, techniques=False, seven_bit=guard
        )
        made = planner.make(graph, rows)
        with tempfile.TemporaryDirectory() as folder:
            model, held = Path(folder) / "model.onnx", Path(folder) / "rows.npz"
            write_onnx(made, contract, model, activations="uint8", opset=20)
            arrays = {key: np.concatenate([feeds[key] for feeds in every[:count]]) for key in every[0]}
            np.savez(held, **arrays)  # type: ignore[arg-type]
            logits = bench_zoo.run(model, contract, every)
            stamped = read_onnx(model, made.plan, layer_weights(made.graph))
            proofs = prove_layers(made.plan, stamped, kernel_kinds(made.graph))
            exact = run((), model, held, precise=False)
            ways = {"without_vnni": False, "without_vnni_precise": True} if emulator else {}
            found[label] = {
                "layers": len(proofs),
                "layers_that_can_saturate": sum(not proof.safe for proof in proofs),
                "channels_that_can_saturate": sum(proof.channels for proof in proofs),
                "eval_rows": len(every),
                "drop_points": round(100 * (data.accuracy(reference) - data.accuracy(logits)), 3),
                "flips": int((logits.argmax(1) != reference.argmax(1)).sum()),
                "sqnr_db": round(sqnr_db(reference, logits), 2),
                "emulated_rows": count if emulator else 0,
                "here": figures(reference[:count], exact, exact),
                **{
                    way: figures(reference[:count], run(emulator, model, held, precise=precise), exact)
                    for way, precise in ways.items()
                },
            }
    return found


def figures(
    reference: NDArray[np.float32], logits: NDArray[np.float32], exact: NDArray[np.float32]
) -> dict[str, object]:
    """Compare logits with float32 and with the same file on a CPU that has VNNI."""
    return {
        "sqnr_db": round(sqnr_db(reference, logits), 2),
        "flips": int((logits.argmax(1) != reference.argmax(1)).sum()),
        "rows_not_as_here": int((logits != exact).any(1).sum()),
        "largest_difference_from_here": round(float(np.abs(logits - exact).max()), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(_MODELS))
    parser.add_argument("--emulator", default="", help="e.g. 'qemu-x86_64-static -cpu Haswell'; nothing = not emulated")
    parser.add_argument("--rows", type=int, default=64, help="rows in the emulator")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {name: judge(name, given.emulator.split(), given.rows) for name in given.models}
    called = Path(given.emulator.split()[0]).name if given.emulator else ""
    shown = " ".join([called, *given.emulator.split()[1:]]).strip()
    options = " ".join([*given.models, f"--emulator '{shown}'", f"--rows {given.rows}"])
    write_result(
        "saturation",
        {"emulator": shown, "models": found},
        command=f"PYTHONPATH=benchmarks python benchmarks/bench_saturation.py {options}",
    )


if __name__ == "__main__":
    main()
