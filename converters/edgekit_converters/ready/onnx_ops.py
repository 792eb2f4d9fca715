"""What each ONNX operator is in PyTorch, for graphs of fixed shapes whose constants are folded."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as f

__all__ = ["OPERATORS", "Call", "NotInTorch"]

Constants = Mapping[str, NDArray[np.generic]]


class NotInTorch(Exception):  # noqa: N818 - a reason that the importer turns into its error
    """An operator or one of its forms has no counterpart here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One node of an ONNX graph.

    Attributes:
        kind: Operator type.
        inputs: Names of its inputs; empty where an optional one is left out.
        outputs: Names of its outputs.
        attributes: By name.
        constants: Values of all inputs that are initializers.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Constants

    def get(self, name: str, default: Any) -> Any:  # noqa: ANN401 - ONNX attributes have many types
        """Give an attribute or its default."""
        return self.attributes.get(name, default)

    def constant(self, place: int) -> list[Any] | None:
        """Give the values of a constant input as a list; None if it is left out."""
        if place >= len(self.inputs) or not self.inputs[place]:
            return None
        if self.inputs[place] not in self.constants:
            raise NotInTorch(f"{self.kind} with a computed input {place}")
        return [value.item() for value in np.atleast_1d(self.constants[self.inputs[place]]).ravel()]

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Give integers that are an attribute in old opsets and an input in new ones."""
        if name in self.attributes:
            return [int(value) for value in self.attributes[name]]
        found = self.constant(place)
        return None if found is None else [int(value) for value in found]


Operator = Callable[..., Any]


def _sides(call: Call, rank: int) -> tuple[list[int], list[int]]:
    """Give padding before and after each spatial dimension."""
    automatic = call.get("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID"):
        raise NotInTorch(f"{call.kind} with auto_pad={automatic}")
    pads = list(call.get("pads", [0] * (2 * rank)))
    return pads[:rank], pads[rank:]


def _padded(x: Tensor, call: Call, rank: int, *, value: float) -> tuple[Tensor, list[int]]:
    """Pad outside of the operator where both sides differ; give what is left for the operator itself."""
    before, after = _sides(call, rank)
    if before == after:
        return x, before
    flat = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return f.pad(x, flat, value=value), [0] * rank


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.dim() - 2
    if rank not in (1, 2):
        raise NotInTorch(f"{call.kind} over {rank} dimensions")
    x, padding = _padded(x, call, rank, value=0.0)
    conv: Any = f.conv2d if rank == 2 else f.conv1d
    steps, holes = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    return conv(x, weight, bias, steps, padding, holes, call.get("group", 1))  # type: ignore[no-any-return]


def _conv_transposed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    before, after = _sides(call, 2)
    if weight.dim() != 4 or before != after or "output_shape" in call.attributes:
        raise NotInTorch("ConvTranspose other than 2-D with equal padding")
    more = call.get("output_padding", [0, 0])
    steps, holes = call.get("strides", [1, 1]), call.get("dilations", [1, 1])
    return f.conv_transpose2d(x, weight, bias, steps, before, more, call.get("group", 1), holes)


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if call.get("transA", 0) else a
    b = b if call.get("transB", 0) else b.t()
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if alpha != 1.0:
        b = b * alpha
    if c is not None and beta != 1.0:
        c = c * beta
    if c is None or c.shape == (b.shape[0],):
        return f.linear(a, b, c)
    return f.linear(a, b) + c


def _pool(call: Call, x: Tensor, *, largest: bool) -> Tensor:
    size = call.get("kernel_shape", None)
    if len(size) != 2 or len(call.outputs) > 1:
        raise NotInTorch(f"{call.kind} other than 2-D with one output")
    steps, up = call.get("strides", [1, 1]), bool(call.get("ceil_mode", 0))
    if largest:
        x, padding = _padded(x, call, 2, value=float("-inf"))
        return f.max_pool2d(x, size, steps, padding, call.get("dilations", [1, 1]), ceil_mode=up)
    before, after = _sides(call, 2)
    counted = bool(call.get("count_include_pad", 0))
    if (before != after and not counted) or call.get("dilations", [1, 1]) != [1, 1]:
        raise NotInTorch("AveragePool with unequal padding or dilations")
    x, padding = _padded(x, call, 2, value=0.0)
    return f.avg_pool2d(x, size, steps, padding, ceil_mode=up, count_include_pad=counted)


def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return f.batch_norm(x, mean, variance, scale, bias, training=False, eps=call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = call.get("axis", -1) % x.dim()
    if len(call.outputs) > 1:
        raise NotInTorch("LayerNormalization with more than one output")
    return f.layer_norm(x, x.shape[axis:], scale, bias, call.get("epsilon", 1e-5))


def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return f.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


def _reduced(call: Call, x: Tensor, *_: object, how: Callable[..., Tensor]) -> Tensor:
    axes = call.numbers("axes", 1)
    if axes is None and call.get("noop_with_empty_axes", 0):
        return x
    return how(x, axes or list(range(x.dim())), keepdim=bool(call.get("keepdims", 1)))


def _norm(x: Tensor, axes: list[int], *, keepdim: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keepdim).sqrt()


def _softmax(call: Call, x: Tensor, *, how: Callable[..., Tensor]) -> Tensor:
    return how(x, dim=call.get("axis", -1))


def _gelu(call: Call, x: Tensor) -> Tensor:
    return f.gelu(x, approximate=call.get("approximate", "none"))


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = float(call.get("alpha", 0.2)), float(call.get("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return f.hardsigmoid(x)
    return (x * alpha + beta).clamp(0.0, 1.0)


def _prelu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    return x.clamp(min=0) + slope * x.clamp(max=0)


def _clip(call: Call, x: Tensor, *_: object) -> Tensor:
    low, high = call.constant(1), call.constant(2)
    least = low[0] if low else call.get("min", None)
    most = high[0] if high else call.get("max", None)
    if least == 0 and most is None:
        return f.relu(x)
    return f.hardtanh(x, least, most) if (least, most) == (0, 6) else x.clamp(least, most)


def _cast(call: Call, x: Tensor) -> Tensor:
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(call.get("to", 1))
    return x.to(torch.from_numpy(np.zeros(1, kind)).dtype)


def _reshape(call: Call, x: Tensor, *_: object) -> Tensor:
    shape = call.numbers("shape", 1)
    assert shape is not None
    if not call.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1) % (x.dim() + 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm", list(range(x.dim()))[::-1]))


def _squeeze(call: Call, x: Tensor, *_: object) -> Tensor:
    axes = call.numbers("axes", 1)
    return x.squeeze() if axes is None else x.squeeze(axes)


def _unsqueeze(call: Call, x: Tensor, *_: object) -> Tensor:
    axes = call.numbers("axes", 1) or []
    rank = x.dim() + len(axes)
    return reduce(lambda value, axis: value.unsqueeze(axis), sorted(axis % rank for axis in axes), x)


def _split(call: Call, x: Tensor, *_: object) -> tuple[Tensor, ...]:
    axis, count = call.get("axis", 0), len(call.outputs)
    sizes = call.numbers("split", 1) or -(-x.shape[axis] // count)
    return tuple(torch.split(x, sizes, axis))


def _slice(call: Call, x: Tensor, *_: object) -> Tensor:
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(x.shape[axis])[start:end:step]
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(places.start, places.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(places)))
    return x


def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    fixed = call.constants.get(call.inputs[1])
    if fixed is not None and fixed.ndim == 0:
        return x.select(axis, int(fixed))
    if axis == 0 and x.dim() == 2 and call.inputs[0] in call.constants:
        return f.embedding(indices, x)
    flat = x.index_select(axis, indices.reshape(-1))
    return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _expand(call: Call, x: Tensor, *_: object) -> Tensor:
    shape = call.numbers("shape", 1) or []
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape)))


def _pad(call: Call, x: Tensor, *_: object) -> Tensor:
    pads, mode = call.numbers("pads", 1) or [], call.get("mode", "constant")
    fill = call.constant(2)
    axes = call.numbers("axes", 3) or list(range(x.dim()))
    if mode not in ("constant", "reflect", "edge"):
        raise NotInTorch(f"Pad with mode={mode}")
    sides = dict.fromkeys(range(x.dim()), (0, 0))
    for i, axis in enumerate(axes):
        sides[axis % x.dim()] = (pads[i], pads[i + len(axes)])
    used = max((axis for axis, pair in sides.items() if pair != (0, 0)), default=0)
    least = min((axis for axis, pair in sides.items() if pair != (0, 0)), default=0)
    flat = [side for axis in range(x.dim() - 1, least - 1, -1) for side in sides[axis]]
    assert used >= least
    if mode == "constant":
        return f.pad(x, flat, value=float(fill[0]) if fill else float(call.get("value", 0.0)))
    return f.pad(x, flat, mode="replicate" if mode == "edge" else mode)


def _resize(call: Call, x: Tensor, *_: object) -> Tensor:
    scales, sizes = call.constant(2), call.constant(3)
    mode, place = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    shape = [int(size) for size in sizes] if sizes else [int(n * s) for n, s in zip(x.shape, scales or [], strict=True)]
    plain = mode == "nearest" and place == "asymmetric" and call.get("nearest_mode", "round_prefer_floor") == "floor"
    smooth = mode == "linear" and place in ("half_pixel", "align_corners", "pytorch_half_pixel")
    if x.dim() != 4 or shape[:2] != list(x.shape[:2]) or not (plain or smooth):
        raise NotInTorch(f"Resize with mode={mode} and coordinates {place}")
    if plain:
        return f.interpolate(x, shape[2:], mode="nearest")
    return f.interpolate(x, shape[2:], mode="bilinear", align_corners=place == "align_corners")


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    if call.get("mode", "DCR") != "CRD":
        raise NotInTorch("DepthToSpace with mode=DCR")
    return f.pixel_shuffle(x, call.get("blocksize", 1))


def _divide(_: Call, x: Any, y: Any) -> Tensor:  # noqa: ANN401 - one side may be a number
    whole = not any(isinstance(side, float) or torch.is_floating_point(side) for side in (x, y))
    result: Tensor = torch.div(x, y, rounding_mode="trunc") if whole else x / y
    return result


def _concat(call: Call, *parts: Tensor) -> Tensor:
    return torch.cat(parts, call.get("axis", 0))


def _all(how: Callable[[Any, Any], Any]) -> Operator:
    return lambda _, *values: reduce(how, values)


def _plain(how: Callable[..., Any]) -> Operator:
    return lambda _, *values: how(*values)


_ACTIVATIONS: Mapping[str, Operator] = {
    **{
        name: _plain(how)
        for name, how in (
            *(("Relu", f.relu), ("Sigmoid", torch.sigmoid), ("Tanh", torch.tanh), ("HardSwish", f.hardswish)),
            *(("Softplus", f.softplus), ("Softsign", f.softsign), ("Mish", f.mish)),
        )
    },
    "LeakyRelu": lambda call, x: f.leaky_relu(x, call.get("alpha", 0.01)),
    "Elu": lambda call, x: f.elu(x, call.get("alpha", 1.0)),
    "PRelu": _prelu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Softmax": partial(_softmax, how=torch.softmax),
    "LogSoftmax": partial(_softmax, how=torch.log_softmax),
}
_POINTWISE: Mapping[str, Operator] = {
    **{
        name: _plain(how)
        for name, how in (
            *(("Sqrt", torch.sqrt), ("Reciprocal", torch.reciprocal), ("Neg", torch.neg), ("Abs", torch.abs)),
            *(("Exp", torch.exp), ("Log", torch.log), ("Erf", torch.erf), ("Floor", torch.floor)),
            *(("Ceil", torch.ceil), ("Round", torch.round), ("Sign", torch.sign), ("Sin", torch.sin)),
            *(("Cos", torch.cos), ("Not", torch.logical_not), ("And", torch.logical_and), ("Or", torch.logical_or)),
            *(("Equal", torch.eq), ("Greater", torch.gt), ("Less", torch.lt), ("Where", torch.where)),
            *(("GreaterOrEqual", torch.ge), ("LessOrEqual", torch.le)),
            *(("Add", operator.add), ("Sub", operator.sub), ("Mul", operator.mul), ("Pow", operator.pow)),
        )
    },
    "Sum": _all(torch.add),
    "Max": _all(torch.maximum),
    "Min": _all(torch.minimum),
    "Div": _divide,
    "Cast": _cast,
    "Identity": _plain(lambda x: x),
    "Dropout": lambda _, x, *__: x,
}
_LAYERS: Mapping[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transposed,
    "Gemm": _gemm,
    "MatMul": _plain(torch.matmul),
    "MaxPool": partial(_pool, largest=True),
    "AveragePool": partial(_pool, largest=False),
    "GlobalAveragePool": lambda _, x: x.mean(list(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda _, x: x.amax(list(range(2, x.dim())), keepdim=True),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "ReduceMean": partial(_reduced, how=torch.mean),
    "ReduceSum": partial(_reduced, how=torch.sum),
    "ReduceMax": partial(_reduced, how=torch.amax),
    "ReduceMin": partial(_reduced, how=torch.amin),
    "ReduceL2": partial(_reduced, how=_norm),
}
_SHAPES: Mapping[str, Operator] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": lambda call, x, *_: x.repeat(call.numbers("repeats", 1)),
    "Pad": _pad,
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
}
OPERATORS: Mapping[str, Operator] = MappingProxyType({**_ACTIVATIONS, **_POINTWISE, **_LAYERS, **_SHAPES})
