"""What every benchmark writes beside its figures: machine, versions and the command."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from edgekit.machine import machine

__all__ = ["write_result"]

_PACKAGES = ("edgekit", "numpy", "torch", "onnx", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "litert-torch")


def write_result(name: str, figures: Mapping[str, object], *, command: str) -> Path:
    """Write ``benchmarks/results/<name>.json``.

    Args:
        name: Of the benchmark.
        figures: JSON-ready; units are in the keys.
        command: That made the figures, from the root of the repository.
    """
    versions = {package: metadata.version(package).split("+")[0] for package in _PACKAGES}
    where = {
        "cpu": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    path = Path(__file__).parent / "results" / f"{name}.json"
    content = {"command": command, "machine": where, "versions": versions, "figures": figures}
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + f"\n-> {path.relative_to(Path(__file__).parent.parent)}\n")
    return path
