"""Two linear layers around a GELU, whose ranges can be told by hand."""

import numpy as np
import torch
from torch import nn

from edgekit_converters.quantize.graph import Graph, trace


class Pair(nn.Module):
    """x (1, 4) -> linear -> GELU -> linear; weights that give values by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        nn.init.eye_(self.first.weight)
        nn.init.eye_(self.second.weight)
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(nn.functional.gelu(self.first(x)))


def traced_pair() -> Graph:
    return trace(Pair().eval(), (torch.ones(1, 4),))


def feeds(*values: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"x": np.array([row], np.float32)} for row in values]


def ends(found) -> dict[str, tuple[float, float]]:
    return {name: (one.range.low, one.range.high) for name, one in found.items()}
