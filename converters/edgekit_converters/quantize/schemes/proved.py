"""Proves that a file holds the coded weights of its plan."""

from collections import Counter
from collections.abc import Iterable

from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.schemes.lookup import Coded
from edgekit_converters.quantize.schemes.scheme import digest_of
from edgekit_runtime.errors import ConversionError

__all__ = ["prove_codes"]


def prove_codes(plan: QuantPlan, found: Iterable[Coded]) -> int:
    """Compare codes, scales and tables of a file with those of its plan, by their digests.

    Args:
        plan: What should be in the file.
        found: From ``read_onnx_codes`` or ``read_tflite_codes``.

    Returns:
        Number of layers that are equal.

    Raises:
        ConversionError: A layer's codes are not in the file, to the bit (E0798).
    """
    waiting = Counter(digest_of(coded) for coded in found)
    equal = 0
    for layer in plan.layers:
        if not layer.is_coded:
            continue
        assert layer.scheme is not None
        if not waiting[layer.scheme.sha256]:
            raise ConversionError(
                "E0798",
                f"codes, scales or table of {layer.name} in the file differ from the plan",
                why=f"no {layer.scheme.kind} weights in it have sha256 {layer.scheme.sha256[:16]}",
                fix="report the model: the writer and the plan must agree to the bit",
            )
        waiting[layer.scheme.sha256] -= 1
        equal += 1
    return equal
