"""Puts the report of a build together from the ``report.json`` in its folder, and from the bundle where it is there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.evidence_document import PlannedLayer
from edgekit.html_report.charts import IntervalRow, interval_chart
from edgekit.html_report.figures import NONE, count, decibel, filled, milliseconds
from edgekit.html_report.lanes import LEGEND
from edgekit.html_report.page import Block, Note, Page, Section, Table
from edgekit.html_report.provenance import plan_section
from edgekit_runtime.bundle import Bundle, verify
from edgekit_runtime.errors import MissingError, UsageError

__all__ = ["build_page"]

_FILE = "report.json"


def build_page(folder: Path) -> Page:
    """Give the report of the build in ``folder``.

    Raises:
        MissingError: There is no ``report.json`` (E0688).
        UsageError: It is damaged (E0191).
        BundleError: The bundle in the folder is damaged.
    """
    path = folder / _FILE
    try:
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        builds = sorted(folder.glob(f"*/{_FILE}"))
        fix = f"name one of them: {', '.join(str(found.parent) for found in builds[:5])}" if builds else "build first"
        raise MissingError("E0688", f"'{folder}' holds no {_FILE}", why="a build writes one", fix=fix) from None
    except (OSError, ValueError) as error:
        raise UsageError("E0191", f"'{path}' is no report of a build", why=str(error), fix="build again") from error
    bundles = sorted(folder.glob("*.edge"))
    bundle = verify(bundles[0]) if len(bundles) == 1 else None
    try:
        return _page(held, bundle)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError("E0191", f"'{path}' is no report of a build", why=why, fix="build again") from error


def _page(held: Mapping[str, Any], bundle: Bundle | None) -> Page:
    lanes = _ready_sections(held) if "lanes" in held else _recipe_sections(held)
    faults = tuple(map(str, held["faults"]))
    passed = held["passed"] is True and not faults
    missed = f"Failed: {len(faults) or 'some'} bound{'s' * (len(faults) != 1)} missed; there is no bundle."
    rows = int(held["rows"] if "lanes" in held else held["eval_rows"])
    version = f" {bundle.manifest.version}" if bundle else ""
    sections = [*lanes, plan_section(_plan(bundle)), _provenance(held, bundle)]
    return Page(
        title=f"{held['name']}{version}",
        subtitle=f"built for {held['target']}; {rows:,} evaluation rows",
        state="good" if passed else "bad",
        headline="Passed: the build met every bound." if passed else missed,
        sentences=faults,
        sections=tuple(section for section in sections if section is not None),
    )


def _recipe_sections(held: Mapping[str, Any]) -> list[Section]:
    """Give accuracy and the table of a build from a recipe."""
    rows, cells = [], []
    for lane in held["rows"]:
        low, high = (100.0 * float(end) for end in lane["accuracy_interval_95"])
        value = 100.0 * float(lane["accuracy"])
        text = f"{value:.2f} % ({low:.2f} to {high:.2f})"
        colour = "int8" if "int8" in str(lane["lane"]) else "fp32"
        rows.append(IntervalRow(label=str(lane["lane"]), text=text, value=value, interval=(low, high), colour=colour))
        drop, changed = lane["drop_points"], lane["changed"]
        cells.append(
            (
                str(lane["lane"]),
                str(lane["engine"]),
                text,
                NONE if drop is None else f"{float(drop):+.2f} points",
                NONE if changed is None else f"{int(changed):,} of {int(held['eval_rows']):,}",
                decibel(None if lane["sqnr_db"] is None else float(lane["sqnr_db"])),
                f"{float(lane['size_mb']):.2f}",
                count(int(lane["parameters"])),
                count(int(lane["macs"])),
                *_times(lane),
            )
        )
    header = ("lane", "engine", "accuracy (95 %)", "lost", "changed", "SQNR", "MB", "parameters", "multiply-adds")
    blocks: list[Block] = [
        filled((*header, *_TIMES), cells, text=header[:2]),
        Note(f"CPU: {held['machine']}, one thread. Lost and changed: against the float32 student in PyTorch."),
    ]
    chart = interval_chart("Accuracy in %, with 95 % intervals", rows, LEGEND[:2])
    return [Section(heading="Accuracy", blocks=[chart]), Section(heading="Lanes", blocks=[*blocks, *_ranges(held)])]


_TIMES = ("CPU ms (least)", "CPU ms (median)")


def _times(lane: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        milliseconds(None if lane[name] is None else float(lane[name])) for name in ("cpu_ms_min", "cpu_ms_median")
    )


def _ranges(held: Mapping[str, Any]) -> list[Block]:
    """Say which calibrated ranges did not hold, and which sums can saturate."""
    blocks: list[Block] = []
    clipped: Sequence[Mapping[str, Any]] = held["clipped"]
    if clipped:
        rows = [(str(each["name"]), f"{100 * float(each['clipped']):.4f} %") for each in clipped]
        text = (
            f"Tensors that leave their {held['ranges']} ranges most, on {int(held['held_out_rows']):,} held-out rows:"
        )
        blocks += [Note(text), filled(("tensor", "clipped"), rows, text=("tensor",))]
    if held["saturating"]:
        blocks.append(
            Note(
                f"{len(held['saturating'])} int8 ONNX layers can saturate a 16-bit sum on x86 without VNNI. edgekit's "
                "runtime computes them exactly; other programs need session.x64quantprecision=1."
            )
        )
    return blocks


def _ready_sections(held: Mapping[str, Any]) -> list[Section]:
    """Give the table of a model that was quantised as it is."""
    cells = []
    for lane in held["lanes"]:
        close, share = lane["close"], lane["close"]["nearest_all"]
        cells.append(
            (
                str(lane["lane"]),
                str(lane["plan"]) or NONE,
                "yes" if lane["in_bundle"] else "no",
                f"{float(close['cosine_mean']):.5f}",
                f"{float(close['cosine_worst']):.5f}",
                decibel(float(close["sqnr_db"])),
                NONE if share is None else f"{100 * float(share):.1f} %",
                NONE if close["changed"] is None else f"{int(close['changed']):,} of {int(close['rows']):,}",
                f"{float(lane['size_mb']):.2f}",
                *_times(lane),
            )
        )
    header = ("lane", "plan", "in the bundle", "mean cosine", "worst cosine", "SQNR", "same neighbour", "changed", "MB")
    note = Note(f"CPU: {held['machine']}, one thread. All against the float model in PyTorch: {held['model']}.")
    return [Section(heading="Lanes", blocks=[filled((*header, *_TIMES), cells, text=header[:3]), note])]


def _plan(bundle: Bundle | None) -> tuple[PlannedLayer, ...]:
    if bundle is None or "plan.json" not in bundle.names:
        return ()
    held: Any = bundle.json("plan.json")
    return tuple(
        PlannedLayer(**{name: str(layer[name]) for name in ("name", "kind", "mode", "why")}) for layer in held["layers"]
    )


def _provenance(held: Mapping[str, Any], bundle: Bundle | None) -> Section:
    facts = [("built for", str(held["target"])), ("CPU of the build", str(held["machine"]))]
    if bundle is not None:
        facts.append(("bundle sha256", bundle.digest))
        source: Any = bundle.json("provenance.json") if "provenance.json" in bundle.names else {}
        facts += [
            (name.replace("_", " "), str(value)) for name, value in source.items() if isinstance(value, str | int)
        ]
        facts += [(str(name), str(version)) for name, version in (source.get("tools") or {}).items()]
    table = Table(header=("what", "value"), rows=tuple(facts), wide=frozenset({1}))
    return Section(heading="Provenance", blocks=[table])
