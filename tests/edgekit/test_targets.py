"""The table of targets."""

import dataclasses
import json
from pathlib import Path
from types import MappingProxyType

import pytest

from edgekit.targets import TARGETS, Target, get_target
from edgekit_runtime.errors import UsageError

KINDS = {"uint8": ".1f", "int8": ".2f"}
NAMES = {
    *("rpi-zero2w", "rpi3", "rpi4", "rpi5", "android-arm64", "android-flagship"),
    *("rk3588", "jetson-orin-nano-cpu", "x86-64"),
}


def test_table_holds_the_promised_boards():
    assert set(TARGETS) == NAMES


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_every_number_has_a_source(target):
    numbers = {
        field.name
        for field in dataclasses.fields(target)
        if isinstance(getattr(target, field.name), int | float) and not isinstance(getattr(target, field.name), bool)
    }
    assert numbers <= set(target.sources)
    assert all(len(source) >= 10 for source in target.sources.values())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_the_type_of_activations_quotes_the_file_of_its_figures(target):
    path = "benchmarks/results/activations.json"
    source = target.sources["activations"]
    assert source.endswith(path)
    held = json.loads((Path(__file__).parents[2] / path).read_text(encoding="utf-8"))["figures"]["files"]
    rows = {row["file"]: row for row in held}
    if target.isa == "x86-64":
        float32 = rows["onnx-fp32"]["cpu_ms_min"]
        quoted = [f"{float32 / rows[f'onnx-{kind}']['cpu_ms_min']:{form}}x" for kind, form in KINDS.items()]
    else:
        cores = ("cortex_a53", "cortex_a76")
        quoted = [str(rows[f"onnx-{kind}"][f"{core}_million_instructions"]) for core in cores for kind in KINDS]
    assert [number for number in quoted if number not in source] == []


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_row_is_plausible(target):
    assert 1 <= target.threads <= target.cores <= 16
    assert 0.5 <= target.clock_ghz <= 5
    assert 2 <= target.int8_macs_per_cycle <= 128
    # Arm: dot products come with ARMv8.2 (A55, A76 and later); without them no kernel passes 8 a cycle.
    if target.isa == "aarch64":
        assert ("asimddp" in target.features) == (target.int8_macs_per_cycle > 8)
        assert ("i8mm" in target.features) == (target.int8_macs_per_cycle > 32)
        assert target.emulation_cpu.startswith("cortex-a")
    assert target.channel_multiple == (16 if target.int8_macs_per_cycle > 8 else 8)
    assert json.loads(json.dumps(target.as_json()))["name"] == target.name


def test_pi_5_cluster_rate_is_that_of_the_source():
    assert get_target("rpi5").peak_int8_gmacs == pytest.approx(29.07 * 2.4 * 4)


def test_unknown_target_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'rpi5'") as caught:
        get_target("rpi-5")
    assert "jetson-orin-nano-cpu" in caught.value.fix


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 0},
        {"threads": 99},
        {"clock_ghz": float("nan")},
        {"memory_mib": -1},
        {"sources": MappingProxyType({})},
    ],
)
def test_wrong_row_is_refused(change):
    with pytest.raises(ValueError, match="rpi5"):
        dataclasses.replace(TARGETS["rpi5"], **change)


def test_row_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGETS["rpi5"].threads = 2
    assert isinstance(TARGETS["rpi5"], Target)
