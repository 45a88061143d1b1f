"""How a batch of rows after the other is answered from a dense index."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.dense.index import (
    GROUP_ROWS,
    HEAD_NUMBER,
    LEVELS,
    SLAB_GROUPS,
    SLAB_ROWS,
    DenseIndex,
)
from noveltyflow.similarity.kernels.dense.lanes import add_columns, add_largest
from noveltyflow.similarity.kernels.effort import effort_of_everything
from noveltyflow.similarity.kernels.scoring import (
    SINGLE,
    Members,
    Query,
    enter_columns,
    insert_members,
    is_known,
    leave_columns,
    places_for,
    score,
    table_bytes,
)
from noveltyflow.similarity.kernels.ticks import ACCUMULATING, SEEDING, VERIFYING, WORK_SLOTS, begin, spent
from noveltyflow.types import AnyArray, BoolArray, Float32Array, Int32Array, Int64Array

MOST_QUERIES, _LEAST_QUERIES, _BATCH_COLUMNS = 256, 64, 1 << 18
"""Query rows that go through a slab together, at most and at least, and columns of all of them between the two."""
_MOST = 65_535.0
_BUCKETS = 256
_PRODUCT_COST, _CANDIDATE_COST = 0.1, 20
"""What a product in the head takes, and listing a candidate and beginning its similarity, in multiply-adds."""


class Batch(NamedTuple):
    """Arrays of one thread; b is the number of queries, n = `width` the most columns of a query row.

    `head_columns` and `head_factors` uint16 (b * n,): head columns of each query and its levels there, from the front
    the `n_first` that make group bounds loose, from the back the others;
    `tail_columns` int64 and `tail_factors` uint16 (b * n,) likewise; `n_first`, `n_heads`, `n_tails` int64
    (b,);
    `scale` float64 (b,): product of levels that stands for similarity 1; `least` int64 (b,): least sum with which
    a row can still be among the best; `sums` uint16 (b * `SLAB_ROWS`,): sums of products of levels; `bounds` uint16
    (b, `SLAB_GROUPS`): no sum of the group is larger, 0 where its sums are incomplete; `some_bounds` uint16 (32,);
    `rest_bounds` uint16 (b, `SLAB_GROUPS`): what the head columns after the first can add in a group, at most;
    `rows`, `sorted_rows` int32 (`SLAB_ROWS`,): candidates; `keys`, `left_out` int32, `values` float32:
    see `scoring.score`; `work` int64 (`WORK_SLOTS`,): products, candidates, similarities, how many places are left
    out, and what `kernels.ticks` counts.
    """

    head_columns: AnyArray
    head_factors: AnyArray
    tail_columns: Int64Array
    tail_factors: AnyArray
    n_first: Int64Array
    n_heads: Int64Array
    n_tails: Int64Array
    scale: AnyArray
    least: Int64Array
    sums: AnyArray
    bounds: AnyArray
    some_bounds: AnyArray
    rest_bounds: AnyArray
    rows: Int32Array
    sorted_rows: Int32Array
    keys: Int32Array
    values: Float32Array
    left_out: Int32Array
    work: Int64Array
    width: int


def batch_bytes(longest_row: int) -> int:
    """Bytes of the arrays that `_make_batch` makes, for queries of at most so many columns."""
    columns = 14 * max(_BATCH_COLUMNS, _LEAST_QUERIES * longest_row)
    sums = MOST_QUERIES * (2 * SLAB_ROWS + 4 * SLAB_GROUPS + 40)
    return columns + sums + 8 * SLAB_ROWS + table_bytes(longest_row) + 4 * longest_row + 1024


@numba.njit(nogil=True, cache=True)
def _make_batch(longest_query: int) -> Batch:
    width = longest_query
    most = min(MOST_QUERIES, max(_LEAST_QUERIES, _BATCH_COLUMNS // max(1, width)))
    return Batch(
        np.zeros(most * width, HEAD_NUMBER),
        np.zeros(most * width, np.uint16),
        np.zeros(most * width, np.int64),
        np.zeros(most * width, np.uint16),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        np.zeros(most, np.int64),
        np.zeros(most, np.float64),
        np.zeros(most, np.int64),
        np.zeros(most * SLAB_ROWS, np.uint16),
        np.zeros((most, SLAB_GROUPS), np.uint16),
        np.zeros(GROUP_ROWS, np.uint16),
        np.zeros((most, SLAB_GROUPS), np.uint16),
        np.empty(SLAB_ROWS, np.int32),
        np.empty(SLAB_ROWS, np.int32),
        np.full(places_for(longest_query), -1, np.int32),
        np.empty(places_for(longest_query), np.float32),
        np.empty(longest_query, np.int32),
        np.zeros(WORK_SLOTS, np.int64),
        width,
    )


@numba.njit(nogil=True, cache=True)
def search_rows(
    indptr: Int64Array,
    columns: Int32Array,
    weights: Float32Array,
    index: DenseIndex,
    members: Members,
    row_of: Int64Array,
    own_offset: int,
    similarities: Float32Array,
    neighbors: Int64Array,
    computed: BoolArray,
    patience: int,
) -> tuple[Int64Array, Int64Array, int]:
    """Improve the best k of query rows, in place, and set `computed` for those for which any similarity is computed.

    Returns products, candidates and similarities; ticks by stage, where loading queries is seeding, bounding is
    accumulating, and listing what is left and computing it are verifying; and how many rows are answered.

    `own_offset` is the block's row that is query row 0, or so small that no query stands in the block. Where sums of
    levels, up to some batch, have taken `patience` multiply-adds more than computing everything, as of rows that are
    nearly equally similar, neither its rows nor later ones are answered.
    """
    longest_query = 0
    for row in range(indptr.size - 1):
        longest_query = max(longest_query, indptr[row + 1] - indptr[row])
    batch = _make_batch(longest_query)
    n_slabs = -(-index.row_starts.size // SLAB_ROWS)
    most = batch.least.size
    everything, tails, scoring = 0.0, 0, 0
    begin(batch.work)
    for start in range(0, indptr.size - 1, most):
        stop = min(start + most, indptr.size - 1)
        multiply_adds = _load(indptr[start : stop + 1], columns, weights, index, batch)
        everything += (stop - start) * effort_of_everything(multiply_adds / (stop - start), row_of.size)
        spent(batch.work, SEEDING)
        near = row_of[min(max(start + own_offset, 0), row_of.size - 1)] // SLAB_ROWS
        for step in range(2 * n_slabs):
            # near, near + 1, near - 1, ...: the best neighbours of a row mostly stand near it.
            slab = near + (step + 1) // 2 if step % 2 else near - step // 2
            if not 0 <= slab < n_slabs or (step == 0) != (slab == near):
                continue
            products = batch.work[0]
            _sum_tails(index, slab, stop - start, batch)
            tails += batch.work[0] - products
            _sum_heads(index, slab, stop - start, similarities[start:stop], batch)
            spent(batch.work, ACCUMULATING)
            heads = batch.work[0] - tails
            most_scoring = everything + patience - _PRODUCT_COST * heads
            for row in range(start, stop):
                own = row + own_offset if 0 <= row + own_offset < row_of.size else -1
                entries = slice(indptr[row], indptr[row + 1])
                query = Query(
                    columns[entries],
                    weights[entries],
                    own,
                    similarities[row],
                    neighbors[row],
                    row,
                    similarities,
                    neighbors,
                )
                before = batch.work[2]
                scoring += _answer(index, members, query, slab, row - start, batch)
                computed[row] |= batch.work[2] > before
                if scoring > most_scoring:
                    break
            spent(batch.work, VERIFYING)
            if scoring > most_scoring:
                return batch.work[:3], batch.work[SEEDING : VERIFYING + 1], start
    return batch.work[:3], batch.work[SEEDING : VERIFYING + 1], indptr.size - 1


@numba.njit(nogil=True, cache=True)
def _load(
    indptr: Int64Array, columns: Int32Array, weights: Float32Array, index: DenseIndex, batch: Batch
) -> int:
    """Levels of the queries, as high as keeps every sum of products within 16 bits, by Cauchy-Schwarz.

    Returns how many multiply-adds their head columns take with all rows.
    """
    everything = 0
    for query in range(indptr.size - 1):
        start, stop = indptr[query], indptr[query + 1]
        squares = 0.0
        for place in range(start, stop):
            squares += np.float64(weights[place]) ** 2
        # Rounding up adds at most 1 to a level, and so the root of their number to the norm.
        room = _MOST / max(index.largest_norm, 1.0) - np.sqrt(stop - start) - 1.0
        levels = min(room / max(np.sqrt(squares), 1e-30), LEVELS * 1.06)
        batch.scale[query] = levels * LEVELS
        everything += _split_columns(columns[start:stop], weights[start:stop], levels, query, index, batch)
    return everything


@numba.njit(nogil=True, cache=True)
def _split_columns(
    columns: Int32Array,
    weights: Float32Array,
    levels: float,
    query: int,
    index: DenseIndex,
    batch: Batch,
) -> int:
    """Write a query's levels: in head columns that take more than the mean from its bounds, others, and the tail.

    Returns how many rows have its head columns, summed.
    """
    column_of, of_head, everything = index.column_of, index.of_head, 0
    total, heads, tails, base = 0.0, 0, 0, query * batch.width
    for place in range(columns.size):
        number = column_of[columns[place]]
        if number >= 0:
            total += np.float64(weights[place]) * of_head[number, 0]
            everything += int(of_head[number, 1])
            heads += 1
    least, first, last = total / max(1, heads), base, base + batch.width
    for place in range(columns.size):
        number, weight = column_of[columns[place]], np.float64(weights[place])
        level = np.uint16(np.ceil(weight * levels))
        if number >= 0:
            if weight * of_head[number, 0] >= least:
                slot = first
                first += 1
            else:
                last -= 1
                slot = last
            batch.head_columns[slot], batch.head_factors[slot] = number, level
        elif number < -1:
            batch.tail_columns[base + tails], batch.tail_factors[base + tails] = -2 - number, level
            tails += 1
    batch.n_first[query], batch.n_heads[query], batch.n_tails[query] = first - base, heads, tails
    return everything


@numba.njit(nogil=True, cache=True)
def _sum_tails(index: DenseIndex, slab: int, n_queries: int, batch: Batch) -> None:
    """Begin the sums of all rows of a slab with the postings of rare columns."""
    starts, tail, sums = index.tail_starts, index.tail, batch.sums
    columns, factors, n_tails = batch.tail_columns, batch.tail_factors, batch.n_tails
    first, width = slab * index.n_tail, batch.width
    for query in range(n_queries):
        sums[query * SLAB_ROWS : (query + 1) * SLAB_ROWS] = 0
        base = np.uint64(query * SLAB_ROWS)
        for number in range(n_tails[query]):
            column = first + columns[query * width + number]
            factor = factors[query * width + number]
            for place in range(np.uint64(starts[column]), np.uint64(starts[column + 1])):
                posting = tail[place]
                row = base + np.uint64(posting >> np.uint32(8))
                sums[row] = np.uint16(sums[row] + factor * np.uint16(posting & np.uint32(0xFF)))
            batch.work[0] += starts[column + 1] - starts[column]


@numba.njit(nogil=True, cache=True)
def _least_sum(similarity: float, scale: float) -> int:
    """Least sum of products of levels with which a row can have `similarity`; at least 1, a shared column."""
    least = np.float64(similarity) * SINGLE * scale - 1.0
    return int(least) if least > 1.0 else 1


@numba.njit(nogil=True, cache=True)
def _sum_heads(
    index: DenseIndex, slab: int, n_queries: int, similarities: Float32Array, batch: Batch
) -> None:
    """Complete the sums of the groups that can reach a query's threshold, and note the largest of each."""
    for query in range(n_queries):
        batch.least[query] = _least_sum(similarities[query, -1], batch.scale[query])
    n_groups = min(-(-index.row_starts.size // GROUP_ROWS) - slab * SLAB_GROUPS, SLAB_GROUPS)
    for above in range(-(-n_groups // GROUP_ROWS)):
        for query in range(n_queries):
            _bound_groups(index, slab, above, query, batch)
    head, sums, least, bounds, rest_bounds = (
        index.head,
        batch.sums,
        batch.least,
        batch.bounds,
        batch.rest_bounds,
    )
    columns, factors = batch.head_columns, batch.head_factors
    for group in range(n_groups):
        start = (slab * SLAB_GROUPS + group) * index.n_head * GROUP_ROWS
        for query in range(n_queries):
            if bounds[query, group] < least[query]:
                bounds[query, group] = 0
                continue
            at = query * SLAB_ROWS + group * GROUP_ROWS
            first, rest = _columns_of(query, batch)
            bound = add_columns(sums, at, head, start, columns[first], factors[first], batch.n_first[query])
            batch.work[0] += batch.n_first[query] * GROUP_ROWS
            if np.int64(bound) + rest_bounds[query, group] < least[query]:
                bounds[query, group] = 0
                continue
            n_rest = batch.n_heads[query] - batch.n_first[query]
            bounds[query, group] = add_columns(sums, at, head, start, columns[rest], factors[rest], n_rest)
            batch.work[0] += n_rest * GROUP_ROWS


@numba.njit(nogil=True, cache=True)
def _columns_of(query: int, batch: Batch) -> tuple[slice, slice]:
    """Where the first head columns of a query stand, and where the others."""
    begin, end, n_first = query * batch.width, (query + 1) * batch.width, batch.n_first[query]
    return slice(begin, begin + n_first), slice(end - (batch.n_heads[query] - n_first), end)


@numba.njit(nogil=True, cache=True)
def _bound_groups(index: DenseIndex, slab: int, above: int, query: int, batch: Batch) -> None:
    """Bound 32 groups by the sums of their tails and by their largest levels in the head."""
    sums, some, columns, factors = batch.sums, batch.some_bounds, batch.head_columns, batch.head_factors
    n_first, n_heads = batch.n_first[query], batch.n_heads[query]
    for lane in range(GROUP_ROWS):
        at = query * SLAB_ROWS + (above * GROUP_ROWS + lane) * GROUP_ROWS
        some[lane] = add_columns(sums, at, index.head, 0, columns, factors, 0)
    start = (slab * (SLAB_GROUPS // GROUP_ROWS) + above) * index.n_head * GROUP_ROWS
    groups = slice(above * GROUP_ROWS, (above + 1) * GROUP_ROWS)
    first, rest = _columns_of(query, batch)
    add_largest(some, 0, index.largest, start, columns[first], factors[first], n_first)
    bounds, rest_bounds = batch.bounds[query, groups], batch.rest_bounds[query, groups]
    bounds[:] = some
    some[:] = 0
    add_largest(some, 0, index.largest, start, columns[rest], factors[rest], n_heads - n_first)
    for lane in range(GROUP_ROWS):
        rest_bounds[lane] = some[lane]
        bounds[lane] = min(np.int64(bounds[lane]) + some[lane], 65_535)


@numba.njit(nogil=True, cache=True)
def _answer(index: DenseIndex, members: Members, query: Query, slab: int, number: int, batch: Batch) -> int:
    """Compute the similarities to the rows of a slab that can be among the query's best, likely ones first.

    Returns what that takes, in multiply-adds.
    """
    similarities, scale = query.similarities, batch.scale[number]
    if not np.any(batch.bounds[number]):
        return 0
    likely = max(_likely_sum(batch.bounds[number], similarities.size), batch.least[number])
    batch.work[3] = enter_columns(query.columns, query.weights, batch.keys, batch.values, batch.left_out)
    found = _collect(index, slab, number, likely, 1 << 16, batch)
    cost = _score_rows(index, members, query, slab, number, found, batch)
    least = _least_sum(similarities[-1], scale)
    if least < likely:
        found = _collect(index, slab, number, least, likely, batch)
        cost += _score_rows(index, members, query, slab, number, found, batch)
    leave_columns(query.columns, batch.keys)
    return cost


@numba.njit(nogil=True, cache=True)
def _likely_sum(bounds: AnyArray, n_neighbors: int) -> int:
    """A sum that some row of at least `n_neighbors` groups reaches, or 0."""
    counts = np.zeros(_BUCKETS, np.int64)
    for bound in bounds:
        counts[bound >> 8] += 1
    groups = 0
    for bucket in range(_BUCKETS - 1, 0, -1):
        groups += counts[bucket]
        if groups >= n_neighbors:
            return bucket << 8
    return 0


@numba.njit(nogil=True, cache=True)
def _score_rows(
    index: DenseIndex, members: Members, query: Query, slab: int, number: int, found: int, batch: Batch
) -> int:
    """Compute the similarities to listed rows while they can be among the best; returns what that takes."""
    rows, sums, scale = batch.sorted_rows, batch.sums, batch.scale[number]
    similarities = query.similarities
    keys, values, left_out = batch.keys, batch.values, batch.left_out[: batch.work[3]]
    row_starts, row_ends, columns, weights = index.row_starts, index.row_ends, index.columns, index.weights
    own_columns, own_weights = query.columns, query.weights
    batch.work[1] += found
    base, first, cost = number * SLAB_ROWS, slab * SLAB_ROWS, found * _CANDIDATE_COST
    for place in range(found):
        row = rows[place]
        if sums[base + row] < _least_sum(similarities[-1], scale):
            continue
        if is_known(first + row, members, query):
            continue
        batch.work[2] += 1
        cost += row_ends[first + row] - row_starts[first + row]
        entries = slice(row_starts[first + row], row_ends[first + row])
        similarity = score(
            own_columns, own_weights, columns[entries], weights[entries], keys, values, left_out
        )
        insert_members(similarity, first + row, members, query)
    return cost


@numba.njit(nogil=True, cache=True)
def _collect(index: DenseIndex, slab: int, number: int, least: int, below: int, batch: Batch) -> int:
    """List the rows of a slab whose sums are at least `least` and less than `below`, the largest sums first."""
    rows, ordered, sums, bounds = batch.rows, batch.sorted_rows, batch.sums, batch.bounds
    base, found = number * SLAB_ROWS, 0
    last = min(index.row_starts.size - slab * SLAB_ROWS, SLAB_ROWS)
    for group in range(-(-last // GROUP_ROWS)):
        if bounds[number, group] >= least:
            for row in range(group * GROUP_ROWS, min((group + 1) * GROUP_ROWS, last)):
                rows[found] = row
                found += int(least <= sums[base + row] < below)
    ends = np.zeros(_BUCKETS + 1, np.int64)
    for place in range(found):
        ends[_BUCKETS - (sums[base + rows[place]] >> 8)] += 1
    for bucket in range(1, _BUCKETS + 1):
        ends[bucket] += ends[bucket - 1]
    for place in range(found):
        bucket = _BUCKETS - 1 - (sums[base + rows[place]] >> 8)
        ordered[ends[bucket]] = rows[place]
        ends[bucket] += 1
    return found
