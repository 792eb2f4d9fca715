"""Bundles that do not classify: a vector for a text, tensors for tensors."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from edgekit_runtime.__main__ import main
from edgekit_runtime.bundle import Bundle, pack
from edgekit_runtime.errors import BundleError, UsageError
from edgekit_runtime.model import Model

both = pytest.mark.parametrize("engine", ["onnxruntime", "litert"])


def renamed(parts, task, answer, *without, **members) -> bytes:
    """A classifier's bundle as one of another task, its output under another name."""
    kept = {name: content for name, content in {**parts["members"], **members}.items() if name not in without}
    models = {
        runtime: replace(entry, outputs=tuple(replace(spec, name=answer) for spec in entry.outputs))
        for runtime, entry in parts["models"].items()
    }
    return pack(**{**parts, "task": task, "models": models, "members": kept})


def embedder(**members) -> bytes:
    return renamed(tiny_models.text_bundle_parts(), "text-embedding", "vector", "labels.json", **members)


def of_tensors(**members) -> bytes:
    gone = ("labels.json", "preprocess.json", "golden/input.npy")
    return renamed(tiny_models.image_bundle_parts(), "tensors", "scores", *gone, **members)


@both
def test_a_text_becomes_the_vector_that_the_formula_says(engine) -> None:
    with Model(Bundle.from_bytes(embedder()), engine=engine) as model:
        ids = [tiny_models.VOCABULARY.index(token) for token in ("[CLS]", "good", "film", "[SEP]")]
        vector = model.embed("good film")
        np.testing.assert_allclose(vector, tiny_models.EMBEDDING[ids].sum(0), atol=1e-5)
        assert vector.shape == (3,)
        assert model.labels == ()
        assert model.selftest().passed
        assert [check.name for check in model.selftest().checks] == ["preprocessing", "outputs", "alive"]


@both
def test_tensors_give_tensors_and_a_self_test_without_preprocessing(engine) -> None:
    image = np.random.default_rng(5).random((1, 8, 8, 1), np.float32)
    with Model(Bundle.from_bytes(of_tensors()), engine=engine) as model:
        np.testing.assert_allclose(model.run(image=image)["scores"], tiny_models.image_logits(image), atol=1e-5)
        assert [check.name for check in model.selftest().checks] == ["outputs", "alive"]
        assert model.selftest().passed
        assert model.benchmark(runs=2).runs == 2


def test_the_self_test_of_other_tasks_can_fail() -> None:
    for make in (embedder, of_tensors):
        with Model(Bundle.from_bytes(make())) as model:
            recorded = model.bundle.npy("golden/onnxruntime.npy")
        wrong = make(**{"golden/onnxruntime.npy": tiny_models.npy(recorded[::-1])})
        with Model(Bundle.from_bytes(wrong)) as model:
            assert not model.selftest().passed


@pytest.mark.parametrize(
    ("make", "call", "advice"),
    [
        (embedder, lambda model: model("good"), "model.embed(text)"),
        (of_tensors, lambda model: model("good"), "model.run(name=array, ...)"),
        (of_tensors, lambda model: model.embed("good"), "model.run(name=array, ...)"),
        (of_tensors, lambda model: model.preprocess("good"), "model.run(name=array, ...)"),
    ],
)
def test_a_call_of_another_task_says_which_to_use(make, call, advice) -> None:
    with Model(Bundle.from_bytes(make())) as model, pytest.raises(UsageError) as caught:
        call(model)
    assert caught.value.code == "E0150"
    assert advice in caught.value.fix


def test_a_classifier_gives_no_vector() -> None:
    parts = tiny_models.text_bundle_parts()
    with Model(Bundle.from_bytes(pack(**parts))) as model, pytest.raises(UsageError) as caught:
        model.embed("good")
    assert caught.value.fix == "call model(x)"


def test_a_bundle_whose_answer_has_another_name_is_refused() -> None:
    parts = tiny_models.text_bundle_parts()
    wrong = renamed(parts, "text-embedding", "logits", "labels.json")
    with pytest.raises(BundleError) as caught:
        Model(Bundle.from_bytes(wrong))
    assert caught.value.code == "E0517"


def test_the_devices_command_line_prints_vectors(tmp_path, capsys) -> None:
    path = tmp_path / "a.edge"
    path.write_bytes(embedder())
    assert main(["run", str(path), "good film"]) == 0
    first, text = capsys.readouterr().out.strip().split("\t")
    assert text == "good film"
    assert len(first.split(",")) == 3
