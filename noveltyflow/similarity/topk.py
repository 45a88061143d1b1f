"""The k best neighbours of every row."""

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

    def rows(self, start: int, stop: int) -> TopK:
        """Rows `start` to `stop` as views, not copies."""
        return TopK(self.similarities[start:stop], self.indices[start:stop])

    def copy(self) -> TopK:
        """Return a copy that owns C-contiguous arrays."""
        return TopK(self.similarities.copy(order="C"), self.indices.copy(order="C"))
