"""What computes everything goes through many candidates a slab at a time, that of the query's own row first."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from similarity.hard import Exhaustive

from noveltyflow.similarity.kernels.exhaustive import SLAB_ROWS
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.topk import TopK
from noveltyflow.similarity.validation import as_unit_rows
from noveltyflow.testing.matrices import unit_rows

ROWS = 2 * SLAB_ROWS + 37


def drawn(kind):
    """Rows of a few columns: in every row, in runs of rows, here and there, with weights that cancel out or tie."""
    rng = np.random.default_rng(5)
    where = [np.ones(ROWS), np.arange(ROWS) // 700 % 3 == 0, *(rng.random((6, ROWS)) < 0.3)]
    weights = np.stack(where, axis=1) * rng.integers(1, 4, (ROWS, len(where)))
    weights[SLAB_ROWS - 3 : SLAB_ROWS + 3] = 0.0
    if kind == "signed":
        weights *= rng.choice([-1.0, 1.0], weights.shape)
    elif kind == "runs":
        weights[:, 2:] = 0.0
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return as_unit_rows(sp.csr_matrix((weights / np.maximum(norms, 1.0)).astype(np.float32)), "X")


def expected_of(X, row, k):
    """Every product added in the order of columns, as in the definition."""
    columns, sums, met = X.tocsc(), np.zeros(ROWS), np.zeros(ROWS, bool)
    for column, weight in zip(X[row].indices, X[row].data, strict=True):
        entries = slice(*columns.indptr[column : column + 2])
        rows = columns.indices[entries]
        sums[rows] += np.float64(weight) * columns.data[entries].astype(np.float64)
        met[rows] = True
    met[row] = False
    similarities = sums.astype(np.float32)
    order = np.lexsort((np.arange(ROWS), -similarities))
    chosen = order[met[order]][:k]
    return chosen, similarities[chosen]


@pytest.mark.parametrize("kind", ["runs", "signed", "positive"])
@pytest.mark.parametrize("n_neighbors", [1, 10, 100])
def test_slabs_in_whatever_order_give_the_answer_of_the_definition(kind, n_neighbors):
    X, kernel = drawn(kind), Exhaustive()
    prepared = kernel.prepare(X, n_neighbors)
    for row in (
        0,
        1,
        SLAB_ROWS - 4,
        SLAB_ROWS - 1,
        SLAB_ROWS + 3,
        2 * SLAB_ROWS - 1,
        2 * SLAB_ROWS,
        ROWS - 1,
    ):
        empty = TopK.empty(1, n_neighbors)
        found, _ = kernel.compute(X[row], prepared, empty, queries_start=row, candidates_start=0)
        rows, similarities = expected_of(X, row, n_neighbors)
        np.testing.assert_array_equal(found.indices[0, : rows.size], rows)
        np.testing.assert_array_equal(found.similarities[0, : rows.size], similarities)
        assert np.all(found.indices[0, rows.size :] == -1)


@pytest.mark.parametrize("n_neighbors", [5, 50])
def test_neighbours_near_the_own_row_leave_little_to_insert(n_neighbors):
    """Rows are the more similar the nearer they stand, as where a list is in order: no other comes in any more."""
    angle = np.linspace(0.0, 1.0, ROWS)
    X = as_unit_rows(sp.csr_matrix(np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)), "X")
    queries = np.arange(0, ROWS, 997)
    kernel = Exhaustive()
    prepared = kernel.prepare(X, n_neighbors)
    for row in queries.tolist():
        empty = TopK.empty(1, n_neighbors)
        _, stats = kernel.compute(X[row], prepared, empty, queries_start=row, candidates_start=0)
        assert stats.verified_pairs <= 300 + 4 * n_neighbors


def test_no_pair_comes_in_twice():
    X = as_unit_rows(sp.csr_matrix(unit_rows(np.random.default_rng(6).random((300, 5)))), "X")
    _, stats = search(X, X, 299, Exhaustive())
    assert stats.verified_pairs == 300 * 299


def test_ties_are_not_counted_as_inserted():
    X = as_unit_rows(sp.csr_matrix(np.ones((ROWS, 1), np.float32)), "X")
    _, stats = search(X[:20], X, 10, Exhaustive())
    assert stats.verified_pairs <= 20 * 30
