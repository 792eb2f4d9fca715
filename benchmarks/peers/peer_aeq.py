"""ai-edge-quantizer 0.10 on MiniLM: recipes as shipped, and what its README calls advanced usage.

Runs in edgekit's own environment (same versions). All start from the float32 file that litert-torch gives.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from peers.command import peer_main
from peers.work import Quantise, Rows, Variant

__all__ = ["ROWS"]

_README = "https://github.com/google-ai-edge/ai-edge-quantizer (README: quick start; advanced usage)"
_FFN_OUT = ".*BertOutput.*"  # scope names of litert-torch: the second linear layer of each feed-forward block


def float_file(work: Path, sequence: int, out: Path) -> None:
    out.write_bytes((work / f"s{sequence}" / "fp32.tflite").read_bytes())


def samples(work: Path, sequence: int) -> Iterator[dict[str, NDArray[np.int32]]]:
    for ids, mask in Rows.load(work / f"s{sequence}" / "calibration.npz").each():
        yield {"args_0": ids.astype(np.int32), "args_1": mask.astype(np.int32)}


def from_recipe(
    work: Path,
    sequence: int,
    out: Path,
    *,
    recipe: Callable[[], Any],
    ranges: Literal["default", "minmax", "watched"] = "default",
) -> None:
    """Quantise with a recipe.

    Args:
        work: Work folder.
        sequence: Tokens per row.
        out: File to write.
        recipe: Gives it.
        ranges: ``minmax`` takes the smallest and largest value of all calibration rows; the default is a moving average
            over the rows, which forgets the early ones. ``watched`` calls the calibrator by hand: for OSCAR,
            ``calibrate()`` gives nothing without a word, and OSCAR then goes without activation statistics.
    """
    from ai_edge_quantizer import calibrator, quantizer
    from ai_edge_quantizer.utils import qsv_utils

    source = str(work / f"s{sequence}" / "fp32.tflite")
    tool = quantizer.Quantizer(source, recipe())
    rows = {"serving_default": list(samples(work, sequence))}
    if ranges == "default":
        statistics = tool.calibrate(rows, num_threads=1) if tool.need_calibration else None
    else:
        update = {"qsv_update_func": qsv_utils.min_max_update} if ranges == "minmax" else {}
        watcher = calibrator.Calibrator(source, num_threads=1, **update)
        watcher.calibrate(rows, tool._recipe_manager)  # noqa: SLF001
        statistics = watcher.get_model_qsvs()
    tool.quantize(statistics).export_model(str(out), overwrite=True)


def shipped(name: str, algorithm: str = "MIN_MAX_UNIFORM_QUANT") -> Any:  # noqa: ANN401 - a list of dicts of the tool
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    return getattr(recipe, name)(algorithm_key=AlgorithmName[algorithm])


def hadamard() -> Any:  # noqa: ANN401
    import ai_edge_quantizer

    return str(Path(ai_edge_quantizer.__file__).parent / "recipes" / "dynamic_wi8_afp32_hadamard_recipe.json")


def linear_dynamic(algorithm: str) -> Any:  # noqa: ANN401
    """Dynamic for everything, with an algorithm that knows FULLY_CONNECTED alone for the linear layers."""
    manager, operations, algorithms = _manager()
    manager.add_dynamic_config(".*", operations.ALL_SUPPORTED, 8)
    manager.add_dynamic_config(".*", operations.FULLY_CONNECTED, 8, algorithm_key=algorithms[algorithm])
    return manager.get_quantization_recipe()


def linear_static(ffn_out: Literal["static", "dynamic"] = "static", algorithm: str = "MIN_MAX_UNIFORM_QUANT") -> Any:  # noqa: ANN401
    """Static linear layers, int8 embedding, all else float; FFN-out as told."""
    manager, operations, algorithms = _manager()
    manager.add_static_config(".*", operations.FULLY_CONNECTED, 8, 8, algorithm_key=algorithms[algorithm])
    manager.add_weight_only_config(".*", operations.EMBEDDING_LOOKUP, 8)
    if ffn_out == "dynamic":
        manager.add_dynamic_config(_FFN_OUT, operations.FULLY_CONNECTED, 8)
    return manager.get_quantization_recipe()


def _manager() -> tuple[Any, Any, Any]:
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    return recipe_manager.RecipeManager(), qtyping.TFLOperationName, AlgorithmName


def _row(name: str, mode: Literal["float", "static", "dynamic", "mixed"], how: str, *, tuned: bool = False) -> Variant:
    return Variant(peer="aeq", name=name, engine="litert", mode=mode, tuned=tuned, how=how, page=_README)


def _dynamic(algorithm: str) -> Quantise:
    return partial(from_recipe, recipe=partial(shipped, "dynamic_wi8_afp32", algorithm))


ROWS: Mapping[Variant, Quantise] = {
    _row("fp32", "float", "litert-torch"): float_file,
    _row("static-default", "static", "recipe.static_wi8_ai8(), calibrate()"): partial(
        from_recipe, recipe=partial(shipped, "static_wi8_ai8")
    ),
    _row("static-minmax", "static", "static_wi8_ai8 with ranges by qsv_utils.min_max_update", tuned=True): partial(
        from_recipe, recipe=partial(shipped, "static_wi8_ai8"), ranges="minmax"
    ),
    _row("static-ai16", "static", "recipe.static_wi8_ai16(): int16 activations", tuned=True): partial(
        from_recipe, recipe=partial(shipped, "static_wi8_ai16"), ranges="minmax"
    ),
    _row(
        "static-fc", "static", "selective: FULLY_CONNECTED static, embedding weight-only, min_max", tuned=True
    ): partial(from_recipe, recipe=linear_static, ranges="minmax"),
    _row(
        "static-fc-ffn-out-dynamic",
        "mixed",
        "selective by scope: as static-fc, the FULLY_CONNECTED of BertOutput dynamic",
        tuned=True,
    ): partial(from_recipe, recipe=partial(linear_static, "dynamic"), ranges="minmax"),
    _row(
        "static-fc-oscar",
        "dynamic",
        "as static-fc with OSCAR; the file is dynamic all the same: its FULLY_CONNECTED read and give float32",
        tuned=True,
    ): partial(from_recipe, recipe=partial(linear_static, algorithm="OSCAR"), ranges="minmax"),
    _row("dynamic-default", "dynamic", "recipe.dynamic_wi8_afp32()"): _dynamic("MIN_MAX_UNIFORM_QUANT"),
    _row("dynamic-mse", "dynamic", "dynamic_wi8_afp32(MSE)", tuned=True): _dynamic("MSE"),
    _row("dynamic-octav", "dynamic", "dynamic_wi8_afp32(OCTAV)", tuned=True): _dynamic("OCTAV"),
    _row("dynamic-gptq", "dynamic", "dynamic, GPTQ for FULLY_CONNECTED, calibrated", tuned=True): partial(
        from_recipe, recipe=partial(linear_dynamic, "GPTQ")
    ),
    # OSCAR is the tool's relative of SmoothQuant: per-channel scales before FULLY_CONNECTED and optimal clipping.
    _row("dynamic-oscar", "dynamic", "dynamic, OSCAR for FULLY_CONNECTED, calibrated", tuned=True): partial(
        from_recipe, recipe=partial(linear_dynamic, "OSCAR"), ranges="watched"
    ),
    _row("dynamic-hadamard", "dynamic", "recipes/dynamic_wi8_afp32_hadamard_recipe.json", tuned=True): partial(
        from_recipe, recipe=hadamard
    ),
}

if __name__ == "__main__":
    peer_main(__doc__, ROWS)
