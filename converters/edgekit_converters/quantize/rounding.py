"""Chooses which way weights are rounded so that a layer's output, not each weight, comes out right: GPTQ and AdaRound.

Both take weights that were rounded to nearest and the second moments of their inputs, keep the grid, and change codes
only. Each output channel keeps the new codes only if its output error is lower with them.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger, spread
from edgekit_runtime.errors import ConversionError, UsageError

__all__ = ["AdaRound", "Rounded", "adaround", "gptq", "hessian_of", "output_error"]

Method = Literal["gptq", "adaround"]

_BATCH = 64  # columns whose error reaches the later ones in one product, as in section 3.3 of the paper
_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1  # of the rectified sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """Weights after a rounding method, and what was kept of it.

    Attributes:
        weights: Codes on the grid of the nearest ones.
        method: What was tried.
        changed: bool, shape (out,): channels that keep the method's codes; the others are rounded to nearest.
        nearest_error: Output error of rounding to nearest, from ``output_error``, shape (out,).
        error: Output error of ``weights``, shape (out,), nowhere above ``nearest_error``.
    """

    weights: BlockwiseInteger
    method: Method
    changed: NDArray[np.bool_]
    nearest_error: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def kept(self) -> Literal["nearest", "gptq", "adaround", "both"]:
        """Say what the channels hold: one of the two, or some this and some that."""
        if self.changed.all():
            return self.method
        return "both" if self.changed.any() else "nearest"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaRound:
    """Settings of the optimisation.

    Attributes:
        steps: Adam steps.
        learning_rate: Of Adam.
        pull: Weight of the term that drives each choice to up or down, per weight.
        warm_up: Share of the steps without that term.
        sharpness: Its exponent at the start and at the end.
    """

    steps: int = 500
    learning_rate: float = 1e-2
    pull: float = 1.0
    warm_up: float = 0.2
    sharpness: tuple[float, float] = (20.0, 2.0)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warm_up < 1 or self.learning_rate <= 0 or self.pull <= 0:
            raise UsageError("E0159", f"AdaRound cannot run with {self}", fix="steps, rate and pull must be above 0")


def hessian_of(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give the second moments of a layer's inputs, ``X^T X / rows``; means of several parts may be averaged by rows.

    Args:
        inputs: Shape (rows, in); real tokens only.

    Returns:
        float64, shape (in, in). Half the Hessian of the mean squared output error of one channel.
    """
    values = inputs.astype(np.float64)
    moments: NDArray[np.float64] = values.T @ values / len(values)
    return moments


def output_error(
    weight: NDArray[np.float32], decoded: NDArray[np.float32], hessian: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the mean squared error of each output, ``d H d^T`` with ``d`` the error of its weights; shape (out,)."""
    error = decoded.astype(np.float64) - weight
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", error @ hessian, error)
    return np.maximum(squares, 0.0)


def gptq(
    weight: NDArray[np.float32],
    nearest: BlockwiseInteger,
    hessian: NDArray[np.float64],
    *,
    dampening: float = 0.01,
    order: Literal["given", "activity"] = "activity",
) -> Rounded:
    """Round column by column; each column's error is made good by the columns that are still to come.

    Args:
        weight: Float weights, shape (out, in).
        nearest: The same weights rounded to nearest; its scales are the grid.
        hessian: From ``hessian_of``.
        dampening: Share of the mean diagonal that is added to the diagonal.
        order: Of the columns: as given, or by falling activity of their inputs.

    Raises:
        UsageError: Shapes do not fit, or ``dampening`` is not above 0 (E0159).
        ConversionError: The second moments are not finite or not positive (E0761).

    Source:
        Frantar et al. 2022, algorithm 1, with the scales fixed beforehand; the order is that of its code (act-order).
    """
    _check(weight, nearest, hessian)
    if dampening <= 0:
        raise UsageError("E0159", f"dampening is {dampening}", fix="choose a share above 0, such as 0.01")
    places = np.arange(weight.shape[1]) if order == "given" else np.argsort(-np.diag(hessian), kind="stable")
    upper = _inverse_root(hessian[np.ix_(places, places)], dampening)
    scales = spread(nearest.scales, nearest.block, weight.shape[1])[:, places].astype(np.float64)
    left = weight[:, places].astype(np.float64)
    codes = np.empty(left.shape, np.int8)
    width = left.shape[1]
    for start in range(0, width, _BATCH):
        stop = min(start + _BATCH, width)
        errors = np.empty((len(left), stop - start))
        for column in range(start, stop):
            value, step = left[:, column], scales[:, column]
            codes[:, column] = np.clip(np.rint(value / step), -nearest.limit, nearest.limit)
            error = errors[:, column - start] = (value - codes[:, column] * step) / upper[column, column]
            left[:, column + 1 : stop] -= np.outer(error, upper[column, column + 1 : stop])
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    tried = np.empty_like(codes)
    tried[:, places] = codes
    return _better(weight, nearest, replace(nearest, codes=tried), hessian, "gptq")


def _inverse_root(hessian: NDArray[np.float64], dampening: float) -> NDArray[np.float64]:
    """Give the upper Cholesky factor of the inverse of the damped second moments."""
    size = len(hessian)
    mean = float(np.trace(hessian)) / size
    damped = hessian + np.eye(size) * (dampening * mean if mean > 0 else 1.0)
    try:
        inverse = np.linalg.inv(damped)
        root: NDArray[np.float64] = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float64, copy=False)
    except np.linalg.LinAlgError as error:
        raise ConversionError(
            "E0761",
            "the second moments of a layer's inputs are not positive",
            why=str(error),
            fix="use more calibration rows or a larger dampening",
        ) from error
    return root


def adaround(
    weight: NDArray[np.float32],
    nearest: BlockwiseInteger,
    hessian: NDArray[np.float64],
    *,
    settings: AdaRound | None = None,
) -> Rounded:
    """Learn for each weight whether it is rounded up or down.

    The loss of a channel is its output error as a share of that of rounding to nearest: one pull then suits all layers.

    Args:
        weight: Float weights, shape (out, in).
        nearest: The same weights rounded to nearest; its scales are the grid.
        hessian: From ``hessian_of``.
        settings: Of the optimisation; None = the defaults.

    Raises:
        UsageError: Shapes do not fit (E0159).
        ConversionError: The second moments are not finite (E0761).

    Source:
        Nagel et al. 2020, section 3 (output error through second moments; rectified sigmoid; regulariser).
    """
    _check(weight, nearest, hessian)
    chosen = settings or AdaRound()
    steps = weight.astype(np.float64) / spread(nearest.scales, nearest.block, weight.shape[1])
    floor = np.floor(steps)
    up = _learn(nearest, floor, steps - floor, hessian, chosen)
    codes = np.clip(floor + up, -nearest.limit, nearest.limit).astype(np.int8)
    return _better(weight, nearest, replace(nearest, codes=codes), hessian, "adaround")


def _learn(
    nearest: BlockwiseInteger,
    floor: NDArray[np.float64],
    share: NDArray[np.float64],
    hessian: NDArray[np.float64],
    settings: AdaRound,
) -> NDArray[np.bool_]:
    """Give True where a weight goes up. ``share`` is how far it lies above its lower code, 0 to 1."""
    scales = torch.from_numpy(spread(nearest.scales, nearest.block, floor.shape[1]))
    moments = torch.from_numpy(hessian.astype(np.float32))
    low = torch.from_numpy(floor.astype(np.float32))
    part = torch.from_numpy(share.astype(np.float32))
    rounded = torch.from_numpy(nearest.codes.astype(np.float32))
    start = (rounded - low - part) * scales
    norm = ((start @ moments) * start).sum(1).clamp_min(1e-30)
    stretched = (part - _STRETCH_LOW) / (_STRETCH_HIGH - _STRETCH_LOW)
    choice = torch.logit(stretched).requires_grad_()
    optimiser = torch.optim.Adam([choice], lr=settings.learning_rate)
    warm = int(settings.steps * settings.warm_up)
    for step in range(settings.steps):
        height = (torch.sigmoid(choice) * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW).clamp(0, 1)
        error = ((low + height).clamp(-nearest.limit, nearest.limit) - low - part) * scales
        loss = (((error @ moments) * error).sum(1) / norm).sum()
        if step >= warm:
            sharpness = _sharpness((step - warm) / max(settings.steps - warm, 1), settings.sharpness)
            loss = loss + settings.pull * (1 - (2 * height - 1).abs().pow(sharpness)).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    up: NDArray[np.bool_] = (choice.detach() > 0).numpy()
    return up


def _sharpness(progress: float, ends: tuple[float, float]) -> float:
    """Fall from the first exponent to the second along half a cosine."""
    first, last = ends
    return last + (first - last) * 0.5 * (1 + math.cos(progress * math.pi))


def _better(
    weight: NDArray[np.float32],
    nearest: BlockwiseInteger,
    tried: BlockwiseInteger,
    hessian: NDArray[np.float64],
    method: Method,
) -> Rounded:
    """Keep the tried codes of the channels whose output error they lower."""
    before = output_error(weight, nearest.dequantise(), hessian)
    after = output_error(weight, tried.dequantise(), hessian)
    changed = after < before
    codes = np.where(changed[:, None], tried.codes, nearest.codes)
    return Rounded(
        weights=replace(nearest, codes=codes),
        method=method,
        changed=changed,
        nearest_error=before,
        error=np.where(changed, after, before),
    )


def _check(weight: NDArray[np.float32], nearest: BlockwiseInteger, hessian: NDArray[np.float64]) -> None:
    if weight.shape != nearest.codes.shape or hessian.shape != (weight.shape[1], weight.shape[1]):
        raise UsageError(
            "E0159",
            f"weights are {weight.shape}, codes {nearest.codes.shape} and second moments {hessian.shape}",
            fix="give (out, in), (out, in) and (in, in)",
        )
    if not np.isfinite(hessian).all():
        raise ConversionError("E0761", "the second moments of a layer's inputs are not finite", fix="check the inputs")
