"""The dense index must equal the exhaustive answer to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from similarity.hard import (
    NON_NEGATIVE,
    Exhaustive,
    assert_equals_exhaustive,
    indexed,
    text_matrix,
    url_texts,
)

from noveltyflow.similarity.kernels import cpu, searching
from noveltyflow.similarity.kernels.dense import index
from noveltyflow.similarity.kernels.dense.index import LONGEST_ROW, SLAB_ROWS, DenseIndex
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.validation import as_unit_rows
from noveltyflow.testing.matrices import SHAPES, unit_rows


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 1_500),
    st.sampled_from([64, 1 << 12, 1 << 17]),
    st.booleans(),
    st.sampled_from([1, 10, 50]),
    st.integers(1, 600),
)
def test_a_dense_head_does_not_change_the_result(seed, rows, n_features, with_idf, n_neighbors, part_rows):
    texts = url_texts(np.random.default_rng(seed), rows)
    X = text_matrix(texts, with_idf=with_idf, ngram_range=(2, 3), n_features=n_features)
    assert_equals_exhaustive(X, n_neighbors, indexed(dense_share=-1.0, part_rows=part_rows))


@pytest.mark.parametrize("shape", NON_NEGATIVE)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 100), st.sampled_from([1, 8, 400]))
def test_a_dense_head_does_not_change_any_shape(shape, seed, rows, columns, n_neighbors):
    X = as_unit_rows(unit_rows(SHAPES[shape](np.random.default_rng(seed), rows, columns)), "X")
    assert_equals_exhaustive(X, n_neighbors, indexed(dense_share=-1.0))


def test_slabs_are_searched_from_the_nearest_on():
    """More rows than one slab, with frequent and rare columns."""
    X = text_matrix(url_texts(np.random.default_rng(3), SLAB_ROWS + 700), with_idf=False, ngram_range=(2, 3))
    kernel = indexed()
    prepared = kernel.prepare(X, 10)
    assert isinstance(prepared.parts[0].index, DenseIndex)
    rows = np.r_[0:40, SLAB_ROWS - 20 : SLAB_ROWS + 20]
    best, _ = search(X[rows], X, 10, kernel, exclude_self=False)
    expected, _ = search(X[rows], X, 10, Exhaustive(), exclude_self=False)
    np.testing.assert_array_equal(best.indices, expected.indices)
    np.testing.assert_array_equal(best.similarities, expected.similarities)


def test_a_few_long_rows_take_the_dense_index_from_no_other():
    rng = np.random.default_rng(5)
    short = text_matrix(url_texts(rng, 500), ngram_range=(2, 3), with_idf=False, n_features=1 << 14)
    long = np.sort(rng.permutation(1 << 14)[:5_000])
    outsized = sp.csr_matrix((np.full(5_000, 5_000**-0.5, np.float32), long, [0, 5_000]), (1, 1 << 14))
    X = as_unit_rows(sp.vstack([short[:200], outsized, short[200:], outsized], "csr"), "X")
    kernel = indexed(dense_share=0.0)
    dense, listed = kernel.prepare(X, 10).parts
    assert isinstance(dense.index, DenseIndex)
    assert listed.lists.numbers.tolist() == [200, 501]
    assert_equals_exhaustive(X, 10, kernel, query_rows=190)


def random_unit_rows(rng, lengths, most, n_features):
    """Rows of so many of the first `most` columns, drawn at random."""
    columns = np.concatenate([np.sort(rng.choice(most, length, replace=False)) for length in lengths])
    indptr = np.append(0, np.cumsum(lengths))
    weights = rng.random(indptr[-1]) + 0.1
    norms = np.sqrt(np.add.reduceat(weights**2, indptr[:-1]))
    return sp.csr_matrix((weights / np.repeat(norms, lengths), columns, indptr), (len(lengths), n_features))


@pytest.mark.parametrize(("short", "long"), [(1_990, 10), (20, 30)])
def test_columns_and_weights_of_long_rows_do_not_decide_which_index_is_made(short, long):
    """Columns that no other row has are neither in its head nor in its tail."""
    rng, n_features = np.random.default_rng(11), 1 << 17
    rows = random_unit_rows(rng, np.full(short, 8), 16, n_features)
    rows += sp.csr_matrix(([1e-4], ([3], [99])), rows.shape)
    outsized = random_unit_rows(rng, np.full(long, 5_000), n_features, n_features)
    X = as_unit_rows(sp.vstack([rows[:15], outsized, rows[15:]], "csr", np.float32), "X")
    kernel = indexed()
    dense, listed = kernel.prepare(X, 10).parts
    assert isinstance(dense.index, DenseIndex)
    assert np.flatnonzero(dense.index.column_of >= 0).tolist() == list(range(16))
    assert np.flatnonzero(dense.index.column_of < -1).tolist() == [99]
    assert (dense.index.n_head, dense.index.n_tail) == (16, 1)
    assert listed.lists.numbers.tolist() == list(range(15, 15 + long))
    assert_equals_exhaustive(X, 10, kernel)


def test_a_part_of_nothing_but_long_rows_is_computed(monkeypatch):
    X = text_matrix(url_texts(np.random.default_rng(6), 40), ngram_range=(2, 3), n_features=1 << 12)
    for module in (cpu, searching):
        monkeypatch.setattr(module, "LONGEST_ROW", 1)
    kernel = indexed(dense_share=0.0, part_rows=15)
    assert isinstance(kernel.prepare(X, 10).parts[0].index, DenseIndex)
    assert_equals_exhaustive(X, 5, kernel)


def test_head_columns_are_counted_in_equal_rows_too():
    X = text_matrix(url_texts(np.random.default_rng(10), 200), ngram_range=(2, 3), n_features=1 << 12)
    X = X[np.repeat(np.arange(200), np.arange(200) % 4)]
    dense = indexed(dense_share=-1.0).prepare(X, 10).parts[0].index
    frequency = np.bincount(X.indices, minlength=X.shape[1])
    head = np.flatnonzero(dense.column_of >= 0)
    np.testing.assert_array_equal(dense.of_head[dense.column_of[head], 1], frequency[head])


def rows_of_two_lengths(long, short):
    """`long` rows of all 80,000 columns, then `short` rows, just short enough, of 4,096 of the last 72,000."""
    rng = np.random.default_rng(7)
    columns = [np.arange(80_000)] * long
    columns += [8_000 + np.sort(rng.permutation(72_000)[:LONGEST_ROW]) for _ in range(short)]
    lengths = np.array([part.size for part in columns])
    weights = np.repeat(lengths**-0.5, lengths).astype(np.float32)
    indptr = np.append(0, np.cumsum(lengths))
    return as_unit_rows(sp.csr_matrix((weights, np.concatenate(columns), indptr)), "X")


@pytest.mark.slow
def test_no_more_columns_stand_in_the_head_than_can_be_numbered():
    X, kernel = rows_of_two_lengths(200, 700), indexed()
    assert kernel.prepare(X, 10).parts[0].index.n_head == 1 << 16
    found, _ = search(X[200:], X, 10, kernel, exclude_self=False)
    expected, _ = search(X[200:], X, 10, Exhaustive(), exclude_self=False)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.similarities, expected.similarities)


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_limited_head_takes_the_most_frequent_columns(monkeypatch, most):
    monkeypatch.setattr(index, "MOST_HEAD_COLUMNS", most)
    X = text_matrix(url_texts(np.random.default_rng(8), 500), with_idf=False, ngram_range=(2, 3))
    kernel = indexed(dense_share=-1.0)
    dense = kernel.prepare(X, 10).parts[0].index
    assert dense.n_head == most
    frequency = np.bincount(X.indices, minlength=X.shape[1])
    assert frequency[dense.column_of >= 0].min() >= frequency[dense.column_of < 0].max()
    assert_equals_exhaustive(X, 10, kernel)
