"""``edgekit inspect``: what is inside a bundle."""

import json
from collections.abc import Mapping
from typing import Any

import click

from edgekit.cli.output import bundle_argument, human_bytes, json_option, print_json, print_table
from edgekit.targets import TARGETS
from edgekit_runtime.bundle import Bundle, verify
from edgekit_runtime.manifest import TensorSpec

__all__ = ["command"]

_PLANS = ("plan.json", "plan-onnx.json", "plan-tflite.json")  # one for both formats, or one each


@click.command("inspect")
@bundle_argument
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Check BUNDLE and show its manifest, members, models and parity."""
    checked = verify(bundle)
    parity = checked.json("parity.json") if "parity.json" in checked.names else None
    provenance = checked.json("provenance.json") if "provenance.json" in checked.names else None
    plans = {name: checked.json(name) for name in _PLANS if name in checked.names}
    coverage = checked.json("coverage.json") if "coverage.json" in checked.names else None
    sums = checked.json("saturation.json") if "saturation.json" in checked.names else None
    if as_json:
        manifest = json.loads(checked.manifest.to_bytes())
        content = {
            "manifest": manifest,
            "parity": parity,
            "plan": plans.get("plan.json"),
            "plans": plans,
            "coverage": coverage,
            "saturation": sums,
            "provenance": provenance,
        }
        print_json("inspect", {"bundle": bundle, "sha256": checked.digest, **content})
        return
    manifest = checked.manifest
    print(f"{manifest.name} {manifest.version}, {manifest.task}, built for {manifest.target}")
    print(f"sha256 {checked.digest}, intact")
    if manifest.calibration_sha256:
        print(f"calibrated on rows with sha256 {manifest.calibration_sha256}")
    target = TARGETS.get(manifest.target)  # a later version may have dropped it
    if target is not None:
        source = target.sources["activations"]
        print(f"{target.name} takes {target.activations} activations in ONNX by default: {source}")
    print()
    _print_members(checked)
    _print_models(checked, plans)
    for name, plan in plans.items():
        _print_plan(plan, {"plan-onnx.json": " of ONNX", "plan-tflite.json": " of TFLite"}.get(name, ""))
    _print_coverage(coverage)
    _print_sums(sums)
    _print_tree("parity", parity)
    _print_tree("provenance", provenance)


def _print_members(bundle: Bundle) -> None:
    rows = [
        (member.name, member.role, human_bytes(member.size), member.sha256[:16]) for member in bundle.manifest.members
    ]
    print_table(("member", "role", "size", "sha256 (first 16)"), rows, right=frozenset({2}))


def _print_models(bundle: Bundle, plans: Mapping[str, Any]) -> None:
    rows = []
    for engine, model in bundle.manifest.models.items():
        own = plans.get("plan.json", plans.get("plan-onnx.json" if engine == "onnxruntime" else "plan-tflite.json"))
        precision = model.precision if own is None or model.precision == "float32" else _precision(own)
        for direction, tensors in (("input", model.inputs), ("output", model.outputs)):
            rows += [(engine, precision, direction, tensor.name, _shape(tensor)) for tensor in tensors]
    print()
    print_table(("engine", "precision", "", "tensor", "type"), rows)


def _precision(plan: Any) -> str:  # noqa: ANN401 - checked JSON
    """Say what the manifest calls int8: int8 itself, or weights in fewer bits and activations in more."""
    held = [layer for layer in plan["layers"] if layer["mode"] != "float"]
    coded = sorted({layer["scheme"]["kind"] for layer in held if layer.get("scheme")})
    wide = any((layer["input"] or {}).get("bits") == 16 for layer in held)
    said = [f"{kind} weights" for kind in coded] + ["int16 activations"] * wide
    return ", ".join(said) or "int8"


def _print_plan(plan: Any, whose: str) -> None:  # noqa: ANN401 - checked JSON
    """Print how each layer computes and why, and which techniques were tried."""
    print(
        f"\nquantisation plan{whose}: {plan.get('ranges', 'minmax')} ranges of {plan['calibration_rows']} "
        f"calibration rows, sha256 {plan['calibration_digest'][:16]}"
    )
    rows = [
        (layer["name"], layer["kind"], _mode(layer), _grid(layer["input"]), _grid(layer["output"]), layer["why"])
        for layer in plan["layers"]
    ]
    print_table(("layer", "kind", "mode", "input", "output", "why"), rows)
    for tried in plan["techniques"]:
        verdict = "kept" if tried["kept"] else "left out"
        gain = f"{tried['sqnr_before_db']} -> {tried['sqnr_after_db']} dB"
        print(f"  {tried['name']}: {gain}, {verdict} ({tried['source']})")


def _print_sums(sums: Any) -> None:  # noqa: ANN401 - checked JSON
    """Print what the 16-bit sums of x86 without VNNI can reach, where a layer leaves them."""
    if sums is None:
        return
    layers = sums["layers"]
    print(f"\n16-bit sums on x86 without VNNI: {len(sums['unsafe'])} of {len(layers)} int8 ONNX layers can saturate")
    if sums["unsafe"]:
        print("  edgekit's runtime computes them exactly; elsewhere set session.x64quantprecision=1")
        rows = [
            (each["layer"], str(each["channels"]), str(each["worst_negative"]), str(each["worst_positive"]))
            for each in layers
            if not each["safe"]
        ]
        print_table(("layer", "channels", "lowest sum", "highest sum"), rows, right=frozenset({1, 2, 3}))


def _print_coverage(coverage: Any) -> None:  # noqa: ANN401 - checked JSON
    """Print which calibrated ranges did not hold on training rows that were not calibrated on."""
    if coverage is None:
        return
    if not coverage["rows"]:
        print("\ncoverage of the ranges: unknown, every training row was calibrated on")
        return
    by_name = {tensor["name"]: tensor for tensor in coverage["tensors"]}
    outside = (
        f"{len(coverage['worst'])} of {len(by_name)} tensors leave them most"
        if coverage["worst"]
        else "none leaves them"
    )
    print(f"\ncoverage of the ranges on {coverage['rows']} held-out training rows: {outside}")
    rows = [
        (name, _ends(tensor["calibrated"]), _ends(tensor["held_out"]), f"{_clipped(tensor):.4%}")
        for name, tensor in ((name, by_name[name]) for name in coverage["worst"])
    ]
    if rows:
        print_table(("tensor", "calibrated", "held out", "clipped"), rows, right=frozenset({3}))


def _ends(ends: Any) -> str:  # noqa: ANN401 - checked JSON
    return f"{ends[0]:.3g} to {ends[1]:.3g}"


def _clipped(tensor: Any) -> float:  # noqa: ANN401 - checked JSON
    return float(tensor["fraction_below"] + tensor["fraction_above"])


def _mode(layer: Any) -> str:  # noqa: ANN401 - checked JSON
    """Say how a layer computes, and how its weights are coded if not in int8: ``dynamic int4/32 gptq``."""
    scheme = layer.get("scheme")
    if scheme is None or layer["mode"] == "float":
        return str(layer["mode"])
    block = f"/{scheme['block']}" if scheme["block"] else ""
    rounding = "" if scheme["rounding"] == "nearest" else f" {scheme['rounding']}"
    return f"{layer['mode']} {scheme['kind']}{block}{rounding}"


def _grid(grid: Any) -> str:  # noqa: ANN401 - checked JSON
    bits = "" if grid is None or grid.get("bits", 8) == 8 else f", {grid['bits']} bits"
    return "" if grid is None else f"{grid['low']:.3g} to {grid['high']:.3g}{bits}"


def _shape(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} ({', '.join(map(str, tensor.shape))})"


def _print_tree(title: str, value: object) -> None:
    """Print a JSON value as one line per leaf, with the path that leads to it."""
    if value is None:
        return
    print(f"\n{title}")
    for path, leaf in _leaves(value, ()):
        print(f"  {'.'.join(path)}: {leaf}")


def _leaves(value: object, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in _leaves(each, (*path, str(key)))]
    if isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        return [leaf for index, each in enumerate(value) for leaf in _leaves(each, (*path, str(index)))]
    shown = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return [(path, f"{value:.6g}" if isinstance(value, float) else shown)]
