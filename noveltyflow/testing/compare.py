"""Comparison of neighbours that knows about ties."""

from __future__ import annotations

import numpy as np

from noveltyflow.types import AnyArray, CsrMatrix

Neighbors = tuple[AnyArray, AnyArray]
"""`(indices, similarities)`, both of shape (n, k)."""


def assert_neighbors_equal(actual: Neighbors, expected: Neighbors, *, rtol: float = 1e-5) -> None:
    """Assert that two answers name the same neighbours, up to rounding and ties.

    A neighbour may be missing on one side only if its similarity is within `rtol` of the row's k-th
    similarity, where rounding decides which of several equal candidates gets the last slots.

    Parameters
    ----------
    actual, expected : (indices, similarities)
        Arrays of shape (n, k), best first; -1 and minus infinity in empty slots.
    rtol : float
        Relative difference of similarities that counts as rounding.

    Raises
    ------
    AssertionError
        Naming the first row that differs, with both answers.
    """
    actual_indices, actual_similarities = (np.asarray(part) for part in actual)
    expected_indices, expected_similarities = (np.asarray(part) for part in expected)
    shapes = {
        actual_indices.shape,
        actual_similarities.shape,
        expected_indices.shape,
        expected_similarities.shape,
    }
    if len(shapes) > 1:
        raise AssertionError(f"the arrays differ in shape: {sorted(shapes)}")
    for row in range(actual_indices.shape[0]):
        ours = actual_indices[row], actual_similarities[row]
        theirs = expected_indices[row], expected_similarities[row]
        problem = _difference(ours, theirs, rtol)
        if problem:
            raise AssertionError(f"row {row}: {problem}\nactual   {ours}\nexpected {theirs}")


def _difference(ours: Neighbors, theirs: Neighbors, rtol: float) -> str:
    """Say what is wrong with one row of an answer, or an empty text."""
    filled = theirs[0] >= 0
    if not np.array_equal(ours[0] >= 0, filled):
        return "different slots are empty"
    if not filled.any():
        return ""
    if not np.allclose(ours[1][filled], theirs[1][filled], rtol=rtol, atol=0):
        return "the similarities differ"
    if np.unique(ours[0][filled]).size < filled.sum():
        return "a neighbour stands twice"
    last = float(theirs[1][filled][-1])
    for here, there, side in ((ours, theirs, "actual"), (theirs, ours, "expected")):
        lone = filled & ~np.isin(here[0], there[0])
        # An answer with empty slots has every candidate, so there are no ties to be lost.
        if lone.any() and not (filled.all() and np.all(here[1][lone] <= last + rtol * abs(last))):
            return f"neighbours {here[0][lone]} stand only in the {side} answer and are no ties"
    return ""


def brute_force_rows(X: CsrMatrix, rows: AnyArray, n_neighbors: int, Y: CsrMatrix | None = None) -> Neighbors:
    """Neighbours of some rows by scipy's product in float64, for matrices too large for `naive_kneighbors`.

    Parameters
    ----------
    X : csr_matrix, shape (n, n_features)
        Rows of unit norm and non-negative weights.
    rows : ndarray of int, shape (m,)
        Rows of `X` to answer for.
    n_neighbors : int
        Number of neighbours k.
    Y : csr_matrix, optional
        Rows among which neighbours are sought; without it those of `X`, each row without itself.

    Returns
    -------
    (indices, similarities)
        Arrays of shape (m, k) for `assert_neighbors_equal`.
    """
    product = X[rows].astype(np.float64) @ (X if Y is None else Y).astype(np.float64).T
    indices = np.full((len(rows), n_neighbors), -1, np.int64)
    similarities = np.full((len(rows), n_neighbors), -np.inf, np.float32)
    for i, row in enumerate(rows):
        part = slice(product.indptr[i], product.indptr[i + 1])
        others, values = product.indices[part], product.data[part].astype(np.float32)
        keep = others != row if Y is None else np.ones(others.size, bool)
        others, values = others[keep], values[keep]
        order = np.lexsort((others, -values))[:n_neighbors]
        indices[i, : order.size], similarities[i, : order.size] = others[order], values[order]
    return indices, similarities
