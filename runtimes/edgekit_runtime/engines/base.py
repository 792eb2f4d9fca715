"""What every engine does: run a model that came as bytes, on inputs that were checked first."""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import BundleError, UsageError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["Engine", "InputCheck", "check_signature"]


class Engine(Protocol):
    """A loaded model. Safe to call from several threads at once.

    Attributes:
        name: As the user names it, e.g. ``litert``.
        version: Of the installed package.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run the model once.

        Args:
            feeds: Every input by logical name, in the dtype and shape of its spec.

        Returns:
            Every output by logical name; the arrays belong to the caller.

        Raises:
            UsageError: An input is missing, unknown, of the wrong dtype or shape, or not finite (E0903 to E0906).
            BundleError: The engine failed (E0912).
        """
        ...

    def close(self) -> None:
        """Free the model; later calls of ``run`` are refused."""
        ...


class InputCheck:
    """Refuses inputs that an engine would cast, broadcast or crash on. Built once, called on each run."""

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self._rows: Final = tuple((s.name, np.dtype(s.dtype), s.shape, s.dtype == "float32") for s in specs)
        self._names: Final = frozenset(row[0] for row in self._rows)

    def __call__(self, feeds: Mapping[str, NDArray[np.generic]]) -> None:
        """Raise UsageError unless ``feeds`` fits."""
        if feeds.keys() != self._names:
            raise UsageError(
                "E0903",
                f"inputs {', '.join(sorted(feeds)) or 'none'} given; the model takes {', '.join(sorted(self._names))}",
            )
        for name, dtype, shape, is_float in self._rows:
            value = feeds[name]
            if not isinstance(value, np.ndarray) or value.dtype != dtype:
                kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                raise UsageError("E0904", f"input {name} is {kind}; the model takes {dtype} arrays")
            if value.shape != shape:
                raise UsageError("E0905", f"input {name} has shape {value.shape}; the model takes {shape}")
            if is_float and not np.isfinite(value).all():
                raise UsageError("E0906", f"input {name} holds NaN or infinity")


def check_signature(specs: Iterable[TensorSpec], found: Mapping[str, tuple[str, tuple[int, ...]]], side: str) -> None:
    """Compare what the manifest promises with what the model file has.

    Args:
        specs: Of one side.
        found: Dtype (after dequantisation) and shape by tensor name, from the engine.
        side: ``input`` or ``output``, for the message.

    Raises:
        BundleError: They differ.
    """
    wanted = {spec.tensor: (spec.dtype, spec.shape) for spec in specs}
    for tensor, signature in wanted.items():
        if found.get(tensor) != signature:
            raise BundleError(
                "E0512",
                f"{side} {tensor!r} should be {signature}; the model file has {found.get(tensor, 'no such tensor')}",
                why=f"the model's {side}s are {dict(found)}",
            )
    # An extra output costs nothing; an extra input would run on whatever memory holds.
    if side == "input" and len(found) != len(wanted):
        raise BundleError("E0512", f"the model file has inputs {sorted(found)}; the manifest maps {sorted(wanted)}")
