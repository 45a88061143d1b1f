"""The one way in which the similarity of two rows is computed and kept, whatever index found the pair."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.types import Float32Array, Int32Array, Int64Array

_LEAST_PLACES, _MOST_PLACES = 1 << 14, 1 << 17
"""Slots of the table in which a query's columns are found; the least fit a core's second-level cache."""
_PLACES_EACH = 32
"""Slots for each column: so few columns meet that looking for them one by one is a small part of a similarity."""
MUCH_LONGER = 32
"""How many times as long as a query a row is when looking for each column of the query is cheaper."""
_CROWDED = 1 << 13
_NO_COLUMN = np.int32(-1)
_LOOKED_THROUGH = 256
"""Most neighbours of a query among which a candidate is looked for before it is scored."""
_DOUBT = _CROWDED * 2.0**-51
"""How far, relatively, sums of up to `_CROWDED` products can lie apart in two orders, if none is negative.

A product of two float32 is exact in float64, and each of m additions is off by at most 2**-53 of the sum: two
orders differ by at most m * 2**-52 of it, and as much again covers the rounding of the interval's ends.
"""
SINGLE = 1.0 - 2.0**-22
"""Factor that makes a stored similarity, rounded to float32 from float64, a lower bound of the real one."""


class Members(NamedTuple):
    """Rows of the block behind its distinct rows, as in `Distinct`, and the global number of the first."""

    starts: Int64Array
    rows: Int64Array
    first: int


class Query(NamedTuple):
    """A query row: its columns and weights, its number among the block's rows or -1, and its best k.

    `row` is its number among all n query rows, whose best k are in `all_similarities` and `all_neighbors`, (n, k).
    """

    columns: Int32Array
    weights: Float32Array
    own: int
    similarities: Float32Array
    neighbors: Int64Array
    row: int
    all_similarities: Float32Array
    all_neighbors: Int64Array


@uncounted
def places_for(n_columns: int) -> int:
    """Slots of the table for a query of at most so many columns, a power of two."""
    places = _LEAST_PLACES
    while places < _MOST_PLACES and places < _PLACES_EACH * n_columns:
        places *= 2
    return places


def table_bytes(longest_query: int) -> int:
    """Upper bound of the bytes of keys and values of a table for queries of at most so many columns."""
    return 8 * min(max(_LEAST_PLACES, 2 * _PLACES_EACH * longest_query), _MOST_PLACES)


@uncounted
def _slot_of(column: int, places: int) -> np.uint64:
    """Place of a column in a table, by Fibonacci hashing."""
    mixed = np.uint32(np.uint32(column) * np.uint32(2654435769)) >> np.uint32(12)
    return np.uint64(mixed & np.uint32(places - 1))


@uncounted
def enter_columns(
    columns: Int32Array, weights: Float32Array, keys: Int32Array, values: Float32Array, left_out: Int32Array
) -> int:
    """Write a query into the first slots, as many as `places_for` says, of an empty table.

    Where two columns meet, the first one stays, and the place of the other is written into `left_out`; returns how
    many those are.
    """
    if columns.size > _CROWDED:
        return 0
    found, places = 0, places_for(columns.size)
    for place in range(columns.size):
        slot = _slot_of(columns[place], places)
        if keys[slot] == _NO_COLUMN:
            keys[slot], values[slot] = columns[place], weights[place]
        else:
            left_out[found] = place
            found += 1
    return found


@uncounted
def leave_columns(columns: Int32Array, keys: Int32Array) -> None:
    """Make the table empty again."""
    if columns.size <= _CROWDED:
        places = places_for(columns.size)
        for column in columns:
            keys[_slot_of(column, places)] = _NO_COLUMN


@uncounted
def score(
    own_columns: Int32Array,
    own_weights: Float32Array,
    columns: Int32Array,
    weights: Float32Array,
    keys: Int32Array,
    values: Float32Array,
    left_out: Int32Array,
) -> np.float32:
    """Similarity: products summed in float64 in order of columns; minus infinity where none is shared.

    No weight is negative. `keys` and `values` are the table into which `own_columns` and `own_weights` were entered,
    `left_out` the places in them that found no room there.
    """
    if columns.size > MUCH_LONGER * own_columns.size:
        return _score_by_bisection(own_columns, own_weights, columns, weights)
    if own_columns.size > _CROWDED:
        return _score_by_merging(own_columns, own_weights, columns, weights)
    total = _sum_in_any_order(columns, weights, keys, values, places_for(own_columns.size))
    for own in left_out:
        place = _find(columns, own_columns[own])
        if place >= 0:
            total += np.float64(own_weights[own]) * np.float64(weights[place])
    if total == 0.0:
        return np.float32(-np.inf)
    least, most = np.float32(total * (1.0 - _DOUBT)), np.float32(total * (1.0 + _DOUBT))
    if least == most:  # and so is every number between them, that sum in order of columns too
        return least
    return _score_by_merging(own_columns, own_weights, columns, weights)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum_in_any_order(
    columns: Int32Array, weights: Float32Array, keys: Int32Array, values: Float32Array, places: int
) -> float:
    """Sum of the products of weights in columns of the table; vectors of partial sums, where there is a gather."""
    total = 0.0
    for place in range(np.uint64(columns.size)):
        column = columns[place]
        slot = _slot_of(column, places)
        own = values[slot] if keys[slot] == column else np.float32(0.0)
        total += np.float64(own) * np.float64(weights[place])
    return total


@uncounted
def _score_by_bisection(
    own_columns: Int32Array, own_weights: Float32Array, columns: Int32Array, weights: Float32Array
) -> np.float32:
    """The sum in order of columns, for a row of many of them."""
    total, shared = 0.0, False
    for own in range(own_columns.size):
        place = _find(columns, own_columns[own])
        if place >= 0:
            total += np.float64(own_weights[own]) * np.float64(weights[place])
            shared = True
    return np.float32(total) if shared else np.float32(-np.inf)


@uncounted
def _score_by_merging(
    own_columns: Int32Array, own_weights: Float32Array, columns: Int32Array, weights: Float32Array
) -> np.float32:
    """The same sum again, for any two rows."""
    total, shared, own, place = 0.0, False, 0, 0
    while own < own_columns.size and place < columns.size:
        if own_columns[own] == columns[place]:
            total += np.float64(own_weights[own]) * np.float64(weights[place])
            shared = True
        behind = own_columns[own] <= columns[place]
        place += int(columns[place] <= own_columns[own])
        own += int(behind)
    return np.float32(total) if shared else np.float32(-np.inf)


@uncounted
def _find(columns: Int32Array, column: int) -> int:
    """Place of a column among ascending ones, or -1."""
    place = count_below(columns, column)
    return place if place < columns.size and columns[place] == column else -1


@uncounted
def count_below(numbers: Int32Array | Int64Array, end: int) -> int:
    """How many of some ascending numbers are below `end`; Numba's `searchsorted` takes time linear in all."""
    if numbers.size == 0 or numbers[-1] < end:
        return numbers.size
    low, high = 0, numbers.size
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < end:
            low = middle + 1
        else:
            high = middle
    return low


@uncounted
def is_known(row: int, members: Members, query: Query) -> bool:
    """Whether a distinct row is the query and nothing else, or a single row that is among its best k already.

    Where they are many, to look through them all takes longer than the similarity, and inserting finds out as well.
    """
    start, end = members.starts[row], members.starts[row + 1]
    if end - start > 1:
        return False
    number, found = members.first + members.rows[start], int(members.rows[start] == query.own)
    if query.neighbors.size > _LOOKED_THROUGH:
        return found > 0
    for neighbor in query.neighbors:
        found |= int(neighbor == number)
    return found > 0


@uncounted
def insert_members(similarity: np.float32, row: int, members: Members, query: Query) -> None:
    """Insert all rows that are this distinct row, and the query into the best k of its partner, if that comes later.

    Members are equally similar, and the first have precedence. A partner that is many rows is not told.
    """
    start, end = members.starts[row], members.starts[row + 1]
    if query.own >= 0 and end - start == 1:
        partner = query.row + members.rows[start] - query.own
        if query.row < partner < query.all_similarities.shape[0]:
            _insert(
                similarity,
                members.first + query.own,
                query.all_similarities[partner],
                query.all_neighbors[partner],
            )
    for place in range(start, end):
        if members.rows[place] != query.own and not _insert(
            similarity, members.first + members.rows[place], query.similarities, query.neighbors
        ):
            return


@uncounted
def _insert(similarity: np.float32, number: int, similarities: Float32Array, neighbors: Int64Array) -> bool:
    """Insert a row into the best k of another; whether a later one that is equally similar could have a place too."""
    if similarity < similarities[-1] or (similarity == similarities[-1] and number > neighbors[-1] >= 0):
        return False
    insert_neighbor(similarities, neighbors, similarity, number)
    return True
