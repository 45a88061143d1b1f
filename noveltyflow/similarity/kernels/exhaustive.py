"""Loops of the CPU kernel that skip nothing, and so are valid for weights of any sign."""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.types import Float32Array, Float64Array, Int32Array, Int64Array


@numba.njit(nogil=True, cache=True)
def score_all(
    query_indptr: Int64Array,
    query_columns: Int32Array,
    query_weights: Float32Array,
    list_indptr: Int64Array,
    list_rows: Int32Array,
    list_weights: Float32Array,
    n_candidates: int,
    similarities: Float32Array,
    neighbors: Int64Array,
    candidates_start: int,
    self_offset: int,
    slab_rows: int,
) -> tuple[int, int]:
    """Accumulate every posting of every query row; returns (multiply-adds, pairs that reached a threshold).

    Query columns ascend, so that each accumulator ends as the canonical similarity. The candidates are
    taken in slabs of `slab_rows` rows, whose accumulators stay in the cache. `self_offset` is the
    candidate that is query row 0, or a value that no row meets. An accumulator starts as -0.0, which no
    sum of products ever is: so rows that share no column are told from rows whose products cancel out.
    """
    cursors = np.empty(0, np.int64)
    accumulators = np.full(slab_rows, -0.0, np.float64)
    multiply_adds = 0
    pairs = 0
    for query in range(query_indptr.size - 1):
        first, last = query_indptr[query], query_indptr[query + 1]
        if cursors.size < last - first:
            cursors = np.empty(2 * (last - first), np.int64)
        for place in range(first, last):
            cursors[place - first] = list_indptr[query_columns[place]]
        for slab in range(0, n_candidates, slab_rows):
            slab_end = min(slab + slab_rows, n_candidates)
            for place in range(first, last):
                weight = np.float64(query_weights[place])
                cursor = cursors[place - first]
                end = list_indptr[query_columns[place] + 1]
                while cursor < end and list_rows[cursor] < slab_end:
                    accumulators[list_rows[cursor] - slab] += weight * list_weights[cursor]
                    cursor += 1
                multiply_adds += cursor - cursors[place - first]
                cursors[place - first] = cursor
            pairs += _keep_best(
                accumulators[: slab_end - slab],
                similarities[query],
                neighbors[query],
                candidates_start + slab,
                query + self_offset - slab,
            )
    return multiply_adds, pairs


@numba.njit(nogil=True, cache=True)
def _keep_best(
    accumulators: Float64Array,
    similarities: Float32Array,
    neighbors: Int64Array,
    first_row: int,
    own_place: int,
) -> int:
    """Insert what reaches the row's threshold, clear the accumulators, and count what was inserted."""
    kept = 0
    for place in range(accumulators.size):
        similarity = np.float32(accumulators[place])
        if similarity < similarities[-1] or place == own_place:
            continue
        if accumulators[place] == 0.0 and np.signbit(accumulators[place]):
            continue
        kept += 1
        insert_neighbor(similarities, neighbors, similarity, first_row + place)
    accumulators[:] = -0.0
    return kept
