"""What one query row needs while it is answered, in arrays that the next row uses again."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.pruned.index import MOST_GROUP, ROUND_UP, GroupIndex
from noveltyflow.similarity.kernels.pruned.lanes import FILTER_BITS, prefetch, rows_of_group
from noveltyflow.similarity.kernels.pruned.lists import CODE_BITS, CODE_MASK, WEIGHTS
from noveltyflow.similarity.kernels.scoring import enter_columns, leave_columns, places_for, table_bytes
from noveltyflow.similarity.kernels.sorting import sort_by_digit
from noveltyflow.similarity.kernels.ticks import WORK_SLOTS
from noveltyflow.types import AnyArray, Float32Array, Float64Array, Int32Array, Int64Array

UNIT = 2.0**28
"""Accumulated similarity 1.

The sum of a group is at most 2.84 for the largest weights of eight rows of norm 1.001, 4.03 more for rounding the
weights that a query of `LONGEST_QUERY` columns meets up to eight bits, and 1 for rounding up its own: below 8, and so
below 2**31.
"""
LONGEST_QUERY = 1 << 20
"""Columns of a query row beyond which its rounded weights could make sums too large."""
TABLE_UNIT = 64_000.0
"""Product 1 of a query weight and the largest weight of its column, in the table; norms are at most 1.002."""
SLOTS = 1 << 16
CHUNK_GROUPS = 128
"""Consecutive groups whose largest sum tells whether any of them is a candidate."""
_SHORT_ROW = 24
"""Columns of a row up to which they are sorted by comparing."""
_AHEAD = 32
"""How many columns before its own turn what the index knows of a column is asked for."""
_DIGITS = 1 << 11
"""Values of a digit of a rank, at most: three make 33 bits."""
PLACES, LISTED, SCANNED = 8, 9, 10
"""Slots of `work`: places of records gone through, candidates listed or looked at again, and sums looked through."""
_ROWS_AT_ONCE = 32
"""Rows of the groups settled before the threshold is looked at anew."""


class Scratch(NamedTuple):
    """Arrays of one thread; n is the longest query row, g the number of groups.

    `accumulators` int32 (g, rounded up to whole chunks): upper bounds of the similarities to groups, without what
    was skipped;
    `order` int64 (n,): rank and position of the row's columns, rare ones first; `norm` float64 (n,): suffix
    norm of the row, times the largest norm of the block; `reach` float64 (n,): upper bound of what the
    columns from here on can add; `weight` int32 (n,): weights of the row in units of an accumulator;
    `cursor`, `end` int64 (n,): what is left of the columns' lists; `table` uint16 (`SLOTS`,): the row's weights by
    record code; `known_codes` uint32 (`FILTER_BITS` / 32,): a bit for each of them that is not 0, modulo
    `FILTER_BITS`; `keys`, `left_out` int32, `values` float32: see `scoring.score`; `candidates` int32 (g,): groups;
    `products` uint32 and `bounds` int64 (8,): sums for the members of a group; `best` int32: the groups to be
    settled before the threshold is looked at anew;
    `work` int64 (`WORK_SLOTS`,): multiply-adds, groups bounded, similarities computed, how many places of this row
    are left out, what `kernels.ticks` counts, and the slots above; `digits` int32: see `sort_by_digit`.
    """

    accumulators: Int32Array
    order: Int64Array
    norm: Float64Array
    reach: Float64Array
    weight: Int32Array
    cursor: Int64Array
    end: Int64Array
    table: AnyArray
    known_codes: AnyArray
    keys: Int32Array
    values: Float32Array
    left_out: Int32Array
    candidates: Int32Array
    products: AnyArray
    bounds: Int64Array
    best: Int32Array
    work: Int64Array
    digits: Int32Array


def scratch_bytes(longest_row: int, n_groups: int) -> int:
    """Bytes of the arrays that `make_scratch` makes."""
    return (
        8 * n_groups
        + 48 * longest_row
        + 2 * SLOTS
        + FILTER_BITS // 8
        + table_bytes(longest_row)
        + 4 * _DIGITS
        + 1024
    )


@numba.njit(nogil=True, cache=True)
def make_scratch(longest_row: int, index: GroupIndex) -> Scratch:
    """Return cleared arrays for rows of at most `longest_row` columns."""
    n_groups = index.record_starts.size - 1
    return Scratch(
        np.zeros(-(-n_groups // CHUNK_GROUPS) * CHUNK_GROUPS, np.int32),
        np.empty(longest_row, np.int64),
        np.empty(longest_row, np.float64),
        np.empty(longest_row, np.float64),
        np.empty(longest_row, np.int32),
        np.empty(longest_row, np.int64),
        np.empty(longest_row, np.int64),
        np.zeros(SLOTS, np.uint16),
        np.zeros(FILTER_BITS // 32, np.uint32),
        np.full(places_for(longest_row), -1, np.int32),
        np.empty(places_for(longest_row), np.float32),
        np.empty(longest_row, np.int32),
        np.empty(n_groups, np.int32),
        np.zeros(MOST_GROUP, np.uint32),
        np.zeros(MOST_GROUP, np.int64),
        np.empty(_ROWS_AT_ONCE // rows_of_group(index.record_weights), np.int32),
        np.zeros(WORK_SLOTS, np.int64),
        np.empty(_DIGITS, np.int32),
    )


@numba.njit(nogil=True, cache=True)
def load_query(index: GroupIndex, columns: Int32Array, weights: Float32Array, scratch: Scratch) -> int:
    """Prepare a row; returns how many of its columns the block has."""
    keys, values, left_out, order = scratch.keys, scratch.values, scratch.left_out, scratch.order
    scratch.work[3] = enter_columns(columns, weights, keys, values, left_out)
    if columns.size > _SHORT_ROW:
        unsorted = scratch.cursor  # not in use until lists are loaded
        known = _rank_columns(index.column_rank, columns, unsorted)
        _sort_ranks(unsorted[:known], order[:known], scratch.digits, index.heads.size)
    else:
        known = _rank_columns(index.column_rank, columns, order)
        order[:known].sort()
    _load_lists(index, weights, known, scratch)
    return known


@uncounted
def _rank_columns(column_rank: Int32Array, columns: Int32Array, order: Int64Array) -> int:
    known = 0
    for place in range(columns.size):
        prefetch(column_rank, columns[min(place + _AHEAD, columns.size - 1)])
        rank = column_rank[columns[place]]
        order[known] = (np.int64(rank) << 32) | place
        known += int(rank >= 0)
    return known


@uncounted
def _sort_ranks(unsorted: Int64Array, ordered: Int64Array, ends: Int32Array, n_ranks: int) -> None:
    """Sort what `_rank_columns` gives by three digits of the rank, of as few bits as do; the input is overwritten."""
    bits = 1
    while n_ranks >> (3 * bits):
        bits += 1
    sort_by_digit(unsorted, ordered, ends[: 1 << bits], 32)
    sort_by_digit(ordered, unsorted, ends[: 1 << bits], 32 + bits)
    sort_by_digit(unsorted, ordered, ends[: 1 << bits], 32 + 2 * bits)


@uncounted
def _load_lists(index: GroupIndex, weights: Float32Array, known: int, scratch: Scratch) -> None:
    """Write what the walk and the bounds need, from the most frequent column to the rarest."""
    squares, products = 0.0, 0.0
    for step in range(known - 1, -1, -1):
        ahead = scratch.order[max(step - _AHEAD, 0)] >> 32
        prefetch(index.heads, ahead)
        rank, place = scratch.order[step] >> 32, scratch.order[step] & 0xFFFFFFFF
        weight = np.float64(weights[place])
        head, end = index.heads[rank], index.heads[rank + 1] >> CODE_BITS
        product = weight * np.float64(WEIGHTS[head & CODE_MASK])
        squares += weight * weight
        products += product
        scratch.norm[step] = np.sqrt(squares) * index.largest_norm * ROUND_UP
        scratch.reach[step] = min(scratch.norm[step], products * ROUND_UP)
        scratch.weight[step] = np.int32(np.ceil(product * ROUND_UP * (UNIT / 255.0)))
        scratch.cursor[step], scratch.end[step] = head >> CODE_BITS, end
        code = rank & 0xFFFF
        bit = code & (FILTER_BITS - 1)
        scratch.known_codes[bit >> 5] |= np.uint32(1) << np.uint32(bit & 31)
        scratch.table[code] = max(scratch.table[code], np.uint16(np.ceil(product * ROUND_UP * TABLE_UNIT)))


@uncounted
def clear_query(columns: Int32Array, known: int, scratch: Scratch) -> None:
    """Make the arrays ready for the next row."""
    scratch.accumulators[:] = 0
    for step in range(known):
        code = (scratch.order[step] >> 32) & 0xFFFF
        scratch.table[code] = 0
        scratch.known_codes[(code & (FILTER_BITS - 1)) >> 5] = 0
    leave_columns(columns, scratch.keys)
