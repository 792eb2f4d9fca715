"""Sums over rows from which all figures of a layer follow, so that no tensor has to be kept."""

import math

import numpy as np
from numpy.typing import NDArray

from edgekit_converters.layerwise.network import Array, TensorGrid
from edgekit_converters.layerwise.result import Figures

__all__ = ["ErrorSums", "InputSums", "decibels"]

Float64 = NDArray[np.float64]


def _columns(values: Array, axis: int) -> Float64:
    """Give values as (entries, channels)."""
    wide = np.moveaxis(values.astype(np.float64), axis, -1) if values.ndim > 1 else values.astype(np.float64)
    return wide.reshape(-1, wide.shape[-1]) if wide.ndim else wide.reshape(1, 1)


class ErrorSums:
    """Reference against measured values, by channel."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0  # entries of one channel
        self.signal = self.noise = self.cross = self.power = np.zeros(0)  # sums by channel
        self.clipped = np.zeros(0)  # the part of the noise that lies at the ends of the grid
        self.bad = np.zeros(0, np.int64)  # not finite, by channel
        self.largest = 0.0
        self.low, self.high = math.inf, -math.inf  # of the reference
        self.ends = self.codes = 0
        self.peaks = 0.0  # sum over vectors of (largest entry)^2, for rows of a table

    def add(self, reference: Array, measured: Array, *, codes: Array | None, grid: TensorGrid | None) -> None:
        """Take a row: float values, and the codes that ``measured`` came from if there are some."""
        r, m = _columns(reference, self.axis), _columns(measured, self.axis)
        if not self.count:
            self.signal, self.noise, self.cross, self.power, self.clipped = (np.zeros(r.shape[1]) for _ in range(5))
            self.bad = np.zeros(r.shape[1], np.int64)
        difference = r - m
        finite = np.isfinite(m)
        if not finite.all():
            self.bad += (~finite & np.isfinite(r)).sum(0)
        squares = np.square(difference)
        self.count += len(r)
        self.signal += np.square(r).sum(0)
        self.noise += squares.sum(0)
        self.cross += (r * m).sum(0)
        self.power += np.square(m).sum(0)
        self.largest = float(np.maximum(self.largest, np.abs(difference).max()))  # keeps a NaN
        self.low, self.high = min(self.low, float(r.min())), max(self.high, float(r.max()))
        self.peaks += float(np.square(np.abs(r).max(1)).sum())
        if codes is not None and grid is not None:
            ends = grid.at_ends(codes)
            self.ends += int(ends.sum())
            self.codes += codes.size
            self.clipped += np.where(_columns(ends, self.axis) > 0, squares, 0.0).sum(0)

    def figures(self, grid: TensorGrid | None) -> Figures:
        """Give the figures over all channels."""
        entries = self.count * len(self.noise)
        signal, noise = float(self.signal.sum()), float(self.noise.sum())
        rmse = math.sqrt(noise / entries) if noise >= 0 else math.nan
        length = math.sqrt(signal * float(self.power.sum())) if signal * float(self.power.sum()) >= 0 else math.nan
        return Figures(
            sqnr_db=decibels(signal, noise),
            cosine=float(self.cross.sum()) / length if length > 0 else math.nan,
            rmse=rmse,
            rmse_steps=None if grid is None else rmse / grid.scale,
            max_difference=self.largest,
            not_finite=int(self.bad.sum()),
        )

    @property
    def slope(self) -> float:
        """Factor by which the measured values are too large: least squares of measured on reference."""
        signal = float(self.signal.sum())
        return float(self.cross.sum()) / signal if signal > 0 else math.nan

    @property
    def saturation(self) -> float | None:
        """Share of codes at the ends."""
        return self.ends / self.codes if self.codes else None


def decibels(signal: float, noise: float) -> float:
    """Ratio of powers in dB: infinity without noise, NaN if one is."""
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


class InputSums:
    """What a layer reads in the float network."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.low, self.high = 0.0, 0.0
        self.count = 0
        self.squares = np.zeros(0)  # by channel
        self.ends = self.entries = 0
        self.cut = 0.0  # sum of squares of what lies outside the grid

    def add(self, values: Array, grid: TensorGrid | None) -> None:
        """Take a row."""
        x = _columns(values, self.axis)
        if not self.count:
            self.squares = np.zeros(x.shape[1])
        self.count += len(x)
        self.squares += np.square(x).sum(0)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        if grid is not None:
            low, high = grid.limits
            self.ends += int(grid.at_ends(grid.quantise(values)).sum())
            self.entries += x.size
            self.cut += float(np.square(x - np.clip(x, low, high)).sum())

    @property
    def saturation(self) -> float | None:
        """Share of values that fall on an end of the grid."""
        return self.ends / self.entries if self.entries else None
