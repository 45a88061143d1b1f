"""Posting lists: for every column the rows that use it, in ascending order."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from noveltyflow.types import CsrMatrix, Float32Array, Int32Array, Int64Array


class PostingLists(NamedTuple):
    """Posting lists of some rows of a block; those of column c stand at `indptr[c]` to `indptr[c + 1]`.

    `indptr` int64 (n_features + 1,), `rows` int32 and `weights` float32 (n_postings,); `numbers` int64 (n,): rows of
    the block, ascending, that the numbers in `rows` stand for.
    """

    indptr: Int64Array
    rows: Int32Array
    weights: Float32Array
    numbers: Int64Array

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(part.nbytes for part in self)

    @classmethod
    def of(cls, block: CsrMatrix, numbers: Int64Array) -> PostingLists:
        """Transpose the given rows, ascending, of the CSR matrix `block`."""
        nonzeros = int(np.diff(block.indptr)[numbers].sum())
        indptr = np.zeros(block.shape[1] + 2, np.int64)
        rows = np.empty(nonzeros, np.int32)
        weights = np.empty(nonzeros, np.float32)
        _transpose(numbers, block.indptr.astype(np.int64), block.indices, block.data, indptr, rows, weights)
        return cls(indptr[:-1], rows, weights, numbers)


@numba.njit(nogil=True, cache=True)
def column_frequency(columns: Int32Array, n_features: int) -> Int64Array:
    """In how many rows each column occurs, int64 (n_features,), from the columns of all entries."""
    frequency = np.zeros(n_features, np.int64)
    for column in columns:
        frequency[column] += 1
    return frequency


@numba.njit(nogil=True, cache=True)
def _transpose(
    numbers: Int64Array,
    block_indptr: Int64Array,
    block_columns: Int32Array,
    block_weights: Float32Array,
    indptr: Int64Array,
    rows: Int32Array,
    weights: Float32Array,
) -> None:
    # Two slots further on, so that filling moves each start to its own place and no copy is needed.
    for row in numbers:
        for place in range(block_indptr[row], block_indptr[row + 1]):
            if block_columns[place] + 2 < indptr.size:
                indptr[block_columns[place] + 2] += 1
    for column in range(2, indptr.size):
        indptr[column] += indptr[column - 1]
    for number, row in enumerate(numbers):
        for place in range(block_indptr[row], block_indptr[row + 1]):
            target = indptr[block_columns[place] + 1]
            rows[target] = number
            weights[target] = block_weights[place]
            indptr[block_columns[place] + 1] = target + 1
