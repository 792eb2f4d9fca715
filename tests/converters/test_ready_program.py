"""Exported programs of strangers: what they compute is kept, and nothing in the file runs."""

import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import ready_networks
import torch
from torch import nn

from edgekit_converters.quantize.graph import layers
from edgekit_converters.ready.from_program import load_program
from edgekit_converters.ready.program_file import open_program
from edgekit_runtime.errors import ConversionError


class Labelled(nn.Module):
    """Gives a dictionary with things that are no tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image):
        return {"logits": self.model(image), "count": 3, "nothing": None}


def save(model: nn.Module, example, path: Path, *, decompose=False, **options) -> Path:
    program = torch.export.export(model, example, **options)
    torch.export.save(ready_networks.decomposed(program) if decompose else program, path)
    return path


@pytest.fixture(scope="module")
def cnn(tmp_path_factory) -> Path:
    model = ready_networks.network("cnn")
    (image,) = model.example()
    batch = {"image": {0: torch.export.Dim("rows")}}
    path = tmp_path_factory.mktemp("program") / "cnn.pt2"
    return save(Labelled(model), (torch.cat([image, image]),), path, dynamic_shapes=batch)


def edited(path: Path, target: Path, change) -> Path:
    """A copy whose parts, by name within the archive, went through ``change``."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts = change({name.partition("/")[2]: content for name, content in parts.items()})
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(f"model/{name}", content)
    return target


def edited_graph(path: Path, target: Path, old: str, new: str) -> Path:
    def change(parts):
        text = parts["models/model.json"].decode()
        assert old in text
        return parts | {"models/model.json": text.replace(old, new, 1).encode()}

    return edited(path, target, change)


class Canary:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_free_batch_becomes_one_and_outputs_that_are_no_tensors_go(cnn):
    found = load_program(cnn, shape=None)
    assert [(spec.name, spec.shape) for spec in found.contract.inputs] == [("image", (1, 3, 32, 32))]
    assert [(spec.name, spec.shape) for spec in found.contract.outputs] == [("logits", (1, 5))]
    assert "2 outputs that are inputs or no tensors left out" in found.description


def test_the_graph_answers_as_the_users_module(cnn):
    found = load_program(cnn, shape=None)
    (image,) = ready_networks.network("cnn").example()
    with torch.no_grad():
        wanted = ready_networks.network("cnn")(image)
        (given,) = found.module(image)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "products"])
def test_a_decomposed_program_has_the_same_layers(name, tmp_path):
    model = ready_networks.network(name)
    kinds = []
    for decompose in (False, True):
        path = save(model, model.example(), tmp_path / f"{decompose}.pt2", decompose=decompose)
        kinds.append([(path_, kind) for path_, kind, _ in layers(load_program(path, shape=None).module)])
    assert [kind for _, kind in kinds[0]] == [kind for _, kind in kinds[1]]
    assert [kind for _, kind in kinds[0]] == {
        "cnn": ["conv"] * 6 + ["linear"],
        "products": ["linear"] * 2 + ["conv", "linear"],
    }[name]


def test_a_bounded_length_stays_free_for_calibration_and_is_longest_in_the_contract(tmp_path):
    model = ready_networks.network("bert")
    length = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length", min=2, max=16)}
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in model.inputs)
    found = load_program(save(model, example, tmp_path / "b.pt2", dynamic_shapes=(length,) * 3), shape=None)
    assert found.dynamic_length == 16
    assert {(spec.dtype, spec.shape) for spec in found.contract.inputs} == {("int32", (1, 16))}
    row = [torch.ones(1, 5, dtype=torch.int32) for _ in model.inputs]
    with torch.no_grad():
        (given,) = found.module(*row)
        wanted = model(*(value.long() for value in row))
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_an_unbounded_length_is_asked_for(tmp_path):
    free = {"x": {1: torch.export.Dim("length", min=4)}}
    path = save(nn.Sequential(nn.ReLU()), (torch.ones(1, 6),), tmp_path / "r.pt2", dynamic_shapes=({1: free["x"][1]},))
    with pytest.raises(ConversionError, match="has the shape") as caught:
        load_program(path, shape=None)
    assert caught.value.code == "E0786"
    assert load_program(path, shape={"input": (1, 9)}).contract.inputs[0].shape == (1, 9)


def refused(path: Path) -> ConversionError:
    with pytest.raises(ConversionError) as caught:
        open_program(path.read_bytes(), title=path.name)
    assert caught.value.code == "E0791"
    return caught.value


def test_a_pickle_among_the_sample_inputs_is_not_opened_though_torch_would(cnn, tmp_path):
    canary, stream = tmp_path / "ran", io.BytesIO()
    torch.save((Canary(canary),), stream)
    hostile = edited(cnn, tmp_path / "h.pt2", lambda parts: parts | {"data/sample_inputs/model.pt": stream.getvalue()})
    refused(hostile)
    assert not canary.exists()
    with contextlib.suppress(Exception):  # of a log line in torch, after the harm
        torch.export.load(hostile)
    assert canary.exists()  # so the file is a real attack


def test_a_pickled_weight_is_not_opened_though_torch_would(cnn, tmp_path):
    canary, stream = tmp_path / "ran", io.BytesIO()
    torch.save(Canary(canary), stream)

    def change(parts):
        config = json.loads(parts["data/weights/model_weights_config.json"])
        row = next(iter(config["config"].values()))
        row["use_pickle"] = True
        fresh = {"data/weights/model_weights_config.json": json.dumps(config).encode()}
        return parts | fresh | {f"data/weights/{row['path_name']}": stream.getvalue()}

    hostile = edited(cnn, tmp_path / "h.pt2", change)
    refused(hostile)
    assert not canary.exists()
    with contextlib.suppress(Exception):  # it fails after the harm
        torch.export.load(hostile)
    assert canary.exists()


def test_a_size_that_is_python_is_not_evaluated_though_torch_would(cnn, tmp_path):
    canary = tmp_path / "ran"
    text = f"__import__('pathlib').Path('{canary}').touch() or Symbol"
    hostile = edited_graph(cnn, tmp_path / "h.pt2", '"expr_str": "Symbol', f'"expr_str": "{text}')
    refused(hostile)
    assert not canary.exists()
    with contextlib.suppress(Exception):  # it fails after the harm
        torch.export.load(hostile)
    assert canary.exists()


@pytest.mark.parametrize("target", ["torch.os.system", "torch.hub.load", "torch.ops.mylib.run.default", "eval"])
def test_a_call_of_anything_but_tensor_operators_is_refused(cnn, tmp_path, target):
    hostile = edited_graph(cnn, tmp_path / "h.pt2", "torch.ops.aten.relu.default", target)
    assert target in refused(hostile).why


def test_guards_which_are_python_text_are_dropped(cnn, tmp_path):
    canary = tmp_path / "ran"
    text = f"__import__('pathlib').Path('{canary}').touch()"
    hostile = edited_graph(cnn, tmp_path / "h.pt2", '"guards_code": []', f'"guards_code": {json.dumps([text])}')
    opened = open_program(hostile.read_bytes(), title="h.pt2")
    opened.program.module()  # which would compile and keep them
    assert opened.program._guards_code == []
    assert not canary.exists()


def test_whole_numbers_come_out_as_int32_behind_the_float_answer(tmp_path):
    class Both(nn.Module):
        def forward(self, x):
            return x > 0, x.argmax(-1), x * 2

    x = torch.tensor([[1.0, -2.0, 3.0]])
    found = load_program(save(Both(), (x,), tmp_path / "b.pt2"), shape=None)
    assert [spec.dtype for spec in found.contract.outputs] == ["float32", "int32", "int32"]
    given = found.module(x)
    assert [value.tolist() for value in given] == [[[2.0, -4.0, 6.0]], [[1, 0, 1]], [2]]
    assert [value.dtype for value in given] == [torch.float32, torch.int32, torch.int32]


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "data/weights/model.pt", "extra/x", "data/constants/opaque_obj_0"]
)
def test_parts_that_are_no_graph_and_no_tensor_are_refused(cnn, tmp_path, name):
    refused(edited(cnn, tmp_path / "h.pt2", lambda parts: parts | {name: b"x"}))


def test_a_tree_that_names_a_module_is_never_rebuilt(cnn, tmp_path):
    plain = '\\"type\\": \\"builtins.dict\\", \\"context\\": \\"[\\\\\\"logits'
    named = '\\"type\\": \\"antigravity.Tree\\", \\"context\\": \\"[\\\\\\"logits'
    found = load_program(edited_graph(cnn, tmp_path / "h.pt2", plain, named), shape=None)
    assert [spec.name for spec in found.contract.outputs] == ["output_0"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"no zip at all"])
def test_a_damaged_file_is_named(content):
    with pytest.raises(ConversionError) as caught:
        open_program(content, title="x.pt2")
    assert caught.value.code == "E0783"
