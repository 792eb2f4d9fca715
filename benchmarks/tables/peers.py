"""Tables of results/peers.json: the best of each peer, every recipe with its figures, and how each recipe was set."""

from collections.abc import Iterator, Mapping
from typing import Any

from tables.markdown import load, megabytes, ratio, table

__all__ = ["best", "every", "failures", "recipes"]

_NAMES: Mapping[str, str] = {
    "extra": "edgekit",
    "ort": "ONNX Runtime quantizer",
    "aeq": "ai-edge-quantizer",
    "optimum": "optimum-onnx",
    "olive": "Olive",
    "executorch": "ExecuTorch, XNNPACK",
}
_VERSIONS: Mapping[str, str] = {
    "ort": "onnxruntime",
    "aeq": "ai-edge-quantizer",
    "optimum": "optimum-onnx",
    "olive": "olive-ai",
    "executorch": "executorch",
}
_ENGINES: Mapping[str, str] = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", "executorch": "ExecuTorch"}
_ENOUGH = 0.997  # mean cosine below which speed is no merit
Row = Mapping[str, Any]


def lanes(sequence: int | None = None) -> list[Row]:
    rows: Iterator[Row] = iter(load("peers")["figures"]["lanes"].values())
    found = [row for row in rows if sequence in {None, row["sequence"]}]
    order = list(_NAMES)
    return sorted(found, key=lambda row: order.index(row["peer"]))


def best(sequence: int) -> str:
    """Each tool's static default, what comes closest to float32, and the fastest file that is close enough."""
    rows = []
    alive = [row for row in lanes(sequence) if "error" not in row and row["mode"] != "float"]
    for peer, engine in dict.fromkeys((row["peer"], row["engine"]) for row in alive):
        mine = [row for row in alive if (row["peer"], row["engine"]) == (peer, engine)]
        chosen: dict[str, list[str]] = {}
        for name, candidates, better in (
            ("static at its defaults", [row for row in mine if _is_static(row) and row.get("tuned") is False], _close),
            ("closest static", [row for row in mine if _is_static(row)], _close),
            ("closest", mine, _close),
            ("fastest from 0.997 up", [row for row in mine if _close(row) >= _ENOUGH and "cpu_ms_min" in row], _fast),
        ):
            if candidates:
                chosen.setdefault(max(candidates, key=better)["variant"], []).append(name)
        by_name = {row["variant"]: row for row in mine}
        rows += [
            [_who(peer), ", ".join(why), f"`{variant}`", *_figures(by_name[variant])] for variant, why in chosen.items()
        ]
    return table(["tool", "which", "recipe", *_HEAD], rows)


def _is_static(row: Row) -> bool:
    return bool(row["mode"] == "static")


def _close(row: Row) -> float:
    return float(row["cosine_mean"])


def _fast(row: Row) -> float:
    return -float(row["cpu_ms_min"])


_HEAD = ("engine", "MB", "cosine, mean / worst", "nearest, 150 / 600", "CPU ms, min / median", "faster than float32")


def _figures(row: Row) -> list[str]:
    took = f"{row['cpu_ms_min']:.2f} / {row['cpu_ms_median']:.2f}" if "cpu_ms_min" in row else ""
    return [
        _ENGINES[row["engine"]],
        megabytes(row["size_mb"]),
        f"{row['cosine_mean']:.4f} / {row['cosine_min']:.4f}",
        f"{row['nearest_blocks']:.3f} / {row['nearest_all']:.3f}",
        took,
        ratio(row.get("times_faster_than_float")),
    ]


def every(sequence: int) -> str:
    """All recipes that gave a file that runs."""
    alive = [row for row in lanes(sequence) if "error" not in row]
    rows = [[_who(row["peer"]), f"`{row['variant']}`", row["mode"], *_figures(row)] for row in alive]
    return table(["tool", "recipe", "mode", *_HEAD], rows)


def failures() -> str:
    """All recipes that gave none, with the error."""
    rows = [
        [_who(row["peer"]), f"`{row['variant']}`, {row['sequence']} tokens", f"`{row['error']}`"]
        for row in lanes()
        if "error" in row
    ]
    return table(["tool", "recipe", "error"], rows)


def recipes() -> str:
    """What every recipe sets, and the page that says so."""
    versions = load("peers")["figures"]["peer_versions"]
    rows = {
        (row["peer"], row["variant"]): [
            f"{_who(row['peer'])} {versions[_VERSIONS[row['peer']]]}",
            f"`{row['variant']}`",
            "tuned" if row["tuned"] else "default",
            row["how"],
            row["documentation"],
        ]
        for row in lanes()
        if row["peer"] != "extra"
    }
    return table(["tool", "recipe", "", "settings", "documentation"], rows.values())


def _who(peer: str) -> str:
    return _NAMES[peer]
