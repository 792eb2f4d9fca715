"""Spreads the loud channels of a residual stream over all channels, so that one int8 grid holds the stream.

An orthogonal matrix ``R`` that leaves the vector of ones where it is commutes with the plain part of a layer norm: mean
and variance of ``R h`` are those of ``h``. The stream is rotated by rotating what writes into it; norms lose gamma and
beta to the linear layers behind them, which also turn back; the residual gets one linear layer a norm.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, add_tensor, parameter, set_tensor
from edgekit_converters.quantize.whole_graph import VIEWS, residual_tensors

__all__ = ["rotate_residual", "rotation"]

_ATEN = torch.ops.aten
_NORM, _LINEAR, _ADD = _ATEN.layer_norm.default, _ATEN.linear.default, _ATEN.add.Tensor
_LOUD = 8  # channels that are spread evenly; all others are mixed at random


def rotation(width: int, loud: Sequence[int]) -> NDArray[np.float64]:
    """Give an orthogonal matrix that keeps the ones and spreads the ``loud`` channels evenly.

    All channels are mixed by a cosine basis with random signs: matrices with few large and many tiny entries would lose
    the tiny ones when weights become int8. Reflections then turn each loud channel into a pattern of plus and minus
    ``1 / sqrt(width)``, up to what keeping angles needs.

    Source:
        Ashkboos et al. 2024, QuaRot, rotates the RMSNorm of pre-norm models; keeping the ones is exact for LayerNorm.
    """
    place = np.arange(width)
    basis = np.cos(np.pi * (place[:, None] + 0.5) * place[None] / width)
    basis /= np.linalg.norm(basis, axis=0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], width)
    signs[0] = 1.0  # the first column is the constant one
    found = (basis * signs) @ basis.T
    ones = np.ones((width, 1))
    start = _orthonormal(np.hstack([ones, np.eye(width)[:, list(loud)]]))
    goal = _orthonormal(np.hstack([ones, np.stack([_walsh(width, i + 1) for i in range(len(loud))], axis=1)]))
    for column in range(start.shape[1]):
        mirror = found @ start[:, column] - goal[:, column]
        length = float(mirror @ mirror)
        if length > 1e-20:
            found = found - 2 * np.outer(mirror, mirror @ found) / length
    return np.asarray(found)


def _walsh(width: int, index: int) -> NDArray[np.float64]:
    return np.array([1.0 - 2.0 * ((place & index).bit_count() % 2) for place in range(width)])


def _orthonormal(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    factor, triangle = np.linalg.qr(columns)
    return np.asarray(factor * np.sign(np.diag(triangle)))


def rotate_residual(graph: Graph, peaks: Tensor) -> int:
    """Rotate the residual stream; float answers do not change.

    Args:
        graph: Changed in place, unless something that is no layer writes into the stream.
        peaks: Largest absolute value of each channel over all sums, (channels,).

    Returns:
        Number of norms behind which the residual turns; 0 if the graph was left alone.
    """
    width = len(peaks)
    if width < 4 * _LOUD or not _can_rotate(graph, width):
        return 0
    loud = peaks.argsort(descending=True)[:_LOUD].tolist()
    turn = torch.from_numpy(rotation(width, loud))
    _rotate_writers(graph, turn)
    norms = [node for node in graph.graph.nodes if node.target is _NORM]
    for norm in norms:
        _rotate_readers(graph, norm, turn)
    graph.recompile()
    return len(norms)


def _can_rotate(graph: Graph, width: int) -> bool:
    """Tell whether every norm reads a sum of this width whose parts are all layers, tables or norms."""
    residual = residual_tensors(graph)
    totals = {total.name for total in residual.values()}
    for node in graph.graph.nodes:
        if node.target is not _NORM:
            continue
        gamma = parameter(graph, node.args[2]) if len(node.args) > 3 else None
        if gamma is None or len(gamma) != width or str(node.args[0]) not in totals:
            return False
        for leaf in _leaves(node.args[0], residual):
            if leaf.target not in (_LINEAR, _NORM, _ATEN.embedding.default) and _table(leaf) is None:
                return False
            if leaf.target is _LINEAR and any(user.name not in residual for user in leaf.users):
                return False
    return True


def _leaves(node: fx.Node, residual: dict[str, fx.Node]) -> list[fx.Node]:
    if node.target is _ADD and node.name in residual:
        return [leaf for side in node.args[:2] if isinstance(side, fx.Node) for leaf in _leaves(side, residual)]
    return [node]


def _table(node: fx.Node) -> fx.Node | None:
    """Give the constant behind a lookup or a view of one, such as the positions."""
    while node.target in VIEWS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    if node.target is _ATEN.embedding.default:
        assert isinstance(node.args[0], fx.Node)
        return node.args[0]
    return node if node.op == "get_attr" else None


def _rotate_writers(graph: Graph, turn: Tensor) -> None:
    residual = residual_tensors(graph)
    done: set[str] = set()
    for total in {total.name: total for total in residual.values()}.values():
        for leaf in _leaves(total, residual):
            table = _table(leaf)
            if table is not None and table.name not in done:
                done.add(table.name)
                set_tensor(graph, table, _turned(parameter(graph, table), turn.T, left=False))
            elif leaf.target is _LINEAR and leaf.name not in done:
                done.add(leaf.name)
                for argument in leaf.args[1:3]:
                    set_tensor(graph, argument, _turned(parameter(graph, argument), turn, left=True))


def _turned(value: Tensor | None, turn: Tensor, *, left: bool) -> Tensor:
    assert value is not None
    wide = value.double()
    return (turn @ wide if left else wide @ turn).float()


def _rotate_readers(graph: Graph, norm: fx.Node, turn: Tensor) -> None:
    gamma, beta = (parameter(graph, argument) for argument in norm.args[2:4])
    assert gamma is not None
    assert beta is not None
    linear = [user for user in norm.users if user.target is _LINEAR]
    others = [user for user in norm.users if user.target is not _LINEAR]
    back = gamma.double()[:, None] * turn.T  # from the rotated plain norm to what the norm gave
    for layer in linear:
        weight = parameter(graph, layer.args[1])
        assert weight is not None
        shift = weight.double() @ beta.double()
        bias = parameter(graph, layer.args[2]) if len(layer.args) > 2 else None
        assert bias is not None, "layers behind norms have a bias"
        set_tensor(graph, layer.args[2], (bias.double() + shift).float())
        set_tensor(graph, layer.args[1], (weight.double() @ back).float())
    set_tensor(graph, norm.args[2], torch.ones_like(gamma))
    set_tensor(graph, norm.args[3], torch.zeros_like(beta))
    adding = [user for user in others if user.target is _ADD]
    _insert(graph, norm, adding, (turn @ back, turn @ beta.double(), "residual"))
    _insert(graph, norm, [user for user in others if user.target is not _ADD], (back, beta.double(), "plain"))


def _insert(graph: Graph, norm: fx.Node, users: list[fx.Node], layer: tuple[Tensor, Tensor, str]) -> None:
    if not users:
        return
    weight, bias, part = layer
    path = f"{str(norm.args[2].target).rpartition('.')[0]}.{part}"  # type: ignore[union-attr]
    with graph.graph.inserting_after(norm):
        held = add_tensor(graph, f"{path}.weight", weight.float())
    with graph.graph.inserting_after(held):
        shift = add_tensor(graph, f"{path}.bias", bias.float())
    with graph.graph.inserting_after(shift):
        turned = graph.graph.call_function(_LINEAR, (norm, held, shift))
    for user in users:
        user.replace_input_with(norm, turned)
