from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.exhaustive import SLAB_ROWS
from noveltyflow.similarity.neighbors import cosine_kneighbors, search
from noveltyflow.similarity.topk import TopK
from noveltyflow.similarity.validation import as_unit_rows, without_lonely_columns
from noveltyflow.testing.compare import brute_force_rows
from noveltyflow.testing.matrices import SHAPES, unit_matrices, unit_rows
from noveltyflow.testing.naive import naive_kneighbors

INDEXED = CpuKernel(cheap_list=-1)
"""With an index even where computing every pair is quicker, as it is for few rows."""
every_shape = pytest.mark.parametrize("shape", sorted(SHAPES))


def neighbors(X, n_neighbors, Y=None, kernel=INDEXED):
    """What `cosine_kneighbors` gives, with a kernel of one's choice."""
    rows, others = as_unit_rows(X, "X"), as_unit_rows(X if Y is None else Y, "Y")
    best, _ = search(rows, others, n_neighbors, kernel, exclude_self=Y is None)
    return best.indices, best.similarities


def assert_identical(left, right):
    np.testing.assert_array_equal(left[0], right[0])
    np.testing.assert_array_equal(left[1], right[1])


@every_shape
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 50))
def test_equals_the_naive_reference(shape, data, n_neighbors):
    X = data.draw(unit_matrices(shape))
    expected = naive_kneighbors(X, n_neighbors)
    assert_identical(cosine_kneighbors(X, n_neighbors), expected)
    assert_identical(neighbors(X, n_neighbors), expected)


@every_shape
@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 20))
def test_equals_the_naive_reference_between_two_matrices(shape, data, n_neighbors):
    both = data.draw(unit_matrices(shape, max_rows=60))
    X, Y = both[::2], both[both.shape[0] // 3 :]
    expected = naive_kneighbors(X, n_neighbors, Y)
    assert_identical(cosine_kneighbors(X, n_neighbors, Y=Y), expected)
    assert_identical(neighbors(X, n_neighbors, Y), expected)


@every_shape
@settings(max_examples=30, deadline=None)
@given(
    st.data(),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([-1, 2, 256]),
)
def test_block_size_does_not_change_the_result(
    shape, data, n_neighbors, block_rows, query_rows, slab_rows, cheap_list
):
    X = data.draw(unit_matrices(shape))
    kernel = CpuKernel(slab_rows=slab_rows, cheap_list=cheap_list)
    found, _ = search(X, X, n_neighbors, kernel, block_rows=block_rows, query_rows=query_rows)
    assert_identical((found.indices, found.similarities), cosine_kneighbors(X, n_neighbors))


@every_shape
def test_threads_do_not_change_the_result(shape):
    X = unit_rows(SHAPES[shape](np.random.default_rng(5), 300, 40))
    one, _ = search(X, X, 7, INDEXED, threads=1, query_rows=11)
    four, _ = search(X, X, 7, INDEXED, threads=4, query_rows=11)
    assert_identical((one.indices, one.similarities), (four.indices, four.similarities))


@pytest.mark.parametrize("dense_share", [0.0, 1.0])
@every_shape
@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 20), st.integers(0, 50), st.integers(0, 50))
def test_neighbours_that_are_found_again_change_nothing(shape, dense_share, data, n_neighbors, start, rows):
    X = data.draw(unit_matrices(shape))
    kernel, some = CpuKernel(dense_share=dense_share, cheap_list=-1), X[start : start + rows]
    best = TopK.empty(X.shape[0], n_neighbors)
    for candidates, first in ((some, start), (X, 0), (X, 0)):
        prepared = kernel.prepare(candidates, 10)
        best, _ = kernel.compute(X, prepared, best, queries_start=0, candidates_start=first)
    assert_identical((best.indices, best.similarities), cosine_kneighbors(X, n_neighbors))


@pytest.mark.parametrize("dense_share", [-1.0, 1.0])
@pytest.mark.parametrize("cheap_list", [-1, 1 << 30])
@every_shape
@settings(max_examples=10, deadline=None)
@given(st.data(), st.sampled_from([33, 50, 100, 300, 1_000]), st.integers(1, 60), st.integers(0, 50))
def test_many_neighbours_equal_the_naive_reference(
    shape, cheap_list, dense_share, data, n_neighbors, block_rows, known_rows
):
    """Also where some of them are known, and where each row meets few of the others or all."""
    X = data.draw(unit_matrices(shape, max_rows=150))
    kernel = CpuKernel(cheap_list=cheap_list, dense_share=dense_share)
    best = TopK.empty(X.shape[0], n_neighbors)
    blocks = [slice(0, known_rows), *(slice(at, at + block_rows) for at in range(0, X.shape[0], block_rows))]
    for block in blocks:
        prepared = kernel.prepare(X[block], 10)
        best, _ = kernel.compute(X, prepared, best, queries_start=0, candidates_start=block.start)
    assert_identical((best.indices, best.similarities), naive_kneighbors(X, n_neighbors))


@pytest.mark.parametrize("n_neighbors", [40, 400, 5_000])
def test_as_many_neighbours_as_rows_are_found_slab_by_slab(n_neighbors):
    """Rows that share a column with all others, more than a slab of them, and equal similarities among them."""
    rng = np.random.default_rng(6)
    X = unit_rows(np.column_stack([np.ones(500), rng.integers(0, 4, (500, 3))]))
    others = sp.vstack([X] * (1 + 2 * SLAB_ROWS // 500), "csr")
    queries = X[:3]
    found, _ = search(queries, others, n_neighbors, CpuKernel(cheap_list=1 << 30), exclude_self=False)
    products = (queries.astype(np.float64) @ others.astype(np.float64).T).toarray().astype(np.float32)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :n_neighbors]
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_array_equal(found.similarities, np.take_along_axis(products, expected, 1))


def test_columns_that_no_one_uses_do_no_harm():
    X = sp.csr_matrix(unit_rows(np.eye(4)))
    X.resize((4, 1 << 20))
    indices, similarities = cosine_kneighbors(X, 2)
    assert (indices == -1).all()
    assert np.isneginf(similarities).all()


@every_shape
@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_very_many_empty_columns_change_nothing(shape, data, n_neighbors, seed):
    narrow = data.draw(unit_matrices(shape))
    rng = np.random.default_rng(seed)
    columns = np.unique(rng.integers(2**31 - 1, size=2 * narrow.shape[1]))[: narrow.shape[1]].astype(np.int32)
    wide = sp.csr_matrix((narrow.data, columns[narrow.indices], narrow.indptr), (narrow.shape[0], 2**31 - 1))
    assert_identical(cosine_kneighbors(wide, n_neighbors), cosine_kneighbors(narrow, n_neighbors))
    half = narrow.shape[0] // 2
    assert_identical(
        cosine_kneighbors(wide, n_neighbors, Y=wide[half:]),
        cosine_kneighbors(narrow, n_neighbors, Y=narrow[half:]),
    )


@every_shape
@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 20))
def test_columns_of_single_rows_change_nothing_and_are_not_searched(shape, data, n_neighbors):
    narrow = data.draw(unit_matrices(shape))
    X = unit_rows(sp.hstack([sp.identity(narrow.shape[0]), narrow]).toarray())
    X.resize((X.shape[0], 1 << 23))
    Y = X[X.shape[0] // 2 :]
    assert_identical(cosine_kneighbors(X, n_neighbors), naive_kneighbors(X, n_neighbors))
    assert_identical(cosine_kneighbors(X, n_neighbors, Y=Y), naive_kneighbors(X, n_neighbors, Y))
    assert without_lonely_columns(X, X)[1].shape[1] <= narrow.shape[1]


@pytest.mark.parametrize("own", [True, False])
def test_renumbering_columns_takes_no_more_than_their_numbers_and_what_is_left(own):
    """Beside a sorted copy of the others' column numbers, a third of which the queries do not have."""
    rng = np.random.default_rng(0)
    used = np.unique(rng.integers(2**31 - 1, size=3_000)).astype(np.int32)
    columns = np.concatenate([np.sort(rng.permutation(used)[:500]) for _ in range(1_000)])
    whole = (1_000, 2**31 - 1)
    X = sp.csr_matrix(
        (np.full(columns.size, 500**-0.5, np.float32), columns, np.arange(0, 500_001, 500)), whole
    )
    queries = (
        X if own else sp.csr_matrix((X.data, np.where(columns > used[1_000], columns, 7), X.indptr), whole)
    )
    without_lonely_columns(queries[:2], X[:2])  # compiles
    tracemalloc.start()
    narrowed, others = without_lonely_columns(queries, X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert others.shape[1] == np.intersect1d(queries.indices, columns).size
    assert narrowed.shape == others.shape
    assert peak <= (4 + 4 if own else 4 + 4 + 4) * X.nnz + 200_000


def test_any_sparse_format_and_precision_is_taken():
    X = unit_rows(SHAPES["random"](np.random.default_rng(2), 20, 10))
    for other in (X.tocsc(), X.tocoo(), sp.csr_array(X), X.astype(np.float64)):
        assert_identical(cosine_kneighbors(other, 3), cosine_kneighbors(X, 3))


def test_the_input_is_not_modified():
    unsorted = sp.csr_matrix(
        (np.float32([0.8, 0.6, 0.0]), np.int32([1, 0, 2]), np.int32([0, 3])), shape=(1, 3)
    )
    cosine_kneighbors(unsorted, 1)
    assert unsorted.indices.tolist() == [1, 0, 2]
    assert unsorted.nnz == 3


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.eye(2), "X must be a scipy sparse"),
        (sp.csr_matrix([[1.0, 0.0], [3.0, 4.0]]), r"row 1 of X has norm 5.*normalize"),
        (sp.csr_matrix([[1.0, 0.0], [np.nan, 0.0]]), "NaN or infinite weight in row 1"),
        (sp.csr_matrix([[np.inf, 0.0]]), "NaN or infinite weight in row 0"),
    ],
)
def test_bad_matrices_are_refused(X, match):
    with pytest.raises(ValueError, match=match):
        cosine_kneighbors(X)


@pytest.mark.parametrize("column", [-1, 3, 2**31 - 1, -(2**31), 2**32 + 1])
@pytest.mark.parametrize("own", [True, False])
def test_columns_out_of_range_are_refused(column, own):
    X = sp.csr_matrix(np.eye(3, dtype=np.float32)[[0, 1, 2, 2]])
    X.indices = X.indices.astype(np.int64)
    X.indices[2] = column
    with pytest.raises(ValueError, match=rf"row 2 of X has a weight in column {column}, .* from 0 to 2"):
        cosine_kneighbors(X, Y=None if own else sp.csr_matrix((5, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("place", "start", "row"), [(0, 1, 0), (0, -1, 0), (3, 5, 3), (3, 1, 2), (5, 6, 4)])
@pytest.mark.parametrize(("form", "part"), [("csr", "row"), ("csc", "column"), ("bsr", "block row")])
def test_starts_of_rows_out_of_order_are_refused(dtype, place, start, row, form, part):
    Y = sp.identity(5, dtype, format="csr").asformat(form)
    Y.indptr[place] = start
    with pytest.raises(
        ValueError, match=rf"^{part} {row} of Y .* indptr must begin .* the 5 stored; build Y"
    ):
        cosine_kneighbors(sp.identity(5, format="csr"), Y=Y)


def test_complex_weights_are_refused():
    with pytest.raises(ValueError, match=r"real weights, not complex128; take X\.real"):
        cosine_kneighbors(sp.identity(2, dtype=complex, format="csr"))


@pytest.mark.parametrize(
    "options", [{"n_neighbors": 0}, {"n_jobs": 0}, {"n_jobs": -1000}, {"Y": sp.eye(2, 3)}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"n_neighbors|n_jobs|features"):
        cosine_kneighbors(sp.identity(2, format="csr"), **options)


@pytest.mark.parametrize("options", [{"n_neighbors": 2.0}, {"n_jobs": 2.5}, {"n_jobs": "2"}])
def test_options_that_are_no_integers_are_refused(options):
    with pytest.raises(ValueError, match=r"n_(neighbors|jobs) must be a whole number, not '?2"):
        cosine_kneighbors(sp.identity(2, format="csr"), **options)


@pytest.mark.parametrize("option", ["n_neighbors", "n_jobs"])
@pytest.mark.parametrize("truth", [True, False])
def test_true_and_false_are_no_numbers(option, truth):
    with pytest.raises(ValueError, match=f"{option} must be a whole number, not {truth}"):
        cosine_kneighbors(sp.identity(2, format="csr"), **{option: truth})


def test_integers_of_numpy_are_taken():
    X = sp.identity(3, format="csr")
    assert_identical(cosine_kneighbors(X, np.int64(2), n_jobs=np.int32(1)), cosine_kneighbors(X, 2, n_jobs=1))


def test_no_rows_and_no_columns():
    empty = sp.csr_matrix((0, 5), dtype=np.float32)
    assert cosine_kneighbors(empty, 3)[0].shape == (0, 3)
    assert (cosine_kneighbors(sp.csr_matrix((4, 5)), 3)[0] == -1).all()
    assert (cosine_kneighbors(sp.identity(5, format="csr"), 3, Y=empty)[0] == -1).all()


def test_all_cores_give_the_same():
    X = unit_rows(SHAPES["common column"](np.random.default_rng(3), 200, 30))
    assert_identical(cosine_kneighbors(X, 4, n_jobs=-1), cosine_kneighbors(X, 4))


def test_equals_scipy_on_more_rows_than_a_slab():
    X = unit_rows(SHAPES["skewed"](np.random.default_rng(4), 500, 60))
    found, _ = search(X, X, 10, CpuKernel(slab_rows=64, cheap_list=-1))
    rows = np.arange(0, 500, 7)
    assert_identical((found.indices[rows], found.similarities[rows]), brute_force_rows(X, rows, 10))


def test_a_matrix_in_need_of_sorting_is_left_as_it_was():
    X = sp.csr_matrix((np.array([0.6, 0.8]), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    cosine_kneighbors(X)
    assert X.indices.tolist() == [1, 0]
    assert X.data.tolist() == [0.6, 0.8]


def test_more_columns_than_can_be_numbered_are_refused():
    with pytest.raises(ValueError, match="columns"):
        cosine_kneighbors(sp.coo_matrix(([1.0], ([0], [5])), shape=(1, 2**31)))


def test_products_that_vanish_are_still_shared():
    X = unit_rows(np.array([[-1e-30, 1.0, 0.0]]))
    Y = unit_rows(np.array([[1e-30, 0.0, 1.0]]))
    assert_identical(cosine_kneighbors(X, 1, Y=Y), naive_kneighbors(X, 1, Y))
