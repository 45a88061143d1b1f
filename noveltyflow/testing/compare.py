"""Comparison of neighbours that knows about ties."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from noveltyflow.types import AnyArray, CsrMatrix

Neighbors = tuple[AnyArray, AnyArray]
"""`(indices, similarities)`, both of shape (n, k)."""
RealSimilarities = Callable[[int, AnyArray], AnyArray]
"""Similarities of a row of an answer to some neighbours."""
_ROWS_AT_ONCE = 20
"""Rows of a product, which can have an entry for each of millions of others."""


def assert_neighbors_equal(
    actual: Neighbors, expected: Neighbors, similarities_of: RealSimilarities, *, rtol: float = 1e-5
) -> None:
    """Assert that two answers name the same neighbours, up to rounding and ties.

    A neighbour may be missing on one side only if its similarity is within `rtol` of the row's k-th
    similarity, where rounding decides which of several equal candidates gets the last slots. Wherever another
    neighbour stands than was expected, it must really be as similar as the answer says.

    Parameters
    ----------
    actual, expected : (indices, similarities)
        Arrays of shape (n, k), best first; -1 and minus infinity in empty slots.
    similarities_of : callable
        Gives the real similarities, shape (m,), of a row of the answers, by its number there, to m neighbours.
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
        problem = _difference(ours, theirs, partial(similarities_of, row), rtol)
        if problem:
            raise AssertionError(f"row {row}: {problem}\nactual   {ours}\nexpected {theirs}")


def _difference(
    ours: Neighbors, theirs: Neighbors, similarities_to: Callable[[AnyArray], AnyArray], rtol: float
) -> str:
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
    others = ours[0] != theirs[0]
    if others.any() and not np.allclose(similarities_to(ours[0][others]), ours[1][others], rtol=rtol, atol=0):
        return f"neighbours {ours[0][others]} are not as similar as the actual answer says"
    return ""


def brute_force_rows(X: CsrMatrix, rows: AnyArray, n_neighbors: int, Y: CsrMatrix | None = None) -> Neighbors:
    """Neighbours of some rows by scipy's product in float64, for matrices too large for `naive_kneighbors`.

    Products are summed in order of columns, so for float32 weights the answer is that of `cosine_kneighbors`, bit for
    bit.

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
        Arrays of shape (m, k), by similarity descending, then row ascending; -1 and minus infinity in empty slots.
    """
    transposed = (X if Y is None else Y).astype(np.float64).T.tocsr()
    indices = np.full((len(rows), n_neighbors), -1, np.int64)
    similarities = np.full((len(rows), n_neighbors), -np.inf, np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        queries = X[rows[start : start + _ROWS_AT_ONCE]].astype(np.float64)
        queries.sort_indices()
        product = queries @ transposed
        for i, row in enumerate(rows[start : start + _ROWS_AT_ONCE]):
            part = slice(product.indptr[i], product.indptr[i + 1])
            others, values = product.indices[part], product.data[part].astype(np.float32)
            keep = values >= _largest(values, n_neighbors + 1)
            keep &= others != (row if Y is None else -1)
            others, values = others[keep], values[keep]
            order = np.lexsort((others, -values))[:n_neighbors]
            indices[start + i, : order.size] = others[order]
            similarities[start + i, : order.size] = values[order]
    return indices, similarities


def _largest(values: AnyArray, place: int) -> float:
    """The value at a place, from 1 on, of the descending order, or minus infinity where there are not so many."""
    return float(np.partition(values, -place)[-place]) if place <= values.size else -np.inf
