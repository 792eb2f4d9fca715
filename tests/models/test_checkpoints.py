"""Checkpoints that transformers wrote give in our module what transformers gives."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgekit_models.checkpoints import FAMILIES, read_transformers_folder, text_classifier_from
from edgekit_runtime.errors import ConversionError, EdgekitError, UsageError

CLASSES, VOCABULARY, KNOWN = 3, 60, 24
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "num_labels": CLASSES}
ROBERTA = {**COMMON, **BERT, "max_position_embeddings": KNOWN + 2, "pad_token_id": 1}
MODELS = {
    "bert": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(**COMMON, **BERT, max_position_embeddings=KNOWN),
    ),
    "bert-gelu-new": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(**COMMON, **BERT, max_position_embeddings=KNOWN, hidden_act="gelu_new"),
    ),
    "roberta": (
        transformers.RobertaForSequenceClassification,
        transformers.RobertaConfig(**ROBERTA, layer_norm_eps=1e-5, type_vocab_size=1),
    ),
    "xlm-roberta": (transformers.XLMRobertaForSequenceClassification, transformers.XLMRobertaConfig(**ROBERTA)),
    "distilbert": (
        transformers.DistilBertForSequenceClassification,
        transformers.DistilBertConfig(**COMMON, **DISTIL, max_position_embeddings=KNOWN),
    ),
}


def made(kind: str, *, bare: bool = False):
    """Give a random model whose weights are large enough for every part to count."""
    cls, config = MODELS[kind]
    torch.manual_seed(11)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)
    return model.base_model if bare else model


def padded_batch(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    filler = MODELS[kind][1].pad_token_id
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, VOCABULARY, (4, 12), generator=generator)
    mask = torch.ones(4, 12, dtype=torch.int64)
    for row, length in enumerate((12, 7, 3, 1)):
        mask[row, length:] = 0
        ids[row, length:] = filler
    return ids, mask


def refused(error: type[EdgekitError], code: str, folder: Path, *, max_length: int = 12) -> EdgekitError:
    with pytest.raises(error) as caught:
        read_transformers_folder(folder, classes=CLASSES, max_length=max_length)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    return caught.value


def saved(folder: Path, kind: str = "bert", *, bare: bool = False) -> Path:
    made(kind, bare=bare).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), "utf-8")


@pytest.mark.parametrize("kind", sorted(MODELS))
@torch.no_grad()
def test_logits_and_hidden_states_are_those_of_transformers(tmp_path, kind) -> None:
    theirs = made(kind)
    theirs.save_pretrained(tmp_path)
    ours = read_transformers_folder(tmp_path, classes=CLASSES, max_length=12)
    ids, mask = padded_batch(kind)
    expected = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    assert (ours.config.pooling, ours.config.max_length) == ("first", 12)
    torch.testing.assert_close(ours(ids, mask), expected.logits, rtol=0, atol=1e-5)
    for state, wanted in zip(ours.hidden_states(ids, mask), expected.hidden_states, strict=True):
        torch.testing.assert_close(state[mask == 1], wanted[mask == 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@torch.no_grad()
def test_bare_encoder_gets_mean_pooling_over_its_last_hidden_state(tmp_path, kind) -> None:
    theirs = made(kind, bare=True)
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(1)
    ours = read_transformers_folder(tmp_path, classes=5, max_length=12)
    ids, mask = padded_batch(kind)
    last = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = torch.stack([state[keep == 1].mean(0) for state, keep in zip(last, mask, strict=True)])
    assert (ours.config.pooling, ours.config.head, ours.config.classes) == ("mean", "none", 5)
    torch.testing.assert_close(ours(ids, mask), ours.classifier(pooled), rtol=0, atol=1e-5)
    torch.manual_seed(1)
    again = read_transformers_folder(tmp_path, classes=5, max_length=12)
    torch.testing.assert_close(again(ids, mask), ours(ids, mask), rtol=0, atol=0)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_head_with_another_number_of_classes_is_left_behind(tmp_path, kind) -> None:
    ours = read_transformers_folder(saved(tmp_path, kind), classes=CLASSES + 1, max_length=12)
    assert (ours.config.pooling, ours.config.head, ours.config.classes) == ("mean", "none", CLASSES + 1)


@torch.no_grad()
def test_half_precision_and_shards_give_a_float32_model(tmp_path) -> None:
    theirs = made("bert").half()
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    ids, mask = padded_batch("bert")
    whole, shards = (
        read_transformers_folder(tmp_path / n, classes=CLASSES, max_length=12) for n in ("whole", "shards")
    )
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
    torch.testing.assert_close(shards(ids, mask), whole(ids, mask), rtol=0, atol=0)


def test_every_family_is_compared_with_transformers() -> None:
    assert {config.model_type for _, config in MODELS.values()} == set(FAMILIES)


def test_unknown_family_is_named(tmp_path) -> None:
    edit_config(saved(tmp_path), model_type="gpt2")
    error = refused(ConversionError, "E0701", tmp_path)
    assert "'gpt2'" in error.what
    assert "distilbert" in error.why
    edit_config(tmp_path, model_type=None)
    assert "'unknown'" in refused(ConversionError, "E0701", tmp_path).what


@pytest.mark.parametrize("change", [{"position_embedding_type": "relative_key"}, {"hidden_act": "relu"}])
def test_relative_positions_and_odd_activations_are_refused(tmp_path, change) -> None:
    edit_config(saved(tmp_path), **change)
    assert str(*change.values()) in refused(ConversionError, "E0702", tmp_path).what


def test_config_without_a_size_is_refused(tmp_path) -> None:
    edit_config(saved(tmp_path), num_attention_heads=None)
    assert "num_attention_heads" in refused(ConversionError, "E0708", tmp_path).what


@pytest.mark.parametrize(
    "name", ["bert.embeddings.position_embeddings.weight", "bert.encoder.layer.1.output.dense.bias"]
)
def test_missing_tensor_is_named(tmp_path, name) -> None:
    path = saved(tmp_path) / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != name}, path)
    assert name in refused(ConversionError, "E0703", tmp_path).what


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_more_positions_than_the_model_knows_are_refused(tmp_path, kind) -> None:
    saved(tmp_path, kind)
    assert read_transformers_folder(tmp_path, classes=CLASSES, max_length=KNOWN).config.max_length == KNOWN
    error = refused(UsageError, "E0270", tmp_path, max_length=KNOWN + 1)
    assert f"to {KNOWN} or less" in error.fix


@torch.no_grad()
def test_state_dict_in_memory_is_read_like_a_folder() -> None:
    theirs = made("bert")
    ours = text_classifier_from(
        theirs.config.to_dict(), theirs.state_dict(), name="made", classes=CLASSES, max_length=12
    )
    ids, mask = padded_batch("bert")
    torch.testing.assert_close(ours(ids, mask), theirs(ids, mask).logits, rtol=0, atol=1e-5)
