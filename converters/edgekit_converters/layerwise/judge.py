"""Tells a faulty layer from ordinary int8 noise, and says what is wrong with it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.layerwise.expected import Expected, weight_excess_db, weight_slope
from edgekit_converters.layerwise.network import TensorGrid
from edgekit_converters.layerwise.result import Reason
from edgekit_converters.layerwise.sums import ErrorSums, InputSums
from edgekit_converters.quantize.plan import Grid

__all__ = ["Evidence", "Verdict", "judge"]

# Sound layers of nine networks of the zoo in both formats make at most 4 dB more noise than expected, what stands
# between them 11 dB (benchmarks/results/layers_zoo.json).
_ALL_DB = 12.0  # noise of all channels above the expected
_CHANNEL_DB = 20.0  # of one channel: one draw of its weights' errors may be 11 dB above the mean of such draws
_GRID_DB = 3.0  # where a grid is not the planned one, less is needed
_WEIGHTS_DB = 12.0  # of a channel's weights: 7-bit weights are 6 dB, GPTQ 3 dB above rounding
_BETWEEN_DB = 20.0  # several operators on grids, and softmax, stand between layers
_FLOAT_DB = 60.0  # float against float of the same operators
_SLOPE = 0.2  # a scale that is off by less does not tell itself from noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong.

    Attributes:
        reason: In a word.
        note: With figures.
    """

    reason: Reason
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was found out about one layer.

    Attributes:
        local: Errors with the float network's input.
        given: That input; None between layers.
        expected: Noise of a sound layer; None for a float one, which must agree with float.
        grids: Planned and held grid of input and output, as far as there are both.
        weights: Float and held weights; None where there is nothing to compare.
        between: Several operators, not one layer.
    """

    local: ErrorSums
    given: InputSums | None
    expected: Expected | None
    grids: tuple[tuple[str, Grid, TensorGrid], ...]
    weights: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    between: bool


def judge(found: Evidence) -> Verdict | None:
    """Give what is wrong with a layer, or None."""
    bad = found.local.bad
    if bad.any():
        channels = np.flatnonzero(bad)
        named = f"channel {channels[0]}" if len(channels) == 1 else f"{len(channels)} channels, first {channels[0]}"
        return Verdict(reason="nan", note=f"{int(bad.sum())} entries are NaN or infinite ({named})")
    return _judge_float(found) if found.expected is None else _judge_int8(found)


def _judge_float(found: Evidence) -> Verdict | None:
    sqnr = found.local.figures(None).sqnr_db
    return None if sqnr >= _FLOAT_DB else _named(found, f"{sqnr:.1f} dB where float meets float")


def _judge_int8(found: Evidence) -> Verdict | None:
    excess, channel, by_channel = _excess(found)
    off = [text for side, planned, held in found.grids if (text := _grid_note(side, planned, held))]
    if found.weights is not None:
        verdict = _judge_weights(*found.weights)
        if verdict is not None:
            return verdict
    limit = _BETWEEN_DB if found.between else _GRID_DB if off else _ALL_DB
    if excess >= limit:
        return _named(found, f"{excess:+.1f} dB noise above a sound layer's", off)
    if by_channel >= _CHANNEL_DB + 10 * found.between:
        return _named(found, f"{by_channel:+.1f} dB noise in channel {channel} above a sound layer's", off)
    return None


def _excess(found: Evidence) -> tuple[float, int, float]:
    """Give the noise above the expected over all channels, the worst channel, and its excess, dB."""
    assert found.expected is not None
    local, count = found.local, max(found.local.count, 1)
    floor = 1e-12 * float(local.signal.sum()) / count / max(len(local.signal), 1)  # float32 itself rounds
    wanted = found.expected.noise + floor + 1e-300
    ratios = (local.noise / count + 1e-300) / wanted
    overall = 10 * math.log10((float(local.noise.sum()) / count + 1e-300) / float(wanted.sum()))
    channel = int(np.argmax(ratios))
    return overall, channel, 10 * math.log10(float(ratios[channel]))


def _judge_weights(wanted: NDArray[np.float32], held: NDArray[np.float32]) -> Verdict | None:
    if wanted.shape != held.shape:
        return Verdict(reason="weights", note=f"weights of shape {held.shape}, not {wanted.shape}")
    broken = np.flatnonzero(~np.isfinite(held.reshape(len(held), -1)).all(1))
    if len(broken):
        return Verdict(reason="nan", note=f"weights of channel {broken[0]} are NaN or infinite")
    excess = weight_excess_db(wanted, held)
    worst = int(np.argmax(excess))
    if excess[worst] < _WEIGHTS_DB:
        return None
    count = int((excess >= _WEIGHTS_DB).sum())
    named = f"weights of channel {worst}" + (f" and of {count - 1} more channels" if count > 1 else "")
    slopes = weight_slope(wanted, held)
    scaled = (wanted * slopes.reshape([-1] + [1] * (wanted.ndim - 1))).astype(np.float32)
    if weight_excess_db(scaled, held)[worst] < _WEIGHTS_DB:
        return Verdict(reason="scale", note=f"{named} are {slopes[worst]:.3g} times float's")
    return Verdict(reason="weights", note=f"{named} are {excess[worst]:+.0f} dB off rounding")


def _grid_note(side: str, planned: Grid, held: TensorGrid) -> str:
    ratio = held.scale / planned.scale
    if not math.isclose(ratio, 1.0, rel_tol=1e-5):
        return f"scale of the {side} is {ratio:.3g} times the plan's"
    return "" if held.signed_zero == planned.zero_point else f"zero point of the {side} is not the plan's"


def _named(found: Evidence, note: str, off: list[str] | None = None) -> Verdict:
    if off:
        return Verdict(reason="scale", note=f"{off[0]}; {note}")
    local, given = found.local, found.given
    noise, clipped = float(local.noise.sum()), float(local.clipped.sum())
    if clipped > noise / 2:
        return Verdict(
            reason="clipping", note=f"{100 * clipped / noise:.0f} % of it at the ends of the output's grid; {note}"
        )
    if given is not None and given.entries and given.cut > 10 * given.entries * _rounding_of(found):
        share = given.saturation or 0.0
        return Verdict(reason="clipping", note=f"{100 * share:.2g} % of the input lies outside its grid; {note}")
    if abs(local.slope - 1) > _SLOPE:
        return Verdict(reason="scale", note=f"outputs are {local.slope:.3g} times float's; {note}")
    return Verdict(reason="differs", note=note)


def _rounding_of(found: Evidence) -> float:
    """Give the noise of rounding the input on a grid that just holds it."""
    assert found.given is not None
    step = (found.given.high - found.given.low) / 255
    return step * step / 12
