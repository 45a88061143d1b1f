"""Loops of the CPU kernel that skip nothing, and so are valid for weights of any sign.

Query columns ascend, so that each accumulator ends as the canonical similarity. It starts as -0.0, which no sum of
products ever is: so rows that share no column are told from rows whose products cancel out.
"""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.kernels.scoring import count_below
from noveltyflow.types import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array

SLAB_ROWS = 1 << 14
"""Candidates accumulated at a time for a query that meets many: 8 bytes each, which fit a second-level cache."""
_SPARSE = 8
"""A query with fewer postings than one in so many candidates looks at those alone that it meets."""
_LONG_LIST = 32
"""Postings of a list in a slab, on average, from which on it pays to go through the lists slab by slab."""
_AT_ONCE = 64
_UNTOUCHED = np.int64(-(1 << 63))
"""The bits of -0.0."""


@numba.njit(nogil=True, cache=True)
def score_all(
    chosen: Int64Array,
    query_indptr: Int64Array,
    query_columns: Int32Array,
    query_weights: Float32Array,
    lists: PostingLists,
    similarities: Float32Array,
    neighbors: Int64Array,
    computed: BoolArray,
    candidates_start: int,
    own_offset: int,
) -> tuple[int, int]:
    """Accumulate every posting of the chosen query rows; returns (multiply-adds, pairs that reached a threshold).

    `computed` is set for those that meet a posting.
    `own_offset` is the candidate that is query row 0, or so small that no query is a candidate.
    """
    list_indptr, list_rows, list_weights, numbers = lists
    accumulators = np.full(numbers.size, -0.0, np.float64)
    touched = np.empty(numbers.size, np.int32)
    cursors = np.empty(0, np.int64)
    multiply_adds, pairs = 0, 0
    for query in chosen:
        columns = query_columns[query_indptr[query] : query_indptr[query + 1]]
        weights = query_weights[query_indptr[query] : query_indptr[query + 1]]
        postings = 0
        for column in columns:
            postings += list_indptr[column + 1] - list_indptr[column]
        multiply_adds += postings
        computed[query] |= postings > 0
        best, best_rows, own = similarities[query], neighbors[query], query + own_offset
        if postings * _SPARSE < numbers.size:
            met = _meet(columns, weights, list_indptr, list_rows, list_weights, accumulators, touched)
            pairs += _keep_met(accumulators, touched[:met], numbers, best, best_rows, candidates_start, own)
            continue
        if cursors.size < columns.size:
            cursors = np.empty(2 * columns.size, np.int64)
        for place in range(columns.size):
            cursors[place] = list_indptr[columns[place]]
        slabs = -(-numbers.size // SLAB_ROWS)
        slab_rows = SLAB_ROWS if postings > _LONG_LIST * slabs * columns.size else numbers.size
        for slab in range(0, numbers.size, slab_rows):
            end = min(slab + slab_rows, numbers.size)
            _accumulate(columns, weights, list_indptr, list_rows, list_weights, cursors, end, accumulators)
            pairs += _keep_best(
                accumulators[slab:end], numbers[slab:end], best, best_rows, candidates_start, own
            )
    return multiply_adds, pairs


@uncounted
def _meet(
    columns: Int32Array,
    weights: Float32Array,
    list_indptr: Int64Array,
    list_rows: Int32Array,
    list_weights: Float32Array,
    accumulators: Float64Array,
    touched: Int32Array,
) -> int:
    """Accumulate all postings of a query, and list the candidates that it meets; returns their number."""
    bits, met = accumulators.view(np.int64), 0
    for place in range(columns.size):
        weight = np.float64(weights[place])
        for cursor in range(list_indptr[columns[place]], list_indptr[columns[place] + 1]):
            row = list_rows[cursor]
            touched[met] = row
            met += int(bits[row] == _UNTOUCHED)
            accumulators[row] += weight * np.float64(list_weights[cursor])
    return met


@uncounted
def _keep_met(
    accumulators: Float64Array,
    met: Int32Array,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own: int,
) -> int:
    """Insert the candidates that are met and reach the threshold, and clear their accumulators."""
    kept = 0
    for row in met:
        similarity = np.float32(accumulators[row])
        accumulators[row] = -0.0
        if similarity >= similarities[-1] and numbers[row] != own:
            kept += 1
            insert_neighbor(similarities, neighbors, similarity, first_row + numbers[row])
    return kept


@uncounted
def _accumulate(
    columns: Int32Array,
    weights: Float32Array,
    list_indptr: Int64Array,
    list_rows: Int32Array,
    list_weights: Float32Array,
    cursors: Int64Array,
    end: int,
    accumulators: Float64Array,
) -> None:
    """Accumulate the postings of candidates before `end`, from where the lists were left."""
    for place in range(columns.size):
        weight = np.float64(weights[place])
        first, last = cursors[place], list_indptr[columns[place] + 1]
        cursors[place] = first + count_below(list_rows[first:last], end)
        for cursor in range(np.uint64(first), np.uint64(cursors[place])):
            accumulators[np.uint32(list_rows[cursor])] += weight * np.float64(list_weights[cursor])


@uncounted
def _keep_best(
    accumulators: Float64Array,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own: int,
) -> int:
    """Insert what reaches the row's threshold, clear the accumulators, and count what was inserted."""
    kept, bits = 0, accumulators.view(np.int64)
    for start in range(0, accumulators.size, _AT_ONCE):
        end = min(start + _AT_ONCE, accumulators.size)
        least = _least_sum(similarities, neighbors, first_row + numbers[start])
        if not _any_reaches(accumulators[start:end], least):
            continue
        for place in range(start, end):
            similarity = np.float32(accumulators[place])
            if similarity < similarities[-1] or numbers[place] == own or bits[place] == _UNTOUCHED:
                continue
            kept += 1
            insert_neighbor(similarities, neighbors, similarity, first_row + numbers[place])
    accumulators[:] = -0.0
    return kept


@uncounted
def _least_sum(similarities: Float32Array, neighbors: Int64Array, row: int) -> float:
    """Least sum with which `row`, or one after it, can be inserted: half the way to the next float32."""
    last, full = similarities[-1], neighbors[-1] >= 0
    if not full:
        return -np.inf
    towards = np.float32(np.inf) if row > neighbors[-1] else np.float32(-np.inf)
    return 0.5 * (np.float64(last) + np.float64(np.nextafter(last, towards)))


@uncounted
def _any_reaches(sums: Float64Array, least: float) -> bool:
    found = 0
    for place in range(sums.size):
        found |= int(sums[place] >= least)
    return found > 0
