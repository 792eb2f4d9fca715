"""Keeps the TFLite converter from folding a layer norm's gamma and beta into the linear layers behind it."""

import copy

import torch

from edgekit_converters.quantize.graph import Graph, add_tensor, parameter

__all__ = ["separate_affine"]

_NORM = torch.ops.aten.layer_norm.default


def separate_affine(graph: Graph) -> Graph:
    """Give a copy whose layer norms are written as a plain norm, a product and a sum with constants of shape (1, 1, C).

    The converter folds constants of shape (C,) into the weights that follow. The linear layer would then read the plain
    norm, another tensor than the one the plan has a grid for, and smoothing would be undone without a word.
    """
    changed = copy.deepcopy(graph)
    for norm in list(changed.graph.nodes):
        gamma = parameter(changed, norm.args[2]) if norm.target is _NORM and len(norm.args) > 2 else None
        beta = parameter(changed, norm.args[3]) if gamma is not None and len(norm.args) > 3 else None
        if gamma is None or beta is None or gamma.dim() != 1:
            continue
        path = str(norm.args[2].target).rpartition(".")[0]
        with changed.graph.inserting_before(norm):
            plain = changed.graph.call_function(_NORM, (norm.args[0], norm.args[1], None, None, *norm.args[4:]))
            step = add_tensor(changed, f"{path}.affine.gamma", gamma.reshape(1, 1, -1))
            shift = add_tensor(changed, f"{path}.affine.beta", beta.reshape(1, 1, -1))
            product = changed.graph.call_function(torch.ops.aten.mul.Tensor, (plain, step))
            total = changed.graph.call_function(torch.ops.aten.add.Tensor, (product, shift))
        norm.replace_all_uses_with(total)
        changed.graph.erase_node(norm)
    changed.graph.eliminate_dead_code()
    changed.recompile()
    return changed
