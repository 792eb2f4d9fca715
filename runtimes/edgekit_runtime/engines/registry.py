"""Which engines there are, which are installed, and how to open one."""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from edgekit_runtime.engines.base import Engine
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.manifest import Runtime, TensorSpec

__all__ = ["ENGINES", "EngineRow", "choose_engine", "get_engine", "open_engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """One engine.

    Attributes:
        name: What the user types.
        runtime: Which model of a bundle it runs.
        module: Where its interpreter or session lives.
        distributions: Packages that provide the module; the first is the one to install.
        install: What to run when it is missing.
        proves_itself: The goldens are run at every load, because the engine is not the one that bundles are built with
            and may misread a file without a word.
        kernels: Which kernels run, as far as it is known.
        delegates: Let XNNPACK take the operators that it can; off, LiteRT's own kernels answer, as they do on a device
            whose build has no XNNPACK.
    """

    name: str
    runtime: Runtime
    module: str
    distributions: tuple[str, ...]
    install: str
    proves_itself: bool = False
    kernels: str = ""
    delegates: bool = True

    @property
    def installed(self) -> bool:
        """Whether the package can be found; it is not imported."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None

    @property
    def version(self) -> str:
        """Of the installed package, or ``unknown``."""
        for name in self.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return "unknown"


# In the order in which they are tried. LiteRT comes before its older form, which no longer gets releases and whose
# int8 kernels were 5 times slower on the same files; TensorFlow carries the same interpreter at 20 times the size.
_ROWS = (
    EngineRow(
        name="onnxruntime",
        runtime="onnxruntime",
        module="onnxruntime",
        distributions=("onnxruntime", "onnxruntime-gpu"),
        install='pip install "edgekit-runtime[onnx]"',
        kernels="CPU execution provider (MLAS)",
    ),
    EngineRow(
        name="litert",
        runtime="litert",
        module="ai_edge_litert.interpreter",
        distributions=("ai-edge-litert",),
        install='pip install "edgekit-runtime[tflite]"',
        kernels="XNNPACK, builtin where it has none",
    ),
    EngineRow(
        name="litert-builtin",
        runtime="litert",
        module="ai_edge_litert.interpreter",
        distributions=("ai-edge-litert",),
        install='pip install "edgekit-runtime[tflite]"',
        kernels="builtin, without XNNPACK",
        delegates=False,
    ),
    EngineRow(
        name="tflite-runtime",
        runtime="litert",
        module="tflite_runtime.interpreter",
        distributions=("tflite-runtime",),
        install='pip install "edgekit-runtime[tflite-runtime]"',
        proves_itself=True,  # 2.14 ignores the scales of int8 embeddings and dynamic layers and answers nonsense
    ),
    EngineRow(
        name="tensorflow",
        runtime="litert",
        module="tensorflow.lite.python.interpreter",
        distributions=("tensorflow", "tensorflow-cpu"),
        install="pip install tensorflow-cpu",
        proves_itself=True,
    ),
)
ENGINES: Final[Mapping[str, EngineRow]] = MappingProxyType({row.name: row for row in _ROWS})


def get_engine(name: str) -> EngineRow:
    """Look up an engine.

    Raises:
        UsageError: No engine has this name.
    """
    try:
        return ENGINES[name]
    except KeyError:
        raise UsageError("E0907", f"no engine {name!r}; known: {', '.join(ENGINES)}") from None


def choose_engine(runtimes: Iterable[Runtime]) -> EngineRow:
    """Take the first installed engine that runs one of ``runtimes``.

    Raises:
        MissingError: None is installed.
    """
    known = set(runtimes)
    rows = [row for row in ENGINES.values() if row.runtime in known]
    for row in rows:
        if row.installed:
            return row
    raise MissingError(
        "E0651",
        f"no engine for this bundle is installed; it runs on {', '.join(row.name for row in rows)}",
        fix=" or ".join(row.install for row in rows[:2]),
    )


def open_engine(
    name: str, model: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int = 1
) -> Engine:
    """Load a model from bytes; the caller has verified them.

    Args:
        name: A key of ``ENGINES``.
        model: The whole ``.onnx`` or ``.tflite`` file.
        inputs: What the model takes; names, dtypes and shapes must be those of the file.
        outputs: What the model gives, likewise.
        threads: Of the engine itself; at least 1.

    Raises:
        UsageError: Unknown engine or a wrong number of threads.
        MissingError: The engine is not installed, or it is but cannot be imported.
        BundleError: The engine refuses the model (E0513), or its tensors are not the promised ones (E0512).
    """
    row = get_engine(name)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError("E0908", f"threads must be a whole number of at least 1, not {threads!r}")
    if not row.installed:
        raise MissingError("E0652", f"the engine {name} is not installed", fix=row.install)
    try:
        importlib.import_module(row.module)
    except Exception as error:
        raise MissingError(
            "E0653",
            f"the engine {name} {row.version} is installed but cannot be imported",
            why=f"{type(error).__name__}: {error}",
            fix=f"in a fresh virtual environment: {row.install}",
        ) from error
    if row.runtime == "onnxruntime":
        from edgekit_runtime.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, inputs, outputs, threads=threads)
    from edgekit_runtime.engines.litert import LiteRtEngine

    return LiteRtEngine(model, inputs, outputs, threads=threads, row=row)
