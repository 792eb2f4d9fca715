"""Which layer of a student computes how."""

from collections.abc import Callable
from enum import StrEnum

from edgekit.recipe.spec import QuantizeSpec, Task

__all__ = ["Mode", "layer_mode"]


class Mode(StrEnum):
    """How one layer computes."""

    STATIC = "static"  # int8 weights, activations on a calibrated grid
    DYNAMIC = "dynamic"  # int8 weights, activations on a grid measured at each run
    WEIGHT_ONLY = "weight-only"  # coded weights, activations as they are
    FLOAT = "float"


# What a linear layer does whose weights are coded so. LiteRT's and ONNX Runtime's int4 products round their inputs.
_MODES = {
    "int8": Mode.STATIC,
    "int4": Mode.DYNAMIC,
    "power-of-two": Mode.WEIGHT_ONLY,
    "codebook": Mode.WEIGHT_ONLY,
}


def layer_mode(task: Task, spec: QuantizeSpec) -> Callable[[str], Mode]:
    """Give the mode of a layer by its PyTorch module path.

    A text classifier's head stays float: it decides the answer and holds 0.01 % of the weights. The feed-forward output
    of a transformer has a channel 30 times larger than the others, so the recipe chooses its mode.
    """
    usual = _MODES[spec.weights]

    def mode(path: str) -> Mode:
        if task is Task.IMAGE_CLASSIFICATION:
            return Mode.STATIC
        if path in ("classifier", "head_dense"):
            return Mode.FLOAT
        if path == "words":
            return Mode.FLOAT if spec.embedding == "float" else Mode.STATIC
        if path.endswith(".ffn_out"):
            return Mode(spec.ffn_output) if spec.weights == "int8" or spec.ffn_output == "float" else usual
        return usual

    return mode
