from __future__ import annotations

import numpy as np
import pytest

from noveltyflow.testing.compare import assert_neighbors_equal


def neighbors(indices, similarities):
    return np.array([indices]), np.array([similarities], np.float32)


EXPECTED = neighbors([4, 2, 7], [0.9, 0.5, 0.5])
REAL = {2: 0.5, 3: 0.1, 4: 0.9, 5: 0.9, 7: 0.5, 8: 0.5}


def assert_equal(actual, expected):
    assert_neighbors_equal(actual, expected, lambda row, others: np.array([REAL[other] for other in others]))


def test_equal_answers_pass():
    assert_equal(EXPECTED, EXPECTED)


def test_another_tie_in_the_last_slots_passes():
    assert_equal(neighbors([4, 8, 2], [0.9, 0.5, 0.4999999]), EXPECTED)


@pytest.mark.parametrize(
    ("actual", "match"),
    [
        (neighbors([5, 2, 7], [0.9, 0.5, 0.5]), "no ties"),
        (neighbors([4, 2, 7], [0.9, 0.6, 0.5]), "similarities differ"),
        (neighbors([4, 2, -1], [0.9, 0.5, -np.inf]), "empty"),
        (neighbors([4, 2, 2], [0.9, 0.5, 0.5]), "twice"),
        (neighbors([4, 2], [0.9, 0.5]), "shape"),
        (neighbors([4, 2, 3], [0.9, 0.5, 0.5]), "not as similar"),
        (neighbors([2, 4, 7], [0.9, 0.5, 0.5]), "not as similar"),
    ],
)
def test_wrong_answers_fail(actual, match):
    with pytest.raises(AssertionError, match=match):
        assert_equal(actual, EXPECTED)


def test_nothing_is_a_tie_while_slots_are_empty():
    expected = neighbors([4, 2, -1], [0.9, 0.5, -np.inf])
    with pytest.raises(AssertionError, match="no ties"):
        assert_equal(neighbors([4, 3, -1], [0.9, 0.5, -np.inf]), expected)
