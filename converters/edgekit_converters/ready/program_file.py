"""Opens a ``.pt2`` file that may come from anywhere: what could run code is refused before PyTorch sees it.

``torch.export.load`` unpickles what an archive marks as pickled, evaluates the text of symbolic sizes, looks operators
up from the module ``torch`` down (``torch.os.system`` is found that way), imports modules that a tree of inputs names,
and ``ExportedProgram.module()`` compiles the text of guards. So the archive is read here part by part, and a new one
with checked parts alone is handed to PyTorch.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from edgekit_converters.quiet import converting
from edgekit_runtime.errors import ConversionError

__all__ = ["OpenedProgram", "open_program"]

_MEMBERS = re.compile(
    r"[^/]+/(?:archive_format|archive_version|byteorder|\.data/(?:version|serialization_id)|models/model\.json"
    r"|data/weights/(?:weight_\d+|model_weights_config\.json)|data/constants/(?:tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt)"
)
_OPERATORS = re.compile(r"torch\.ops\.(?:aten|prims)\.\w+\.\w+|torch\.sym_(?:int|float|max|min|not|sum|ite)")
_ARITHMETIC = re.compile(
    r"_operator\.(?:add|sub|mul|floordiv|truediv|mod|pow|neg|pos|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(?:trunc|ceil|floor|sqrt)"
)
# Sizes as sympy writes them, e.g. ``Add(Mul(Integer(2), Symbol('s3', positive=True, integer=True)), Integer(1))``.
_SIZES = re.compile(
    r"(?:\bSymbol\('[a-z]+\d+'|\b[su]\d+\b|\b(?:positive|negative|nonnegative|integer|real)=(?:True|False)\b"
    r"|\b(?:Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv)\b|[\d\s+\-*/(),])*"
)
_MAX_JSON_BYTES = 1 << 28
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedProgram:
    """A checked program.

    Attributes:
        program: Takes its inputs by position and gives a flat tuple.
        outputs: Where each output of ``program`` comes from: the key of a dictionary, or empty; None for what is no
            tensor.
    """

    program: torch.export.ExportedProgram
    outputs: tuple[str | None, ...]


def open_program(content: bytes, *, title: str) -> OpenedProgram:
    """Read an exported program.

    Args:
        content: Of the file; what is checked is what is loaded.
        title: Its name, for errors.

    Raises:
        ConversionError: It is no such file (E0783), or holds what could run code (E0791).
    """
    with converting("E0783", f"'{title}' cannot be read as an exported program"), _archive(content) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(set(names)) != len(names):
            _refuse(title, "a part occurs twice")
        for name in names:
            if not _MEMBERS.fullmatch(name):
                _refuse(title, f"it has a part {name!r}")
        parts = {name.partition("/")[2]: archive.read(name) for name in names}
        model = _checked_model(parts, title)
        outputs = _flatten(model)
        for kind in ("weights", "constants"):
            _check_tensors(parts[f"data/{kind}/model_{kind}_config.json"], title)
        _check_samples(parts["data/sample_inputs/model.pt"], title)
        parts["models/model.json"] = json.dumps(model).encode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(_packed(parts)))
    return OpenedProgram(program=program, outputs=outputs)


def _archive(content: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(content))


def _refuse(title: str, why: str) -> NoReturn:
    raise ConversionError(
        "E0791",
        f"'{title}' holds more than a graph and tensors, and is not opened",
        why=f"{why}; such parts could run code",
        fix="export again with torch.export.export and torch.export.save, without custom objects or operators",
    )


def _checked_model(parts: dict[str, bytes], title: str) -> dict[str, Any]:
    text = parts["models/model.json"]
    if len(text) > _MAX_JSON_BYTES:
        _refuse(title, "its graph is larger than 256 MB of text")
    model: dict[str, Any] = json.loads(text)
    for key, value in list(_pairs(model)):
        if key == "metadata" and isinstance(value, dict):
            value.clear()  # names of classes and lines of code, which PyTorch would look up
        if key == "target" and not (_OPERATORS.fullmatch(str(value)) or _ARITHMETIC.fullmatch(str(value))):
            _refuse(title, f"it calls {value!r}")
        if key == "expr_str" and not _SIZES.fullmatch(str(value)):
            _refuse(title, f"a size is written as {str(value)[:60]!r}")
        if key in ("as_custom_obj", "custom_obj", "as_operator", "as_graph") and value:
            _refuse(title, "it holds a custom object, an operator as a value, or a graph inside the graph")
    for name in model["range_constraints"]:
        if not _SIZES.fullmatch(name):
            _refuse(title, f"a size is written as {name[:60]!r}")
    model["guards_code"] = []  # Python text that PyTorch would compile; shapes are checked anew anyway
    return model


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON
    """Give every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _flatten(model: dict[str, Any]) -> tuple[str | None, ...]:
    """Make inputs positional and outputs a flat tuple, so that no tree of foreign types is rebuilt."""
    graph = model["graph_module"]
    signature = graph["signature"]
    inputs = sum("user_input" in spec for spec in signature["input_specs"])
    given = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    root = next(entry for entry in graph["module_call_graph"] if not entry["fqn"])
    keys = _keys(root["signature"]["out_spec"], len(given))
    values = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF] * inputs}
    named = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    taken = {"type": "builtins.tuple", "context": "null", "children_spec": [values, named]}
    result = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF] * len(given)}
    root["signature"]["in_spec"] = json.dumps([1, taken])
    root["signature"]["out_spec"] = json.dumps([1, result])
    root["signature"]["forward_arg_names"] = None
    graph["module_call_graph"] = [root]
    graph["treespec_namedtuple_fields"] = {}
    return tuple(key if "as_tensor" in arg else None for key, arg in zip(keys, given, strict=True))


def _keys(out_spec: str, count: int) -> list[str]:
    """Give the keys of a flat dictionary of outputs, or empty names."""
    tree = json.loads(out_spec)[1]
    flat = all(child["type"] is None for child in tree["children_spec"])
    if tree["type"] == "builtins.dict" and flat and len(tree["children_spec"]) == count:
        return [str(key) for key in json.loads(tree["context"])]
    return [""] * count


def _check_tensors(text: bytes, title: str) -> None:
    for name, row in json.loads(text)["config"].items():
        if row["use_pickle"] or not re.fullmatch(r"(?:weight|tensor)_\d+", row["path_name"]):
            _refuse(title, f"tensor {name!r} is pickled")


def _check_samples(content: bytes, title: str) -> None:
    """Refuse sample inputs that need more than tensors; PyTorch itself would go on and unpickle them."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not opened
        _refuse(title, f"its sample inputs hold more than tensors ({type(error).__name__})")


def _packed(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(f"model/{name}", content)
    return stream.getvalue()
