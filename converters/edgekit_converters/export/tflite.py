"""Float32 TFLite from a PyTorch classifier through litert-torch."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from edgekit_converters.export.contract import ModelContract, exportable
from edgekit_converters.quiet import converting
from edgekit_models.saved import Classifier
from edgekit_runtime.errors import ConversionError

__all__ = ["export_module_tflite", "export_tflite", "tflite_contract"]

_PREFIX = "serving_default_"  # litert-torch names tensors after the signature


def export_tflite(model: Classifier, contract: ModelContract, path: Path) -> None:
    """Write ``model`` as a TFLite file with float32 weights.

    Args:
        model: In evaluation mode; left as it is.
        contract: Names and shapes of inputs and outputs.
        path: Of the file.

    Raises:
        ConversionError: litert-torch refuses the model.
    """
    export_module_tflite(exportable(model), contract, path)


def export_module_tflite(module: nn.Module, contract: ModelContract, path: Path) -> None:
    """Write a module that is ready for export; see ``export_tflite``."""
    names = [spec.name for spec in contract.inputs]
    with torch.no_grad(), converting("E0721", "the model could not be converted to TFLite"):
        import litert_torch

        edge = litert_torch.convert(module, sample_kwargs=dict(zip(names, contract.example(), strict=True)))
        edge.export(str(path))


def tflite_contract(contract: ModelContract, path: Path) -> ModelContract:
    """Give the contract with the tensor names that stand in a TFLite file; quantising may have renamed an output.

    Raises:
        ConversionError: The file's inputs or outputs are not those of the contract.
    """
    from ai_edge_litert.interpreter import Interpreter

    with converting("E0722", f"{path.name} could not be read back"):
        interpreter = Interpreter(model_content=path.read_bytes())
    found = [str(row["name"]) for row in interpreter.get_input_details()]
    given = [str(row["name"]) for row in interpreter.get_output_details()]
    inputs = tuple(replace(spec, tensor=_match(f"{_PREFIX}{spec.name}", found)) for spec in contract.inputs)
    outputs = tuple(
        replace(spec, tensor=_match(f"{_PREFIX}output_{i}", given)) for i, spec in enumerate(contract.outputs)
    )
    return ModelContract(inputs=inputs, outputs=outputs)


def _match(start: str, names: list[str]) -> str:
    hits = [name for name in names if name.startswith(start)]
    if len(hits) != 1:
        raise ConversionError("E0723", f"the TFLite file has no single tensor {start!r}", why=f"it has {names}")
    return hits[0]
