"""Texts to hashed n-gram counts, equal to scikit-learn's `HashingVectorizer(norm=None)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from noveltyflow.config import FeatureSettings
from noveltyflow.features import _kernels
from noveltyflow.features.text import PreparedTexts, prepare_texts
from noveltyflow.types import AnyArray, CsrMatrix, Int64Array

_ANALYZERS = {"char": _kernels.CHAR, "char_wb": _kernels.CHAR_WB, "word": _kernels.WORD}
_WORD_BYTES = np.array([code >= 128 or chr(code).isalnum() or chr(code) == "_" for code in range(256)])
"""Bytes that belong to a token: ASCII letters, digits, underscore, and every byte of a longer code point."""
_MAX_INT32 = np.iinfo(np.int32).max
_EXACT_IN_FLOAT32 = 1 << 24
_DIGIT_BITS = 8


def hash_block(texts: Sequence[str], settings: FeatureSettings) -> CsrMatrix:
    """Count the hashed n-grams of each text.

    Parameters
    ----------
    texts : sequence of str, length n
    settings : FeatureSettings

    Returns
    -------
    scipy.sparse.csr_matrix of shape (n, settings.n_features)
        Term counts, float32 (float64 if a text is so long that a count might exceed 2**24); columns ascend within
        a row and occur once. A row depends on its text and the settings alone.

    Raises
    ------
    InputError
        A text is not a str, or has no UTF-8 form (a lone surrogate).

    Notes
    -----
    Column: abs(MurmurHash3_x86_32(n-gram in UTF-8, seed 0) as int32) % n_features.
    """
    return hash_texts(texts, settings, signed=False, dtype=np.float32)


def hash_texts(texts: Sequence[str], settings: FeatureSettings, *, signed: bool, dtype: Any) -> CsrMatrix:
    """`hash_block` with the choice of alternating signs and of the smallest type of the counts.

    With `signed`, n-grams whose hash is negative count -1; a sum of zero stays stored, as in scikit-learn.
    """
    prepared = prepare_texts(texts, settings.analyzer, settings.lowercase)
    bounds = _bounds(prepared, settings)
    exact = bounds.most_keys <= _EXACT_IN_FLOAT32 or np.dtype(dtype) != np.float32
    indptr = np.empty(len(texts) + 1, np.int64)
    indices = np.empty(bounds.all_keys, np.int32)
    data = np.empty(bounds.all_keys, dtype if exact else np.float64)
    _kernels.hash_rows(
        *prepared,
        _ANALYZERS[settings.analyzer],
        _WORD_BYTES,
        *settings.ngram_range,
        settings.n_features,
        signed,
        *_digits(settings.n_features, signed),
        bounds.longest,
        bounds.most_keys,
        indptr,
        indices,
        data,
    )
    return _as_csr(indptr, indices, data, settings.n_features)


class _Bounds(NamedTuple):
    """What must be allocated, at most."""

    longest: int
    """Bytes of the longest text."""
    most_keys: int
    """N-grams of the text with the most."""
    all_keys: int
    """N-grams of all texts."""


def _bounds(prepared: PreparedTexts, settings: FeatureSettings) -> _Bounds:
    lengths = np.diff(prepared.offsets)
    units = _unit_bounds(lengths, settings.analyzer)
    shortest, longest = settings.ngram_range
    keys = units * np.maximum(np.minimum(longest, units) - shortest + 1, 1)
    return _Bounds(int(lengths.max(initial=0)), int(keys.max(initial=0)), int(keys.sum()))


def _unit_bounds(lengths: Int64Array, analyzer: str) -> Int64Array:
    """At most this many n-grams of one length come from a text of so many bytes."""
    if analyzer == "char":
        return lengths
    if analyzer == "char_wb":
        # Neighbouring words share the space between them, and a word has at least one byte.
        return lengths + lengths // 2
    return (lengths + 1) // 3


def _digits(n_features: int, signed: bool) -> tuple[int, int]:
    """Number of passes and bits per pass of a radix sort of the keys."""
    bits = max((n_features - 1).bit_length() + signed, 1)
    passes = -(-bits // _DIGIT_BITS)
    return passes, -(-bits // passes)


def _as_csr(indptr: Int64Array, indices: AnyArray, data: AnyArray, n_features: int) -> CsrMatrix:
    nnz = int(indptr[-1])
    # In place: the allocation was for the largest possible number of entries, and shrinks to the real one.
    indices.resize(nnz, refcheck=False)
    data.resize(nnz, refcheck=False)
    # scipy wants one type for both; int32 as long as it can count the entries.
    if nnz <= _MAX_INT32:
        indptr = indptr.astype(np.int32)  # type: ignore[assignment]
    else:
        indices = indices.astype(np.int64)
    matrix = sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, n_features), copy=False)
    matrix.has_canonical_format = True
    return matrix
