"""``edgekit keygen``: a pair of keys to sign bundles with."""

from pathlib import Path

import click

from edgekit.cli.output import json_option, print_json
from edgekit.signing import make_keys

__all__ = ["command"]


@click.command("keygen")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="KEY", help="File of the private key.")
@json_option
def command(out: Path, as_json: bool) -> None:
    """Write a private key KEY, for the one who signs, and KEY.pub, for devices; nothing is overwritten."""
    name = make_keys(out)
    if as_json:
        print_json("keygen", {"private": str(out), "public": f"{out}.pub", "key": name})
    else:
        print(f"{out}: private key, mode 0600; keep it off devices and out of repositories")
        print(f"{out}.pub: public key {name}")
