"""Float32 TFLite from a PyTorch classifier through litert-torch."""

import contextlib
import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from edgekit_converters.export.contract import ModelContract, exportable
from edgekit_models.saved import Classifier
from edgekit_runtime.errors import ConversionError

__all__ = ["export_tflite", "tflite_contract"]


def export_tflite(model: Classifier, contract: ModelContract, path: Path) -> None:
    """Write ``model`` as a TFLite file with float32 weights.

    Args:
        model: In evaluation mode; left as it is.
        contract: Names and shapes of inputs and outputs.
        path: Of the file.

    Raises:
        ConversionError: litert-torch refuses the model.
    """
    noise = io.StringIO()
    names = [spec.name for spec in contract.inputs]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            warnings.simplefilter("ignore")  # the converter warns of its own internals
            before = logging.root.manager.disable
            logging.disable(logging.WARNING)
            try:
                import litert_torch

                with torch.no_grad():
                    edge = litert_torch.convert(
                        exportable(model), sample_kwargs=dict(zip(names, contract.example(), strict=True))
                    )
                edge.export(str(path))
            finally:
                logging.disable(before)
    except Exception as error:
        raise ConversionError(
            "E0721",
            "the model could not be converted to TFLite",
            why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            fix="run again with --debug to see the converter's own report",
        ) from error


def tflite_contract(contract: ModelContract) -> ModelContract:
    """Give the contract with the tensor names that litert-torch writes into the file."""
    return ModelContract(
        inputs=tuple(replace(spec, tensor=f"serving_default_{spec.name}") for spec in contract.inputs),
        outputs=tuple(
            replace(spec, tensor=f"serving_default_output_{i}_output") for i, spec in enumerate(contract.outputs)
        ),
    )
