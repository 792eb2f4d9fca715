"""Exported files of the tiny networks; a conversion takes seconds, so each is done once in a run."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_networks
import torch
from pair_network import traced_pair
from tiny_networks import OPSET

from edgekit_converters.export.contract import contract_of
from edgekit_converters.export.onnx import export_onnx
from edgekit_converters.export.tflite import export_tflite
from edgekit_converters.quantize.graph import Graph
from edgekit_converters.quantize.measure import Row, as_rows
from edgekit_models.image_classifier import ImageClassifier
from edgekit_models.text_classifier import TextClassifier


@pytest.fixture(scope="session")
def text_model() -> TextClassifier:
    return tiny_networks.text_classifier()


@pytest.fixture(scope="session")
def image_model() -> ImageClassifier:
    return tiny_networks.image_classifier()


@pytest.fixture(scope="session")
def text_onnx(text_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "text.onnx"
    export_onnx(text_model, contract_of(text_model.config), path, opset=OPSET)
    return path


@pytest.fixture(scope="session")
def image_onnx(image_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "image.onnx"
    export_onnx(image_model, contract_of(image_model.config), path, opset=OPSET)
    return path


@pytest.fixture(scope="session")
def text_tflite(text_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "text.tflite"
    export_tflite(text_model, contract_of(text_model.config), path)
    return path


@pytest.fixture(scope="session")
def image_tflite(image_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "image.tflite"
    export_tflite(image_model, contract_of(image_model.config), path)
    return path


@pytest.fixture(scope="session")
def pair() -> Graph:
    return traced_pair()


@pytest.fixture(scope="session")
def text() -> tuple[Graph, Sequence[Row]]:
    """A traced text classifier and 24 rows of it."""
    graph = tiny_networks.traced(tiny_networks.text_classifier(scale=0.2))
    return graph, as_rows(graph, tiny_networks.text_feeds(24, seed=1), trim=True)


@pytest.fixture
def one_thread():
    """What tiny networks compute takes longer when threads share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
