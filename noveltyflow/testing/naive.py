"""The reference that every kernel must equal: brute force in float64, kept simple to be seen right."""

from __future__ import annotations

import numpy as np

from noveltyflow.types import CsrMatrix, Float32Array, Int64Array


def naive_kneighbors(
    X: CsrMatrix, n_neighbors: int, Y: CsrMatrix | None = None
) -> tuple[Int64Array, Float32Array]:
    """Compute what `noveltyflow.cosine_kneighbors` promises, one pair at a time.

    Parameters
    ----------
    X : sparse matrix, shape (n, n_features)
        Rows that look for neighbours.
    n_neighbors : int
        Number of neighbours k of each row.
    Y : sparse matrix, shape (m, n_features), optional
        Rows among which they look; without it those of `X`, each row without itself.

    Returns
    -------
    indices : ndarray of int64, shape (n, k)
        Neighbours by similarity descending, then row ascending; -1 in empty slots.
    similarities : ndarray of float32, shape (n, k)
        Float64 dot products rounded once; minus infinity in empty slots.
    """
    queries = [_weights(X, row) for row in range(X.shape[0])]
    others = queries if Y is None else [_weights(Y, row) for row in range(Y.shape[0])]
    indices = np.full((len(queries), n_neighbors), -1, np.int64)
    similarities = np.full((len(queries), n_neighbors), -np.inf, np.float32)
    for i, query in enumerate(queries):
        pairs = []
        for j, other in enumerate(others):
            shared = sorted(query.keys() & other.keys())
            if shared and not (Y is None and i == j):
                similarity = np.float32(sum(query[column] * other[column] for column in shared))
                pairs.append((-similarity, j))
        for slot, (negated, j) in enumerate(sorted(pairs)[:n_neighbors]):
            indices[i, slot] = j
            similarities[i, slot] = -negated
    return indices, similarities


def _weights(matrix: CsrMatrix, row: int) -> dict[int, float]:
    """Non-zero float32 weights of a row by column, as Python floats (float64)."""
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    columns = matrix.indices[part].tolist()
    weights = matrix.data[part].astype(np.float32).tolist()
    return {column: weight for column, weight in zip(columns, weights, strict=True) if weight != 0}
