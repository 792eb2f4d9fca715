"""What PyTorch's own dynamic int8 gives: ``PYTHONPATH=benchmarks python benchmarks/bench_torch_dynamic.py``.

Models of the zoo with linear and recurrent layers, seed 0, in PyTorch float32 and in PyTorch dynamic int8
(``quantize_dynamic``): accuracy on all eval rows, size of the weights, and CPU time of one inference on one thread, the
lanes taking turns. ``bench_zoo.py`` has the same models in ONNX and TFLite. Writes ``results/torch_dynamic.json``.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from record import write_result
from torch import nn
from zoo.registry import load_trained
from zoo.rows import ZooData

from edgekit.bench import measure
from edgekit.lanes.local import Feeds, Runs
from edgekit_converters.quantize.torch_dynamic import quantize_torch_dynamic, serialised_bytes

_MODELS = ("minilm_demo", "vit_fashion", "lstm_keywords", "gru_fashion", "conv_gru_keywords")


@dataclass(frozen=True, slots=True)
class ModuleLane:
    """A PyTorch module that takes its inputs by place, as the zoo's do."""

    name: str
    module: nn.Module

    @contextmanager
    def open(self) -> Iterator[Runs]:
        yield self

    def run(self, feeds: Feeds) -> dict[str, NDArray[np.generic]]:
        with torch.no_grad():
            return {"logits": self.module(*(torch.from_numpy(value) for value in feeds.values())).numpy()}


def judge(module: nn.Module, data: ZooData, rounds: int) -> list[dict[str, object]]:
    """Give one row a lane."""
    lanes = [ModuleLane("torch-fp32", module), ModuleLane("torch-int8-dynamic", quantize_torch_dynamic(module))]
    every: list[Feeds] = [
        {str(place): values[i : i + 1] for place, values in enumerate(data.eval_inputs)}
        for i in range(len(data.eval_targets))
    ]
    times = {time.lane: time for time in measure(lanes, every[:64], rounds=rounds)}
    answers = {lane.name: np.concatenate([lane.run(feeds)["logits"] for feeds in every]) for lane in lanes}
    decisions = {name: logits.argmax(1) for name, logits in answers.items()}
    right = {name: float((chosen == data.eval_targets).mean()) for name, chosen in decisions.items()}
    return [
        {
            "lane": lane.name,
            "kb": round(serialised_bytes(lane.module) / 1e3, 1),
            "accuracy": round(right[lane.name], 5),
            "drop_points": round(100 * (right["torch-fp32"] - right[lane.name]), 3),
            "flips": int((decisions[lane.name] != decisions["torch-fp32"]).sum()),
            "eval_rows": len(every),
            "cpu_ms_min": round(times[lane.name].cpu_ms_min, 4),
            "cpu_ms_median": round(times[lane.name].cpu_ms_median, 4),
        }
        for lane in lanes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name in _MODELS:
        module, data = load_trained(name, 0)
        found[name] = judge(module.eval(), data, given.rounds)
    write_result("torch_dynamic", found, command="PYTHONPATH=benchmarks python benchmarks/bench_torch_dynamic.py")


if __name__ == "__main__":
    main()
