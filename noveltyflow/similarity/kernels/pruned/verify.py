"""From a group that may hold a neighbour to the exact similarities of its members."""

from __future__ import annotations

import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.pruned.accumulate import still_possible, threshold
from noveltyflow.similarity.kernels.pruned.index import GroupIndex
from noveltyflow.similarity.kernels.pruned.lanes import add_hits, known, prefetch, rows_of_group
from noveltyflow.similarity.kernels.pruned.query import LISTED, PLACES, TABLE_UNIT, Scratch
from noveltyflow.similarity.kernels.reaching import LANES
from noveltyflow.similarity.kernels.scoring import (
    MUCH_LONGER,
    SINGLE,
    Members,
    Query,
    insert_members,
    is_known,
    score,
)
from noveltyflow.types import AnyArray, Int32Array, Int64Array

SETTLED = np.int32(-(1 << 31))
"""Accumulator of a group whose members are settled; what is added later stays below 2**31 (see `LONGEST_QUERY`)."""
_HITS_AT_ONCE = 256
"""Products of a 16-bit factor and an 8-bit weight whose sum fits 32 bits, whatever they are."""
_RECORD_LINES = 8
"""Lines of the cache, of codes and of weights, that are asked for before the record's own turn."""
_LINE_BYTES = 64
_UNKNOWN = 1 << 62


@uncounted
def settle(
    index: GroupIndex,
    members: Members,
    query: Query,
    groups: Int32Array,
    skipped: float,
    scratch: Scratch,
) -> None:
    """Bound every member of each group that is still possible, and insert those that can be among the best k."""
    sums, table, known_codes, products, bounds, keys, values, left_out = (
        scratch.accumulators,
        scratch.table,
        scratch.known_codes,
        scratch.products,
        scratch.bounds,
        scratch.keys,
        scratch.values,
        scratch.left_out[: scratch.work[3]],
    )
    starts, codes, lanes = index.record_starts, index.record_codes, index.record_weights
    row_starts, row_ends, columns, weights = index.row_starts, index.row_ends, index.columns, index.weights
    similarities, own_columns, own_weights = query.similarities, query.columns, query.weights
    for place in range(groups.size):
        group, following = groups[place], groups[min(place + 1, groups.size - 1)]
        _ask_for_record(codes, lanes, starts[following])
        if sums[group] < threshold(similarities[-1], skipped):
            continue
        sums[group] = SETTLED
        scratch.work[1] += 1
        if similarities[-1] == -np.inf or starts[group + 1] - starts[group] > MUCH_LONGER * own_columns.size:
            bounds[:] = _UNKNOWN
        else:
            scratch.work[PLACES] += starts[group + 1] - starts[group]
            _bound_members(
                codes, lanes, starts[group], starts[group + 1], table, known_codes, products, bounds
            )
        first = int(group) * rows_of_group(lanes)
        last = min(first + rows_of_group(lanes), row_starts.size)
        for row in range(first, last):
            if bounds[row - first] < _least_bound(similarities[-1]) or is_known(row, members, query):
                continue
            scratch.work[2] += 1
            entries = slice(row_starts[row], row_ends[row])
            similarity = score(
                own_columns, own_weights, columns[entries], weights[entries], keys, values, left_out
            )
            insert_members(similarity, row, members, query)


@uncounted
def _ask_for_record(codes: AnyArray, weights: AnyArray, start: int) -> None:
    """Have the beginning of a record in the cache: its most frequent columns, where most hits are."""
    for line in range(_RECORD_LINES):
        prefetch(codes, start + _LINE_BYTES // 2 * line)
        prefetch(weights, start + _LINE_BYTES // rows_of_group(weights) * line)


@uncounted
def _least_bound(similarity: float) -> int:
    """Least bound of a member, in units of `TABLE_UNIT` times 255, that can have `similarity`; at least 1."""
    least = np.float64(similarity) * SINGLE * (TABLE_UNIT * 255.0) - 1.0
    return int(least) if least > 1.0 else 1


@uncounted
def _bound_members(
    codes: AnyArray,
    weights: AnyArray,
    start: int,
    end: int,
    table: AnyArray,
    known_codes: AnyArray,
    sums: AnyArray,
    bounds: Int64Array,
) -> None:
    """Upper bounds of the similarities to all members of the group with the record from `start` to `end`.

    Columns that share a code can only add to a bound. As many products are summed in `sums` as cannot grow out of
    32 bits.
    """
    bounds[:] = 0
    for part in range(start, end, _HITS_AT_ONCE):
        sums[:] = 0
        for first in range(part, min(part + _HITS_AT_ONCE, end), LANES):
            hits = known(codes, first, known_codes)
            if end - first < LANES:
                hits &= (np.uint64(1) << np.uint64(end - first)) - np.uint64(1)
            add_hits(hits, first, codes, table, weights, sums)
        for member in range(rows_of_group(weights)):
            bounds[member] += np.int64(sums[member])


@uncounted
def settle_best(
    index: GroupIndex, members: Members, query: Query, found: int, skipped: float, scratch: Scratch
) -> int:
    """Settle the largest sums, as many as `best` holds, the largest first; how many are still possible then."""
    sums, best, chosen = scratch.accumulators, scratch.best, 0
    scratch.work[LISTED] += found
    for candidate in scratch.candidates[:found]:
        chosen = _keep_largest(sums, candidate, best, chosen)
    settle(index, members, query, best[:chosen], skipped, scratch)
    return still_possible(scratch, found, threshold(query.similarities[-1], skipped))


@uncounted
def _keep_largest(sums: Int32Array, group: int, best: Int32Array, chosen: int) -> int:
    """Insert a group into those with the largest sums; returns how many there are now."""
    if chosen == best.size and sums[group] <= sums[best[chosen - 1]]:
        return chosen
    chosen = min(chosen + 1, best.size)
    slot = chosen - 1
    while slot > 0 and sums[best[slot - 1]] < sums[group]:
        best[slot] = best[slot - 1]
        slot -= 1
    best[slot] = group
    return chosen
