"""Euclidean norms of rows, for checking them and for bounds."""

from __future__ import annotations

import numba
import numpy as np

from noveltyflow.types import AnyArray, Float32Array, Float64Array


@numba.njit(nogil=True, cache=True)
def row_norms(indptr: AnyArray, weights: Float32Array) -> Float64Array:
    """Euclidean norm of every row of a CSR matrix, in float64."""
    norms = np.empty(indptr.size - 1, np.float64)
    for row in range(norms.size):
        total = 0.0
        for weight in weights[indptr[row] : indptr[row + 1]]:
            total += np.float64(weight) * np.float64(weight)
        norms[row] = np.sqrt(total)
    return norms
