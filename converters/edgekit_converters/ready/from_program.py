"""Imports a PyTorch exported program (``.pt2``)."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekit_converters.export.contract import ModelContract
from edgekit_converters.quantize.graph import Graph, trace
from edgekit_converters.ready.model import ReadyModel
from edgekit_converters.ready.names import input_names, output_names
from edgekit_converters.ready.normalise import graph_outputs, normalise
from edgekit_converters.ready.outputs import arrange_outputs
from edgekit_converters.ready.probe import probes, require_equal
from edgekit_converters.ready.program_file import OpenedProgram, open_program
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.manifest import TensorSpec

__all__ = ["bare", "load_program"]

_TO = torch.ops.aten.to.dtype
_KINDS = {torch.float32: "float32", torch.int32: "int32", torch.int64: "int32"}


def load_program(path: Path, *, shape: Mapping[str, tuple[int, ...]] | None) -> ReadyModel:
    """Import a ``.pt2`` file; see ``load_ready``.

    Raises:
        ConversionError: It holds what could run code (E0791), has inputs of a type that cannot be taken (E0785) or
            needs a shape (E0786), or the rewritten graph answers otherwise (E0782).
    """
    content = path.read_bytes()
    opened = open_program(content, title=path.name)
    inputs, longest = _inputs(opened.program, shape or {}, title=path.name)
    module = _narrow(opened, inputs)
    example = ModelContract(inputs=inputs, outputs=()).example()
    graph = trace(module, example, longest=longest)
    found = _outputs(graph, opened, example)
    order = arrange_outputs(graph, found, title=path.name)
    contract = ModelContract(inputs=inputs, outputs=tuple(found[place] for place in order))
    rows = probes(graph, contract)
    normal = normalise(graph, rows)
    worst = require_equal(
        lambda row: [graph_outputs(module, row)[place] for place in order],
        lambda row: graph_outputs(normal.graph, row),
        rows,
        what=f"'{path.name}' rewritten",
    )
    dropped = len(opened.outputs) - len(order)
    notes = [*normal.notes, *([f"{dropped} outputs that are inputs or no tensors left out"] if dropped else [])]
    return ReadyModel(
        module=normal.graph,
        contract=contract,
        description=f"{path.name}: exported program, within {worst:.1g} of itself; {'; '.join(notes) or 'unchanged'}",
        digest=sha256(content).hexdigest(),
        dynamic_length=longest,
    )


def _narrow(opened: OpenedProgram, inputs: tuple[TensorSpec, ...]) -> fx.GraphModule:
    """Give the program with the inputs of the contract, int32 where it takes int64, and tensors alone as outputs."""
    module = bare(opened.program)
    graph = module.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for node, spec, value in zip(places, inputs, _places(opened.program), strict=True):
        node.target = spec.name
        node._rename(spec.name)  # noqa: SLF001 - torch has no public way to rename a node
        if value.dtype is torch.int64:
            with graph.inserting_after(node):
                wide = graph.call_function(_TO, (node, torch.int64))
            node.replace_all_uses_with(wide, delete_user_cb=lambda user, wide=wide: user is not wide)
    (end,) = (node for node in graph.nodes if node.op == "output")
    tensors = []
    for node, name in zip(end.args[0], opened.outputs, strict=True):
        if name is None:
            continue
        kind = node.meta["val"].dtype
        with graph.inserting_before(end):
            narrow = torch.float32 if kind.is_floating_point else torch.int32
            tensors.append(node if kind is narrow else graph.call_function(_TO, (node, narrow)))
    end.args = (tuple(tensors),)
    module.recompile()
    return module


def bare(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Give a program as a module without guards and trees: it takes its inputs by position and gives a flat tuple.

    What ``ExportedProgram.module()`` gives refuses ``eval()``, and so every module that holds it.
    """
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    module.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, module.graph)


def _places(program: torch.export.ExportedProgram) -> list[Any]:
    """Give what the program knows of its inputs: tensors without data, whose sizes may be symbols."""
    wanted = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _inputs(
    program: torch.export.ExportedProgram, shape: Mapping[str, tuple[int, ...]], *, title: str
) -> tuple[tuple[TensorSpec, ...], int]:
    """Give the inputs with fixed shapes, and the longest token dimension if it is free (else 0)."""
    names = [str(name) for name in program.graph_signature.user_inputs]
    places = _places(program)
    unknown = sorted(set(shape) - set(names))
    if unknown or len(places) != len(names):
        raise ConversionError(
            "E0786", f"'{title}' has no tensor input {unknown[:1] or ''}", fix=f"its inputs are {', '.join(names)}"
        )
    found, free = [], []
    for name, place, foreign in zip(input_names(names), places, names, strict=True):
        if not isinstance(place, Tensor) or place.dtype not in _KINDS:
            raise ConversionError(
                "E0785",
                f"input {foreign!r} of '{title}' is {getattr(place, 'dtype', type(place).__name__)}",
                fix="export it with float32 or integer tensors as inputs",
            )
        sizes = _sizes(program, place, foreign, shape.get(foreign), title=title)
        found.append(TensorSpec(name=name, tensor=name, dtype=_KINDS[place.dtype], shape=sizes))  # type: ignore[arg-type]
        free.append(len(place.shape) == 2 and not isinstance(place.shape[1], int))
    longest = {spec.shape[1] for spec in found if len(spec.shape) > 1}
    tokens = all(free) and len(longest) == 1 and min(longest) > 2 and found[0].dtype == "int32"
    return tuple(found), min(longest) if tokens else 0


def _sizes(
    program: torch.export.ExportedProgram, place: Tensor, name: str, wanted: tuple[int, ...] | None, *, title: str
) -> tuple[int, ...]:
    """Give an input's fixed shape: what the program fixes, what the user says, a batch of 1, the longest length."""
    given = [size if isinstance(size, int) else None for size in place.shape]
    if wanted is None:
        tops = [_top(program, size) for size in place.shape]
        batch = [1 if given[:1] == [None] else 0]
        wanted = tuple(
            size or (batch[0] if axis == 0 else 0) or top
            for axis, (size, top) in enumerate(zip(given, tops, strict=True))
        )
    fits = len(wanted) == len(given) and all(old in (None, new) for old, new in zip(given, wanted, strict=False))
    if not fits or 0 in wanted or wanted[:1] != (1,):
        example = {name: tuple(size or (128 if axis else 1) for axis, size in enumerate(given))}
        raise ConversionError(
            "E0786",
            f"input {name!r} of '{title}' has the shape {tuple(str(size) for size in place.shape)}",
            why="a model for a device has fixed shapes and a batch of 1",
            fix=f"say it: load_ready(..., shape={example}), on the command line by rows in an .npz; "
            "export again if the batch is fixed to another number",
        )
    return wanted


def _top(program: torch.export.ExportedProgram, size: Any) -> int:  # noqa: ANN401 - a number or a symbol
    """Give the largest value of a symbolic size if the program bounds it, else 0."""
    if isinstance(size, int):
        return size
    bound = program.range_constraints.get(size.node.expr)
    upper = getattr(bound, "upper", None)
    return int(upper) if upper is not None and str(upper).isdigit() and int(upper) < 1 << 20 else 0


def _outputs(graph: Graph, opened: OpenedProgram, example: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
    values = graph_outputs(graph, example)
    keys = [key or f"output_{i}" for i, key in enumerate(name for name in opened.outputs if name is not None)]
    return tuple(
        TensorSpec(
            name=name,
            tensor=name,
            dtype="float32" if np.issubdtype(value.dtype, np.floating) else "int32",
            shape=tuple(value.shape),
        )
        for name, value in zip(output_names(keys), values, strict=True)
    )
