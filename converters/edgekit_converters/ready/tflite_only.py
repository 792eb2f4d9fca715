"""Int8 for a foreign TFLite file: calibrated by ai-edge-quantizer itself, and measured against the float file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit_converters.quiet import converting
from edgekit_converters.ready.quantised import Feeds, Quantised, closeness, judged
from edgekit_converters.ready.tflite_file import operator_counts, run_tflite, signature

__all__ = ["quantize_ready_tflite"]


def quantize_ready_tflite(source: Path, target: Path, rows: Sequence[Feeds]) -> Quantised:
    """Write the int8 model; inputs and outputs stay float32.

    A network without attention gets static int8 in all operators. With attention, layer norms and the feed-forward
    outputs would lose the answer (cosine 0.37 to 0.65 was measured for such files), and there is no graph here to mend
    them in, so its linear layers and tables get dynamic int8.

    Args:
        source: Float32 TFLite.
        target: Of the int8 model.
        rows: Calibration rows by input name.

    Raises:
        UsageError: There is no row (E0133).
        ConversionError: ai-edge-quantizer refuses the model (E0793).
    """
    chosen = judged(rows)
    counts = operator_counts(source)
    attention = "SOFTMAX" in counts and "BATCH_MATMUL" in counts
    with converting("E0793", f"'{source.name}' could not be quantised"):
        from ai_edge_quantizer import quantizer

        recipe = _dynamic() if attention else _static()
        job = quantizer.Quantizer(str(source), recipe)
        ranges = None if attention else _calibrate(source, rows)
        job.quantize(ranges).export_model(str(target), overwrite=True)
    return Quantised(
        how="dynamic" if attention else "static",
        why="it has attention, and static int8 of such a file breaks it" if attention else "it has no attention",
        sqnr_db=closeness(run_tflite(source, chosen), run_tflite(target, chosen)),
        rows=len(rows),
    )


def _static() -> Any:  # noqa: ANN401 - the library's own type
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    operators = qtyping.TFLOperationName
    book = recipe_manager.RecipeManager()
    book.add_static_config(".*", operators.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for side in (operators.INPUT, operators.OUTPUT):
        book.add_quantization_config(".*", side, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    book.add_dynamic_config(".*", operators.EMBEDDING_LOOKUP, num_bits=8)  # the library refuses it static
    return book.get_quantization_recipe()


def _dynamic() -> Any:  # noqa: ANN401 - the library's own type
    from ai_edge_quantizer import qtyping, recipe_manager

    operators = qtyping.TFLOperationName
    book = recipe_manager.RecipeManager()
    for name in (operators.FULLY_CONNECTED, operators.CONV_2D, operators.EMBEDDING_LOOKUP):
        book.add_dynamic_config(".*", name, num_bits=8)
    return book.get_quantization_recipe()


def _calibrate(source: Path, rows: Sequence[Feeds]) -> dict[str, Any]:
    from ai_edge_quantizer import calibrator, quantizer
    from ai_edge_quantizer.utils import qsv_utils

    everything = quantizer.Quantizer(str(source), _static())
    # The library's default is a moving average, which forgets rare large values.
    measure = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    measure.calibrate({signature(source): [dict(row) for row in rows]}, everything._recipe_manager)  # noqa: SLF001
    return dict(measure.get_model_qsvs())
