"""Rows for training and feeds for engines are the same tensors."""

import numpy as np
import tiny_networks
from tiny_networks import IMAGE, LENGTH

from edgekit.recipe.spec import Task
from edgekit_converters.rows import feeds, training_rows
from edgekit_converters.training import ImageRows, TextRows


def test_text_rows_are_the_real_tokens_of_the_feeds(tmp_path) -> None:
    folder = tiny_networks.write_teacher(tmp_path, task=Task.TEXT_CLASSIFICATION)
    texts = ("good film", "bad", "", "warm " * 40)
    rows, fed = training_rows(texts, folder), list(feeds(texts, folder))
    assert isinstance(rows, TextRows)
    assert rows.ids[0].tolist() == [2, 4, 8, 3]
    assert [len(ids) for ids in rows.ids] == [4, 3, 2, LENGTH]
    for ids, feed in zip(rows.ids, fed, strict=True):
        assert {value.shape for value in feed.values()} == {(1, LENGTH)}
        np.testing.assert_array_equal(feed["input_ids"][0, : len(ids)], ids)
        assert feed["attention_mask"].sum() == len(ids)


def test_image_rows_are_the_feeds_with_channels_first(tmp_path) -> None:
    folder = tiny_networks.write_teacher(tmp_path, task=Task.IMAGE_CLASSIFICATION)
    images = tiny_networks.image_rows(5).images
    rows, fed = training_rows(images, folder), list(feeds(images, folder))
    assert isinstance(rows, ImageRows)
    assert rows.images.shape == (5, 1, IMAGE.height, IMAGE.width)
    assert rows.images.flags.c_contiguous
    np.testing.assert_allclose(rows.images[:, 0], images[..., 0] / 255, atol=1e-6)
    for image, feed in zip(rows.images, fed, strict=True):
        np.testing.assert_array_equal(feed["image"][0].transpose(2, 0, 1), image)
