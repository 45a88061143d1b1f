"""scikit-learn as the judge of a run: what it exports is recomputed from its URLs alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from noveltyflow.config import FeatureSettings
from noveltyflow.testing.compare import Neighbors, assert_neighbors_equal, brute_force_rows
from noveltyflow.types import AnyArray, CsrMatrix, Int64Array


def sklearn_weights(urls: Sequence[str], settings: FeatureSettings) -> CsrMatrix:
    """TF-IDF weights of URLs by scikit-learn, rows of unit length, float64, shape (n, n_features)."""
    vectorizer = HashingVectorizer(
        analyzer=settings.analyzer,
        ngram_range=settings.ngram_range,
        lowercase=settings.lowercase,
        n_features=settings.n_features,
        norm=None,
        alternate_sign=False,
    )
    weighting = TfidfTransformer(smooth_idf=settings.smooth_idf, sublinear_tf=settings.sublinear_tf)
    weights: CsrMatrix = weighting.fit_transform(vectorizer.transform(urls))
    return weights


def graph_neighbors(graph: CsrMatrix, rows: Int64Array, n_neighbors: int) -> Neighbors:
    """Some rows of a neighbour graph as `(indices, similarities)`, both of shape (m, n_neighbors), best first."""
    indices = np.full((len(rows), n_neighbors), -1, np.int64)
    similarities = np.full((len(rows), n_neighbors), -np.inf, np.float32)
    for i, row in enumerate(rows):
        part = slice(graph.indptr[row], graph.indptr[row + 1])
        best: AnyArray = np.lexsort((graph.indices[part], -graph.data[part]))
        indices[i, : best.size] = graph.indices[part][best]
        similarities[i, : best.size] = graph.data[part][best]
    return indices, similarities


def assert_graph_equals_sklearn(
    graph: CsrMatrix, urls: Sequence[str], settings: FeatureSettings, n_neighbors: int, rows: Int64Array
) -> None:
    """Require that some rows of a neighbour graph equal brute force over scikit-learn's weights, up to ties.

    Parameters
    ----------
    graph
        What `noveltyflow export RUN graph.npz` gives, shape (n, n).
    urls
        The n exported URLs, in row order.
    settings
        The run's.
    n_neighbors
        Number of neighbours k of each row.
    rows
        Rows to recompute, int64, shape (m,).

    Raises
    ------
    AssertionError
        Naming the first URL whose neighbours differ, with both answers.
    """
    weights = sklearn_weights(urls, settings)
    expected = brute_force_rows(weights, rows, n_neighbors)
    actual = graph_neighbors(graph, rows, n_neighbors)
    for i, row in enumerate(rows):
        real = partial(_products, weights[[row]], weights)
        try:
            assert_neighbors_equal(_one(actual, i), _one(expected, i), real)
        except AssertionError as error:
            raise AssertionError(f"row {row} of the run, {urls[row]}: {error}") from error


def _products(query: CsrMatrix, weights: CsrMatrix, _: int, neighbors: AnyArray) -> AnyArray:
    """Similarities of the only row of `query` to rows of `weights`."""
    products: AnyArray = (query @ weights[neighbors].T).toarray()[0]
    return products


def _one(answers: Neighbors, i: int) -> Neighbors:
    return answers[0][i : i + 1], answers[1][i : i + 1]
