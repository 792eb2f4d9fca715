"""``edgekit report``: a run as one HTML file that anybody can open."""

from pathlib import Path

import click

from edgekit.cli.output import human_bytes, json_option, print_json

__all__ = ["command"]


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="File to write.")
@json_option
def command(run: Path, out: Path, as_json: bool) -> None:
    """Write RUN, an evidence file or the folder of a build, as one HTML file: no script, no network, at most 1 MB."""
    from edgekit.html_report.render import write_report

    page, size = write_report(run, out)
    passed = {"good": True, "bad": False, "open": None}[page.state]
    if as_json:
        content = {"run": str(run), "report": str(out), "bytes": size, "passed": passed, "verdict": page.headline}
        print_json("report", content)
        return
    print(page.headline)
    print(f"{out} ({human_bytes(size)})")
