"""Document frequency as a distributed reduction: in how many rows each column occurs.

Dense int64 throughout (8 bytes for each of `n_features` columns), because blocks of real URLs touch most of
the columns and the idf that is made from it is dense as well.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from noveltyflow.features import _weights
from noveltyflow.types import Int32Array, Int64Array


def chunk(columns: Int32Array, n_features: int) -> Int64Array:
    """Document frequency of one block.

    Parameters
    ----------
    columns : int32 array
        Of all entries of the block, which count whatever their values; a column occurs at most once in a row.
    n_features : int
        Number of columns of the block.

    Returns
    -------
    int64 array of shape (n_features,)
    """
    frequency = np.zeros(n_features, np.int64)
    _weights.count_columns(columns, frequency)
    return frequency


def combine(parts: Iterable[Int64Array]) -> Int64Array:
    """Sum one or more document frequencies of the same shape; associative, commutative, parts unchanged."""
    parts = iter(parts)
    total = next(parts).copy()
    for part in parts:
        total += part
    return total


def finalize(total: Int64Array) -> Int64Array:
    """Document frequency of all blocks; the combined sum is it already."""
    return total
