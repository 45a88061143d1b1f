"""How a batch of rows after the other is answered from a dense index."""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.similarity.kernels.dense.batch import Batch, columns_of, load, make_batch
from noveltyflow.similarity.kernels.dense.index import GROUP_ROWS, SLAB_GROUPS, SLAB_ROWS, DenseIndex
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
    score,
)
from noveltyflow.similarity.kernels.ticks import ACCUMULATING, SEEDING, VERIFYING, begin, spent
from noveltyflow.types import AnyArray, BoolArray, Float32Array, Int32Array, Int64Array

_BUCKETS = 256
_PRODUCT_COST, _CANDIDATE_COST = 0.1, 20
"""What a product in the head takes, and listing a candidate and beginning its similarity, in multiply-adds."""


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
    batch = make_batch(longest_query)
    n_slabs = -(-index.row_starts.size // SLAB_ROWS)
    most = batch.least.size
    everything, tails, scoring = 0.0, 0, 0
    begin(batch.work)
    for start in range(0, indptr.size - 1, most):
        stop = min(start + most, indptr.size - 1)
        multiply_adds = load(indptr[start : stop + 1], columns, weights, index, batch)
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
            first, rest = columns_of(query, batch)
            bound = add_columns(sums, at, head, start, columns[first], factors[first], batch.n_first[query])
            batch.work[0] += batch.n_first[query] * GROUP_ROWS
            if np.int64(bound) + rest_bounds[query, group] < least[query]:
                bounds[query, group] = 0
                continue
            n_rest = batch.n_heads[query] - batch.n_first[query]
            bounds[query, group] = add_columns(sums, at, head, start, columns[rest], factors[rest], n_rest)
            batch.work[0] += n_rest * GROUP_ROWS


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
    first, rest = columns_of(query, batch)
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
