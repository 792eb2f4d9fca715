"""Tables of results/zoo_int8.json: what int8 costs each model of the zoo, plain and under stress."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tables.markdown import load, table

__all__ = ["drops"]


def drops() -> str:
    """One row for each model and kind of stress: float accuracy and drops over its seeds."""
    rows = []
    for lane, models in load("zoo_int8")["figures"]["models"].items():
        seeds: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for name, found in models.items():
            seeds[name.rpartition(" s")[0]].append(found)
        for name, found in seeds.items():
            cells = [f"`{name}`", "" if lane == "plain" else lane.replace("_", " "), len(found)]
            cells.append(f"{100 * statistics.mean(one['float_accuracy'] for one in found):.2f}")
            for kind in ("onnx", "tflite"):
                lost = [one[kind]["drop_points"] for one in found]
                flips = max(one[kind]["flips"] for one in found)
                cells.append(f"{statistics.median(lost):+.2f} / {max(lost):+.2f} ({flips})")
            rows.append(cells)
    head = ("model", "stress", "seeds", "float accuracy, %", "ONNX drop, median / worst (most flips)", "TFLite drop")
    return table(head, rows)
