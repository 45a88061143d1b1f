"""Counts to unit rows: tf-idf as scikit-learn's `TfidfTransformer` has it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from noveltyflow.config import FeatureSettings
from noveltyflow.features import _weights
from noveltyflow.types import CsrMatrix, Float64Array, Int64Array


def inverse_document_frequency(document_frequency: Int64Array, n_rows: int, smooth_idf: bool) -> Float64Array:
    """Weight of each column.

    Parameters
    ----------
    document_frequency : int64 array of shape (n_features,)
        In how many of the rows each column occurs.
    n_rows : int
    smooth_idf : bool
        ln((n + 1) / (df + 1)) + 1 if set, ln(n / df) + 1 otherwise, as in scikit-learn.

    Returns
    -------
    float64 array of shape (n_features,)
        Positive and finite. Without smoothing, a column in no row is weighted like one in a single row
        (scikit-learn: infinity), so that a URL with n-grams not seen before can still be weighted.
    """
    smooth = int(smooth_idf)
    frequency = np.maximum(document_frequency + smooth, 1).astype(np.float64)
    idf: Float64Array = np.log(max(n_rows + smooth, 1) / frequency) + 1.0
    return idf


def weight_block(
    counts: CsrMatrix, idf: Float64Array | None, settings: FeatureSettings, *, overwrite: bool = False
) -> CsrMatrix:
    """Weigh term counts and scale every row to unit length.

    Parameters
    ----------
    counts : csr_matrix of shape (n, n_features)
        Positive counts with sorted columns, as `hash_block` gives them.
    idf : float64 array of shape (n_features,), or None
        None weighs all columns alike.
    settings : FeatureSettings
        `sublinear_tf` is used.
    overwrite : bool
        Put the weights where the counts are, if those are float32; `counts` must not be used any more.

    Returns
    -------
    csr_matrix of shape (n, n_features)
        float32, computed in float64 and rounded once; it shares `indices` and `indptr` with `counts`. A row
        without entries stays empty. A row depends on its own counts and the idf alone, to the bit.

    Raises
    ------
    ValueError
        `idf` has another length than rows have columns.
    """
    if idf is not None and idf.shape != (counts.shape[1],):
        raise ValueError(f"idf has shape {idf.shape}, but the block has {counts.shape[1]} columns")
    in_place = overwrite and counts.data.dtype == np.float32
    weights = counts.data if in_place else np.empty(len(counts.data), np.float32)
    table = np.empty(0, np.float64) if idf is None else idf
    _weights.weigh_rows(counts.indptr, counts.indices, counts.data, table, settings.sublinear_tf, weights)
    block = sp.csr_matrix((weights, counts.indices, counts.indptr), shape=counts.shape, copy=False)
    block.has_canonical_format = True
    return block
