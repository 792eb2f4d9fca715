"""Random inputs that a foreign model can take, to prove that a rewritten graph answers as the source does."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.export.contract import ModelContract
from edgekit_runtime.errors import ConversionError

__all__ = ["TOLERANCE", "difference", "probes", "require_equal"]

TOLERANCE = 1e-4  # of the largest absolute output: float32 sums in another order stay far below it
_TABLE = torch.ops.aten.embedding.default
_ROWS = 4
Outputs = Sequence[NDArray[np.generic]]


def probes(graph: fx.GraphModule, contract: ModelContract, *, rows: int = _ROWS) -> list[tuple[Tensor, ...]]:
    """Give seeded random inputs.

    Float inputs are normal. Integer inputs that look rows of a table up stay inside it. Other integers, and what has
    ``mask`` in its name, hold ones up to a random place and zeros behind it, so that what a mask does is seen.
    """
    generator = torch.Generator().manual_seed(0)
    limits = _limits(graph)
    found = []
    for _ in range(rows):
        values = []
        for spec in contract.inputs:
            if spec.dtype == "float32" and "mask" not in spec.name:
                values.append(torch.randn(spec.shape, generator=generator))
                continue
            limit = limits.get(spec.name)
            if limit is not None:
                values.append(torch.randint(0, limit, spec.shape, generator=generator, dtype=torch.int32))
                continue
            value = torch.ones(spec.shape, dtype=torch.int32 if spec.dtype == "int32" else torch.float32)
            if len(spec.shape) > 1:
                value[..., int(torch.randint(1, spec.shape[-1] + 1, (1,), generator=generator)) :] = 0
            values.append(value)
        found.append(tuple(values))
    return found


def _limits(graph: fx.GraphModule) -> dict[str, int]:
    """Give, by input name, the rows of the smallest table that the input is looked up in."""
    limits: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.target is not _TABLE or node.args[0].op != "get_attr":
            continue
        owner, _, name = str(node.args[0].target).rpartition(".")
        table = getattr(graph.get_submodule(owner), name)
        source = node.args[1]
        while isinstance(source, fx.Node) and source.op == "call_function" and source.args:
            source = source.args[0]  # behind a cast or a reshape
        if isinstance(source, fx.Node) and source.op == "placeholder":
            limits[source.name] = min(limits.get(source.name, table.shape[0]), table.shape[0])
    return limits


def difference(wanted: Outputs, given: Outputs) -> float:
    """Give the largest difference, relative to the largest absolute value of its output; infinite on NaN or shape."""
    worst = 0.0 if len(wanted) == len(given) else float("inf")
    for left, right in zip(wanted, given, strict=False):
        if left.shape != right.shape:
            return float("inf")
        here = np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0.0)
        peak = max(float(np.abs(left.astype(np.float64)).max(initial=0.0)), 1e-6)
        worst = max(worst, float(here) / peak) if np.isfinite(here) else float("inf")
    return worst


def require_equal(
    reference: Callable[[tuple[Tensor, ...]], Outputs],
    candidate: Callable[[tuple[Tensor, ...]], Outputs],
    rows: Sequence[tuple[Tensor, ...]],
    *,
    what: str,
) -> float:
    """Give the largest relative difference of two models over rows.

    Raises:
        ConversionError: It is above ``TOLERANCE`` (E0782).
    """
    worst = max(difference(reference(row), candidate(row)) for row in rows)
    if not worst <= TOLERANCE:
        raise ConversionError(
            "E0782",
            f"{what} does not answer as its source",
            why=f"outputs differ by {worst:.2g} of their largest value on random inputs; {TOLERANCE:g} is allowed",
            fix="report the model; its source was left as it is",
        )
    return worst
