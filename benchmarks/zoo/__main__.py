"""Trains the zoo and tells the float accuracy of each model: ``PYTHONPATH=benchmarks python -m zoo``."""

import argparse
import time

import torch
from record import write_result

from zoo.registry import SEEDS, ZOO, load_trained
from zoo.train import eval_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names; all if none is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict[str, object] = {}
    for name in arguments.models or ZOO:
        accuracies = []
        for seed in arguments.seeds:
            start = time.process_time()
            module, data = load_trained(name, seed)
            trained = time.process_time()
            accuracies.append(round(eval_accuracy(module, data), 5))
            print(f"{name} s{seed}: {accuracies[-1]:.4f}", end=" ", flush=True)
            print(
                f"(ready after {trained - start:.1f} s of CPU, judged in {time.process_time() - trained:.1f} s)",
                flush=True,
            )
        figures[name] = {
            "kind": ZOO[name].kind,
            "parameters": sum(value.numel() for value in module.parameters()),
            "train_rows": len(data.train_targets),
            "eval_rows": len(data.eval_targets),
            "accuracy_by_seed": accuracies,
        }
    if arguments.write:
        write_result("zoo_float", figures, command="PYTHONPATH=benchmarks python -m zoo --write")


if __name__ == "__main__":
    main()
