"""``edgekit emulator``: prepare ARM on this machine, say what is there, remove it."""

import sys

import click

from edgekit.cli.output import human_bytes, json_option, print_json, print_table

__all__ = ["command"]

_ARCHES = {"aarch64": ("aarch64",), "armv7": ("armv7",), "all": ("aarch64", "armv7")}


@click.group("emulator")
def command() -> None:
    """Run bundles on emulated ARM cores: the lanes arm:cortex-a53, -a72, -a76 and armv7:cortex-a7 of edgekit parity.

    An emulated core gives its answers and a repeatable count of instructions; it never gives a latency.
    """


@command.command("setup")
@click.option("--arch", type=click.Choice(list(_ARCHES)), default="all", show_default=True, help="Guests to prepare.")
@click.option("--mirror", metavar="URL", help="Debian mirror; without it that of this machine's apt.")
@json_option
def setup(arch: str, mirror: str | None, as_json: bool) -> None:
    """Fetch and unpack the emulator into the cache; nothing is installed, and a killed setup goes on."""
    from edgekit.emulator.home import Home
    from edgekit.emulator.setup import prepare

    home = Home.default()
    prepare(_ARCHES[arch], home=home, mirror=mirror, tell=_tell)
    if as_json:
        print_json("emulator", {"folder": str(home.root), "ready": list(_ARCHES[arch])})


@command.command("status")
@json_option
def status(as_json: bool) -> None:
    """Say which parts are ready, and what they hold."""
    from edgekit.emulator.home import Home
    from edgekit.emulator.pins import PARTS, read_pins

    home, pins = Home.default(), read_pins()
    rows = []
    for part in (*PARTS, "counter"):
        held = [f"{pin.name} {pin.version}" for pin in pins.of(part) if pin.is_wheel or pin.name in _SHOWN]
        holds = ", ".join(held) if held else "counts instructions"
        size = sum(path.lstat().st_size for path in home.part(part).rglob("*") if not path.is_dir())
        rows.append({"part": part, "ready": home.is_ready(part), "bytes": size, "holds": holds})
    if as_json:
        print_json("emulator", {"folder": str(home.root), "parts": rows})
        return
    print(home.root)
    cells = [
        (row["part"], "ready" if row["ready"] else "not set up", human_bytes(int(str(row["bytes"]))), row["holds"])
        for row in rows
    ]
    print_table(("part", "state", "size", "holds"), [tuple(map(str, row)) for row in cells], right=frozenset({2}))
    if not all(row["ready"] for row in rows):
        print("\nTo set it up: edgekit emulator setup")


_SHOWN = frozenset({"qemu-user", "python3.11-minimal", "libc6", "python3-numpy"})


@command.command("remove")
@json_option
def remove(as_json: bool) -> None:
    """Delete the emulator from the cache."""
    from edgekit.emulator.home import Home
    from edgekit.emulator.setup import remove as delete

    home = Home.default()
    there = home.root.exists()
    delete(home)
    _tell(f"removed {home.root}" if there else f"nothing to remove: there is no {home.root}")
    if as_json:
        print_json("emulator", {"removed": str(home.root)})


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
