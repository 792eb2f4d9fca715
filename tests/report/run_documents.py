"""Evidence documents made by the real comparison and the real gates, from answers whose figures can be told by hand."""

import json

import numpy as np

from edgekit.layers import LayerReport
from edgekit.parity.compare import Asked, compare
from edgekit.parity.verdict import judge
from edgekit_converters.layerwise.result import Figures, LayerRow
from edgekit_runtime.evidence import Cost, LaneEvidence, Machine
from edgekit_runtime.rows import RawRows

ROWS = 40
LABELS = ["negative", "positive"]
TARGETS = np.arange(ROWS) % 2
TEXTS = tuple(f"review number {row}" for row in range(ROWS))
DESK = Machine(arch="x86_64", cpu="Desk CPU", features=("avx2", "sse4"), system="Linux 6", python="3.11", numpy="2.4")
BOARD = Machine(
    arch="aarch64", cpu="0x41 0xd08", features=("asimd", "fp"), system="Linux 5", python="3.11", numpy="2.4"
)


def reference_logits():
    """Sure by 2 logits; wrong on rows 0 to 3: 36 of 40 are right."""
    chosen = np.where(np.arange(ROWS) < 4, 1 - TARGETS, TARGETS)
    return np.where(np.arange(2) == chosen[:, None], 1.0, -1.0).astype(np.float32)


def flipped(*rows):
    logits = reference_logits()
    logits[list(rows)] *= -1
    return logits


def lane(name, outputs, *, engine="onnxruntime", machine=DESK, precision="int8", cost=None):
    return LaneEvidence(
        lane=name,
        engine=engine,
        engine_version="9.8.7",
        precision=precision,
        threads=1,
        kernels="some kernels",
        machine=machine,
        outputs=outputs,
        tensors={"input_ids": np.arange(len(outputs), dtype=np.float64)},
        selftest=() if precision == "int8" else None,
        cost=cost or Cost(cpu_ms_min=1.25, cpu_ms_median=1.5),
    )


def lanes():
    """Two flips on ONNX here, none under emulation, and a device with one NaN."""
    broken = reference_logits()
    broken[5, 0] = np.nan
    counted = Cost(instructions_min=48_123_456, instruction_classes={"dot_product": 12_000_000})
    return [
        lane("torch", reference_logits(), engine="torch", precision="float32", cost=Cost()),
        lane("onnx-int8", flipped(10, 11)),
        lane("arm:cortex-a72/tflite-int8", reference_logits(), engine="litert", machine=BOARD, cost=counted),
        lane("pi.json/device", broken, engine="litert", machine=BOARD, cost=Cost(peak_rss_mib=81.5)),
    ]


def layer(name, local, inherited, *, reason=None, note=""):
    def figures(sqnr):
        return Figures(sqnr_db=sqnr, cosine=0.99, rmse=0.1, rmse_steps=0.29, max_difference=1.0, not_finite=0)

    return LayerRow(
        module=name,
        kind="linear",
        mode="static",
        local=figures(local),
        inherited=figures(inherited),
        expected_db=40.0,
        saturation=0.01,
        reason=reason,
        note=note,
        reference="a",
        tensor="b",
    )


LAYERS = (
    layer("encoder.first", 41.5, 41.5),
    layer("encoder.second", 12.25, 11.75, reason="scale", note="weights of channel 3 are 2 times too large"),
    layer("head", float("inf"), float("nan")),
)


def report_of(layers):
    report = LayerReport(
        bundle="x.edge", lane="onnx-int8", rows=8, kernels="k", layers=layers, cpu_s=1.0, peak_rss_mb=10.0
    )
    return report.as_json()


def document(held=None, *, rows=None, targets=TARGETS, layers=LAYERS):
    """Give a whole evidence document."""
    held = lanes() if held is None else held
    rows = RawRows(texts=TEXTS) if rows is None else rows
    precisions = {each.lane: each.precision for each in held}
    asked = Asked(task="text-classification", rows=rows, targets=targets, names=LABELS, precisions=precisions)
    comparison = compare({each.lane: each.outputs for each in held}, asked, reference=held[0].lane)
    return {
        **device_document(held),
        "rows": {"count": len(rows), "sha256": rows.digest(), "source": "rows of a test"},
        "comparison": comparison.as_json(),
        "verdict": judge(comparison).as_json(),
        "layers": {"onnx-int8": report_of(layers)} if layers else {},
        "plan": [{"name": "encoder.first", "kind": "linear", "mode": "dynamic", "why": "rare large values"}],
        "sizes": {"onnx-int8": 14_450_000},
        "labels": LABELS,
        "seed": 7,
        "versions": {"edgekit": "0.1.0"},
        "warnings": ["2 rows were there twice"],
        "created": "2026-01-02T03:04:05+00:00",
    }


def device_document(held):
    """Give what a device writes."""
    return {
        "format": "edgekit-evidence",
        "schema": 1,
        "bundle": {"name": "tiny", "version": "1.2.3", "task": "text-classification", "sha256": "ab" * 32},
        "rows": {"count": ROWS, "sha256": RawRows(texts=TEXTS).digest(), "source": "goldens of the bundle"},
        "lanes": [each.as_json() for each in held],
    }


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
