"""An engine that is older than the file: tflite-runtime 2.14 loads a layer that it cannot compute, and says nothing."""

import pytest
from fault_bundles import edgekit, failed
from planting import requantised

from edgekit.emulator.home import Home
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.planner import Planner

LANE = "armv7:cortex-a7/tflite-int8"


@pytest.fixture
def emulated():
    """Run parity with an emulated Cortex-A7, whose engine is tflite-runtime 2.14."""
    home = Home.default()
    if not all(home.is_ready(part) for part in ("qemu", "armv7")):
        pytest.skip("the emulator is not set up: edgekit emulator setup --arch armv7")

    def run(bundle):
        given = ("--on", LANE, "--rows", "4", "--json")
        return edgekit("parity", bundle, *given, cwd=bundle.parent, own_cache=False)

    return run


def test_layers_measured_at_each_run_answer_garbage_there_and_the_lane_fails(texts, tmp_path, emulated):
    planner = Planner(
        mode=lambda path: Mode.STATIC if path.endswith("words") else Mode.DYNAMIC, whole_network=False, techniques=False
    )
    bundle = requantised(texts, tmp_path / "it", planner)
    here = edgekit("parity", bundle, "--on", "tflite-int8", "--json", cwd=bundle.parent)
    assert here.code == 0, here.err  # the file is sound
    answer = emulated(bundle)
    assert answer.code == 3
    assert {(LANE, "selftest"), (LANE, "min_cosine"), (LANE, "min_sqnr")} & failed(answer) == {
        (LANE, "selftest"),
        (LANE, "min_cosine"),
    }
    (engine,) = (lane for lane in answer.json["lanes"] if lane["lane"] == LANE)
    assert (engine["engine"], engine["engine_version"]) == ("tflite-runtime", "2.14.0")
    # The layers are sound in the kernels of this machine: the fault lies in the engine, not in the file.
    assert answer.json["layers"]["tflite-int8"]["first_divergence"] is None


def test_static_layers_answer_there_as_here(digits_bundle, emulated):
    answer = emulated(digits_bundle)
    assert answer.code == 0, answer.err
