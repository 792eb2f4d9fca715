"""``edgekit sign``: a signature beside a bundle."""

from dataclasses import asdict

import click

from edgekit.cli.output import bundle_argument, json_option, print_json
from edgekit.signing import sign

__all__ = ["command"]


@click.command("sign")
@bundle_argument
@click.option("--key", required=True, metavar="KEY", help="Private key, as `edgekit keygen` writes it.")
@click.option(
    "--release-counter",
    type=click.IntRange(0, 2**53),
    default=0,
    show_default=True,
    help="Must not fall from one release to the next.",
)
@click.option("--replace", is_flag=True, help="Replace a signature of other bytes or another counter.")
@json_option
def command(bundle: str, key: str, release_counter: int, replace: bool, as_json: bool) -> None:
    """Check BUNDLE and sign it: BUNDLE.sig is written, BUNDLE stays as it is."""
    signed = sign(bundle, key, release_counter=release_counter, replace=replace)
    if as_json:
        print_json("sign", {"bundle": bundle, **asdict(signed)})
        return
    release = signed.release
    count = f", {signed.signatures} signatures" if signed.signatures > 1 else ""
    print(f"{signed.file}: {release.name} {release.version}, release counter {release.release_counter}{count}")
    print(f"signed by {signed.key}")
