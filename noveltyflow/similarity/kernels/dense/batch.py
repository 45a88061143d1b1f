"""What the queries of a batch need while a dense index answers them, in arrays that the next batch uses again."""

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
from noveltyflow.similarity.kernels.scoring import places_for, table_bytes
from noveltyflow.similarity.kernels.ticks import WORK_SLOTS
from noveltyflow.types import AnyArray, Float32Array, Int32Array, Int64Array

MOST_QUERIES, _LEAST_QUERIES, _BATCH_COLUMNS = 256, 64, 1 << 18
"""Query rows that go through a slab together, at most and at least, and columns of all of them between the two."""
_MOST = 65_535.0


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
    """Bytes of the arrays that `make_batch` makes, for queries of at most so many columns."""
    columns = 14 * max(_BATCH_COLUMNS, _LEAST_QUERIES * longest_row)
    sums = MOST_QUERIES * (2 * SLAB_ROWS + 4 * SLAB_GROUPS + 40)
    return columns + sums + 8 * SLAB_ROWS + table_bytes(longest_row) + 4 * longest_row + 1024


@numba.njit(nogil=True, cache=True)
def make_batch(longest_query: int) -> Batch:
    """The arrays, for queries of at most so many columns."""
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
def load(
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
def columns_of(query: int, batch: Batch) -> tuple[slice, slice]:
    """Where the first head columns of a query stand, and where the others."""
    begin, end, n_first = query * batch.width, (query + 1) * batch.width, batch.n_first[query]
    return slice(begin, begin + n_first), slice(end - (batch.n_heads[query] - n_first), end)
