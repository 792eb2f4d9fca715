"""One sshd, one small bundle and its question for all tests of this folder."""

import pytest
from boards import running_board
from tiny_bundles import write_text_bundle

from edgekit.lanes.base import Question
from edgekit_runtime.bundle import verify
from edgekit_runtime.evidence import collect, document
from edgekit_runtime.model import Model
from edgekit_runtime.rows import RawRows

TEXTS = ("a good film", "bad, bad film", "", 'don\'t; rm -rf "$HOME" `id` \u00e9')


@pytest.fixture(scope="session")
def question(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "-a name; with $signs.edge"
    write_text_bundle(path)
    return Question(path=path, bundle=verify(path), rows=RawRows(texts=TEXTS))


@pytest.fixture(scope="session")
def evidence(question):
    with Model(question.bundle, prove=False) as model:
        return document(model, question.rows, [collect(model, question.rows)], source="a test")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture
def board(sshd, monkeypatch):
    monkeypatch.setenv("PATH", str(sshd.bin), prepend=":")
    sshd.log.write_text("")
    return sshd
