"""The index of a block: posting lists and records of groups of consecutive rows.

Columns are ranked by document frequency, rare ones first. A posting says, for one column and one group, the
largest weight that a member has there, and the largest norm that a member which has the column keeps from
this column's rank on (its suffix norm). Both are stored in eight bits, rounded up, so that sums of products
stay upper bounds. Each list is sorted by suffix norm, so that what a query must add is a prefix of the list.
A record says the same weights member by member.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.pruned.lanes import LANES
from noveltyflow.types import AnyArray, CsrMatrix, Float32Array, Int32Array, Int64Array

GROUP_ROWS = 8
"""Rows in a group: one byte each in the 64 bits of a record."""
MOST_ROWS = GROUP_ROWS << 16
"""Rows that 16-bit group numbers can tell apart."""
ROUND_UP = 1.0 + 2.0**-20
"""Factor that turns a float64 result into an upper bound of the real number it stands for.

A sum of m products in float64 is off by at most m * 2**-53 of itself, so this covers rows of up to 2**32
entries, and the few operations after that.
"""
_LEVELS = 255.0
_CODE_BITS, _DROPPED_BITS = 13, 14
"""A transposed entry is a row in its upper 19 bits, and below the code of a weight: the upper 18 bits of a float32,
counted from those of 2**-15, the least weight that is told from others."""
_CODE_MASK = (1 << _CODE_BITS) - 1
_LEAST_CODE = (127 - 15) << (23 - _DROPPED_BITS)
_WEIGHTS = ((np.arange(1 << _CODE_BITS) + _LEAST_CODE) << _DROPPED_BITS).astype(np.uint32).view(np.float32)
"""What the codes stand for: up to the float32 before 2."""
_SHORT_LIST = 24


class GroupIndex(NamedTuple):
    """Arrays of the index; r counts ranked columns, g groups, p postings, m distinct rows.

    `column_rank` int32 (n_features,), -1 where no row has the column; `list_starts` int64 (r + 1,);
    `largest_weight` float32 (r,); `postings` uint32 (p,): group in the upper 16 bits, weight in units of
    `largest_weight` / 255, suffix norm in units of `largest_norm` / 255; `record_starts` int64 (g + 1,);
    `record_codes` uint16 (p + `LANES`,): the lower 16 bits of the column's rank, then zeros that are read in vain;
    `record_weights` uint64 (p,): weights of the members, the first in the lowest byte; `row_starts`, `row_ends`
    int64 (m,): where the entries of a distinct row stand in `columns` and `weights`, which are those of the block.
    """

    column_rank: Int32Array
    list_starts: Int64Array
    largest_weight: Float32Array
    postings: AnyArray
    record_starts: Int64Array
    record_codes: AnyArray
    record_weights: AnyArray
    row_starts: Int64Array
    row_ends: Int64Array
    largest_norm: float
    columns: Int32Array
    weights: Float32Array

    @classmethod
    def of(cls, block: CsrMatrix, distinct: Distinct) -> GroupIndex:
        """Index the distinct rows of a CSR matrix of non-negative weights.

        Raises
        ------
        ValueError
            If there are more than `MOST_ROWS` rows.
        """
        if block.shape[0] > MOST_ROWS:
            raise ValueError(
                f"a block of {block.shape[0]:,} rows cannot be indexed; at most {MOST_ROWS:,} can"
            )
        indptr = block.indptr.astype(np.int64)
        begins, ends = indptr[distinct.first], indptr[distinct.first + 1]
        list_starts, entries = _transpose(
            begins, ends, block.indices, block.data.view(np.uint32), np.zeros(block.shape[1] + 2, np.int64)
        )
        rank = np.full(block.shape[1], -1, np.int32)
        ranked = _rank(list_starts, rank)
        norm = largest_norm(indptr, block.data) * ROUND_UP
        n_groups = -(-distinct.first.size // GROUP_ROWS)
        starts, records = _count(ranked, list_starts, entries, n_groups)
        postings = np.empty(starts[-1], np.uint32)
        codes = np.zeros(starts[-1] + LANES, np.uint16)
        members = np.zeros(starts[-1], np.uint64)
        weight = np.empty(ranked.size, np.float32)
        _fill(ranked, list_starts, entries, _WEIGHTS, norm, starts, postings, weight, records, codes, members)
        return cls(
            rank,
            starts,
            weight,
            postings,
            records[:-1],
            codes,
            members,
            begins,
            ends,
            norm,
            block.indices,
            block.data,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays beside the rows themselves."""
        return sum(part.nbytes for part in self[:9])


def index_bytes(rows: int, nonzeros: int, features: int) -> int:
    """Upper bound of the bytes of an index beside the block itself."""
    ranks = 4 * features + (8 + 4) * (min(features, nonzeros) + 1)
    return ranks + (4 + 2 + 8) * nonzeros + 2 * LANES + 8 * 3 * (rows + 2)


def building_bytes(rows: int, nonzeros: int, features: int) -> int:
    """Upper bound of the bytes that building an index takes beside the index and the block itself."""
    lists = 4 * nonzeros + 8 * (features + 2)
    return lists + 4 * (min(features, nonzeros) + 1) + 8 * 3 * (rows + GROUP_ROWS)


@numba.njit(nogil=True, cache=True)
def largest_norm(indptr: Int64Array, weights: Float32Array) -> float:
    """Largest Euclidean norm of a row."""
    largest = 0.0
    for row in range(indptr.size - 1):
        total = 0.0
        for place in range(indptr[row], indptr[row + 1]):
            total += np.float64(weights[place]) ** 2
        largest = max(largest, total)
    return float(np.sqrt(largest))


@numba.njit(nogil=True, cache=True)
def _transpose(
    begins: Int64Array, ends: Int64Array, columns: Int32Array, bits: AnyArray, starts: Int64Array
) -> tuple[Int64Array, AnyArray]:
    """Starts and entries of the lists of all columns: rows ascending, weights rounded up by less than 2**-9 of them.

    `bits` are the weights as uint32; `starts` is zero everywhere, with two slots more than there are columns, so
    that filling moves each start to its own place.
    """
    for row in range(begins.size):
        for place in range(begins[row], ends[row]):
            starts[columns[place] + 2] += 1
    for column in range(2, starts.size):
        starts[column] += starts[column - 1]
    entries = np.empty(starts[-1], np.uint32)
    for row in range(begins.size):
        for place in range(begins[row], ends[row]):
            rounded_up = (np.int64(bits[place]) + ((1 << _DROPPED_BITS) - 1)) >> _DROPPED_BITS
            code = np.minimum(np.maximum(rounded_up - _LEAST_CODE, 0), _CODE_MASK)
            target = starts[columns[place] + 1]
            entries[target] = (row << _CODE_BITS) | code
            starts[columns[place] + 1] = target + 1
    return starts[:-1], entries


@numba.njit(nogil=True, cache=True)
def _rank(indptr: Int64Array, rank: Int32Array) -> Int32Array:
    """Columns with a list, the shortest lists first; their places in that order are written into `rank`."""
    longest, used = 0, 0
    for column in range(rank.size):
        longest = max(longest, indptr[column + 1] - indptr[column])
        used += int(indptr[column + 1] != indptr[column])
    ends = np.zeros(longest + 2, np.int64)
    for column in range(rank.size):
        ends[indptr[column + 1] - indptr[column] + 1] += 1
    ends[1] = 0  # columns without a list have no place
    for length in range(2, ends.size):
        ends[length] += ends[length - 1]
    ranked = np.empty(used, np.int32)
    for column in range(rank.size):
        length = indptr[column + 1] - indptr[column]
        if length:
            ranked[ends[length]] = column
            rank[column] = ends[length]
            ends[length] += 1
    return ranked


@numba.njit(nogil=True, cache=True)
def _count(
    ranked: Int32Array, list_starts: Int64Array, entries: AnyArray, n_groups: int
) -> tuple[Int64Array, Int64Array]:
    """Starts of the postings, and of the records two slots further on, so that filling moves them into place."""
    starts = np.zeros(ranked.size + 1, np.int64)
    records = np.zeros(n_groups + 2, np.int64)
    for rank in range(ranked.size):
        last, groups = -1, 0
        for place in range(list_starts[ranked[rank]], list_starts[ranked[rank] + 1]):
            group = (entries[place] >> _CODE_BITS) // GROUP_ROWS
            if group != last:
                groups += 1
                records[group + 2] += 1
                last = group
        starts[rank + 1] = starts[rank] + groups
    for group in range(n_groups):
        records[group + 2] += records[group + 1]
    return starts, records


@numba.njit(nogil=True, cache=True)
def _fill(
    ranked: Int32Array,
    list_starts: Int64Array,
    entries: AnyArray,
    weight_of: Float32Array,
    norm: float,
    starts: Int64Array,
    postings: AnyArray,
    largest_weight: Float32Array,
    records: Int64Array,
    codes: AnyArray,
    members: AnyArray,
) -> None:
    """Go through the columns from the most frequent to the rarest, with the rows' suffix norms growing."""
    squares = np.zeros(GROUP_ROWS * (records.size - 2), np.float64)
    buffer = np.empty(records.size, np.uint32)
    for rank in range(ranked.size - 1, -1, -1):
        of_column = entries[list_starts[ranked[rank]] : list_starts[ranked[rank] + 1]]
        largest = weight_of[(of_column & _CODE_MASK).max()]
        largest_weight[rank] = largest
        _fill_list(of_column, weight_of, largest, norm, squares, rank, buffer, records, codes, members)
        _by_suffix_norm(buffer[: starts[rank + 1] - starts[rank]], postings[starts[rank] : starts[rank + 1]])


@numba.njit(nogil=True, cache=True)
def _fill_list(
    of_column: AnyArray,
    weight_of: Float32Array,
    largest: np.float32,
    norm: float,
    squares: AnyArray,
    rank: int,
    buffer: AnyArray,
    records: Int64Array,
    codes: AnyArray,
    members: AnyArray,
) -> None:
    """Write the postings of one column in order of groups into `buffer`, and its part of every record."""
    scale = _LEVELS / np.float64(largest)
    number, last, record, heaviest, longest = -1, np.int64(-1), 0, 0.0, 0.0
    for entry in of_column:
        row, weight = np.int64(entry >> _CODE_BITS), np.float64(weight_of[entry & _CODE_MASK])
        group = row // GROUP_ROWS
        squares[row] += weight * weight
        level = np.ceil(weight * scale)
        if group != last:
            number, last, heaviest, longest = number + 1, group, 0.0, 0.0
            record = records[group + 1]
            records[group + 1] = record + 1
            codes[record] = rank & 0xFFFF
        heaviest = max(heaviest, level)
        longest = max(longest, squares[row])
        suffix = min(np.ceil(_LEVELS * np.sqrt(longest) / norm), _LEVELS)
        members[record] |= np.uint64(min(level, _LEVELS)) << np.uint64(8 * (row % GROUP_ROWS))
        buffer[number] = (
            (np.uint32(group) << 16) | (np.uint32(min(heaviest, _LEVELS)) << 8) | np.uint32(suffix)
        )


@numba.njit(nogil=True, cache=True)
def _by_suffix_norm(unsorted: AnyArray, ordered: AnyArray) -> None:
    """Copy postings by suffix norm descending; equal ones stay in order of groups."""
    if unsorted.size > _SHORT_LIST:
        _by_counting(unsorted, ordered)
        return
    for place in range(unsorted.size):
        posting, slot = unsorted[place], place
        while slot > 0 and (ordered[slot - 1] & 0xFF) < (posting & 0xFF):
            ordered[slot] = ordered[slot - 1]
            slot -= 1
        ordered[slot] = posting


@numba.njit(nogil=True, cache=True)
def _by_counting(unsorted: AnyArray, ordered: AnyArray) -> None:
    ends = np.zeros(257, np.int64)
    for posting in unsorted:
        ends[256 - (posting & 0xFF)] += 1
    for level in range(1, 257):
        ends[level] += ends[level - 1]
    for posting in unsorted:
        level = 255 - (posting & 0xFF)
        ordered[ends[level]] = posting
        ends[level] += 1
