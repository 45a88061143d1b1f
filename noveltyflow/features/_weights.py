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
    `weights` may be `counts`.
    """
    longest = 0
    for row in range(len(indptr) - 1):
        longest = max(longest, indptr[row + 1] - indptr[row])
    exact = np.empty(longest, np.float64)
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        terms, columns, out = counts[start:stop], indices[start:stop], weights[start:stop]
        length = stop - start
        exact[:length] = terms
        # One loop for each step: only the sum has to go one by one.
        if sublinear:
            for i in range(length):
                if terms[i] != 1.0:
                    exact[i] = 1.0 + math.log(exact[i])
        if len(idf) > 0:
            for i in range(length):
                exact[i] *= idf[np.uint32(columns[i])]
        squares = 0.0
        for i in range(length):
            squares += exact[i] * exact[i]
        norm = math.sqrt(squares)
        for i in range(length):
            out[i] = exact[i] / norm
