"""The one way to score, however its sum is taken, and the vector code and compilation that it and its callers use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from noveltyflow.similarity import kernels
from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.pruned import lanes
from noveltyflow.similarity.kernels.pruned.accumulate import walk
from noveltyflow.similarity.kernels.pruned.index import GroupIndex
from noveltyflow.similarity.kernels.pruned.lanes import FILTER_BITS, add_hits, known
from noveltyflow.similarity.kernels.pruned.query import _sort_ranks, make_scratch
from noveltyflow.similarity.kernels.reaching import LANES, lowest_bit
from noveltyflow.similarity.kernels.scoring import (
    enter_columns,
    leave_columns,
    places_for,
    score,
    table_bytes,
)
from noveltyflow.similarity.kernels.stale import forget_stale


def test_compiled_code_that_is_older_than_a_source_is_forgotten(tmp_path):
    for name, changed in (("a.py", 10), ("__pycache__/b.nbi", 9), ("__pycache__/c.nbi", 11)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (changed, changed))
    forget_stale(tmp_path)
    assert [path.name for path in (tmp_path / "__pycache__").iterdir()] == ["c.nbi"]


def test_stale_kernels_are_forgotten_when_they_are_imported():
    stale = Path(kernels.__file__).parent / "__pycache__" / "stale.nbi"
    stale.parent.mkdir(exist_ok=True)
    stale.touch()
    os.utime(stale, (0, 0))
    subprocess.run([sys.executable, "-c", "import noveltyflow.similarity.kernels"], check=True)
    assert not stale.exists()


class Table:
    """A query in the table, taken out again at the end."""

    def __init__(self, columns, weights):
        self.columns, self.weights = columns, weights
        places = places_for(columns.size)
        self.keys, self.values = np.full(places, -1, np.int32), np.zeros(places, np.float32)
        assert self.keys.nbytes + self.values.nbytes <= table_bytes(columns.size)
        self.left_out = np.empty(columns.size, np.int32)

    def __enter__(self):
        found = enter_columns(self.columns, self.weights, self.keys, self.values, self.left_out)
        self.left_out = self.left_out[:found]
        return self

    def __exit__(self, *_):
        leave_columns(self.columns, self.keys)
        assert (self.keys == -1).all()

    def score(self, columns, weights):
        own = (self.columns, self.weights)
        return score(*own, columns, weights, self.keys, self.values, self.left_out)


def score_in_order(own_columns, own_weights, columns, weights):
    """The definition, naively: float64 products, added in order of columns, rounded once."""
    own = dict(zip(own_columns.tolist(), own_weights.astype(np.float64), strict=True))
    shared = [
        own[c] * w for c, w in zip(columns.tolist(), weights.astype(np.float64), strict=True) if c in own
    ]
    total = np.float64(0)
    for product in shared:
        total += product
    return np.float32(total) if shared else np.float32(-np.inf)


def some_row(rng, length, features):
    columns = np.sort(rng.choice(features, min(length, features), replace=False)).astype(np.int32)
    return columns, rng.random(columns.size, np.float32) + np.float32(1e-6)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 30, 300, 2_000, 8_000, 9_000]),
    st.sampled_from([1, 30, 300, 3_000]),
    st.sampled_from([400, 4_000, 1 << 20]),
)
def test_scores_are_those_of_the_definition(seed, own_length, length, features):
    rng = np.random.default_rng(seed)
    query, row = some_row(rng, own_length, features), some_row(rng, length, features)
    with Table(*query) as table:
        assert table.score(*row) == score_in_order(*query, *row)
        assert table.score(*query) == score_in_order(*query, *query)


def test_columns_without_room_are_scored_too():
    rng = np.random.default_rng(0)
    query = some_row(rng, 4_000, 1 << 24)
    with Table(*query) as table:
        assert table.left_out.size > 20
        for place in table.left_out:
            row = query[0][place : place + 1], np.ones(1, np.float32)
            assert table.score(*row) == query[1][place]


@pytest.mark.parametrize("tiny", [2.0**-54, 2.0**-53, 2.0**-52])
@pytest.mark.parametrize("count", [1, 8, 64, 500])
def test_a_sum_at_the_border_of_two_numbers_is_taken_in_order_of_columns(tiny, count):
    """Half a step above 1, tiny products vanish one by one but not together, so the order decides."""
    weights = np.array([1.0, 2.0**-24, *[tiny] * count], np.float32)
    columns = np.arange(weights.size, dtype=np.int32)
    ones = np.ones(weights.size, np.float32)
    with Table(columns, ones) as table:
        assert table.score(columns, weights) == score_in_order(columns, ones, columns, weights)


@pytest.fixture(scope="module", params=["as this processor does", "without permutations"])
def known_64(request):
    """`known`, compiled here."""

    @numba.njit
    def function(codes, start, words):
        return known(codes, start, words)

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without permutations":
            patch.setattr(lanes, "_permuted", lanes._gathered)
        function(np.zeros(LANES, np.uint16), 0, np.zeros(FILTER_BITS // 32, np.uint32))
    return function


@numba.njit
def lowest(bits):
    return lowest_bit(bits)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_known_codes_are_those_whose_bit_is_set(known_64, seed, start, share):
    rng = np.random.default_rng(seed)
    codes = rng.integers(1 << 16, size=start + LANES).astype(np.uint16)
    is_set = rng.random(FILTER_BITS) < share
    words = np.packbits(is_set, bitorder="little").view(np.uint32)
    found = int(known_64(codes, start, words))
    assert [bool(found >> lane & 1) for lane in range(LANES)] == is_set[codes[start:] % FILTER_BITS].tolist()


@given(st.integers(1, 2**64 - 1))
def test_the_lowest_bit_is_found(bits):
    assert lowest(np.uint64(bits)) == (bits & -bits).bit_length() - 1


@numba.njit
def add_hits_64(hits, first, codes, table, weights, bounds):
    add_hits(hits, first, codes, table, weights, bounds)


@given(st.integers(0, 2**64 - 1), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_products_of_eight_are_those_of_the_definition(hits, first, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(100, size=first + LANES).astype(np.uint16)
    table = rng.integers(1 << 16, size=100).astype(np.uint16)
    weights = rng.integers(256, size=(first + LANES, 8)).astype(np.uint8)
    bounds = np.arange(8, dtype=np.uint32)
    add_hits_64(np.uint64(hits), first, codes, table, weights.view(np.uint64).ravel(), bounds)
    expected = np.arange(8)
    for place in range(LANES):
        if hits >> place & 1:
            expected += int(table[codes[first + place]]) * weights[first + place].astype(int)
    assert bounds.tolist() == expected.tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1 << 31), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_ranks_are_sorted_with_their_places(n_ranks, length, seed):
    ranks = np.random.default_rng(seed).integers(n_ranks, size=length)
    unsorted = (ranks << 32) | np.arange(length)
    ordered, expected = np.empty(length, np.int64), np.sort(unsorted)
    _sort_ranks(unsorted, ordered, np.empty(1 << 11, np.int32), n_ranks)
    assert ordered.tolist() == expected.tolist()


def test_no_references_are_counted():
    """The option is not documented by Numba, so that it still works has to be seen."""
    X = sp.identity(9, np.float32, "csr")
    index = GroupIndex.of(X, Distinct.of(X))
    assert walk.targetoptions["_nrt"] is False
    for counts in (True, False):
        compiled = numba.njit(_nrt=counts)(walk.py_func)
        assert compiled(index, make_scratch(9, index), 0, 0, 0.5, 10, 0.0) == (0, 0.0)
        code = next(iter(compiled.inspect_llvm().values()))
        assert bool(re.search(r"call.*@NRT_incref", code)) == counts
