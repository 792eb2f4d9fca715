"""The device side of edgekit: verify a bundle, open it with one engine, get labelled answers. Needs numpy alone.

    model = edgekit_runtime.load("sentiment.edge")
    model("a fine film").label

Nothing is imported before it is used, so that importing the package costs next to nothing and loads no engine.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit_runtime.bundle import Bundle, verify, write_bundle
    from edgekit_runtime.engines.registry import open_engine
    from edgekit_runtime.errors import BundleError, EdgekitError, MissingError, UsageError
    from edgekit_runtime.model import Benchmark, Model, load
    from edgekit_runtime.selftest import SelfTest
    from edgekit_runtime.tasks.classification import Prediction

__version__ = "0.1.0"

__all__ = [
    "Benchmark",
    "Bundle",
    "BundleError",
    "EdgekitError",
    "MissingError",
    "Model",
    "Prediction",
    "SelfTest",
    "UsageError",
    "load",
    "open_engine",
    "verify",
    "write_bundle",
]

_HOMES = {
    "bundle": ("Bundle", "verify", "write_bundle"),
    "engines.registry": ("open_engine",),
    "errors": ("BundleError", "EdgekitError", "MissingError", "UsageError"),
    "model": ("Benchmark", "Model", "load"),
    "selftest": ("SelfTest",),
    "tasks.classification": ("Prediction",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
