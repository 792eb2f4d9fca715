"""``edgekit bench``: CPU time per inference of a bundle's lanes, side by side."""

from dataclasses import asdict
from pathlib import Path

import click

from edgekit.cli.output import bundle_argument, json_option, print_json, print_table
from edgekit.lanes.local import LANES, engine_of

__all__ = ["command"]

_ENGINE_LANES = tuple(name for name in LANES if name != "torch")


@click.command("bench")
@bundle_argument
@click.option("--on", "lanes", multiple=True, type=click.Choice(_ENGINE_LANES), help="Lane; else those it holds.")
@click.option("--rounds", type=click.IntRange(min=10), default=100, show_default=True, help="Inferences per lane.")
@json_option
def command(bundle: str, lanes: tuple[str, ...], rounds: int, as_json: bool) -> None:
    """Measure the CPU time of one inference of BUNDLE: one thread, the lanes in turn, on the bundle's own goldens."""
    from edgekit.bench import measure
    from edgekit.lanes.models import bundle_lane
    from edgekit.machine import machine
    from edgekit_runtime.bundle import verify

    path = Path(bundle)
    checked = verify(path)
    suffix = {"int8": "int8", "float32": "fp32"}
    held = {runtime: suffix[entry.precision] for runtime, entry in checked.manifest.models.items()}
    wanted = lanes or [name for name in _ENGINE_LANES if name.endswith(held.get(engine_of(name), "none"))]
    chosen = [bundle_lane(checked, path, name) for name in dict.fromkeys(wanted)]
    names = [spec.name for spec in next(iter(checked.manifest.models.values())).inputs]
    arrays = {name: checked.npy(f"golden/{name}.npy") for name in names}
    count = len(next(iter(arrays.values())))
    rows = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
    times = measure(chosen, rows, rounds=rounds)
    if as_json:
        print_json("bench", {"bundle": bundle, "machine": machine(), "threads": 1, "lanes": [asdict(t) for t in times]})
        return
    print(f"{path.name}; CPU: {machine()}, one thread, CPU time per inference in ms")
    cells = [[t.lane, f"{t.cpu_ms_min:.3f}", f"{t.cpu_ms_median:.3f}", str(t.runs)] for t in times]
    print_table(("lane", "min", "median", "runs"), cells, right=frozenset({1, 2, 3}))
