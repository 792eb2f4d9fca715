"""The files of both networks, made once in a run: conversions take seconds."""

import layer_networks
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return layer_networks.images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    return layer_networks.texts(tmp_path_factory.mktemp("texts"))
