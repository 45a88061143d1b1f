"""The one way in which the similarity of two rows is computed and kept, whatever index found the pair."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.types import Float32Array, Int32Array, Int64Array

PLACES = 1 << 13
"""Slots of the table in which a query's columns are found; it fits a core's first-level cache."""
MUCH_LONGER = 32
"""How many times as long as a query a row is when looking for each column of the query is cheaper."""
_CROWDED = PLACES // 4
SINGLE = 1.0 - 2.0**-22
"""Factor that makes a stored similarity, rounded to float32 from float64, a lower bound of the real one."""


class Members(NamedTuple):
    """Rows of the block behind its distinct rows, as in `Distinct`, and the global number of the first."""

    starts: Int64Array
    rows: Int64Array
    first: int


class Query(NamedTuple):
    """A query row: its columns and weights, its number among the block's rows or -1, and its best k."""

    columns: Int32Array
    weights: Float32Array
    own: int
    similarities: Float32Array
    neighbors: Int64Array


@numba.njit(nogil=True, cache=True)
def _slot_of(column: int) -> int:
    """Place of a column in a table of `PLACES`, by Fibonacci hashing."""
    return int(((np.uint64(column) * np.uint64(2654435769)) >> np.uint64(19)) & np.uint64(PLACES - 1))


@numba.njit(nogil=True, cache=True)
def enter_columns(columns: Int32Array, place_of: Int32Array) -> None:
    """Write a query's columns into an empty table of `PLACES` slots; where two meet, the last one stays."""
    if columns.size <= _CROWDED:
        for place in range(columns.size):
            place_of[_slot_of(columns[place])] = place


@numba.njit(nogil=True, cache=True)
def leave_columns(columns: Int32Array, place_of: Int32Array) -> None:
    """Make the table empty again."""
    if columns.size <= _CROWDED:
        for column in columns:
            place_of[_slot_of(column)] = -1


@numba.njit(nogil=True, cache=True)
def score(
    own_columns: Int32Array,
    own_weights: Float32Array,
    columns: Int32Array,
    weights: Float32Array,
    place_of: Int32Array,
    hits: Int32Array,
) -> np.float32:
    """Similarity: products summed in float64 in order of columns; minus infinity where none is shared.

    `place_of` is the table in which `own_columns` were entered, `hits` scratch for as many places as the row has
    columns.
    """
    if columns.size > MUCH_LONGER * own_columns.size:
        return _score_by_bisection(own_columns, own_weights, columns, weights)
    if own_columns.size > _CROWDED:
        return _score_by_merging(own_columns, own_weights, columns, weights)
    found = 0
    for place in range(columns.size):
        hits[found] = place
        found += int(place_of[_slot_of(columns[place])] >= 0)
    total, shared = 0.0, False
    for hit in range(found):
        place = hits[hit]
        own = int(place_of[_slot_of(columns[place])])
        if own_columns[own] != columns[place]:
            own = _find(own_columns, columns[place])
            if own < 0:
                continue
        total += np.float64(own_weights[own]) * np.float64(weights[place])
        shared = True
    return np.float32(total) if shared else np.float32(-np.inf)


@numba.njit(nogil=True, cache=True)
def _score_by_bisection(
    own_columns: Int32Array, own_weights: Float32Array, columns: Int32Array, weights: Float32Array
) -> np.float32:
    """The same sum, in the same order of columns."""
    total, shared = 0.0, False
    for own in range(own_columns.size):
        place = _find(columns, own_columns[own])
        if place >= 0:
            total += np.float64(own_weights[own]) * np.float64(weights[place])
            shared = True
    return np.float32(total) if shared else np.float32(-np.inf)


@numba.njit(nogil=True, cache=True)
def _score_by_merging(
    own_columns: Int32Array, own_weights: Float32Array, columns: Int32Array, weights: Float32Array
) -> np.float32:
    """The same sum again, for two rows of many columns."""
    total, shared, own, place = 0.0, False, 0, 0
    while own < own_columns.size and place < columns.size:
        if own_columns[own] == columns[place]:
            total += np.float64(own_weights[own]) * np.float64(weights[place])
            shared = True
        behind = own_columns[own] <= columns[place]
        place += int(columns[place] <= own_columns[own])
        own += int(behind)
    return np.float32(total) if shared else np.float32(-np.inf)


@numba.njit(nogil=True, cache=True)
def _find(columns: Int32Array, column: int) -> int:
    """Place of a column among ascending ones, or -1; numba's `searchsorted` takes time linear in their number."""
    low, high = 0, columns.size
    while low < high:
        middle = (low + high) // 2
        if columns[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low if low < columns.size and columns[low] == column else -1


@numba.njit(nogil=True, cache=True)
def insert_members(
    similarity: np.float32,
    row: int,
    members: Members,
    own: int,
    similarities: Float32Array,
    neighbors: Int64Array,
) -> None:
    """Insert all rows that are this distinct row; they are equally similar, and the first have precedence."""
    for place in range(members.starts[row], members.starts[row + 1]):
        number = members.first + members.rows[place]
        if similarity < similarities[-1] or (similarity == similarities[-1] and number > neighbors[-1] >= 0):
            return
        if members.rows[place] != own:
            insert_neighbor(similarities, neighbors, similarity, number)
