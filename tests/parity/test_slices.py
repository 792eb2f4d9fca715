"""Parts of the rows and the worst of them."""

import numpy as np
import pytest

from edgekit.parity.slices import Part, measure_slice, partitions, script_of, worst_slice
from edgekit_runtime.rows import RawRows


def names(parts, kind):
    return {part.name: np.flatnonzero(part.rows).tolist() for part in parts if part.kind == kind}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a good film", "Latin"),
        ("хороший фильм, good", "Cyrillic"),
        ("这部电影很好看", "Han"),
        ("とても良い映画でした", "Japanese"),
        ("映画最高の", "Japanese"),
        ("좋은 영화", "Hangul"),
        ("فيلم جيد", "Arabic"),
        ("12 + 3!", "none"),
        ("", "none"),
    ],
)
def test_the_script_is_that_of_most_letters(text, script):
    assert script_of(text) == script


def test_texts_are_parted_in_thirds_of_their_length():
    rows = RawRows(texts=tuple("x" * length for length in (9, 1, 2, 8, 3, 7, 5, 4, 6)))
    parts = names(partitions(rows, None), "length")
    assert parts == {
        "up to 3 characters": [1, 2, 4],
        "over 3 characters, up to 6 characters": [6, 7, 8],
        "over 6 characters": [0, 3, 5],
    }


def test_equal_lengths_stay_together_and_one_length_is_no_partition():
    rows = RawRows(texts=("aa", "bb", "cc", "dddd"))
    assert names(partitions(rows, None), "length") == {"up to 2 characters": [0, 1, 2], "over 2 characters": [3]}
    assert partitions(RawRows(texts=("aa", "bb")), None) == []


def test_images_are_parted_by_brightness_and_all_rows_by_class():
    images = np.stack([np.full((2, 2, 1), value, np.uint8) for value in (200, 10, 90)])
    parts = partitions(RawRows(arrays={"images": images}), ["cat", "dog", "cat"])
    assert names(parts, "brightness") == {"up to 10": [1], "over 10, up to 90": [2], "over 90": [0]}
    assert names(parts, "class") == {"cat": [0, 2], "dog": [1]}


@pytest.mark.parametrize("rows", [RawRows(texts=("a", "bb", "это ccc", "dddd")), RawRows(texts=("a", "я"))])
def test_the_parts_of_a_kind_hold_every_row_once(rows):
    parts = partitions(rows, ["x", *"y" * (len(rows) - 1)])
    for kind in {part.kind for part in parts}:
        assert (sum(part.rows.astype(int) for part in parts if part.kind == kind) == 1).all()


def sliced(sizes, changed, *, kind="class"):
    """Parts of the given sizes, of which so many rows have changed."""
    total, start, parts = sum(sizes), 0, []
    moved = np.zeros(total, bool)
    for size, count in zip(sizes, changed, strict=True):
        mask = np.zeros(total, bool)
        mask[start : start + size] = True
        moved[start : start + count] = True
        parts.append(Part(kind, f"{start}", mask))
        start += size
    return [measure_slice(part, changed=moved, scores=None, cosines=np.ones(total)) for part in parts]


def test_a_slice_is_measured_on_its_own_rows():
    part = Part("class", "cat", np.array([True, True, True, True, False]))
    scores = (np.array([1.0, 1, 1, 0, 1]), np.array([1.0, 0, 0, 0, 1]))
    changed = np.array([False, True, True, False, True])
    one = measure_slice(part, changed=changed, scores=scores, cosines=np.array([1.0, 0.5, 0.5, 1.0, -1.0]))
    values = {each.name: each.value for each in one.measures}
    assert values == {"changed": 50.0, "reference_accuracy": 0.75, "accuracy": 0.25, "cosine_mean": 0.75}
    assert one.rows == 4


def test_the_worst_slice_is_neither_the_largest_nor_a_tiny_one():
    # 300 rows with 6 changed, 30 rows with 6 changed, 3 rows all changed
    assert worst_slice(sliced((300, 30, 3), (6, 6, 3))).rows == 30


def test_without_changes_there_is_no_worst_slice():
    assert worst_slice(sliced((30, 30), (0, 0))) is None
    assert worst_slice([]) is None


def test_numbers_have_their_worst_slice_by_cosine():
    low, high = np.arange(40) < 20, np.arange(40) >= 20
    cosines = np.where(low, 0.9, 0.99)
    slices = [
        measure_slice(Part("length", name, mask), changed=None, scores=None, cosines=cosines)
        for name, mask in (("short", low), ("long", high))
    ]
    assert worst_slice(slices).name == "short"
    cosines[30] = np.nan
    slices[1] = measure_slice(Part("length", "long", high), changed=None, scores=None, cosines=cosines)
    assert worst_slice(slices).name == "long"
