"""Says which layers of an int8 ONNX file can saturate a 16-bit sum, in a file beside the model and in the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.proof import Stamped
from edgekit_converters.quantize.saturation import LayerKind, SaturationProof, prove
from edgekit_runtime.errors import ConversionError

__all__ = ["SATURATION_FILE", "prove_layers", "record_saturation"]

SATURATION_FILE = "saturation.json"


def prove_layers(
    plan: QuantPlan, found: Mapping[str, Stamped], kinds: Mapping[str, LayerKind]
) -> tuple[SaturationProof, ...]:
    """Bound the sums of every static and dynamic int8 layer, on the weights that stand in the file.

    All inputs from 0 to 255 count, also where the file says int8: a default x86 session makes uint8 of those.

    Args:
        plan: Of the file; layers with 16-bit activations have no U8S8 kernel and are left out.
        found: From ``read_onnx``.
        kinds: From ``kernel_kinds``.
    """
    proofs = []
    for layer in plan.layers:
        wide = layer.input is not None and layer.input.bits != 8
        if layer.name not in found or layer.name not in kinds or wide or layer.mode not in (Mode.STATIC, Mode.DYNAMIC):
            continue
        held = found[layer.name]
        bias = None if held.bias is None else held.bias.astype("int32")
        proofs.append(prove(layer.name, held.codes, kind=kinds[layer.name], bias=bias))
    return tuple(proofs)


def record_saturation(proofs: Sequence[SaturationProof], folder: Path, *, must_be_safe: bool) -> str:
    """Write ``saturation.json``, one proof a layer, and say it in one line.

    Args:
        proofs: Of all int8 layers.
        folder: Of the model.
        must_be_safe: The recipe asked for narrow weights.

    Raises:
        ConversionError: A layer can saturate although it must not (E0772).
    """
    unsafe = [proof.layer for proof in proofs if not proof.safe]
    if unsafe and must_be_safe:
        raise ConversionError(
            "E0772",
            f"layers can saturate although quantize.seven_bit is set: {', '.join(unsafe[:3])}",
            why="their sums leave 16 bits on x86 without VNNI, or 32 bits anywhere",
            fix="set quantize.seven_bit: true; a layer with more than 66,000 inputs must stay float",
        )
    content = {"layers": [proof.as_json() for proof in proofs], "unsafe": unsafe}
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    (folder / SATURATION_FILE).write_text(text + "\n", encoding="utf-8")
    return f"{len(unsafe)} of {len(proofs)} int8 layers can saturate 16-bit sums on x86 without VNNI"
