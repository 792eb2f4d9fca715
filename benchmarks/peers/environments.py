"""One virtual environment per peer, with pinned versions: ``PYTHONPATH=benchmarks python -m peers.environments``.

The peers' requirements contradict one another (optimum-onnx holds transformers below 4.58, ExecuTorch holds torchao),
so none is installed beside edgekit. The recipes of ai-edge-quantizer and ONNX Runtime's own quantiser need no
environment of their own: edgekit's build extra holds the same versions.
"""

import argparse
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from peers.work import DEFAULT_WORK

__all__ = ["ENVIRONMENTS", "Environment", "make_environment", "python_of"]

_STAMP = ".complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What one peer is installed with.

    Attributes:
        name: Folder of the environment below ``venvs``.
        requirements: Handed to pip in one call, so that one resolution covers them all.
    """

    name: str
    requirements: tuple[str, ...]


# Same torch, ONNX and ONNX Runtime as edgekit, so that no figure differs because of an engine's version.
_TORCH = ("torch==2.13.0", "numpy==2.4.6", "transformers==4.57.6", "huggingface-hub==0.36.2")
_ONNX = ("onnx==1.23.2", "onnxruntime==1.31.1", "onnxscript==0.7.2")
_ROWS = (
    # `datasets` is needed for data configs and declared nowhere by olive-ai; from hub 1.x on, transformers 4.57 fails.
    Environment(name="olive", requirements=("olive-ai==0.13.0", "datasets==5.0.1", *_TORCH, *_ONNX)),
    # optimum-onnx 0.1 asks for optimum~=2.1.0; its calibration imports `datasets`, which it does not declare.
    Environment(
        name="optimum",
        requirements=("optimum==2.1.0", "optimum-onnx[onnxruntime]==0.1.0", "datasets==5.0.1", *_TORCH, *_ONNX),
    ),
    # ONNX Runtime's SmoothQuant option imports neural_compressor.adaptor, which is gone from version 3 on; version 2
    # wants numpy 1.
    Environment(
        name="smoothquant",
        requirements=(
            "neural-compressor==2.6",
            "six==1.17.0",  # imported by it, declared by nobody; as is ml-dtypes by ONNX Runtime's quantiser
            "ml-dtypes==0.5.4",
            "sympy==1.14.0",
            "numpy==1.26.4",
            "onnx==1.17.0",
            "onnxruntime==1.31.1",
        ),
    ),
    Environment(name="executorch", requirements=("executorch==1.5.1", "torchao==0.18.0", *_TORCH)),
)
ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType({row.name: row for row in _ROWS})


def python_of(work: Path, name: str) -> Path:
    """Give the interpreter of an environment, or the running one for a peer that has none of its own."""
    return work / "venvs" / name / "bin" / "python" if name in ENVIRONMENTS else Path(sys.executable)


def make_environment(environment: Environment, work: Path) -> bool:
    """Make the environment and install its requirements.

    Returns:
        False if it was complete already: its stamp holds the same requirements.

    Raises:
        subprocess.CalledProcessError: pip could not install them; what is there is completed by the next call.
    """
    folder = work / "venvs" / environment.name
    stamp, content = folder / _STAMP, "\n".join(environment.requirements) + "\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == content:
        return False
    venv.create(folder, with_pip=True, symlinks=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *environment.requirements]
    subprocess.run(install, check=True)
    stamp.write_text(content, encoding="utf-8")
    return True


def make_environments(names: Iterable[str], work: Path) -> None:
    for name in names:
        made = make_environment(ENVIRONMENTS[name], work)
        print(f"{name}: {'made' if made else 'was complete'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ENVIRONMENTS)}; all if none is given")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    arguments = parser.parse_args()
    make_environments(arguments.names or ENVIRONMENTS, arguments.work)


if __name__ == "__main__":
    main()
