"""Moves large channels from a layer norm's output into the weights that read it."""

import torch
from torch import Tensor, fx

from edgekit_converters.quantize.graph import Graph, add_tensor, parameter, runs_once, set_tensor
from edgekit_converters.quantize.measure import Measured

__all__ = ["smooth_norms"]

_NORM, _LINEAR = torch.ops.aten.layer_norm.default, torch.ops.aten.linear.default
_LEAST = 1e-4  # a channel that is silent during calibration still needs a factor


def smooth_norms(graph: Graph, seen: dict[str, Measured], *, alpha: float = 0.7) -> int:
    """Divide gamma and beta of each layer norm by ``s`` and multiply the columns of the linear layers behind it.

    ``s = peak(x)^alpha / peak(W)^(1 - alpha)`` per channel, normed to a geometric mean of 1. Other readers, such as the
    residual sum of a post-norm transformer, get the output times ``s``, so float answers do not change.

    Args:
        graph: Changed in place.
        seen: From ``measure`` on this graph.
        alpha: Share of the difficulty that goes into the weights, 0 to 1.

    Returns:
        Number of layer norms that were changed.

    Source:
        Xiao et al. 2023, SmoothQuant, eq. 4; the residual's factor is what post-norm models need in addition.
    """
    changed = 0
    for norm in list(graph.graph.nodes):
        readers = [user for user in norm.users if user.target is _LINEAR and user.args[0] is norm]
        gamma, beta = (
            (parameter(graph, norm.args[2]), parameter(graph, norm.args[3]))
            if norm.target is _NORM and len(norm.args) > 3
            else (None, None)
        )
        alone = all(runs_once(graph, reader) for reader in readers)
        if gamma is None or beta is None or not readers or not alone or norm.name not in seen:
            continue
        weights = [parameter(graph, reader.args[1]) for reader in readers]
        factor = _factors(seen[norm.name].peaks, [weight for weight in weights if weight is not None], alpha)
        others = [user for user in norm.users if user not in readers]
        set_tensor(graph, norm.args[2], gamma / factor)
        set_tensor(graph, norm.args[3], beta / factor)
        for reader, weight in zip(readers, weights, strict=True):
            assert weight is not None
            set_tensor(graph, reader.args[1], weight * factor)
        if others:
            _restore(graph, norm, others, factor)
        changed += 1
    graph.recompile()
    return changed


def _factors(peaks: Tensor, weights: list[Tensor], alpha: float) -> Tensor:
    inputs = peaks.clamp(min=_LEAST)
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0).clamp(min=_LEAST)
    factor = inputs**alpha / columns ** (1 - alpha)
    return factor / factor.log().mean().exp()


def _restore(graph: Graph, norm: fx.Node, others: list[fx.Node], factor: Tensor) -> None:
    path = str(norm.args[2].target).rpartition(".")[0]  # type: ignore[union-attr]
    with graph.graph.inserting_after(norm):
        constant = add_tensor(graph, f"{path}.residual.factor", factor.reshape(1, 1, -1))
    with graph.graph.inserting_after(constant):
        restored = graph.graph.call_function(torch.ops.aten.mul.Tensor, (norm, constant))
    for user in others:
        user.replace_input_with(norm, restored)
