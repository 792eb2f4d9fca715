"""A folder answers as transformers and sentence-transformers have it answer."""

import json

import numpy as np
import pytest
import torch

from edgekit_models.sentence_folder import read_sentence_folder
from edgekit_runtime.errors import ConversionError, MissingError, UsageError

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}
IDS = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 9, 11, 12, 13, 3]])
MASK = (IDS > 0).long()


@pytest.fixture
def bert(tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path, model


def write_modules(folder, *kinds, **pooling) -> None:
    rows = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


@torch.no_grad()
def answer(folder) -> np.ndarray:
    found = read_sentence_folder(folder, max_length=6)
    assert found.labels == ()
    assert found.width == 16
    return found.module(IDS, MASK).numpy()


@torch.no_grad()
def hidden(model) -> np.ndarray:
    return model(input_ids=IDS, attention_mask=MASK).last_hidden_state.numpy()


def test_a_bare_encoder_gives_the_mean_over_real_tokens(bert) -> None:
    folder, model = bert
    wanted = np.stack([hidden(model)[0, :4].mean(0), hidden(model)[1].mean(0)])
    np.testing.assert_allclose(answer(folder), wanted, atol=2e-6)


def test_modules_choose_the_first_token_and_unit_length(bert) -> None:
    folder, model = bert
    write_modules(folder, "Transformer", "Pooling", "Normalize", pooling_mode_cls_token=True)
    first = hidden(model)[:, 0]
    np.testing.assert_allclose(answer(folder), first / np.linalg.norm(first, axis=1, keepdims=True), atol=2e-6)


def test_modules_without_normalize_leave_the_length(bert) -> None:
    folder, model = bert
    write_modules(folder, "Transformer", "Pooling", pooling_mode_mean_tokens=True, pooling_mode_max_tokens=False)
    np.testing.assert_allclose(answer(folder)[1], hidden(model)[1].mean(0), atol=2e-6)


@pytest.mark.parametrize(
    ("kinds", "pooling", "named"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "Dense"),
        (("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls_token"),
    ],
)
def test_an_answer_that_is_not_known_is_refused_and_not_guessed(bert, kinds, pooling, named) -> None:
    folder, _ = bert
    write_modules(folder, *kinds, **pooling)
    with pytest.raises(ConversionError) as caught:
        read_sentence_folder(folder, max_length=6)
    assert caught.value.code == "E0709"
    assert named in caught.value.why


def test_a_head_gives_logits_under_its_own_labels(tmp_path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    names = {0: "bad", 1: "so so", 2: "good"}
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3, id2label=names)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    found = read_sentence_folder(tmp_path, max_length=6)
    assert found.labels == ("bad", "so so", "good")
    with torch.no_grad():
        wanted = model(input_ids=IDS, attention_mask=MASK).logits
        torch.testing.assert_close(found.module(IDS, MASK), wanted, atol=2e-6, rtol=0)


def test_reading_leaves_torchs_generator_alone(bert) -> None:
    torch.manual_seed(7)
    read_sentence_folder(bert[0], max_length=6)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))


def test_a_folder_without_a_tokenizer_says_what_it_lacks(bert) -> None:
    (bert[0] / "tokenizer.json").unlink()
    with pytest.raises(MissingError) as caught:
        read_sentence_folder(bert[0], max_length=6)
    assert caught.value.code == "E0614"
    assert "tokenizer.json" in caught.value.what


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("config.json", b'{"model_type": ', "E0155"),
        ("config.json", b"[1]", "E0155"),
        ("config.json", b"\xff\xfe", "E0155"),
        ("modules.json", b'{"a": 1}', "E0155"),
        ("modules.json", b'["Pooling"]', "E0709"),
        ("model.safetensors", b"\0" * 5000, "E0243"),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_the_file(bert, name, content, code) -> None:
    folder, _ = bert
    (folder / name).write_bytes(content)
    with pytest.raises((UsageError, ConversionError)) as caught:
        read_sentence_folder(folder, max_length=6)
    assert caught.value.code == code
    assert name in caught.value.what + caught.value.why


def test_pickled_weights_are_not_read(bert) -> None:
    folder, _ = bert
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError) as caught:
        read_sentence_folder(folder, max_length=6)
    assert caught.value.code == "E0242"
