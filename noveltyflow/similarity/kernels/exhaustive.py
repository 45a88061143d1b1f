"""Loops of the CPU kernel that skip nothing, and so are valid for weights of any sign.

Query columns ascend, so that each accumulator ends as the canonical similarity. It starts as -0.0, which no sum of
products ever is: so rows that share no column are told from rows whose products cancel out.
"""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.insertion import FEW, before, insert_neighbor
from noveltyflow.similarity.kernels.merging import Waiting, make_room, merge_candidates
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.kernels.reaching import LANES, lowest_bit, reaching
from noveltyflow.similarity.kernels.scoring import count_below
from noveltyflow.types import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array

SLAB_ROWS = 1 << 14
"""Candidates accumulated at a time for a query that meets many: 8 bytes each, which fit a second-level cache."""
_SPARSE = 16
"""A query with fewer postings than one in so many candidates looks at those alone that it meets."""
_LONG_LIST = 32
"""Postings of a list in a slab, on average, from which on it pays to go through the lists slab by slab."""
_NEAR = 128
"""Candidates on either side of the query's own row, and as many as it has neighbours more, that are looked at first:
where rows are in order, they tell most of the others that they come too late."""
_LISTED_AT_ONCE = 16 * LANES
"""Sums that are compared with the threshold, where each insertion raises it, before it is looked at again."""
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
    n_rows = numbers.size
    accumulators = np.full(n_rows + LANES, -0.0, np.float64)
    listed = np.empty(n_rows, np.int32)
    cursors = np.empty(0, np.int64)
    many = similarities.shape[1] > FEW
    waiting = make_room(similarities.shape[1] if many else 0, n_rows)
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
        if postings * _SPARSE < n_rows:
            met = _meet(columns, weights, list_indptr, list_rows, list_weights, accumulators, listed)
            pairs += _keep(
                accumulators, listed[:met], False, numbers, best, best_rows, candidates_start, own, waiting
            )
            for row in listed[:met]:
                accumulators[row] = -0.0
            continue
        if cursors.size < columns.size:
            cursors = np.empty(2 * columns.size, np.int64)
        slabs = -(-n_rows // SLAB_ROWS)
        slab_rows = SLAB_ROWS if postings > _LONG_LIST * slabs * columns.size else n_rows
        slabs = -(-n_rows // slab_rows)
        home = _place_of(own, numbers)
        for turn in range(slabs):
            slab = (home // slab_rows + turn) % slabs
            start, end = slab * slab_rows, min((slab + 1) * slab_rows, n_rows)
            if turn == 0 or slab == 0:
                _begin_lists(columns, list_indptr, list_rows, start, cursors)
            _accumulate(columns, weights, list_indptr, list_rows, list_weights, cursors, end, accumulators)
            near = _NEAR + best.size
            low, high = (max(start, home - near), min(end, home + near)) if turn == 0 else (start, start)
            for first, last in ((low, high), (start, low), (high, end)):
                pairs += _keep_best(
                    accumulators,
                    first,
                    last,
                    listed,
                    numbers,
                    best,
                    best_rows,
                    candidates_start,
                    own,
                    waiting,
                )
            accumulators[start:end] = -0.0
    return multiply_adds, pairs


@uncounted
def _place_of(row: int, numbers: Int64Array) -> int:
    """Place of a row, or of one near it, among the candidates."""
    return min(count_below(numbers, row), numbers.size - 1)


@uncounted
def _meet(
    columns: Int32Array,
    weights: Float32Array,
    list_indptr: Int64Array,
    list_rows: Int32Array,
    list_weights: Float32Array,
    accumulators: Float64Array,
    listed: Int32Array,
) -> int:
    """Accumulate all postings of a query, and list the candidates that it meets; returns their number."""
    bits, met = accumulators.view(np.int64), 0
    for place in range(columns.size):
        weight = np.float64(weights[place])
        for cursor in range(list_indptr[columns[place]], list_indptr[columns[place] + 1]):
            row = list_rows[cursor]
            listed[met] = row
            met += int(bits[row] == _UNTOUCHED)
            accumulators[row] += weight * np.float64(list_weights[cursor])
    return met


@uncounted
def _begin_lists(
    columns: Int32Array, list_indptr: Int64Array, list_rows: Int32Array, start: int, cursors: Int64Array
) -> None:
    """Have the lists begin with candidate `start`."""
    for place in range(columns.size):
        first, last = list_indptr[columns[place]], list_indptr[columns[place] + 1]
        cursors[place] = first + (count_below(list_rows[first:last], start) if start else 0)


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
        stop = first + count_below(list_rows[first:last], end)
        cursors[place] = stop
        if stop > first and list_rows[stop - 1] - list_rows[first] == stop - 1 - first:
            run = accumulators[list_rows[first] : list_rows[stop - 1] + 1]
            _add_run(run, weight, list_weights[first:stop])
            continue
        for cursor in range(np.uint64(first), np.uint64(stop)):
            accumulators[np.uint32(list_rows[cursor])] += weight * np.float64(list_weights[cursor])


@uncounted
def _add_run(accumulators: Float64Array, weight: float, list_weights: Float32Array) -> None:
    """Accumulate postings of consecutive candidates, as of a column that all have, in vectors."""
    for place in range(accumulators.size):
        accumulators[place] += weight * np.float64(list_weights[place])


@uncounted
def _keep_best(
    accumulators: Float64Array,
    start: int,
    end: int,
    listed: Int32Array,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own: int,
    waiting: Waiting,
) -> int:
    """Keep what reaches the row's threshold among the candidates from `start` to `end`; returns how many that are."""
    kept, at_once = 0, end - start if waiting.keys.size else _LISTED_AT_ONCE
    while start < end:
        stop = min(start + at_once, end)
        least = _least_sum(similarities, neighbors, first_row + numbers[start])
        found = _list_reaching(accumulators, start, stop, least, listed)
        if found:
            kept += _keep(
                accumulators,
                listed[:found],
                True,
                numbers,
                similarities,
                neighbors,
                first_row,
                own,
                waiting,
            )
        start = stop
    return kept


@uncounted
def _keep(
    accumulators: Float64Array,
    candidates: Int32Array,
    ascending: bool,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own: int,
    waiting: Waiting,
) -> int:
    """Insert the candidates that reach the threshold, or merge them where neighbours are many; returns how many."""
    if waiting.keys.size:
        return merge_candidates(
            accumulators,
            candidates,
            ascending,
            numbers,
            similarities,
            neighbors,
            first_row,
            own,
            waiting,
        )
    kept = 0
    for row in candidates:
        similarity, number = np.float32(accumulators[row]), first_row + numbers[row]
        if before(similarity, number, similarities[-1], neighbors[-1]) and numbers[row] != own:
            kept += 1
            insert_neighbor(similarities, neighbors, similarity, number)
    return kept


@uncounted
def _list_reaching(accumulators: Float64Array, start: int, end: int, least: float, listed: Int32Array) -> int:
    """List the candidates from `start` to `end` that are met and have a sum of at least `least`; returns how many."""
    bits, found = accumulators.view(np.int64), 0
    for first in range(start, end, LANES):
        reached = reaching(accumulators, first, least)
        if end - first < LANES:
            reached &= (np.uint64(1) << np.uint64(end - first)) - np.uint64(1)
        while reached:
            row = first + lowest_bit(reached)
            listed[found] = row
            found += int(bits[row] != _UNTOUCHED)
            reached &= reached - np.uint64(1)
    return found


@uncounted
def _least_sum(similarities: Float32Array, neighbors: Int64Array, row: int) -> float:
    """Least sum with which `row`, or one after it, can be inserted: half the way to the next float32."""
    last, full = similarities[-1], neighbors[-1] >= 0
    if not full:
        return -np.inf
    towards = np.float32(np.inf) if row > neighbors[-1] else np.float32(-np.inf)
    return 0.5 * (np.float64(last) + np.float64(np.nextafter(last, towards)))
