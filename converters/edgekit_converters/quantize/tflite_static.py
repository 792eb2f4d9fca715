"""Static int8 for TFLite through ai-edge-quantizer, calibrated with a true minimum and maximum."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quiet import converting
from edgekit_runtime.errors import ConversionError

__all__ = ["TfliteRules", "image_rules", "quantize_tflite", "text_rules"]

_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteRules:
    """Rows of an ai-edge-quantizer recipe, later rows win.

    Attributes:
        rows: Regular expression on the output tensor's name, TFLite operator, and mode.
        whole_network: Quantise every operator that the library supports, with float inputs and outputs.
    """

    rows: tuple[tuple[str, str, Mode], ...] = ()
    whole_network: bool = False


def text_rules(*, ffn_output: Mode, embedding: Mode) -> TfliteRules:
    """Linear layers in int8; attention products, softmax, layer norm and GELU float.

    The head stays float: it decides the answer and holds few of the weights.
    """
    return TfliteRules(
        rows=(
            (".*", "FULLY_CONNECTED", Mode.STATIC),
            (".*Linear_ffn_out.*", "FULLY_CONNECTED", ffn_output),
            (".*Linear_head_dense.*", "FULLY_CONNECTED", Mode.FLOAT),
            (f"{_SIGNATURE}_output.*", "FULLY_CONNECTED", Mode.FLOAT),
            (".*", "EMBEDDING_LOOKUP", embedding),
        )
    )


def image_rules() -> TfliteRules:
    """Every operator in int8: convolutions keep their accuracy, and an NPU takes nothing else."""
    return TfliteRules(whole_network=True)


def quantize_tflite(
    source: Path, target: Path, rows: Iterable[Mapping[str, NDArray[np.generic]]], rules: TfliteRules
) -> None:
    """Write the int8 model.

    Args:
        source: Float32 TFLite.
        target: Of the int8 model.
        rows: Feeds by input name, for calibration.
        rules: What becomes int8.

    Raises:
        ConversionError: ai-edge-quantizer refuses the model, or a range is not finite.
    """
    with converting("E0731", "the TFLite model could not be quantised"):
        ranges = _calibrate(source, rows)
        _check(ranges)
        from ai_edge_quantizer import quantizer

        job = quantizer.Quantizer(str(source), _recipe(rules))
        job.quantize(ranges).export_model(str(target), overwrite=True)


def _calibrate(source: Path, rows: Iterable[Mapping[str, NDArray[np.generic]]]) -> dict[str, Any]:
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    # Ranges are wanted for every operator; which of them are used is decided by the rules later.
    everything = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    # The library's default is a moving average, which forgets rare large values: 9 times the error on a CNN.
    measure = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    measure.calibrate({_SIGNATURE: [dict(row) for row in rows]}, everything._recipe_manager)  # noqa: SLF001
    return dict(measure.get_model_qsvs())


def _check(ranges: Mapping[str, Any]) -> None:
    for name, seen in ranges.items():
        for side in ("min", "max"):
            if side in seen and not np.isfinite(seen[side]).all():
                raise ConversionError(
                    "E0730",
                    f"tensor {name} is not finite during calibration",
                    fix="check the calibration rows and the trained weights",
                )


def _recipe(rules: TfliteRules) -> Any:  # noqa: ANN401 - the library's own type
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    operators = qtyping.TFLOperationName
    untouched = algorithm_manager.AlgorithmName.NO_QUANTIZE
    book = recipe_manager.RecipeManager()
    if rules.whole_network:
        book.add_static_config(".*", operators.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
        for side in (operators.INPUT, operators.OUTPUT):
            book.add_quantization_config(".*", side, algorithm_key=untouched)
    for pattern, operator, mode in rules.rows:
        name = operators[operator]
        if mode is Mode.FLOAT:
            book.add_quantization_config(pattern, name, algorithm_key=untouched)
        elif mode is Mode.DYNAMIC or operator == "EMBEDDING_LOOKUP":
            # A lookup has no activations to quantise; weight-only would turn the whole table into float at start.
            book.add_dynamic_config(pattern, name, num_bits=8)
        else:
            book.add_static_config(pattern, name, activation_num_bits=8, weight_num_bits=8)
    return book.get_quantization_recipe()
