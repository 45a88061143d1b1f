from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.similarity.topk import TopK


def test_rows_are_views():
    found = TopK.empty(5, 2)
    found.rows(1, 3).indices[:] = 7
    assert found.indices[:, 0].tolist() == [-1, 7, 7, -1, -1]


def test_copy_owns_its_arrays():
    found = TopK.empty(2, 2)
    found.copy().indices[:] = 7
    assert (found.indices == -1).all()


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


@given(
    st.integers(1, 150),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=300),
)
def test_insertion_keeps_the_best_in_order_however_many_there_are_and_each_once(n_neighbors, pairs):
    best = TopK.empty(1, n_neighbors)
    similarity_of = {row: np.float32(similarity / 5) for similarity, row in pairs}
    for _, row in pairs:
        insert_neighbor(best.similarities[0], best.indices[0], similarity_of[row], row)
    expected = sorted((-similarity, row) for row, similarity in similarity_of.items())[:n_neighbors]
    assert best.indices[0, : len(expected)].tolist() == [row for _, row in expected]
    assert best.similarities[0, : len(expected)].tolist() == [-negated for negated, _ in expected]
    assert (best.indices[0, len(expected) :] == -1).all()
    assert np.isneginf(best.similarities[0, len(expected) :]).all()
