"""Preprocessing written by the desktop is opened with the code of the device."""

import json

import numpy as np
import pytest

from edgekit.recipe.spec import ImageSpec
from edgekit_models.preprocess import image_preprocess, read_preprocess, text_preprocess, write_preprocess
from edgekit_runtime.preprocess.image import ImagePreprocess
from edgekit_runtime.preprocess.text import TextPreprocess

VOCABULARY = ("[PAD]", "[UNK]", "good", "film")
TOKENIZER = {
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: place for place, token in enumerate(VOCABULARY)},
    },
}


def test_text_preprocessing_comes_back(tmp_path) -> None:
    write_preprocess(text_preprocess(5), tmp_path, tokenizer=json.dumps(TOKENIZER).encode())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preprocess.json", "tokenizer.json"]
    preprocess = read_preprocess(tmp_path)
    assert isinstance(preprocess, TextPreprocess)
    tensors = preprocess("Good film!")
    np.testing.assert_array_equal(tensors["input_ids"], [[2, 3, 1, 0, 0]])
    np.testing.assert_array_equal(tensors["attention_mask"], [[1, 1, 1, 0, 0]])


def test_image_preprocessing_comes_back(tmp_path) -> None:
    spec = ImageSpec(height=2, width=3, channels=3, scale=0.5, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    write_preprocess(image_preprocess(spec), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocess.json"]
    preprocess = read_preprocess(tmp_path)
    assert isinstance(preprocess, ImagePreprocess)
    image = np.full((2, 3, 3), 10, np.uint8)
    expected = np.broadcast_to(np.array([4.0, 1.5, 0.5], np.float32), (1, 2, 3, 3))
    np.testing.assert_allclose(preprocess(image)["image"], expected)


def test_files_hold_no_nan_and_are_the_same_each_time(tmp_path) -> None:
    write_preprocess(text_preprocess(7), tmp_path)
    first = (tmp_path / "preprocess.json").read_bytes()
    write_preprocess(text_preprocess(7), tmp_path)
    assert (tmp_path / "preprocess.json").read_bytes() == first
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_preprocess({"kind": "image", "scale": float("nan")}, tmp_path)
