"""``edgekit targets``: the boards, or one of them with the source of every number."""

import click

from edgekit.cli.output import json_option, print_json, print_table
from edgekit.targets import TARGETS, Target, get_target

__all__ = ["command"]

_UNITS = {
    "clock_ghz": "GHz",
    "memory_mib": "MiB",
    "bandwidth_gb_s": "GB/s",
    "int8_macs_per_cycle": "MAC/cycle/core",
}


@click.command("targets")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the boards that a build can aim at; with NAME, show one with the source of each number."""
    if name is None:
        if as_json:
            print_json("targets", {"targets": [target.as_json() for target in TARGETS.values()]})
        else:
            _print_all()
        return
    target = get_target(name)
    if as_json:
        print_json("targets", {"target": target.as_json()})
    else:
        _print_one(target)


def _print_all() -> None:
    header = ("name", "board", "threads", "GHz", "RAM MiB", "int8 GMAC/s", "engine")
    rows = [
        (
            target.name,
            target.description,
            str(target.threads),
            f"{target.clock_ghz:g}",
            str(target.memory_mib),
            f"{target.peak_int8_gmacs:.0f}",
            target.engine,
        )
        for target in TARGETS.values()
    ]
    print_table(header, rows, right=frozenset({2, 3, 4, 5}))
    print("\nRAM: what a model may take. Sources of the numbers: edgekit targets NAME")


def _print_one(target: Target) -> None:
    print(f"{target.name}: {target.description}\n")
    rows = []
    for name, value in target.as_json().items():
        if name in {"name", "description", "sources"}:
            continue
        shown = ", ".join(value) if isinstance(value, list) else f"{value} {_UNITS.get(name, '')}".strip()
        rows.append((name, shown or "none", target.sources.get(name, "")))
    print_table(("field", "value", "source"), rows)
