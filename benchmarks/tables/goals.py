"""The first table of docs/benchmarks.md: what was aimed at, what was measured, and the command that measures it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tables.markdown import RESULTS, load, table

__all__ = ["GOALS", "at_least", "at_most", "goals"]

Figures = Mapping[str, Any]
_CLOSE_ENOUGH = 0.997  # a plan that is less close does not count, however fast it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One row.

    Attributes:
        work: What is quantised, or done.
        goal: In words.
        result: Name of the file that the benchmark writes.
        measured: Turns its figures into one line for each case.
    """

    work: str
    goal: str
    result: str
    measured: Callable[[Figures], Iterator[str]]


def at_least(what: str, value: float, bound: float, form: str = ".5f") -> str:
    """Say a figure, and whether it reached the bound; a NaN has missed it."""
    return f"{what} {value:{form}}" + ("" if value >= bound else f" (**missed**: {bound:{form}})")


def at_most(what: str, value: float, bound: float, form: str = ".2f") -> str:
    """Say a figure, and whether it stayed within the bound; a NaN has not."""
    return f"{what} {value:{form}}" + ("" if value <= bound else f" (**missed**: {bound:{form}})")


def _fastest(figures: Figures) -> Iterator[str]:
    bounds = {"onnx": ("ONNX", 0.999, 2.0), "tflite": ("TFLite", 0.998, 3.3)}
    for sequence, found in figures.items():
        for kind, (name, cosine, times) in bounds.items():
            close = [
                row
                for row in found["lanes"]
                if row["lane"].startswith(f"{kind}-")
                and not row["lane"].endswith("-fp32")
                and row["cosine_mean"] >= _CLOSE_ENOUGH
            ]
            if not close:
                yield f"{sequence} {name}: **missed**, no plan reaches cosine {_CLOSE_ENOUGH}"
                continue
            row = min(close, key=lambda one: one["cpu_ms_min"])
            yield f"{sequence} {name}, plan `{row['lane'].partition('-')[2]}`: " + ", ".join(
                [
                    at_least("cosine", row["cosine_mean"], cosine),
                    at_least("nearest in blocks of 150", row["nearest_blocks"], 0.96, ".3f"),
                    at_least("among 600", row["nearest_all"], 0.96, ".3f"),
                    at_least("times faster", row["times_faster_than_fp32"], times, ".2f"),
                    at_most("MB", row["mb"], 23.6, ".1f"),
                ]
            )


def _static(figures: Figures) -> Iterator[str]:
    for sequence, found in figures.items():
        lanes = {row["lane"]: row["cosine_mean"] for row in found["lanes"]}
        for lane, name, bound in (("onnx-static", "ONNX", 0.999), ("tflite-static", "TFLite", 0.997)):
            if lane in lanes:
                yield f"{sequence} {name}: " + at_least("cosine", lanes[lane], bound)


def _whole(figures: Figures) -> Iterator[str]:
    for plan, bound in (("int8", 0.97), ("int16-residual", 0.99)):
        found = figures["plans"][plan]["onnx"]
        yield f"`{plan}`: " + at_least("cosine", found["onnxruntime"]["cosine_mean"], bound)


def _drops(lanes: tuple[tuple[str, str, float, float], ...]) -> Callable[[Figures], Iterator[str]]:
    """Say median and worst drop of lanes: key, name, and the bounds of both."""

    def measured(figures: Figures) -> Iterator[str]:
        for key, name, median, worst in lanes:
            for kind, form in (("onnx", "ONNX"), ("tflite", "TFLite")):
                found = figures["summary"].get(f"{key} {kind}")
                if found:
                    yield f"{name}, {form} ({found['results']} results): " + ", ".join(
                        [
                            at_most("median", found["median_drop_points"], median),
                            at_most("worst", found["worst_drop_points"], worst),
                        ]
                    )

    return measured


def _calibration(figures: Figures) -> Iterator[str]:
    for form, methods in figures.get("time", {}).items():
        for method, found in methods.items():
            yield f"{form}, `{method}`: " + at_most("CPU s", found["calibration_cpu_s"], found["bound_cpu_s"])
    for method, found in figures.get("memory", {}).items():
        counts = sorted(int(name.removeprefix("rows_")) for name in found)
        peaks = [found[f"rows_{count}"] for count in counts]
        flat = " to ".join(f"{one['peak_mib']:.0f}" for one in (peaks[0], peaks[-1]))
        worst = max(peaks, key=lambda one: one["peak_mib"])
        yield f"`{method}`, {counts[0]} to {counts[-1]:,} rows: {flat} MiB, " + at_most(
            "highest peak", worst["peak_mib"], worst["bound_mib"], ".0f"
        )


def _agreement(figures: Figures) -> Iterator[str]:
    for case, found in figures.items():
        parts = found["grids"].values()
        both, equal = sum(part["both"] for part in parts), sum(part["equal"] for part in parts)
        layers = found["layers"]["onnx_and_tflite"]
        yield f"`{case}`: " + ", ".join(
            [
                at_least("grids and weights equal", equal / both, 1.0, ".2%"),
                at_most("largest step", layers["largest_steps"], 1, "d"),
                at_least("equal codes", layers["equal_share"], 0.9999, ".4%"),
                at_least("same decisions", found["end_to_end"]["same_decisions"], 0.995, ".2%"),
            ]
        )


GOALS: tuple[Goal, ...] = (
    Goal(
        work="MiniLM-L6, fastest plan with cosine >= 0.997",
        goal="cosine ONNX >= 0.999, TFLite >= 0.998; nearest >= 0.96; ONNX >= 2.0x, TFLite >= 3.3x faster; <= 23.6 MB",
        result="minilm",
        measured=_fastest,
    ),
    Goal(
        work="MiniLM-L6, all linear layers static int8",
        goal="cosine ONNX >= 0.999, TFLite >= 0.997",
        result="minilm",
        measured=_static,
    ),
    Goal(
        work="MiniLM-L6, everything int8, LayerNorm, softmax and GELU too",
        goal="cosine >= 0.97; >= 0.99 with an int16 residual stream",
        result="whole_int8",
        measured=_whole,
    ),
    Goal(
        work="zoo: five transformers, ten CNNs and RNNs, three seeds",
        goal="accuracy drop in points: median <= 0.1, worst <= 0.3 (transformers) or 0.5 (others)",
        result="zoo_int8",
        measured=_drops((("transformer", "transformers", 0.1, 0.3), ("cnn_rnn", "CNNs and RNNs", 0.1, 0.5))),
    ),
    Goal(
        work="stress: 8 LayerNorm channels x30; CNN channel ranges x100",
        goal="within 0.5 points",
        result="zoo_int8",
        measured=_drops(
            (("layernorm_x30", "LayerNorm", 0.5, 0.5), ("conv_ranges_x100", "CNN channels", 0.5, 0.5)),
        ),
    ),
    Goal(
        work="calibration",
        goal="<= 1 s + 1.15x inference; peak <= 1.3x weights + 150 MB, flat from 16 to 4,096 rows",
        result="calibration",
        measured=_calibration,
    ),
    Goal(
        work="ONNX int8 against TFLite int8 of one plan",
        goal="grids, weights, biases equal; a layer: 1 step, >= 99.99 % equal; end to end >= 99.5 % of decisions",
        result="agreement",
        measured=_agreement,
    ),
)


def goals() -> str:
    """Give a row for each goal whose benchmark has been run."""
    rows = []
    for goal in GOALS:
        if (RESULTS / f"{goal.result}.json").is_file():
            found = load(goal.result)
            lines = "<br>".join(goal.measured(found["figures"]))
            rows.append([goal.work, goal.goal, lines, f"`{found['command']}`"])
    return table(["work", "goal", "measured", "command"], rows)
