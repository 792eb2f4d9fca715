"""Brings a foreign graph into the form that the plan knows: linear and convolution layers with named weights."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit_converters.quantize.graph import Graph
from edgekit_converters.ready.batch_norms import fold_batch_norms
from edgekit_converters.ready.masks import clip_masks
from edgekit_converters.ready.ownership import name_layers, unshare_constants
from edgekit_converters.ready.patterns import fuse_gelu, fuse_layer_norm
from edgekit_converters.ready.probe import TOLERANCE, difference
from edgekit_converters.ready.products import absorb_biases, products_to_linear
from edgekit_converters.ready.spelling import fold_constants, plain_operators

__all__ = ["Normalised", "graph_outputs", "normalise"]

_STEPS: tuple[tuple[str, Callable[[Graph], int]], ...] = (
    ("operators respelt", plain_operators),
    ("constants folded", fold_constants),
    ("layer norms fused", fuse_layer_norm),
    ("GELUs fused", fuse_gelu),
    ("products made linear layers", products_to_linear),
    ("constants folded after that", fold_constants),
    ("batch norms folded", fold_batch_norms),
    ("biases absorbed", absorb_biases),
    ("shared constants copied", unshare_constants),
    ("layers named", name_layers),
)


@dataclass(frozen=True, slots=True)
class Normalised:
    """A graph in the plan's form.

    Attributes:
        graph: Another object than the one that was given.
        notes: What was changed, for a report.
    """

    graph: Graph
    notes: tuple[str, ...]


def normalise(graph: Graph, rows: Sequence[tuple[Tensor, ...]]) -> Normalised:
    """Rewrite a graph; its float answers stay, up to the order of sums.

    The whole is proved by the importer against the source. Clipping masks is the one step that changes numbers on
    purpose, so it is judged here by itself and left out where an answer moves.

    Args:
        graph: From ``trace``; left as it is.
        rows: Inputs that the masks are judged on.
    """
    changed = copy.deepcopy(graph)
    notes = []
    for name, step in _STEPS:
        count = step(changed)
        if count and name != "constants folded after that":
            notes.append(f"{count} {name}")
    clipped = copy.deepcopy(changed)
    count = clip_masks(clipped)
    if count:
        worst = max(difference(graph_outputs(changed, row), graph_outputs(clipped, row)) for row in rows)
        if worst <= TOLERANCE:
            return Normalised(clipped, (*notes, f"{count} mask constants clipped to 50"))
        notes.append(f"mask constants kept: clipping them to 50 moves an answer by {worst:.1g}")
    return Normalised(changed, tuple(notes))


def graph_outputs(graph: Graph, row: tuple[Tensor, ...]) -> list:  # type: ignore[type-arg]
    """Give all outputs of a graph for one row as arrays."""
    with torch.no_grad():
        found = graph(*row)
    return [value.numpy() for value in (found if isinstance(found, tuple | list) else (found,))]
