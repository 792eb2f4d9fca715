"""Keeps the codes of a plan's weights beside ``plan.json``, which holds their digests alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgekit_converters.quantize.plan import LayerPlan, QuantPlan
from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger
from edgekit_converters.quantize.schemes.codebook import Codebook
from edgekit_converters.quantize.schemes.lookup import Coded
from edgekit_converters.quantize.schemes.power import PowerOfTwo
from edgekit_converters.quantize.schemes.scheme import SchemeKind, digest_of
from edgekit_runtime.errors import ConversionError

__all__ = ["CODES_FILE", "load_codes", "save_codes"]

CODES_FILE = "codes.safetensors"
_ROLES = ("codes", "scales", "table")


def save_codes(plan: QuantPlan, folder: Path) -> None:
    """Write the codes of a plan; nothing where no layer has any."""
    arrays = {}
    for layer in plan.layers:
        for role in _ROLES if layer.coded is not None else ():
            values = getattr(layer.coded, role, None)
            if values is not None:
                arrays[f"{layer.name}/{role}"] = np.ascontiguousarray(values)
    if arrays:
        save_file(arrays, folder / CODES_FILE)


def load_codes(plan: QuantPlan, folder: Path) -> QuantPlan:
    """Give the plan with the codes of its folder.

    Raises:
        ConversionError: Codes are absent or not those that the plan was made with (E0797).
    """
    if all(layer.scheme is None for layer in plan.layers):
        return plan
    path = folder / CODES_FILE
    arrays = load_file(path) if path.is_file() else {}
    return replace(plan, layers=tuple(_loaded(layer, arrays) for layer in plan.layers))


def _loaded(layer: LayerPlan, arrays: dict[str, NDArray[np.generic]]) -> LayerPlan:
    if layer.scheme is None:
        return layer
    held = {role: arrays.get(f"{layer.name}/{role}") for role in _ROLES}
    coded = None if held["codes"] is None else _coded(layer.scheme.kind, layer.scheme.block, held)
    if coded is None or digest_of(coded) != layer.scheme.sha256:
        raise ConversionError(
            "E0797",
            f"the codes of {layer.name} are {'absent' if coded is None else 'not those of the plan'}",
            why=f"plan.json names codes with sha256 {layer.scheme.sha256[:16]}",
            fix=f"keep plan.json and {CODES_FILE} of one build together, or build again",
        )
    return replace(layer, coded=coded)


def _coded(kind: SchemeKind, block: int, held: dict[str, NDArray[np.generic] | None]) -> Coded:
    codes, scales, table = (None if held[role] is None else np.asarray(held[role]) for role in _ROLES)
    assert codes is not None
    if kind == "codebook":
        assert table is not None
        return Codebook(codes=codes, table=table)
    assert scales is not None
    if kind == "power-of-two":
        return PowerOfTwo(codes=codes, scales=scales)
    return BlockwiseInteger(codes=codes, scales=scales, block=block or codes.shape[1], bits=4)
