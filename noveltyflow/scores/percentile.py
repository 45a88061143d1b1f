"""Percentile ranks as a distributed reduction with a bounded table.

Novelties are counted in bins of width 1e-6, so that the table has 8 MB whatever the number of rows; the ranks
are exact for novelties rounded to six decimals. Novelties that round to the same number share their rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from noveltyflow.types import Float32Array, Float64Array, Int64Array

RESOLUTION = 1e-6
"""Novelties are ranked after rounding to a multiple of this."""
_BINS = 1_000_001


def chunk(novelty: Float32Array) -> Int64Array:
    """Count the novelties of a block.

    Parameters
    ----------
    novelty : float array of shape (n,), in [0, 1]

    Returns
    -------
    int64 array of shape (1000001,)

    Raises
    ------
    ValueError
        A novelty is NaN or outside [0, 1].
    """
    return np.bincount(_bins(novelty), minlength=_BINS).astype(np.int64, copy=False)


def combine(parts: Iterable[Int64Array]) -> Int64Array:
    """Sum one or more counts; associative and commutative, parts unchanged."""
    parts = iter(parts)
    total = next(parts).copy()
    for part in parts:
        total += part
    return total


def finalize(counts: Int64Array) -> Float64Array:
    """Percentile rank of each bin: 100 (values below + half of the values equal) / n.

    Parameters
    ----------
    counts : int64 array of shape (1000001,)

    Returns
    -------
    float64 array of shape (1000001,)
        In [0, 100]; all 0 if nothing was counted. The definition is the kind `mean` of
        `scipy.stats.percentileofscore`.
    """
    below = np.cumsum(counts) - counts
    n = max(int(counts.sum()), 1)
    ranks: Float64Array = 100.0 * (below + 0.5 * counts) / n
    return ranks


def percentile(novelty: Float32Array, ranks: Float64Array) -> Float32Array:
    """Percentile ranks of a block.

    Parameters
    ----------
    novelty : float array of shape (n,), in [0, 1]
    ranks : float64 array of shape (1000001,)
        What `finalize` gave for all blocks.

    Returns
    -------
    float32 array of shape (n,)
        In [0, 100].
    """
    return ranks[_bins(novelty)].astype(np.float32)


def _bins(novelty: Float32Array) -> Int64Array:
    if not bool(np.all((novelty >= 0) & (novelty <= 1))):
        wrong = novelty[~((novelty >= 0) & (novelty <= 1))][0]
        raise ValueError(f"novelty must lie in [0, 1], not {wrong}")
    return np.rint(novelty.astype(np.float64) / RESOLUTION).astype(np.int64)
