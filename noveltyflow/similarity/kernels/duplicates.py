"""Identical rows of a block, which are indexed once: thousands of equal similarities cost one dot product."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from noveltyflow.types import AnyArray, CsrMatrix, Float32Array, Int32Array, Int64Array


@dataclass(frozen=True, eq=False)
class Distinct:
    """Distinct rows of a block, in order of their first occurrence, and where each of them stands.

    Attributes
    ----------
    first : ndarray of int64, shape (m,)
        Row of the block in which each distinct row stands first, ascending.
    row_of : ndarray of int64, shape (n,)
        Distinct row of every row of the block.
    member_starts, members : ndarray of int64, shapes (m + 1,) and (n,)
        Rows of the block that are the distinct row d, ascending: `members[member_starts[d]:member_starts[d + 1]]`.
    """

    first: Int64Array
    row_of: Int64Array
    member_starts: Int64Array
    members: Int64Array

    @classmethod
    def of(cls, block: CsrMatrix) -> Distinct:
        """Find the distinct rows of a CSR matrix with sorted columns."""
        indptr = block.indptr.astype(np.int64)
        hashes = _hash_rows(indptr, block.indices, block.data.view(np.int32))
        order = np.argsort(hashes, kind="stable")
        first = _first_alike(order, hashes, indptr, block.indices, block.data)
        kept = np.flatnonzero(first == np.arange(first.size))
        number = np.empty(first.size, np.int64)
        number[kept] = np.arange(kept.size)
        row_of = number[first]
        starts = np.zeros(kept.size + 1, np.int64)
        np.cumsum(np.bincount(row_of, minlength=kept.size), out=starts[1:])
        members = np.argsort(row_of, kind="stable")
        return cls(kept, row_of, starts, members)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.first.nbytes + self.row_of.nbytes + self.member_starts.nbytes + self.members.nbytes


@numba.njit(nogil=True, cache=True)
def _hash_rows(indptr: Int64Array, columns: Int32Array, bits: Int32Array) -> AnyArray:
    hashes = np.empty(indptr.size - 1, np.uint64)
    for row in range(hashes.size):
        value = np.uint64(0x9E3779B97F4A7C15)
        for place in range(indptr[row], indptr[row + 1]):
            entry = (np.uint64(np.uint32(columns[place])) << np.uint64(32)) | np.uint64(
                np.uint32(bits[place])
            )
            value = (value ^ entry) * np.uint64(0xD6E8FEB86659FD93)
            value ^= value >> np.uint64(32)
        hashes[row] = value
    return hashes


@numba.njit(nogil=True, cache=True)
def _first_alike(
    order: Int64Array, hashes: AnyArray, indptr: Int64Array, columns: Int32Array, weights: Float32Array
) -> Int64Array:
    """For every row the first row that is identical to it.

    Rows whose hashes collide are compared with the first of their hash only; others stay distinct, which is
    right, if not the least number of rows.
    """
    first = np.arange(hashes.size)
    leader = -1
    for row in order:
        if leader < 0 or hashes[row] != hashes[leader]:
            leader = row
        elif _alike(row, leader, indptr, columns, weights):
            first[row] = leader
    return first


@numba.njit(nogil=True, cache=True)
def _alike(a: int, b: int, indptr: Int64Array, columns: Int32Array, weights: Float32Array) -> bool:
    if indptr[a + 1] - indptr[a] != indptr[b + 1] - indptr[b]:
        return False
    shift = indptr[b] - indptr[a]
    for place in range(indptr[a], indptr[a + 1]):
        if columns[place] != columns[place + shift] or weights[place] != weights[place + shift]:
            return False
    return True
