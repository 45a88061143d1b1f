"""The index of a block with frequent columns: a dense head and the posting lists of the other columns, the tail.

A weight w is stored as the level ceil(w * `LEVELS`), so that a level is never less than the weight it stands for.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.types import AnyArray, CsrMatrix, Float32Array, Int32Array, Int64Array

GROUP_ROWS = 32
"""Rows whose levels in one column stand together: two vectors of 16-bit sums."""
SLAB_GROUPS = 128
SLAB_ROWS = GROUP_ROWS * SLAB_GROUPS
"""Rows searched at a time: their sums, two bytes each for every query of a batch, about fill a second-level cache."""
LEVELS = 240.0
LONGEST_ROW = 4096
"""Columns of a row, in block and query, up to which sums of products of levels fit 16 bits with some precision."""
_FREQUENT = 32
"""A column is frequent if more than one in so many rows has it: then adding it for all rows is cheaper."""
_HEAD_BYTES = 7
"""Most bytes of the head for each non-zero of the block."""
HEAD_NUMBER = np.uint16
"""How a query's head columns are numbered, in `lanes.py` too."""
MOST_HEAD_COLUMNS = np.iinfo(HEAD_NUMBER).max + 1
LEAST_SHARE = 0.5
_SAMPLED_ROWS = 1 << 14
"""Rows, at even distances, of which it is told whether a block is better indexed this way."""


class DenseIndex(NamedTuple):
    """Arrays of the index; h counts head columns, t tail columns, g groups, s slabs, m distinct rows.

    `column_of` int32 (n_features,): number of a head column, -2 - number of a tail column, -1 if no indexed row has
    it; `head` uint8 (g * h * 32,): levels by group, head column and row; `largest` uint8 (ceil(g / 32) * h * 32,):
    the largest level of each group, by group of groups, column and group; `of_head` float32 (h, 2): by how much, on
    average, that is more than a row's level, and how many rows have the column, equal ones counted each;
    `tail_starts` int64 (s * t + 1,) and `tail` uint32: postings by slab and column, row in the slab << 8 | level;
    `row_starts`, `row_ends` int64 (m,): where the entries of a distinct row stand in `columns` and `weights`, which
    are those of the block; `largest_norm`: largest Euclidean norm of the levels of a row.
    """

    column_of: Int32Array
    head: AnyArray
    largest: AnyArray
    of_head: Float32Array
    tail_starts: Int64Array
    tail: AnyArray
    n_head: int
    n_tail: int
    largest_norm: float
    row_starts: Int64Array
    row_ends: Int64Array
    columns: Int32Array
    weights: Float32Array

    @classmethod
    def of(cls, block: CsrMatrix, distinct: Distinct, frequent: Int64Array) -> DenseIndex:
        """Index the distinct rows of a CSR matrix of non-negative weights with the given head columns.

        Rows of more than `LONGEST_ROW` columns stay out of it, as if they were empty.
        """
        starts, ends = (edges[distinct.first] for edges in _indexed_entries(block))
        column_of, n_tail = _number_columns(starts, ends, block.indices, frequent, block.shape[1])
        n_head = frequent.size
        n_groups = -(-starts.size // GROUP_ROWS)
        n_slabs = -(-starts.size // SLAB_ROWS)
        head = np.zeros(n_groups * n_head * GROUP_ROWS, np.uint8)
        largest = np.zeros(-(-n_groups // GROUP_ROWS) * n_head * GROUP_ROWS, np.uint8)
        # Two slots further on, so that filling moves each start to its own place and no copy is needed.
        tail_starts = np.zeros(n_slabs * n_tail + 2, np.int64)
        of_head = np.zeros((n_head, 2), np.float32)
        norm = _fill_head(
            starts,
            ends,
            distinct.member_starts,
            block.indices,
            block.data,
            column_of,
            n_head,
            n_tail,
            head,
            largest,
            of_head,
            tail_starts,
        )
        np.cumsum(tail_starts, out=tail_starts)
        tail = np.empty(tail_starts[-1], np.uint32)
        _fill_tail(starts, ends, block.indices, block.data, column_of, n_tail, tail_starts, tail)
        return cls(
            column_of,
            head,
            largest,
            of_head,
            tail_starts[:-1],
            tail,
            n_head,
            n_tail,
            norm,
            starts,
            ends,
            block.indices,
            block.data,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays beside the rows themselves."""
        own = (self.column_of, self.head, self.largest, self.of_head, self.tail_starts, self.tail)
        return sum(part.nbytes for part in (*own, self.row_starts, self.row_ends))


def frequent_columns(block: CsrMatrix, frequency: Int64Array, least_share: float) -> Int64Array | None:
    """Head columns of a block that is better indexed this way, or None if it is not.

    It is where the frequent columns, as many as memory and `MOST_HEAD_COLUMNS` admit, carry more than
    `least_share` of the rows' squared weights, and the other columns have postings enough for their lists; or
    anyway, if `least_share` is negative. Rows of more than `LONGEST_ROW` columns count as empty: they are taken
    out of `frequency`, which tells in how many rows each column occurs.
    """
    n_rows = block.shape[0]
    if block.nnz == 0:
        return None
    starts, ends = _indexed_entries(block)
    for row in np.flatnonzero(np.diff(block.indptr) > ends - starts):
        frequency[block.indices[block.indptr[row] : block.indptr[row + 1]]] -= 1
    chosen = np.flatnonzero(frequency > n_rows // _FREQUENT)
    most = min(_HEAD_BYTES * block.nnz // (n_rows + GROUP_ROWS * GROUP_ROWS), MOST_HEAD_COLUMNS)
    chosen = chosen[np.argsort(-frequency[chosen], kind="stable")[:most]]
    n_tail = np.count_nonzero(frequency) - chosen.size
    if least_share >= 0.0 and n_tail * -(-n_rows // SLAB_ROWS) > np.sum(ends - starts) // 4:
        return None
    is_head = np.zeros(block.shape[1], np.bool_)
    is_head[chosen] = True
    step = -(-n_rows // _SAMPLED_ROWS)
    share = _share_of_squares(starts, ends, block.indices, block.data, is_head, step)
    return np.sort(chosen) if share > least_share else None


def _indexed_entries(block: CsrMatrix) -> tuple[Int64Array, Int64Array]:
    """Where the entries of each row start and end; those of a row that is too long to be indexed end at once."""
    indptr = block.indptr.astype(np.int64)
    starts, ends = indptr[:-1], indptr[1:]
    return starts, np.where(ends - starts > LONGEST_ROW, starts, ends)


@numba.njit(nogil=True, cache=True)
def _number_columns(
    starts: Int64Array, ends: Int64Array, columns: Int32Array, frequent: Int64Array, n_features: int
) -> tuple[Int32Array, int]:
    """`DenseIndex.column_of`, and the number of tail columns."""
    column_of = np.full(n_features, -1, np.int32)
    for row in range(starts.size):
        for place in range(starts[row], ends[row]):
            column_of[columns[place]] = -2
    for number, column in enumerate(frequent):
        column_of[column] = number
    n_tail = 0
    for column in range(n_features):
        if column_of[column] == -2:
            column_of[column] = -2 - n_tail
            n_tail += 1
    return column_of, n_tail


@numba.njit(nogil=True, cache=True)
def _share_of_squares(
    starts: Int64Array,
    ends: Int64Array,
    columns: Int32Array,
    weights: Float32Array,
    chosen: AnyArray,
    step: int,
) -> float:
    """Share of the squared weights of each `step`-th row that lies in chosen columns; 0 if these rows are empty."""
    inside, total = 0.0, 0.0
    for row in range(0, starts.size, step):
        for place in range(starts[row], ends[row]):
            square = np.float64(weights[place]) ** 2
            total += square
            if chosen[columns[place]]:
                inside += square
    return inside / total if total else 0.0


@numba.njit(nogil=True, cache=True)
def _fill_head(
    starts: Int64Array,
    ends: Int64Array,
    member_starts: Int64Array,
    columns: Int32Array,
    weights: Float32Array,
    column_of: Int32Array,
    n_head: int,
    n_tail: int,
    head: AnyArray,
    largest: AnyArray,
    of_head: Float32Array,
    tail_starts: Int64Array,
) -> float:
    """Write the levels of frequent columns, count their rows, and the entries of others.

    Returns the largest norm of a row's levels.
    """
    norm, levels = 0.0, np.zeros(n_head, np.float64)
    for row in range(starts.size):
        group, lane = row // GROUP_ROWS, row % GROUP_ROWS
        above, group_lane = group // GROUP_ROWS, group % GROUP_ROWS
        slab = row // SLAB_ROWS
        squares = 0.0
        for place in range(starts[row], ends[row]):
            level = np.ceil(np.float64(weights[place]) * LEVELS)
            squares += level * level
            number = column_of[columns[place]]
            if number >= 0:
                head[(group * n_head + number) * GROUP_ROWS + lane] = np.uint8(level)
                levels[number] += level
                of_head[number, 1] += member_starts[row + 1] - member_starts[row]
                slot = (above * n_head + number) * GROUP_ROWS + group_lane
                largest[slot] = max(largest[slot], np.uint8(level))
            else:
                tail_starts[slab * n_tail + (-2 - number) + 2] += 1
        norm = max(norm, squares)
    for slot in range(largest.size):
        of_head[slot // GROUP_ROWS % n_head, 0] += largest[slot] * GROUP_ROWS
    for number in range(n_head):
        of_head[number, 0] = (of_head[number, 0] - levels[number]) / max(1, starts.size)
    return float(np.sqrt(norm))


@numba.njit(nogil=True, cache=True)
def _fill_tail(
    starts: Int64Array,
    ends: Int64Array,
    columns: Int32Array,
    weights: Float32Array,
    column_of: Int32Array,
    n_tail: int,
    tail_starts: Int64Array,
    tail: AnyArray,
) -> None:
    for row in range(starts.size):
        slab, own = row // SLAB_ROWS, np.uint32(row % SLAB_ROWS)
        for place in range(starts[row], ends[row]):
            number = column_of[columns[place]]
            if number < 0:
                slot = slab * n_tail + (-2 - number) + 1
                level = np.uint32(np.ceil(np.float64(weights[place]) * LEVELS))
                tail[tail_starts[slot]] = (own << np.uint32(8)) | level
                tail_starts[slot] += 1
