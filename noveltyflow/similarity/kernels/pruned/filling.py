"""Postings and records written from the lists of entries, by several threads if there are."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.portions import side_by_side
from noveltyflow.similarity.kernels.pruned.lanes import prefetch, rows_of_group
from noveltyflow.similarity.kernels.pruned.lists import CODE_BITS, CODE_MASK, WEIGHTS, Lists
from noveltyflow.similarity.kernels.reaching import LANES
from noveltyflow.types import AnyArray, Float32Array, Float64Array, Int32Array, Int64Array

PACKED = {4: np.uint32, 8: np.uint64}
"""Numbers of rows in a group, and what a record keeps their weights in: a byte for each."""
_LEVELS = 255
_SHORT_LIST = 24
_LIST_COST = 6
"""What a list costs beside its entries, in entries, as measured."""
_LISTS_AHEAD = 10
"""How many lists before its own turn the first entries of a list are asked for; and twice as many, where they are."""


class Filled(NamedTuple):
    """The arrays of `GroupIndex` with the same names."""

    heads: Int64Array
    postings: AnyArray
    record_starts: Int64Array
    record_codes: AnyArray
    record_weights: AnyArray


class Ranks(NamedTuple):
    """Ranks from `first` up to `last`; `columns`, `starts` and `entries` are those of all ranks."""

    columns: Int32Array
    starts: Int64Array
    entries: AnyArray
    first: int
    last: int


class Progress(NamedTuple):
    """How far one thread has come, g counting groups, and its scratch arrays.

    `records` int64 (g,): where the next part of each record stands; `squares` float64 (rows in g groups,): sums of
    squares of the weights that each row has in the ranks done; `buffer` uint32 (g,); `ends` int64 (257,).
    """

    records: Int64Array
    squares: Float64Array
    buffer: AnyArray
    ends: Int64Array


def fill(
    columns: Int32Array, lists: Lists, n_groups: int, group_rows: int, norm: float, threads: int
) -> Filled:
    """Write postings and records of the ranked `columns`, which have `lists`; groups are of 4 or 8 rows.

    `norm` is an upper bound of the rows' norms before rounding. Each thread takes some ranks, and begins with what
    more frequent ones add to records and suffix norms; how many threads there are does not change the result.
    """
    portions = _portions(columns, lists, threads)
    starts = np.zeros(columns.size + 1, np.int64)
    counts = np.zeros((len(portions), n_groups), np.int64)
    squares = np.zeros((len(portions), group_rows * n_groups), np.float64)

    def count(part: int) -> None:
        _count(portions[part], _group_bits(group_rows), starts, counts[part])
        if part + 1 < len(portions):
            _add_squares(portions[part], WEIGHTS, squares[part + 1])

    side_by_side(count, range(len(portions)))
    np.cumsum(squares, axis=0, out=squares)
    np.cumsum(starts, out=starts)
    records = np.zeros(n_groups + 1, np.int64)
    np.cumsum(counts.sum(axis=0), out=records[1:])
    cursors = records[:-1] + np.cumsum(counts, axis=0) - counts
    filled = Filled(
        starts << CODE_BITS,
        np.empty(starts[-1], np.uint32),
        records,
        np.zeros(starts[-1] + LANES, np.uint16),
        np.zeros(starts[-1], PACKED[group_rows]),
    )
    begun = [
        Progress(cursors[part], squares[part], np.empty(n_groups, np.uint32), np.empty(257, np.int64))
        for part in range(len(portions))
    ]
    side_by_side(lambda part: _fill(portions[part], WEIGHTS, norm, begun[part], filled), range(len(portions)))
    return filled


@uncounted
def _group_bits(group_rows: int) -> int:
    """How far an entry is shifted to be the number of its group, which has 4 or 8 rows."""
    return CODE_BITS + (3 if group_rows == 8 else 2)


def _portions(columns: Int32Array, lists: Lists, threads: int) -> list[Ranks]:
    """Cut ranks, from the most frequent to the rarest, into portions that take about as long."""
    borders = [0, columns.size]
    if threads > 1:
        costs = np.cumsum(lists.starts[columns + 1] - lists.starts[columns] + _LIST_COST)
        shares = np.arange(1, threads) / threads
        borders[1:1] = np.searchsorted(costs, shares * costs.max(initial=0)).tolist()
    return [Ranks(columns, *lists, first, last) for first, last in reversed(list(pairwise(borders)))]


@uncounted
def _ask_ahead(ranks: Ranks, rank: int, step: int) -> None:
    """Have in the cache what the lists `step` ranks further on need: each lies elsewhere, and most are short."""
    soon = min(max(rank + step, ranks.first), ranks.last - 1)
    later = min(max(rank + 2 * step, ranks.first), ranks.last - 1)
    prefetch(ranks.entries, ranks.starts[ranks.columns[soon]])
    prefetch(ranks.starts, ranks.columns[later])


@uncounted
def _count(ranks: Ranks, group_bits: int, starts: Int64Array, records: Int64Array) -> None:
    """Write how many postings each rank has into the slot after its own, and add to the lengths of records."""
    columns, list_starts, entries = ranks.columns, ranks.starts, ranks.entries
    for rank in range(ranks.first, ranks.last):
        _ask_ahead(ranks, rank, _LISTS_AHEAD)
        last, groups = np.int64(-1), 0
        for place in range(list_starts[columns[rank]], list_starts[columns[rank] + 1]):
            group = np.int64(entries[place]) >> group_bits
            new = int(group != last)
            groups += new
            records[group] += new
            last = group
        starts[rank + 1] = groups


@uncounted
def _add_squares(ranks: Ranks, weight_of: Float32Array, squares: Float64Array) -> None:
    columns, list_starts, entries = ranks.columns, ranks.starts, ranks.entries
    for rank in range(ranks.first, ranks.last):
        _ask_ahead(ranks, rank, _LISTS_AHEAD)
        for place in range(list_starts[columns[rank]], list_starts[columns[rank] + 1]):
            entry = entries[place]
            squares[entry >> CODE_BITS] += np.float64(weight_of[entry & CODE_MASK]) ** 2


@uncounted
def _fill(ranks: Ranks, weight_of: Float32Array, norm: float, begun: Progress, filled: Filled) -> None:
    """Go through the columns from the most frequent to the rarest, with the rows' suffix norms growing."""
    entries, squares, records, buffer = ranks.entries, begun.squares, begun.records, begun.buffer
    postings, codes, members = filled.postings, filled.record_codes, filled.record_weights
    group_rows = rows_of_group(members)
    group_bits = _group_bits(group_rows)
    for rank in range(ranks.last - 1, ranks.first - 1, -1):
        _ask_ahead(ranks, rank, -_LISTS_AHEAD)
        place, end = ranks.starts[ranks.columns[rank]], ranks.starts[ranks.columns[rank] + 1]
        first, last = filled.heads[rank] >> CODE_BITS, filled.heads[rank + 1] >> CODE_BITS
        largest = _largest_code(entries, place, end)
        filled.heads[rank] |= largest
        scale = np.float64(_LEVELS) / np.float64(weight_of[largest])
        short = last - first <= _SHORT_LIST
        written = postings[first:last] if short else buffer
        for number in range(last - first):
            group = np.int64(entries[place]) >> group_bits
            place, lanes, heaviest, square = _take_group(
                entries, place, end, group_rows, weight_of, scale, squares
            )
            suffix = min(int(np.ceil(_LEVELS * np.sqrt(square) / norm)), _LEVELS)
            written[number] = np.uint32((group << 16) | (heaviest << 8) | suffix)
            codes[records[group]], members[records[group]] = rank & 0xFFFF, lanes
            records[group] += 1
        if short:
            _sort_short(written)
        else:
            _sort_by_counting(buffer[: last - first], postings[first:last], begun.ends)


@uncounted
def _largest_code(entries: AnyArray, place: int, end: int) -> np.uint32:
    """Code of the largest weight of a list that is not empty; codes are in the order of their weights."""
    code = np.uint32(0)
    for number in range(place, end):
        code = max(code, entries[number] & np.uint32(CODE_MASK))
    return code


@uncounted
def _take_group(
    entries: AnyArray,
    place: int,
    end: int,
    group_rows: int,
    weight_of: Float32Array,
    scale: float,
    squares: Float64Array,
) -> tuple[int, np.uint64, int, float]:
    """Where the next group of a list begins; levels of this one's members, the largest level, the largest square."""
    group_bits = np.uint32(_group_bits(group_rows))
    group = entries[place] >> group_bits
    lanes, heaviest, longest = np.uint64(0), 0, 0.0
    while place < end:
        entry = entries[place]
        if entry >> group_bits != group:
            break
        row, weight = entry >> np.uint32(CODE_BITS), np.float64(weight_of[entry & np.uint32(CODE_MASK)])
        square = squares[row] + weight * weight
        squares[row] = square
        level = min(int(np.ceil(weight * scale)), _LEVELS)
        lanes |= np.uint64(level) << np.uint64(8 * (row & np.uint32(group_rows - 1)))
        heaviest, longest = max(heaviest, level), max(longest, square)
        place += 1
    return place, lanes, heaviest, longest


@uncounted
def _sort_short(postings: AnyArray) -> None:
    """Sort a few postings by suffix norm descending; equal ones stay in order of groups."""
    for place in range(1, postings.size):
        posting, slot = postings[place], place
        while slot > 0 and (postings[slot - 1] & 0xFF) < (posting & 0xFF):
            postings[slot] = postings[slot - 1]
            slot -= 1
        postings[slot] = posting


@uncounted
def _sort_by_counting(unsorted: AnyArray, ordered: AnyArray, ends: Int64Array) -> None:
    """The same for many, from one array into another."""
    ends[:] = 0
    for posting in unsorted:
        ends[256 - (posting & 0xFF)] += 1
    for level in range(1, 257):
        ends[level] += ends[level - 1]
    for posting in unsorted:
        level = 255 - (posting & 0xFF)
        ordered[ends[level]] = posting
        ends[level] += 1
