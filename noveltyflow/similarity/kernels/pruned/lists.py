"""The rows of a block turned into a list of entries for each column, and the order of the columns."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.portions import side_by_side
from noveltyflow.types import AnyArray, Float32Array, Int32Array, Int64Array

CODE_BITS, _DROPPED_BITS = 13, 14
"""An entry is a row in its upper 19 bits, and below the code of a weight: the upper 18 bits of a float32, counted
from those of 2**-15, the least weight that is told from others."""
CODE_MASK = (1 << CODE_BITS) - 1
_LEAST_CODE = (127 - 15) << (23 - _DROPPED_BITS)
WEIGHTS: Float32Array = (
    ((np.arange(1 << CODE_BITS) + _LEAST_CODE) << _DROPPED_BITS).astype(np.uint32).view(np.float32)
)
"""What the codes stand for: up to the float32 before 2, in multiples of 2**-24.

So sums of their squares up to 32, which are multiples of 2**-48, are exact in float64, in any order.
"""


class Lists(NamedTuple):
    """Entries of all columns, c of them, with e entries.

    `starts` int64 (c + 1,): where the list of each column begins in `entries`, uint32 (e,), rows ascending.
    """

    starts: Int64Array
    entries: AnyArray


class Rows(NamedTuple):
    """Rows of a CSR matrix, from `begins` to `ends`, int64 (m,), with the bits of their weights as uint32."""

    begins: Int64Array
    ends: Int64Array
    columns: Int32Array
    bits: AnyArray


def transpose(rows: Rows, n_columns: int, threads: int) -> Lists:
    """Lists of all columns, with weights rounded up by less than 2**-9 of them.

    Columns are ascending in every row, so that each thread takes a range of columns.
    """
    # Two slots more than there are columns, so that filling moves each start to its own place.
    starts = np.zeros(n_columns + 2, np.int64)
    ranges = _ranges(rows, n_columns, threads)
    side_by_side(lambda part: _count_entries(part, starts), ranges)
    np.cumsum(starts, out=starts)
    entries = np.empty(starts[-1], np.uint32)
    side_by_side(lambda part: _write_entries(part, starts, entries), ranges)
    return Lists(starts[:-1], entries)


def _ranges(rows: Rows, n_columns: int, threads: int) -> list[Rows]:
    """The rows cut into ranges of columns, of about equal size where columns are hashes."""
    if threads == 1:
        return [rows]
    borders = [n_columns * number // threads for number in range(1, threads)]
    cuts = [rows.begins, *(_places_from(rows, border) for border in borders), rows.ends]
    return [rows._replace(begins=begins, ends=ends) for begins, ends in pairwise(cuts)]


@numba.njit(nogil=True, cache=True)
def _places_from(rows: Rows, column: int) -> Int64Array:
    """Where in every row the columns from the given one on begin."""
    places = np.empty(rows.begins.size, np.int64)
    for row in range(places.size):
        low, high = rows.begins[row], rows.ends[row]
        while low < high:
            middle = (low + high) // 2
            if rows.columns[middle] < column:
                low = middle + 1
            else:
                high = middle
        places[row] = low
    return places


@uncounted
def _count_entries(rows: Rows, starts: Int64Array) -> None:
    begins, ends, columns = rows.begins, rows.ends, rows.columns
    for row in range(begins.size):
        for place in range(begins[row], ends[row]):
            starts[columns[place] + 2] += 1


@uncounted
def _write_entries(rows: Rows, starts: Int64Array, entries: AnyArray) -> None:
    begins, ends, columns, bits = rows.begins, rows.ends, rows.columns, rows.bits
    for row in range(begins.size):
        for place in range(begins[row], ends[row]):
            rounded_up = (np.int64(bits[place]) + ((1 << _DROPPED_BITS) - 1)) >> _DROPPED_BITS
            code = np.minimum(np.maximum(rounded_up - _LEAST_CODE, 0), CODE_MASK)
            target = starts[columns[place] + 1]
            entries[target] = (row << CODE_BITS) | code
            starts[columns[place] + 1] = target + 1


@numba.njit(nogil=True, cache=True)
def rank_columns(starts: Int64Array, rank: Int32Array) -> Int32Array:
    """Columns with a list, the shortest lists first; their places in that order are written into `rank`."""
    longest, used = 0, 0
    for column in range(rank.size):
        longest = max(longest, starts[column + 1] - starts[column])
        used += int(starts[column + 1] != starts[column])
    ends = np.zeros(longest + 2, np.int64)
    for column in range(rank.size):
        ends[starts[column + 1] - starts[column] + 1] += 1
    ends[1] = 0  # columns without a list have no place
    for length in range(2, ends.size):
        ends[length] += ends[length - 1]
    ranked = np.empty(used, np.int32)
    for column in range(rank.size):
        length = starts[column + 1] - starts[column]
        if length:
            ranked[ends[length]] = column
            rank[column] = ends[length]
            ends[length] += 1
    return ranked
