from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.similarity.topk import TopK

# Few values and few rows, so that ties and repeated neighbours are common.
ROWS, K = 3, 4
SIMILARITY = {row: np.float32([0.5, 0.25, -0.5][row % 3]) for row in range(12)}


def top_k(sets: list[set[int]]) -> TopK:
    found = TopK.empty(ROWS, K)
    for i, rows in enumerate(sets):
        best = sorted(rows, key=lambda row: (-SIMILARITY[row], row))[:K]
        found.indices[i, : len(best)] = best
        found.similarities[i, : len(best)] = [SIMILARITY[row] for row in best]
    return found


sets_of_rows = st.lists(st.sets(st.sampled_from(sorted(SIMILARITY))), min_size=ROWS, max_size=ROWS)


def assert_same(left: TopK, right: TopK) -> None:
    np.testing.assert_array_equal(left.indices, right.indices)
    np.testing.assert_array_equal(left.similarities, right.similarities)


@given(sets_of_rows, sets_of_rows)
def test_merge_is_the_top_of_the_union(left, right):
    union = [a | b for a, b in zip(left, right, strict=True)]
    assert_same(top_k(left).merge(top_k(right)), top_k(union))


@given(sets_of_rows, sets_of_rows)
def test_merge_is_commutative(left, right):
    assert_same(top_k(left).merge(top_k(right)), top_k(right).merge(top_k(left)))


@given(sets_of_rows, sets_of_rows, sets_of_rows)
def test_merge_is_associative(a, b, c):
    a, b, c = top_k(a), top_k(b), top_k(c)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(sets_of_rows)
def test_merge_is_idempotent(rows):
    assert_same(top_k(rows).merge(top_k(rows)), top_k(rows))


def test_thresholds_are_the_last_similarities():
    found = top_k([{0, 1, 2, 3, 4}, {5}, set()])
    assert found.thresholds().tolist() == [0.25, -np.inf, -np.inf]


def test_rows_are_views():
    found = TopK.empty(5, 2)
    found.rows(1, 3).indices[:] = 7
    assert found.indices[:, 0].tolist() == [-1, 7, 7, -1, -1]


def test_copy_owns_its_arrays():
    found = TopK.empty(2, 2)
    found.copy().indices[:] = 7
    assert (found.indices == -1).all()


def test_merge_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        TopK.empty(3, 4).merge(TopK.empty(3, 5))


@pytest.mark.parametrize(
    ("similarities", "indices", "match"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int64), "must both be"),
        (np.zeros((2, 3), np.float64), np.zeros((2, 3), np.int64), "float64"),
        (np.zeros(3, np.float32), np.zeros(3, np.int64), "must both be"),
    ],
)
def test_arrays_are_checked(similarities, indices, match):
    with pytest.raises(ValueError, match=match):
        TopK(similarities, indices)
