"""Posting lists: for every column the rows that use it, in ascending order."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from noveltyflow.types import CsrMatrix, Float32Array, Int32Array, Int64Array


@dataclass(frozen=True, eq=False)
class PostingLists:
    """Posting lists of a block; those of column c stand at `indptr[c]` to `indptr[c + 1]`."""

    indptr: Int64Array
    rows: Int32Array
    weights: Float32Array

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.indptr.nbytes + self.rows.nbytes + self.weights.nbytes

    @classmethod
    def of(cls, block: CsrMatrix, chosen: Int64Array | None = None) -> PostingLists:
        """Transpose the CSR matrix `block`, or of its rows only those chosen, numbered as they stand there."""
        chosen = np.arange(block.shape[0]) if chosen is None else chosen
        lengths = np.diff(block.indptr)
        nonzeros = int(lengths[chosen].sum())
        indptr = np.zeros(block.shape[1] + 2, np.int64)
        rows = np.empty(nonzeros, np.int32)
        weights = np.empty(nonzeros, np.float32)
        _transpose(chosen, block.indptr.astype(np.int64), block.indices, block.data, indptr, rows, weights)
        return cls(indptr[:-1], rows, weights)


@numba.njit(nogil=True, cache=True)
def _transpose(
    chosen: Int64Array,
    block_indptr: Int64Array,
    block_columns: Int32Array,
    block_weights: Float32Array,
    indptr: Int64Array,
    rows: Int32Array,
    weights: Float32Array,
) -> None:
    # Two slots further on, so that filling moves each start to its own place and no copy is needed.
    for row in chosen:
        for place in range(block_indptr[row], block_indptr[row + 1]):
            if block_columns[place] + 2 < indptr.size:
                indptr[block_columns[place] + 2] += 1
    for column in range(2, indptr.size):
        indptr[column] += indptr[column - 1]
    for number, row in enumerate(chosen):
        for place in range(block_indptr[row], block_indptr[row + 1]):
            target = indptr[block_columns[place] + 1]
            rows[target] = number
            weights[target] = block_weights[place]
            indptr[block_columns[place] + 1] = target + 1
