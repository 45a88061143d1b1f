"""Compiled loops over stored entries: column counts and tf-idf weights."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from noveltyflow.types import AnyArray


def _compiled(function: Any) -> Any:
    return njit(function, cache=True, nogil=True, error_model="numpy")


@_compiled
def count_columns(indices: AnyArray, frequency: AnyArray) -> None:
    """Add one to the frequency of the column of every entry."""
    for column in indices:
        frequency[column] += 1


@_compiled
def _weight(count: Any, idf: AnyArray, column: Any, sublinear: bool) -> Any:
    frequency = 1.0 + math.log(count) if sublinear else float(count)
    return frequency * idf[column] if len(idf) > 0 else frequency


@_compiled
def weigh_rows(
    indptr: AnyArray, indices: AnyArray, counts: AnyArray, idf: AnyArray, sublinear: bool, weights: AnyArray
) -> None:
    """Weights of unit rows; an empty idf weighs all columns alike.

    The sum of squares runs in column order in float64 and is never vectorised, so that it is the same number
    wherever the row stands. Each weight is computed twice rather than stored once in float64.
    """
    for row in range(len(indptr) - 1):
        squares = 0.0
        for i in range(indptr[row], indptr[row + 1]):
            weight = _weight(counts[i], idf, indices[i], sublinear)
            squares += weight * weight
        norm = math.sqrt(squares)
        for i in range(indptr[row], indptr[row + 1]):
            weights[i] = _weight(counts[i], idf, indices[i], sublinear) / norm
