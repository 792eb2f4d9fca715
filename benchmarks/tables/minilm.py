"""Tables of results/minilm.json: every lane of edgekit's plans on all-MiniLM-L6-v2."""

from tables.markdown import load, megabytes, ratio, table

__all__ = ["lanes"]


def lanes() -> str:
    rows = []
    for sequence, found in load("minilm")["figures"].items():
        for row in found["lanes"]:
            kind, _, plan = row["lane"].partition("-")
            rows.append(
                [
                    sequence.removeprefix("s"),
                    {"onnx": "ONNX", "tflite": "TFLite"}[kind],
                    plan,
                    megabytes(row["mb"]),
                    f"{row['cosine_mean']:.4f} / {row['cosine_min']:.4f}",
                    f"{row['nearest_blocks']:.3f} / {row['nearest_all']:.3f}",
                    f"{row['cpu_ms_min']:.2f} / {row['cpu_ms_median']:.2f}",
                    ratio(row["times_faster_than_fp32"]),
                ]
            )
    head = ("tokens", "format", "plan", "MB", "cosine, mean / worst", "nearest, 150 / 600", "CPU ms, min / median")
    return table([*head, "faster than own float32"], rows)
