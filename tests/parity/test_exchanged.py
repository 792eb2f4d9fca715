"""Two classes whose names were exchanged, told from a model that errs."""

import numpy as np
import pytest

from edgekit.parity.exchanged import exchanged_classes, named_pair

WANTED = np.repeat(np.arange(4), 20)


def test_two_classes_that_answer_for_each_other_are_found():
    found = WANTED.copy()
    found[20:40], found[60:80] = 3, 1
    found[20:24] = 0  # 16 of 20 are enough
    assert exchanged_classes(found, WANTED) == (1, 3)
    assert named_pair((1, 3), ("a", "b", "c", "d")) == ("b", "d")


@pytest.mark.parametrize("second", [60, 70], ids=["one way alone", "one way and half of the other"])
def test_a_class_that_is_taken_for_another_is_an_error_of_the_model(second):
    found = WANTED.copy()
    found[20:40], found[60:second] = 3, 1
    assert exchanged_classes(found, WANTED) is None


def test_rows_that_are_too_few_say_nothing():
    """Of 5 rows, all 5 crossed: the 95 % interval of the share begins at 0.025^(1/5) = 0.478, of 6 at 0.541."""
    few, more = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    assert exchanged_classes(1 - few, few) is None
    assert exchanged_classes(1 - more, more) == (0, 1)


def test_of_several_pairs_the_one_with_the_most_rows_is_named():
    wanted = np.repeat(np.arange(4), [10, 10, 30, 30])
    found = np.array([1, 0, 3, 2])[wanted]
    assert exchanged_classes(found, wanted) == (2, 3)


def test_a_class_that_the_bundle_does_not_name_keeps_its_number():
    assert named_pair((0, 7), ("a", "b")) == ("a", "7")
    assert named_pair(None, ("a", "b")) is None
