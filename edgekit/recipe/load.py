"""A YAML file becomes a ``Recipe``, or one error that lists every fault with its line and column."""

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edgekit.recipe.checks import cross_faults
from edgekit.recipe.schema import RecipeModel, known_keys
from edgekit.recipe.spec import Recipe
from edgekit_runtime.errors import MissingError, UsageError
from edgekit_runtime.manifest import canonical_json

__all__ = ["load_recipe", "parse_recipe", "recipe_digest"]

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 32

# Values of these keys are text whatever they look like: a label `0`, a revision `1234567`, a class named `no`.
_TEXT_KEYS = frozenset(
    {
        "name",
        "version",
        "labels",
        "where",
        "sha256",
        "revision",
        "split",
        "subfolder",
        "text",
        "label",
        "licence",
        "targets",
    }
)

_Location = tuple[str | int, ...]
_Fault = tuple[int, int, str]  # line and column from 1, text


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2: `no` is a word, `010` is ten, `1e-4` is a number."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            # A name that stands for a part elsewhere can be nested into something endless.
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not used in recipes", problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="too deeply nested", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1 go
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Args:
        path: The YAML file; relative paths in it start at its folder.

    Raises:
        MissingError: There is no such file.
        UsageError: The file is not a recipe; every fault is named with file, line and column.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise MissingError("E0611", f"there is no recipe '{path}'", fix=f"write one: edgekit init {path}") from None
    except OSError as error:
        raise UsageError("E0101", f"the recipe '{path}' cannot be read: {error.strerror}") from error
    if len(raw) > _MAX_BYTES:
        raise UsageError("E0102", f"'{path}' is larger than {_MAX_BYTES} bytes; a recipe is a short text file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            "E0103",
            f"{path}:{line}: not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x})",
            fix="save it as UTF-8",
        ) from None
    return parse_recipe(text, name=str(path), folder=path.parent.resolve())


def parse_recipe(text: str, *, name: str, folder: Path) -> Recipe:
    """Turn the text of a recipe into a ``Recipe``.

    Args:
        text: YAML.
        name: File name to show in faults.
        folder: Where relative paths start.

    Raises:
        UsageError: The text is not a recipe; every fault is named with file, line and column.
    """
    root, values, faults = _compose(text, name)
    if faults:
        raise _error(name, faults)
    try:
        model = RecipeModel.model_validate(values)
    except ValidationError as error:
        raise _error(name, [_fault_of(root, detail) for detail in error.errors()]) from None
    crossed = [(*_position(root, location), f"{_dotted(location)} {text}") for location, text in cross_faults(model)]
    if crossed:
        raise _error(name, crossed)
    return model.build(folder)


def recipe_digest(recipe: Recipe) -> str:
    """Give the sha256 (hex) of what a recipe says, wherever its file lies and however it is written."""
    content = dataclasses.asdict(dataclasses.replace(recipe, folder=Path()))
    del content["folder"]
    return hashlib.sha256(canonical_json(_plain(content))).hexdigest()


def _plain(value: object) -> object:
    """Write 2.0 as 2: whether a default or a file gave a number must not show."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _compose(text: str, name: str) -> tuple[yaml.Node, object, list[_Fault]]:
    """Parse the YAML into nodes (for positions) and values; list keys that stand twice."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise UsageError(
                "E0104",
                f"{name}: a recipe is a mapping of keys to values",
                fix="start from one that works: edgekit init",
            )
        faults: list[_Fault] = []
        _visit(root, (), faults)
        return root, None if faults else loader.construct_document(root), faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UsageError("E0105", f"{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError("E0105", f"{name}: {' '.join(str(error).split())}") from None


def _visit(node: yaml.Node, path: _Location, faults: list[_Fault]) -> None:
    """Mark text as text, and note keys that stand twice."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, column = _mark(key)
            if not isinstance(key, yaml.ScalarNode):
                faults.append((line, column, "a key must be a word"))
                continue
            if key.value in seen:
                faults.append((line, column, f"key '{key.value}' is given twice; first in line {seen[key.value]}"))
            seen.setdefault(key.value, line)
            key.tag = "tag:yaml.org,2002:str"
            _visit(value, (*path, key.value), faults)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _visit(value, (*path, index), faults)
    elif "config" not in path and not _TEXT_KEYS.isdisjoint(path) and node.tag != "tag:yaml.org,2002:null":
        node.tag = "tag:yaml.org,2002:str"


def _mark(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _position(root: yaml.Node, location: _Location) -> tuple[int, int]:
    """Give line and column of the key at ``location``, or of the nearest one around it."""
    node, found = root, _mark(root)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == part), None)
            if pair is None:
                break
            found, node = _mark(pair[0]), pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            found = _mark(node)
        else:
            break
    return found


def _dotted(location: _Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the recipe"


def _fault_of(root: yaml.Node, detail: Any) -> _Fault:  # noqa: ANN401 - pydantic's ErrorDetails, a TypedDict
    location: _Location = tuple(part for part in detail["loc"] if part != "[key]")
    context, given = detail.get("ctx", {}), detail["input"]
    if detail["type"] == "recipe":
        if context["key"]:
            location = (*location, context["key"])
        text = f"{_dotted(location)} {context['text']}"
    elif detail["type"] == "extra_forbidden":
        text = _unknown_key(location)
    elif detail["type"] == "missing":
        text = f"{_dotted(location[:-1])} lacks the key '{location[-1]}'"
    elif given is None:
        text = f"{_dotted(location)} has no value; give one or remove the key"
    else:
        text = f"{_dotted(location)} {_wanted(detail, context)}, not {_shown(given)}"
        near = difflib.get_close_matches(str(given), re.findall(r"'([^']*)'", str(context.get("expected", ""))), n=1)
        text += f"; did you mean '{near[0]}'?" if near else ""
    return (*_position(root, location), text)


def _unknown_key(location: _Location) -> str:
    known = list(known_keys(location[:-1]))
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    place = f" in {_dotted(location[:-1])}" if location[:-1] else ""
    return f"unknown key '{location[-1]}'{place}{hint} known: {', '.join(known)}"


_PATTERN_WORDS = {
    "name": "should be lower-case letters, digits and single hyphens (my-model)",
    "version": "should be three numbers (1.0.0)",
    "hub": "should be an id of the form owner/name",
    "factory": "should be of the form module:function",
    "weights": "should be the path of a .safetensors file",
    "sha256": "should be 64 hexadecimal digits in lower case",
}
_TYPE_WORDS = {
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be a text",
    "list_type": "should be a list",
    "dict_type": "should be a mapping of keys to values",
    "model_type": "should be a section with keys of its own",
    "model_attributes_type": "should be a section with keys of its own",
    "finite_number": "should be a finite number",
}


def _wanted(detail: Any, context: Mapping[str, Any]) -> str:  # noqa: ANN401
    kind = detail["type"]
    if kind == "string_pattern_mismatch":
        return next(_PATTERN_WORDS[part] for part in reversed(detail["loc"]) if part in _PATTERN_WORDS)
    if kind in {"too_short", "string_too_short"}:
        return f"should have at least {context['min_length']} {'entry' if kind == 'too_short' else 'character'}(s)"
    return _TYPE_WORDS.get(kind, str(detail["msg"]).replace("Input should", "should"))


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a section" if value else "an empty section"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(name: str, faults: list[_Fault]) -> UsageError:
    lines = [f"{name}:{line}:{column}: {text}" for line, column, text in sorted(faults)]
    if len(lines) == 1:
        return UsageError("E0106", lines[0])
    return UsageError("E0106", "\n  ".join([f"{len(lines)} faults in {name}", *lines]))
