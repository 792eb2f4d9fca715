"""What an imported model is: a graph that one plan can be made for, or a TFLite file where there is none."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekit_converters.export.contract import ModelContract

__all__ = ["ReadyModel", "ReadyOnnx", "ReadyTflite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyModel:
    """A foreign model as a PyTorch module; both formats are written from one plan of it.

    Attributes:
        module: In evaluation mode, float32, normalised (see ``ready.normalise``); takes its inputs by position in the
            order of ``contract.inputs`` with batch 1, gives a tensor or a tuple in the order of ``contract.outputs``.
        contract: Names, types (``int32`` or ``float32``) and fixed shapes, as ONNX and TFLite will have them.
        description: One line for a report: where it came from and what was changed.
        digest: sha256 (hex) of the source's content.
        dynamic_length: If above 2, dimension 1 of every input counts tokens and may be shorter, down to 2: give it to
            ``trace(longest=...)``. 0: shapes are fixed.
    """

    module: nn.Module
    contract: ModelContract
    description: str
    digest: str
    dynamic_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyOnnx:
    """An ONNX model that could not become a PyTorch graph; see ``ready.onnx_only`` for its int8 form.

    Attributes:
        path: Of a copy with fixed shapes; the user's file is not this one.
        contract: As the file has it, but for int64 inputs, which are named int32.
        description: One line for a report.
        digest: sha256 (hex) of the source's content.
        why_no_tflite: Why there is no PyTorch graph and so no plan, and what a TFLite twin would take.
    """

    path: Path
    contract: ModelContract
    description: str
    digest: str
    why_no_tflite: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyTflite:
    """A foreign model that could not become a PyTorch graph.

    Attributes:
        path: Of the float32 TFLite file.
        contract: As the file has it; ``tensor`` is the name in the file.
        description: One line for a report.
        digest: sha256 (hex) of the source's content.
        why_no_onnx: Why there is no ONNX twin, in a sentence a user can act on.
    """

    path: Path
    contract: ModelContract
    description: str
    digest: str
    why_no_onnx: str
