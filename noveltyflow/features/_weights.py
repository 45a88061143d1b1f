"""Compiled loops over stored entries: column counts and tf-idf weights."""

from __future__ import annotations

import math

import numpy as np

from noveltyflow.features._compiling import compiled
from noveltyflow.types import AnyArray


@compiled
def count_columns(indices: AnyArray, frequency: AnyArray) -> None:
    """Add one to the frequency of the column of every entry."""
    for column in indices:
        frequency[column] += 1


@compiled
def weigh_rows(
    indptr: AnyArray, indices: AnyArray, counts: AnyArray, idf: AnyArray, sublinear: bool, weights: AnyArray
) -> None:
    """Weights of unit rows; an empty idf weighs all columns alike.

    The sum of squares runs in column order in float64, so that it is the same number wherever the row stands.
    """
    longest = 0
    for row in range(len(indptr) - 1):
        longest = max(longest, indptr[row + 1] - indptr[row])
    exact = np.empty(longest, np.float64)
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        squares = 0.0
        for i in range(start, stop):
            weight = float(counts[i])
            if sublinear and weight != 1.0:
                weight = 1.0 + math.log(weight)
            if len(idf) > 0:
                weight *= idf[indices[i]]
            squares += weight * weight
            exact[i - start] = weight
        norm = math.sqrt(squares)
        for i in range(start, stop):
            weights[i] = exact[i - start] / norm
