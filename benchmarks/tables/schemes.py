"""Table of results/schemes.json: size, closeness, memory and speed of weight schemes."""

from tables.markdown import load, megabytes, table

__all__ = ["schemes"]

_LANES = {"onnx": "ONNX", "tflite float": "TFLite, float activations", "tflite int8": "TFLite, int8 activations"}


def schemes() -> str:
    rows = []
    for row in load("schemes")["figures"]["rows"]:
        kind = row["format"]
        parts = row["file"].split(".")
        if kind == "tflite" and len(parts) > 2:
            kind = f"tflite {parts[-2]}"
        rows.append(
            [
                row["scheme"],
                _LANES.get(kind, "TFLite"),
                megabytes(row["size_mb"]),
                f"{row['cosine_mean']:.4f} / {row['cosine_min']:.4f}",
                f"{row['cpu_ms_min']:.1f}",
                f"{row['rss_mib']:.0f}",
            ]
        )
    return table(["weights", "file", "MB", "cosine, mean / worst", "CPU ms, min", "memory, MiB"], rows)
