"""Many candidates of a query merged with its k neighbours, where k is large: inserting one moves many others."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.similarity.kernels.compiling import uncounted
from noveltyflow.similarity.kernels.insertion import before
from noveltyflow.similarity.kernels.sorting import sort_by_digit
from noveltyflow.types import Float32Array, Float64Array, Int32Array, Int64Array

_DIGIT_BITS = 8


class Waiting(NamedTuple):
    """Room for candidates of a query that wait to be sorted and merged with its k neighbours.

    `keys`, `sorted_keys` int64 (up to 2 * k,); `ends` int32 (256,): see `sort_by_digit`; `similarities` float32 and
    `neighbors` int64 (k,): the neighbours before.
    """

    keys: Int64Array
    sorted_keys: Int64Array
    ends: Int32Array
    similarities: Float32Array
    neighbors: Int64Array


@numba.njit(nogil=True, cache=True)
def make_room(n_neighbors: int, n_candidates: int) -> Waiting:
    """Make room for so many neighbours at most."""
    most = min(2 * n_neighbors, n_candidates)
    return Waiting(
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(1 << _DIGIT_BITS, np.int32),
        np.empty(n_neighbors, np.float32),
        np.empty(n_neighbors, np.int64),
    )


@uncounted
def merge_candidates(
    accumulators: Float64Array,
    candidates: Int32Array,
    ascending: bool,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own: int,
    waiting: Waiting,
) -> int:
    """Merge those candidates that reach the threshold with the neighbours, in place; returns how many they are.

    `accumulators` has the similarities of all, `numbers` what their rows are in the block; `ascending` tells whether
    the candidates are in order already.
    """
    kept, found, row_bits = 0, 0, 1
    while numbers.size >> row_bits:
        row_bits += 1
    for row in candidates:
        similarity, number = np.float32(accumulators[row]), first_row + numbers[row]
        if before(similarity, number, similarities[-1], neighbors[-1]) and numbers[row] != own:
            waiting.keys[found] = (_rank(similarity) << row_bits) | row
            found += 1
            if found == waiting.keys.size:
                _merge(
                    accumulators,
                    found,
                    row_bits,
                    ascending,
                    numbers,
                    similarities,
                    neighbors,
                    first_row,
                    waiting,
                )
                kept, found = kept + found, 0
    _merge(accumulators, found, row_bits, ascending, numbers, similarities, neighbors, first_row, waiting)
    return kept + found


@uncounted
def _rank(similarity: np.float32) -> int:
    """A number of 32 bits that is less where a similarity is more, and the same for both zeros."""
    bits = np.int64(np.float32(similarity + np.float32(0.0)).view(np.int32))
    return int(0x7FFFFFFF - bits if bits >= 0 else 0x80000000 | (bits & 0x7FFFFFFF))


@uncounted
def _merge(
    accumulators: Float64Array,
    found: int,
    row_bits: int,
    ascending: bool,
    numbers: Int64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    waiting: Waiting,
) -> None:
    """Merge the candidates of the first keys with the neighbours of a query, but for those that are there already."""
    keys, ordered = waiting.keys[:found], waiting.sorted_keys[:found]
    for shift in range(row_bits if ascending else 0, row_bits + 32, _DIGIT_BITS):
        sort_by_digit(keys, ordered, waiting.ends, shift)
        keys, ordered = ordered, keys
    for slot in range(similarities.size):
        waiting.similarities[slot], waiting.neighbors[slot] = similarities[slot], neighbors[slot]
    old, new = 0, 0
    for slot in range(similarities.size):
        if new == found:
            similarities[slot], neighbors[slot] = waiting.similarities[old], waiting.neighbors[old]
            old += 1
            continue
        row = keys[new] & ((1 << row_bits) - 1)
        similarity, number = np.float32(accumulators[row]), first_row + numbers[row]
        if before(similarity, number, waiting.similarities[old], waiting.neighbors[old]):
            similarities[slot], neighbors[slot] = similarity, number
            new += 1
        else:
            similarities[slot], neighbors[slot] = waiting.similarities[old], waiting.neighbors[old]
            new += int(waiting.neighbors[old] == number)
            old += 1
