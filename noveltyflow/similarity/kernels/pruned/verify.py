"""From a group that may hold a neighbour to the exact similarities of its members."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.similarity.kernels.pruned.accumulate import SINGLE, threshold
from noveltyflow.similarity.kernels.pruned.index import GROUP_ROWS, GroupIndex
from noveltyflow.similarity.kernels.pruned.query import TABLE_UNIT, Scratch, slot_of
from noveltyflow.types import AnyArray, Float32Array, Int32Array, Int64Array

DONE = np.int32(-(1 << 30))
"""Added to the accumulator of a group whose members are settled; no later sum brings it back above zero."""
_PAIR = np.uint64(0x000000FF000000FF)
_LOW = np.uint64(0xFFFFFFFF)


class Members(NamedTuple):
    """Rows of the block behind its distinct rows, as in `Distinct`, and the global number of the first."""

    starts: Int64Array
    rows: Int64Array
    first: int


class Query(NamedTuple):
    """A query row: its columns and weights, its number among the block's rows or -1, and its best k."""

    columns: Int32Array
    weights: Float32Array
    own: int
    similarities: Float32Array
    neighbors: Int64Array


@numba.njit(nogil=True, cache=True)
def settle(index: GroupIndex, members: Members, query: Query, group: int, scratch: Scratch) -> None:
    """Bound every member of a group, and insert those that can be among the best k."""
    scratch.accumulators[group] += DONE
    scratch.work[1] += 1
    first, last = index.record_starts[group], index.record_starts[group + 1]
    _bound_members(index.record_codes[first:last], index.record_weights[first:last], scratch)
    least = _least_bound(query.similarities[-1])
    for row in range(group * GROUP_ROWS, min((group + 1) * GROUP_ROWS, index.row_starts.size)):
        if scratch.bounds[row - group * GROUP_ROWS] >= least:
            scratch.work[2] += 1
            entries = slice(index.row_starts[row], index.row_ends[row])
            similarity = _similarity(query, index.columns[entries], index.weights[entries], scratch.place)
            _insert(query, similarity, members, row)
            least = _least_bound(query.similarities[-1])


@numba.njit(nogil=True, cache=True)
def _insert(query: Query, similarity: np.float32, members: Members, row: int) -> None:
    """Insert all rows that are this distinct row; they are equally similar, and the first have precedence."""
    for place in range(members.starts[row], members.starts[row + 1]):
        if members.rows[place] == query.own:
            continue
        if similarity < query.similarities[-1]:
            return
        number = members.first + members.rows[place]
        if similarity == query.similarities[-1] and number > query.neighbors[-1]:
            return
        insert_neighbor(query.similarities, query.neighbors, similarity, number)


@numba.njit(nogil=True, cache=True)
def _least_bound(similarity: float) -> int:
    """Least bound of a member, in units of `TABLE_UNIT` times 255, that can have `similarity`; at least 1."""
    least = np.float64(similarity) * SINGLE * (TABLE_UNIT * 255.0) - 1.0
    return int(least) if least > 1.0 else 1


@numba.njit(nogil=True, cache=True)
def _bound_members(codes: AnyArray, weights: AnyArray, scratch: Scratch) -> None:
    """Upper bounds of the similarities to all members.

    Columns that share a code can only add to a bound. Two members at a time: their weights stand in the two
    halves of 64 bits, and neither product nor sum grows out of 32 bits.
    """
    hits = 0
    for place in range(codes.size):
        scratch.hits[hits] = place
        hits += int(scratch.table[codes[place]] != 0)
    a, b, c, d = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for hit in range(hits):
        place = scratch.hits[hit]
        factor = np.uint64(scratch.table[codes[place]])
        lanes = weights[place]
        a += (lanes & _PAIR) * factor
        b += ((lanes >> np.uint64(8)) & _PAIR) * factor
        c += ((lanes >> np.uint64(16)) & _PAIR) * factor
        d += ((lanes >> np.uint64(24)) & _PAIR) * factor
    for lane, pair in enumerate((a, b, c, d)):
        scratch.bounds[lane] = np.int64(pair & _LOW)
        scratch.bounds[lane + 4] = np.int64(pair >> np.uint64(32))


@numba.njit(nogil=True, cache=True)
def _similarity(query: Query, columns: Int32Array, weights: Float32Array, place_of: Int32Array) -> np.float32:
    """The one way to compute a similarity; minus infinity where no column is shared.

    A code shared by two columns may have let a row pass that shares none.
    """
    total, shared = 0.0, False
    for place in range(columns.size):
        own = place_of[slot_of(columns[place])]
        if own < 0:
            continue
        if query.columns[own] != columns[place]:
            own = np.searchsorted(query.columns, columns[place])
            if own == query.columns.size or query.columns[own] != columns[place]:
                continue
        total += np.float64(query.weights[own]) * np.float64(weights[place])
        shared = True
    return np.float32(total) if shared else np.float32(-np.inf)


@numba.njit(nogil=True, cache=True)
def settle_best(
    index: GroupIndex, members: Members, query: Query, scratch: Scratch, found: int, most: int, skipped: float
) -> None:
    """Settle the `most` candidates with the largest sums, the largest first, as far as they are still possible.

    Sums are ordered by 64 steps between the smallest and the largest, which is as good as a sort here.
    """
    if found == 0:
        return
    sums, candidates, histogram = scratch.accumulators, scratch.candidates, scratch.histogram
    low, high = int(sums[candidates[0]]), 0
    for place in range(found):
        total = int(sums[candidates[place]])
        low, high = min(low, total), max(high, total)
    steps = 63.999 / max(1, high - low)
    histogram[:] = 0
    for place in range(found):
        histogram[int((sums[candidates[place]] - low) * steps)] += 1
    for step in range(63, -1, -1):
        if most <= 0:
            return
        if histogram[step] == 0:
            continue
        for place in range(found):
            total = int(sums[candidates[place]])
            if total < low or int((total - low) * steps) != step or most <= 0:
                continue
            most -= 1
            if total >= threshold(query.similarities[-1], skipped):
                settle(index, members, query, candidates[place], scratch)
