"""``edgekit build MODEL --quantize-only``: what the options mean, and the table at the end."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.bounds import points_option
from edgekit.cli.output import print_json, print_table
from edgekit.cli.progress import make_progress
from edgekit.recipe.units import Points
from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgekit.parity.closeness import Closeness
    from edgekit.quantise_only.build import LaneLine, QuantiseReport, QuantiseResult

__all__ = ["CLOSENESS", "ONLY_OPTIONS", "closeness_cells", "quantise"]

# Options that mean something for a ready model alone.
ONLY_OPTIONS = (
    *("calibration", "evaluation", "text", "name"),
    *("max_length", "calibration_rows", "min_cosine", "max_changed"),
)
# Options that mean something for a recipe alone.
_RECIPE_OPTIONS = ("max_drop", "trust_code", "offline")
_DEFAULT_TARGET = "x86-64"


def quantise(
    model: Path, *, targets: tuple[str, ...], out: Path | None, as_json: bool, more: Mapping[str, Any]
) -> None:
    """Run the command with the options of ``edgekit build``.

    Raises:
        UsageError: There is no calibration file, the bundle's name is not allowed, or an option is for recipes (E0148,
            E0149, E0154).
    """
    for key in _RECIPE_OPTIONS:
        if more[key]:
            option = f"--{key.replace('_', '-')}"
            fix = "bounds here are --min-cosine and --max-changed" if key == "max_drop" else "leave it out"
            raise UsageError("E0154", f"{option} goes with a recipe, not with --quantize-only", fix=fix)
    if more["calibration"] is None:
        raise UsageError(
            "E0148",
            "--quantize-only needs rows to calibrate on",
            fix="--calibration sentences.txt (one a line; or .csv, .jsonl); arrays.npz for a model of tensors",
        )
    name = more["name"] or re.sub(r"[^a-z0-9]+", "-", model.absolute().stem.lower()).strip("-")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        fix = "name the bundle with --name: lower-case letters, digits and hyphens"
        raise UsageError("E0149", f"a bundle cannot be named {name!r}", fix=fix)
    from edgekit.parity.closeness import Limits
    from edgekit.quantise_only.build import Wanted, quantise_only

    changed = points_option("--max-changed", more["max_changed"], Points(5.0))
    usual = Limits()
    results = []
    for target in targets or (_DEFAULT_TARGET,):
        wanted = Wanted(
            model=model,
            calibration=more["calibration"],
            evaluation=more["evaluation"],
            name=name,
            out=out if out is not None else Path("runs") / name / target,
            limits=Limits(min_cosine=more["min_cosine"] or usual.min_cosine, max_changed=changed.value / 100),
            all_int8=more["all_int8"],
            keep_int8=more["keep_int8"],
            decisions=more["plan"],
            **{key: more[key] for key in ("text", "max_length", "calibration_rows") if more[key] is not None},
        )
        results.append(quantise_only(wanted, target=target, progress=make_progress()))
    if as_json:
        print_json("build", {"builds": [_as_json(result) for result in results]})
        return
    for result in results:
        print_closeness(result.report)
        print(f"bundle: {result.bundle}")


def _as_json(result: "QuantiseResult") -> dict[str, object]:
    return {"bundle": str(result.bundle), "sha256": result.digest, "report": result.report.as_json()}


CLOSENESS = ("cosine", "worst", "SQNR", "nearest 150", "nearest all", "changed")
_HEADER = ("lane", "plan", "MB", *CLOSENESS, "CPU ms", "faster")


def print_closeness(report: "QuantiseReport") -> None:
    """Print the table of a model that was quantised as it is."""
    base = {line.lane.partition("-")[0]: line.cpu_ms_min for line in report.lanes if line.lane.endswith("-fp32")}
    print(f"\n{report.name} for {report.target}: {report.model}; {report.rows:,} rows that nothing was calibrated on")
    print(f"CPU: {report.machine}, one thread")
    print_table(_HEADER, [_cells(line, base) for line in report.lanes], right=frozenset(range(2, len(_HEADER))))
    held = ", ".join(line.lane for line in report.lanes if line.in_bundle)
    print(f"against float32 in PyTorch; faster: than float32 in the same engine; the bundle holds {held}")


def _cells(line: "LaneLine", base: Mapping[str, float]) -> list[str]:
    return [
        line.lane,
        line.plan,
        f"{line.size_mb:.2f}",
        *closeness_cells(line.close),
        f"{line.cpu_ms_min:.3f}",
        f"{base[line.lane.partition('-')[0]] / line.cpu_ms_min:.2f}x",
    ]


def closeness_cells(close: "Closeness") -> list[str]:
    """Give the cells from ``cosine`` to ``changed``."""
    return [
        f"{close.cosine_mean:.5f}",
        f"{close.cosine_worst:.5f}",
        f"{close.sqnr_db:.1f} dB",
        "-" if close.nearest_blocks is None else f"{close.nearest_blocks:.3f}",
        "-" if close.nearest_all is None else f"{close.nearest_all:.3f}",
        "-" if close.changed is None else f"{close.changed} ({100 * close.changed / close.rows:.2f} %)",
    ]
