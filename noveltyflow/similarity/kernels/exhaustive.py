"""Loops of the CPU kernel that skip nothing, and so are valid for weights of any sign."""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.similarity.kernels.insertion import insert_neighbor
from noveltyflow.types import Float32Array, Int32Array, Int64Array


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
    """Accumulate every posting of every query row; returns (multiply-adds, verified pairs).

    Query columns ascend, so that each accumulator ends as the canonical similarity. The candidates are
    taken in slabs of `slab_rows` rows, whose accumulators stay in the cache. `self_offset` is the
    candidate that is query row 0, or a value that no row meets.
    """
    cursors = np.empty(0, np.int64)
    accumulators = np.zeros(slab_rows, np.float64)
    seen = np.zeros(slab_rows, np.bool_)
    touched = np.empty(slab_rows, np.int32)
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
            n_touched = 0
            for place in range(first, last):
                weight = np.float64(query_weights[place])
                cursor = cursors[place - first]
                end = list_indptr[query_columns[place] + 1]
                while cursor < end and list_rows[cursor] < slab_end:
                    local = list_rows[cursor] - slab
                    if not seen[local]:
                        seen[local] = True
                        touched[n_touched] = local
                        n_touched += 1
                    accumulators[local] += weight * list_weights[cursor]
                    cursor += 1
                multiply_adds += cursor - cursors[place - first]
                cursors[place - first] = cursor
            for i in range(n_touched):
                local = touched[i]
                if slab + local != query + self_offset:
                    similarity = np.float32(accumulators[local])
                    insert_neighbor(
                        similarities[query], neighbors[query], similarity, candidates_start + slab + local
                    )
                seen[local] = False
                accumulators[local] = 0.0
            pairs += n_touched
    return multiply_adds, pairs
