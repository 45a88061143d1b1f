"""The pruned path must equal the exhaustive one to the bit, and shapes made against it must not blow it up."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from similarity.hard import (
    EIGHTS,
    FOURS,
    HARD,
    NON_NEGATIVE,
    assert_equals_exhaustive,
    indexed,
    text_matrix,
    url_texts,
)

from noveltyflow.similarity.kernels import cpu, searching
from noveltyflow.similarity.kernels.base import BlockShape
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.dense.index import DenseIndex
from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.parts import ListedPart
from noveltyflow.similarity.kernels.pruned.accumulate import walk
from noveltyflow.similarity.kernels.pruned.index import (
    LEAST_GROUP,
    MOST_DIFFERENT,
    MOST_GROUP,
    GroupIndex,
    rows_in_group,
)
from noveltyflow.similarity.kernels.pruned.lists import CODE_BITS, CODE_MASK, WEIGHTS, Rows, transpose
from noveltyflow.similarity.kernels.pruned.query import UNIT, load_query, make_scratch
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.topk import TopK
from noveltyflow.similarity.validation import as_unit_rows
from noveltyflow.testing.matrices import SHAPES, unit_rows
from noveltyflow.testing.naive import naive_kneighbors

GROUP_ROWS = st.sampled_from([LEAST_GROUP, MOST_GROUP])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 400),
    st.sampled_from([(1, 2), (2, 3), (3, 5)]),
    st.sampled_from([64, 1 << 10, 1 << 17]),
    st.booleans(),
    st.sampled_from([1, 3, 10, 50, 500]),
)
def test_urls_equal_the_exhaustive_answer(seed, rows, ngram_range, n_features, with_idf, n_neighbors):
    texts = url_texts(np.random.default_rng(seed), rows)
    X = text_matrix(texts, with_idf=with_idf, ngram_range=ngram_range, n_features=n_features)
    assert_equals_exhaustive(X, n_neighbors)


@pytest.mark.parametrize("shape", NON_NEGATIVE)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 100), st.sampled_from([1, 8, 400]))
def test_every_shape_equals_the_exhaustive_answer(shape, seed, rows, columns, n_neighbors):
    X = as_unit_rows(unit_rows(SHAPES[shape](np.random.default_rng(seed), rows, columns)), "X")
    assert_equals_exhaustive(X, n_neighbors)


@pytest.mark.parametrize(("dense_share", "index"), [(1.0, GroupIndex), (0.0, DenseIndex)])
def test_a_similarity_is_computed_once_for_both_rows(dense_share, index):
    """Where all rows are neighbours of one another; in two calls, pairs of both calls are computed in each."""
    rng, kernel, n_rows = np.random.default_rng(0), indexed(dense_share=dense_share), 60
    X = as_unit_rows(unit_rows(rng.random((n_rows, 40))), "X")
    assert isinstance(kernel.prepare(X, 10).parts[0].index, index)
    for query_rows, pairs in ((n_rows, 60 * 59 // 2), (20, 3 * (20 * 19 // 2 + 20 * 40))):
        stats = assert_equals_exhaustive(X, n_rows, kernel, query_rows=query_rows)
        assert stats.verified_pairs == pairs


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.integers(1, 100), st.integers(1, 100))
def test_blocks_parts_and_chunks_do_not_change_the_result(seed, part_rows, block_rows, query_rows):
    X = text_matrix(url_texts(np.random.default_rng(seed), 100), n_features=1 << 12)
    assert_equals_exhaustive(X, 7, indexed(part_rows=part_rows), block_rows=block_rows, query_rows=query_rows)


def test_good_thresholds_save_work():
    X = text_matrix(url_texts(np.random.default_rng(2), 4_000))
    kernel = indexed()
    best, first = search(X, X, 10, kernel)
    again, second = kernel.compute(X, kernel.prepare(X, 10), best, queries_start=0, candidates_start=0)
    np.testing.assert_array_equal(again.indices, best.indices)
    assert second.verified_pairs < first.verified_pairs / 2
    assert first.verified_pairs < 4_000 * 4_000 / 20


def test_ties_go_to_the_first_rows_even_when_others_are_found_first():
    texts = [f"https://www.example.gov/reports/item-{i % 10}.html" for i in range(400)]
    assert_equals_exhaustive(text_matrix(texts), 5, block_rows=64)


@pytest.mark.parametrize("shape", sorted(HARD))
def test_hard_shapes_equal_the_exhaustive_answer(shape):
    assert_equals_exhaustive(HARD[shape](600), 10)


@pytest.mark.parametrize("shape", sorted(set(HARD) - {"tied"}))
def test_work_on_hard_shapes_grows_hardly_faster_than_rows(shape):
    """Work per row, a count that does not depend on the machine, when there are four times the rows."""
    work = []
    for rows in (1_000, 4_000):
        X = HARD[shape](rows)
        _, stats = search(X, X, 10, indexed())
        work.append((stats.candidates + stats.verified_pairs) / rows)
    assert work[1] < 1.5 * work[0]


def test_what_everything_would_take_is_counted_for_the_rows_themselves():
    """Rows that are empty wherever it were sampled would have bounds given up, which add far fewer products."""
    X = text_matrix(url_texts(np.random.default_rng(9), 3_000))
    products = []
    for empty in (8, 0):
        rows = X.copy()
        for row in range(empty, X.shape[0], 16):
            rows.data[rows.indptr[row] : rows.indptr[row + 1]] = 0
        rows.eliminate_zeros()
        products.append(assert_equals_exhaustive(rows, 10, indexed(dense_share=1.0)).multiply_adds)
    assert products[1] < 1.3 * products[0]


def test_a_row_for_which_bounds_do_not_pay_takes_them_from_few_others():
    """A short row that is equally similar to all others, before rows that are like their neighbours."""
    texts = [f"https://a.example/annual/{i // 40:03d}/item-{i % 40:02d}.html" for i in range(6_000)]
    alike = sp.hstack([text_matrix(texts, n_features=1 << 14) * np.sqrt(0.96), np.full((6_000, 1), 0.2)])
    bad = sp.csr_matrix(([1.0], ([0], [1 << 14])), (1, (1 << 14) + 1))
    work = [
        search(
            as_unit_rows(sp.vstack(rows, "csr"), "X"), as_unit_rows(alike, "X"), 10, indexed(dense_share=1.0)
        )
        for rows in ([bad, alike.tocsr()[:2_000]], [alike.tocsr()[:2_000], bad])
    ]
    first, last = (stats.multiply_adds for _, stats in work)
    assert first < 1.5 * last


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(NON_NEGATIVE),
    st.integers(0, 2**32 - 1),
    st.integers(1, 200),
    st.integers(1, 60),
    st.floats(0, 1),
    st.integers(1, 40),
    st.floats(0, 1),
    GROUP_ROWS,
)
def test_what_a_walk_leaves_out_is_bounded(shape, seed, rows, columns, skip, budget, less, group_rows):
    """However often a budget interrupts it, and once more with less to skip."""
    X = as_unit_rows(unit_rows(SHAPES[shape](np.random.default_rng(seed), rows, columns)), "X")
    distinct = Distinct.of(X)
    index = GroupIndex.of(X, distinct, 1, group_rows)
    scratch = make_scratch(columns + rows, index)
    query = X[seed % X.shape[0]]
    known = load_query(index, query.indices, query.data, scratch)
    exact = np.zeros(group_rows * (index.record_starts.size - 1))
    exact[: distinct.first.size] = (X[distinct.first].astype(float) @ query.T.astype(float)).toarray().ravel()
    largest = exact.reshape(-1, group_rows).max(axis=1)
    step, skipped = walk(index, scratch, 0, known, skip, budget, 0.0)
    while step < known:
        skip, budget = min(1.0, 1.5 * skip), 2 * budget
        step, skipped = walk(index, scratch, step, known, skip, budget, skipped)
    assert skipped <= skip * 1.0001
    assert (largest <= scratch.accumulators[: largest.size] / UNIT + skipped).all()
    _, skipped = walk(index, scratch, 0, known, less * skip, 1 << 40, 0.0)
    assert skipped <= less * skip * 1.0001
    assert (largest <= scratch.accumulators[: largest.size] / UNIT + skipped).all()


def test_what_is_cheap_needs_no_index():
    assert isinstance(CpuKernel().prepare(HARD["disjoint"](1_000), 10).parts[0], ListedPart)
    assert isinstance(CpuKernel().prepare(HARD["numbered"](1_000), 10).parts[0].index, GroupIndex)


def test_identical_rows_are_indexed_once():
    X = HARD["ten patterns"](1_000)
    distinct = Distinct.of(X)
    assert distinct.first.tolist() == list(range(10))
    assert distinct.row_of.tolist() == [i % 10 for i in range(1_000)]
    assert GroupIndex.of(X, distinct).record_starts.size - 1 == -(-10 // MOST_GROUP)


@pytest.mark.parametrize("threads", [2, 3, 50])
@pytest.mark.parametrize("shape", sorted(HARD))
@pytest.mark.parametrize("group_rows", [LEAST_GROUP, MOST_GROUP])
def test_threads_do_not_change_the_index(shape, threads, group_rows):
    X = HARD[shape](500)
    distinct = Distinct.of(X)
    one, several = (GroupIndex.of(X, distinct, number, group_rows) for number in (1, threads))
    for alone, together in zip(one, several, strict=True):
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("group_rows", [LEAST_GROUP, MOST_GROUP])
def test_an_index_has_no_more_rows_than_it_can_number(group_rows):
    X = sp.csr_matrix(((group_rows << 16) + 1, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=f"in groups of {group_rows}; at most {group_rows << 16:,}"):
        GroupIndex.of(X, Distinct.of(X), 1, group_rows)


def test_neighbours_that_are_alike_are_bounded_in_larger_groups_than_strangers():
    rng = np.random.default_rng(0)
    words = [rng.bytes(16).hex() for _ in range(100)]
    alike = text_matrix([f"https://{words[i // 20]}.example/{i % 20}" for i in range(2_000)])
    strangers = alike[rng.permutation(2_000)]
    kernel = indexed(dense_share=1.0)
    assert [kernel.prepare(X, 10).parts[0].index.record_weights.dtype for X in (alike, strangers)] == [
        np.uint64,
        np.uint32,
    ]


def test_a_block_of_more_than_65536_groups_of_four_has_groups_of_eight():
    rows = LEAST_GROUP << 16
    X = sp.csr_matrix((np.ones(rows + 1, np.float32), np.arange(rows + 1), np.arange(rows + 2)))
    for block, expected in ((X[:rows], LEAST_GROUP), (X, MOST_GROUP)):
        assert rows_in_group(block, Distinct.of(block), MOST_DIFFERENT) == expected


@pytest.mark.parametrize("kernel", [CpuKernel(), FOURS, EIGHTS, CpuKernel(part_rows=300)], ids=str)
@pytest.mark.parametrize("shape", sorted(HARD))
def test_memory_is_as_projected(shape, kernel):
    X = HARD[shape](2_000)
    kernel.prepare(X[:10], 10)
    tracemalloc.start()
    kernel.prepare(X, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= kernel.prepare_bytes(BlockShape.of(X))


@given(st.lists(st.floats(2.0**-40, 1 + 2.0**-10, width=32), min_size=1, max_size=30))
def test_transposed_weights_are_rounded_up_and_not_far(weights):
    weights = np.array(weights, np.float32)
    n = len(weights)
    rows = Rows(np.arange(n), np.arange(1, n + 1), np.zeros(n, np.int32), weights.view(np.uint32))
    starts, entries = transpose(rows, 1, 1)
    assert starts.tolist() == [0, n]
    assert (entries >> CODE_BITS).tolist() == list(range(n))
    coded = WEIGHTS[entries & CODE_MASK]
    assert (coded >= weights).all()
    assert (coded <= np.maximum(2.0**-15, weights * (1 + 2.0**-9))).all()


def test_weights_of_the_longest_row_stay_bounds():
    """A row with as many columns as the record codes can tell apart, and more."""
    columns = (1 << 16) + 1_000
    rng = np.random.default_rng(0)
    dense = sp.random(40, columns, density=0.02, random_state=1, format="csr", dtype=np.float32)
    long = sp.csr_matrix(rng.random((2, columns), dtype=np.float32))
    stacked = sp.vstack([dense, long]).tocsr()
    norms = np.sqrt(stacked.multiply(stacked).sum(axis=1)).A1
    assert_equals_exhaustive(as_unit_rows(sp.diags(1 / norms) @ stacked, "X"), 10)


def colliding(query, row):
    """A query of columns 0 to `query`, and a row whose other columns all have the query's record codes.

    So many equal codes would overflow 32 bits if they were summed at once. The row is the nearest all the same,
    by the last column alone.
    """
    features, last = 1 << 20, (1 << 20) - 1
    alike = np.sort((np.arange(query)[None, :] + 65536 * np.arange(1, 16)[:, None]).ravel())[:row]
    rest = np.setdiff1d(np.arange(query, last - 1), alike)
    rows = [0, 0, *[1] * (row + 1), *range(2, query + 2), *[query + 2] * rest.size]
    columns = np.concatenate([[last - 1, last], alike, [last], np.arange(query), rest])
    fill = [np.full(row, (0.75 / row) ** 0.5), [0.5], np.ones(query), np.full(rest.size, rest.size**-0.5)]
    weights = np.concatenate([[0.84**0.5, 0.4], *fill]).astype(np.float32)
    own = np.append(np.full(query, (0.75 / query) ** 0.5), 0.5).astype(np.float32)
    X = sp.csr_matrix((own, (np.zeros(query + 1, int), np.append(np.arange(query), last))), (1, features))
    return X, sp.csr_matrix((weights, (rows, columns)), (query + 3, features))


@pytest.mark.parametrize("row", [6_000, 6_210, 6_221, 6_230, 6_290])
def test_columns_that_share_a_code_only_add(row):
    X, Y = (as_unit_rows(part, "X") for part in colliding(420, row))
    found, _ = search(X, Y, 1, indexed(), exclude_self=False)
    assert found.indices.tolist() == [[1]]


def test_similarities_beyond_the_precision_of_float32_still_tie():
    X = as_unit_rows(sp.csr_matrix(np.array([[1, 1e-45, 0]], np.float32)), "X")
    Y = as_unit_rows(sp.csr_matrix(np.array([[0, 0.6, 0.8], [0, 1, 0]], np.float32)), "Y")
    kernel, best = indexed(), TopK.empty(1, 1)
    for row in (1, 0):
        tile = kernel.prepare(Y[row : row + 1], 10)
        best, _ = kernel.compute(X, tile, best, queries_start=0, candidates_start=row, exclude_self=False)
    assert best.indices.tolist() == naive_kneighbors(X, 1, Y)[0].tolist() == [[0]]


def test_a_very_long_query_is_computed_exhaustively(monkeypatch):
    monkeypatch.setattr(searching, "LONGEST_QUERY", 3)
    X = HARD["numbered"](50)
    _, stats = search(X, X, 5, indexed())
    assert stats.multiply_adds == sum(np.bincount(X.indices).astype(int) ** 2)


@pytest.mark.parametrize("kernel", [indexed(slab_rows=70), indexed(slab_rows=70, dense_share=-1.0)])
def test_only_rows_that_are_too_long_are_computed_exhaustively(kernel, monkeypatch):
    X = text_matrix(url_texts(np.random.default_rng(4), 300), ngram_range=(2, 3), n_features=1 << 12)
    longest = int(np.median(np.diff(X.indptr)))
    monkeypatch.setattr(searching, "LONGEST_QUERY", longest)
    for module in (cpu, searching):
        monkeypatch.setattr(module, "LONGEST_ROW", longest)
    assert_equals_exhaustive(X, 5, kernel)
    _, stats = search(X, X, 5, kernel)
    too_long = np.flatnonzero(np.diff(X.indptr) > longest)
    assert 20 < too_long.size < 280
    assert stats.verified_pairs < 0.9 * X.shape[0] ** 2


def test_neighbours_of_other_rows_are_refused():
    kernel, X = indexed(), sp.csr_matrix((3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="3 query rows have neighbours of 2 rows"):
        kernel.compute(X, kernel.prepare(X, 10), TopK.empty(2, 1), queries_start=0, candidates_start=0)


def test_blocks_of_other_features_are_refused():
    kernel = indexed()
    with pytest.raises(ValueError, match="queries have 5 features, candidates 4"):
        kernel.compute(
            sp.csr_matrix((1, 5), dtype=np.float32),
            kernel.prepare(sp.csr_matrix((1, 4), dtype=np.float32), 10),
            TopK.empty(1, 1),
            queries_start=0,
            candidates_start=0,
        )
