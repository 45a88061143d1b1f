"""Where bounds take longer than computing everything does, everything is computed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
from similarity.hard import (
    HARD,
    Exhaustive,
    assert_equals_exhaustive,
    indexed,
    nearly_tied,
    text_matrix,
    tied,
    url_texts,
)

from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.dense.index import DenseIndex
from noveltyflow.similarity.kernels.parts import IndexedPart, ListedPart
from noveltyflow.similarity.kernels.pruned.index import GroupIndex
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.validation import as_unit_rows

CHEAP = {"common column", "one and many", "tied"}
"""Hard shapes for which computing everything can be quicker than bounds are, since rows are short."""


@pytest.mark.parametrize("shape", sorted(CHEAP))
@pytest.mark.parametrize("rows", [1_000, 4_000, 12_000])
def test_work_on_cheap_shapes_is_hardly_more_than_everything_computed(shape, rows):
    """Multiply-adds, with what is bounded and scored counted as so many as they take time."""
    X = HARD[shape](rows)
    (_, ours), (_, everything) = (search(X, X, 10, kernel) for kernel in (indexed(), Exhaustive()))
    spent = ours.multiply_adds + 50 * (ours.candidates + ours.verified_pairs)
    whole = everything.multiply_adds + 15_000 * rows
    assert spent < 1.1 * whole


@pytest.mark.parametrize(("words", "rows"), [(4, 4_000), (8, 12_000)])
def test_short_rows_of_common_words_take_hardly_more_than_everything_computed(words, rows):
    """Bounds of short rows that are all nearly alike spare nothing, which is to be noticed early."""
    rng = np.random.default_rng(0)
    columns = np.argsort(rng.random((rows, 64)), axis=1)[:, :words]
    weights = rng.random(columns.shape) + 0.1
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    matrix = sp.csr_matrix((weights.ravel(), columns.ravel(), np.arange(rows + 1) * words), (rows, 64))
    X = as_unit_rows(matrix, "X")
    kernel = indexed(dense_share=1.0)
    (_, ours), (_, everything) = (search(X, X, 10, one) for one in (kernel, Exhaustive()))
    spent = ours.multiply_adds + 50 * (ours.candidates + ours.verified_pairs)
    assert spent < 1.1 * (everything.multiply_adds + 15_000 * rows)


@pytest.mark.parametrize(("shape", "index"), [("numbered", GroupIndex), ("ten patterns", DenseIndex)])
def test_where_one_in_eight_rows_is_a_neighbour_all_is_computed(shape, index):
    rows, kernel = 3_200, CpuKernel()
    X = HARD[shape](rows)
    for n_neighbors, all_computed in ((rows // 8, True), (rows // 8 - 1, False)):
        part = kernel.prepare(X, n_neighbors).parts[0]
        assert isinstance(part, ListedPart) if all_computed else isinstance(part.index, index)
        (found, ours), (expected, everything) = (
            search(X[:100], X, n_neighbors, one) for one in (kernel, Exhaustive())
        )
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.similarities, expected.similarities)
        work = [(one.multiply_adds, one.candidates, one.verified_pairs) for one in (ours, everything)]
        assert (work[0] == work[1]) == all_computed


def test_bounds_are_tried_before_an_index_is_kept():
    """It is not where they take more than everything does, for the rows or for so many neighbours."""
    X, words = text_matrix(url_texts(np.random.default_rng(1), 3_200)), HARD["common column"](3_200)
    kept = [isinstance(CpuKernel().prepare(X, k).parts[0], IndexedPart) for k in (1, 10, 200)]
    assert kept == [True, True, False]
    assert isinstance(CpuKernel().prepare(words, 10).parts[0], ListedPart)
    assert isinstance(indexed().prepare(words, 10).parts[0], IndexedPart)


def test_an_index_is_kept_where_bounds_fail_in_places_only():
    """A third of the rows, or rows too long for a dense index here and there, do not decide it for the others."""
    urls = text_matrix(url_texts(np.random.default_rng(2), 4_000), n_features=1 << 17)
    alike = tied(2_000, 1)
    rows = sp.block_diag([urls, alike], "csr", dtype=np.float32)
    assert isinstance(CpuKernel().prepare(as_unit_rows(rows, "X"), 10).parts[0], IndexedPart)
    dense = HARD["ten patterns"](4_000)
    long = sp.random_array(
        (20, 5_000), density=1.0, format="csr", dtype=np.float32, rng=np.random.default_rng(3)
    )
    long = sp.diags_array(1 / scipy.sparse.linalg.norm(long, axis=1)) @ long
    far = sp.csr_array((long.data, long.indices, long.indptr), (20, dense.shape[1]))
    parts = [
        piece for number in range(20) for piece in (dense[200 * number : 200 * number + 200], far[[number]])
    ]
    mixed = as_unit_rows(sp.csr_matrix(sp.vstack(parts, "csr")), "X")
    assert isinstance(CpuKernel().prepare(mixed, 10).parts[0].index, DenseIndex)


def test_where_bounds_spare_nothing_all_is_computed():
    X, kernel = tied(6_000, 1), indexed()
    assert isinstance(kernel.prepare(X, 10).parts[0].index, GroupIndex)
    stats = assert_equals_exhaustive(X, 10, kernel)
    assert stats.candidates < 0.1 * X.shape[0] ** 2


def test_where_levels_hardly_tell_rows_apart_all_is_computed():
    X, kernel = nearly_tied(6_000), indexed()
    assert isinstance(kernel.prepare(X, 10).parts[0].index, DenseIndex)
    stats = assert_equals_exhaustive(X, 10, kernel)
    _, everything = search(X, X, 10, Exhaustive())
    assert stats.multiply_adds < 2 * everything.multiply_adds
    assert stats.verified_pairs * X.nnz / X.shape[0] < 2 * everything.multiply_adds
