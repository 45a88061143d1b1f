"""How novel a row is, from the similarities of its nearest neighbours.

An empty slot (`-inf`) counts as similarity 0, whether the row shares no feature with any other or the list
has fewer than k other rows: in both cases there is nothing more alike. A row without any neighbour has
novelty 1, and novelty is never NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from noveltyflow.errors import SettingsError
from noveltyflow.types import Float32Array, Float64Array

Score: TypeAlias = Callable[[Float32Array], Float32Array]
"""From similarities of shape (n, k), descending in each row, to novelties of shape (n,)."""


def nearest(similarities: Float32Array) -> Float32Array:
    """1 - s_1: distance to the nearest neighbour."""
    return _novelty(_filled(similarities)[:, 0])


def kth(similarities: Float32Array) -> Float32Array:
    """1 - s_k: distance to the k-th neighbour, so that a crowd of fewer than k + 1 rows is novel."""
    return _novelty(_filled(similarities)[:, -1])


def mean(similarities: Float32Array) -> Float32Array:
    """1 - mean(s): mean distance to the k neighbours."""
    return _novelty(_filled(similarities).mean(axis=1))


def median(similarities: Float32Array) -> Float32Array:
    """1 - median(s): median distance to the k neighbours."""
    return _novelty(np.median(_filled(similarities), axis=1))


SCORES: Mapping[str, Score] = MappingProxyType(
    {"nearest": nearest, "kth": kth, "mean": mean, "median": median}
)
"""All scores by name."""


def novelty(similarities: Float32Array, score: str = "nearest") -> Float32Array:
    """Score a block of rows.

    Parameters
    ----------
    similarities : float32 array of shape (n, k), k >= 1
        Cosine similarities, descending in each row; empty slots are -inf and stand last.
    score : {"nearest", "kth", "mean", "median"}

    Returns
    -------
    float32 array of shape (n,)
        In [0, 1]; higher is more novel. Computed in float64; a row's novelty depends on that row alone.

    Raises
    ------
    SettingsError
        There is no score of that name.
    """
    if score not in SCORES:
        raise SettingsError(f"no score is called {score!r}; choose one of {', '.join(SCORES)}")
    return SCORES[score](similarities)


def _filled(similarities: Float32Array) -> Float64Array:
    filled: Float64Array = np.where(np.isneginf(similarities), 0.0, similarities.astype(np.float64))
    return filled


def _novelty(similarity: Float64Array) -> Float32Array:
    # Rounding can lift the cosine of equal rows above 1.
    return np.clip(1.0 - similarity, 0.0, 1.0).astype(np.float32)
