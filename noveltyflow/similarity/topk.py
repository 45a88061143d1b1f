"""The k best neighbours of every row, and how partial answers are merged into the full one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noveltyflow.types import Float32Array, Int64Array

NO_NEIGHBOR = -1
"""Row number in an empty slot; its similarity is minus infinity."""


@dataclass(frozen=True, eq=False)
class TopK:
    """For each of n rows its k best neighbours, best first.

    The order is total: similarity descending, then neighbour row ascending; empty slots come last.

    Attributes
    ----------
    similarities : ndarray of float32, shape (n, k)
        Cosine similarities; minus infinity in an empty slot.
    indices : ndarray of int64, shape (n, k)
        Global row numbers of the neighbours; -1 in an empty slot.
    """

    similarities: Float32Array
    indices: Int64Array

    def __post_init__(self) -> None:
        if self.similarities.ndim != 2 or self.similarities.shape != self.indices.shape:
            shapes = f"{self.similarities.shape} and {self.indices.shape}"
            raise ValueError(f"similarities and indices must both be (n, k) arrays, not {shapes}")
        if self.similarities.dtype != np.float32 or self.indices.dtype != np.int64:
            dtypes = f"{self.similarities.dtype} and {self.indices.dtype}"
            raise ValueError(f"similarities must be float32 and indices int64, not {dtypes}")

    @classmethod
    def empty(cls, n_rows: int, n_neighbors: int) -> TopK:
        """`n_rows` rows whose `n_neighbors` slots are all empty."""
        shape = (n_rows, n_neighbors)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, NO_NEIGHBOR, np.int64))

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.indices.shape[0])

    @property
    def n_neighbors(self) -> int:
        """Number of slots of each row."""
        return int(self.indices.shape[1])

    def thresholds(self) -> Float32Array:
        """Similarity in each row's last slot, shape (n,), float32: what a newcomer has to reach."""
        return self.similarities[:, -1]

    def rows(self, start: int, stop: int) -> TopK:
        """Rows `start` to `stop` as views, not copies."""
        return TopK(self.similarities[start:stop], self.indices[start:stop])

    def copy(self) -> TopK:
        """Return a copy that owns C-contiguous arrays."""
        return TopK(self.similarities.copy(order="C"), self.indices.copy(order="C"))

    def merge(self, other: TopK) -> TopK:
        """Return the k best of both, for the same rows.

        Associative, commutative, and idempotent: a neighbour that stands in both is kept once, which
        is sound because a pair has one similarity (see `noveltyflow.similarity`).

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        if self.indices.shape != other.indices.shape:
            raise ValueError(f"cannot merge a {self.indices.shape} TopK with a {other.indices.shape} one")
        similarities, indices = _in_order(
            np.concatenate([self.similarities, other.similarities], axis=1),
            np.concatenate([self.indices, other.indices], axis=1),
        )
        repeated = (indices[:, 1:] == indices[:, :-1]) & (indices[:, 1:] != NO_NEIGHBOR)
        if repeated.any():
            similarities[:, 1:][repeated] = -np.inf
            indices[:, 1:][repeated] = NO_NEIGHBOR
            similarities, indices = _in_order(similarities, indices)
        k = self.n_neighbors
        return TopK(np.ascontiguousarray(similarities[:, :k]), np.ascontiguousarray(indices[:, :k]))


def _in_order(similarities: Float32Array, indices: Int64Array) -> tuple[Float32Array, Int64Array]:
    """Sort each row by similarity descending, then by row ascending; empty slots go last."""
    row_key = np.where(indices == NO_NEIGHBOR, np.iinfo(np.int64).max, indices)
    order = np.lexsort((row_key, -similarities), axis=1)
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(indices, order, axis=1)
