"""Loops of the CPU kernel that skip nothing, and so are valid for weights of any sign.

Query columns ascend, so that each accumulator ends as the canonical similarity. It starts as -0.0, which no sum of
products ever is: so rows that share no column are told from rows whose products cancel out.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.insertion import FEW, before, insert_neighbor
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.kernels.scoring import count_below
from noveltyflow.similarity.kernels.sorting import sort_by_digit
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
_DIGIT_BITS = 8


class Waiting(NamedTuple):
    """Room for candidates of a query that wait to be sorted and merged with its k neighbours, where k is large.

    `keys`, `sorted_keys` int64 (up to 2 * k,); `ends` int32 (256,): see `sort_by_digit`; `similarities` float32 and
    `neighbors` int64 (k,): the neighbours before.
    """

    keys: Int64Array
    sorted_keys: Int64Array
    ends: Int32Array
    similarities: Float32Array
    neighbors: Int64Array


@numba.njit(nogil=True, cache=True)
def _make_room(n_neighbors: int, n_candidates: int) -> Waiting:
    most = min(2 * n_neighbors, n_candidates)
    return Waiting(
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(1 << _DIGIT_BITS, np.int32),
        np.empty(n_neighbors, np.float32),
        np.empty(n_neighbors, np.int64),
    )


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
    many = similarities.shape[1] > FEW
    waiting = _make_room(similarities.shape[1] if many else 0, numbers.size)
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
            if many:
                pairs += _merge_met(
                    accumulators,
                    touched[:met],
                    False,
                    numbers,
                    best,
                    best_rows,
                    candidates_start,
                    own,
                    waiting,
                )
            else:
                pairs += _keep_met(
                    accumulators, touched[:met], numbers, best, best_rows, candidates_start, own
                )
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
            if many:
                least = _least_sum(best, best_rows, candidates_start + numbers[slab])
                met = _list_reaching(accumulators[:end], slab, least, touched)
                pairs += _merge_met(
                    accumulators,
                    touched[:met],
                    True,
                    numbers,
                    best,
                    best_rows,
                    candidates_start,
                    own,
                    waiting,
                )
                accumulators[slab:end] = -0.0
            else:
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
def _merge_met(
    accumulators: Float64Array,
    met: Int32Array,
    ascending: bool,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own: int,
    waiting: Waiting,
) -> int:
    """Do as `_keep_met`, but sort many candidates at a time: inserting each would move many others."""
    kept, found, row_bits = 0, 0, 1
    while numbers.size >> row_bits:
        row_bits += 1
    for row in met:
        similarity = np.float32(accumulators[row])
        if similarity >= similarities[-1] and numbers[row] != own:
            waiting.keys[found] = (_rank(similarity) << row_bits) | row
            found += 1
            if found == waiting.keys.size:
                _merge(
                    accumulators,
                    found,
                    row_bits,
                    ascending,
                    numbers,
                    similarities,
                    neighbors,
                    first_row,
                    waiting,
                )
                kept, found = kept + found, 0
    _merge(accumulators, found, row_bits, ascending, numbers, similarities, neighbors, first_row, waiting)
    for row in met:
        accumulators[row] = -0.0
    return kept + found


@uncounted
def _rank(similarity: np.float32) -> int:
    """A number of 32 bits that is less where a similarity is more, and the same for both zeros."""
    bits = np.int64(np.float32(similarity + np.float32(0.0)).view(np.int32))
    return int(0x7FFFFFFF - bits if bits >= 0 else 0x80000000 | (bits & 0x7FFFFFFF))


@uncounted
def _merge(
    accumulators: Float64Array,
    found: int,
    row_bits: int,
    ascending: bool,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    waiting: Waiting,
) -> None:
    """Merge the candidates of the first keys with the neighbours of a query, but for those that are there already."""
    keys, ordered = waiting.keys[:found], waiting.sorted_keys[:found]
    for shift in range(row_bits if ascending else 0, row_bits + 32, _DIGIT_BITS):
        sort_by_digit(keys, ordered, waiting.ends, shift)
        keys, ordered = ordered, keys
    for slot in range(similarities.size):
        waiting.similarities[slot], waiting.neighbors[slot] = similarities[slot], neighbors[slot]
    old, new = 0, 0
    for slot in range(similarities.size):
        if new == found:
            similarities[slot], neighbors[slot] = waiting.similarities[old], waiting.neighbors[old]
            old += 1
            continue
        row = keys[new] & ((1 << row_bits) - 1)
        similarity, number = np.float32(accumulators[row]), first_row + numbers[row]
        if before(similarity, number, waiting.similarities[old], waiting.neighbors[old]):
            similarities[slot], neighbors[slot] = similarity, number
            new += 1
        else:
            similarities[slot], neighbors[slot] = waiting.similarities[old], waiting.neighbors[old]
            new += int(waiting.neighbors[old] == number)
            old += 1


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
def _list_reaching(accumulators: Float64Array, start: int, least: float, touched: Int32Array) -> int:
    """List the candidates from `start` on that are met and have a sum of at least `least`; returns their number."""
    bits, found = accumulators.view(np.int64), 0
    for first in range(start, accumulators.size, _AT_ONCE):
        end = min(first + _AT_ONCE, accumulators.size)
        if _any_reaches(accumulators[first:end], least):
            for row in range(first, end):
                touched[found] = row
                found += int(accumulators[row] >= least and bits[row] != _UNTOUCHED)
    return found


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
