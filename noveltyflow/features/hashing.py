"""Texts to hashed n-gram counts, equal to scikit-learn's `HashingVectorizer(norm=None)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from noveltyflow.config import FeatureSettings
from noveltyflow.features import _kernels, _keys
from noveltyflow.features.text import PreparedTexts, prepare_texts
from noveltyflow.types import AnyArray, CsrMatrix, Int64Array

_EXACT_IN_FLOAT32 = 1 << 24
_BATCH_KEYS = 1 << 19
"""N-grams that are hashed and sorted at a time: what stays in the cache in between."""


def hash_block(texts: Sequence[str], settings: FeatureSettings) -> CsrMatrix:
    """Count the hashed n-grams of each text.

    Parameters
    ----------
    texts : sequence of str, length n
    settings : FeatureSettings

    Returns
    -------
    scipy.sparse.csr_matrix of shape (n, settings.n_features)
        Term counts, float32 (float64 if a text is so long that a count might exceed 2**24); columns ascend
        within a row and occur once. A row depends on its text and the settings alone.

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
    exact = bounds.max(initial=0) <= _EXACT_IN_FLOAT32 or np.dtype(dtype) != np.float32
    builder = _CsrBuilder(len(texts), int(bounds.sum()), dtype if exact else np.float64)
    for rows in _batches(bounds):
        hashes, ends = _hash_batch(prepared, rows, int(bounds[rows].sum()), settings)
        keys, positions = _sorted_keys(hashes, ends, settings.n_features, signed)
        builder.append(keys, positions, np.diff(ends, prepend=0), signed)
    return builder.finish(settings.n_features)


def _batches(bounds: Int64Array) -> Iterator[slice]:
    """Cut rows so that the keys of a batch fit the cache, one very long row excepted."""
    start, n_rows = 0, len(bounds)
    totals = np.cumsum(bounds)
    while start < n_rows:
        before = totals[start - 1] if start else 0
        stop = max(int(np.searchsorted(totals, before + _BATCH_KEYS, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _hash_batch(
    prepared: PreparedTexts, rows: slice, most_keys: int, settings: FeatureSettings
) -> tuple[AnyArray, Int64Array]:
    """Hash values (uint32) of the rows one after another, and where each row ends."""
    offsets = prepared.offsets[rows.start : rows.stop + 1]
    hashes = np.empty(most_keys + _kernels.STRIDE, np.uint32)
    ends = np.empty(rows.stop - rows.start, np.int64)
    longest = int(np.diff(offsets).max())
    how = (*settings.ngram_range, longest, hashes, ends)
    if settings.analyzer == "word":
        _kernels.hash_words(prepared.buffer, offsets, *how)
    else:
        _kernels.hash_rows(prepared.buffer, offsets, settings.analyzer == "char_wb", *how)
    return hashes, ends


def _sorted_keys(
    hashes: AnyArray, ends: Int64Array, n_features: int, signed: bool
) -> tuple[AnyArray, Int64Array]:
    """Keys sorted within each row, and where each row starts.

    Rows of about equal length are padded to a matrix, which numpy sorts line by line, and in vectors.
    """
    counts = np.diff(ends, prepend=0)
    order = np.argsort(counts, kind="stable")
    ascending = counts[order]
    groups = list(_groups(ascending))
    keys = np.empty(sum(len(ascending[g]) * int(ascending[g][-1]) for g in groups), np.uint32)
    positions = np.empty(len(counts), np.int64)
    at = 0
    for group in groups:
        rows, width = order[group], int(ascending[group][-1])
        matrix = keys[at : at + len(rows) * width].reshape(len(rows), width)
        _keys.place_keys(hashes, ends, rows, n_features, signed, matrix)
        matrix.sort(axis=1)
        positions[rows] = np.arange(at, at + matrix.size, width) if width else at
        at += matrix.size
    return keys, positions


def _groups(ascending: Int64Array) -> Iterator[slice]:
    """Cut ascending lengths where they exceed the first of the group by an eighth."""
    start = 0
    while start < len(ascending):
        limit = ascending[start] + ascending[start] // 8 + 4
        stop = int(np.searchsorted(ascending, limit, side="right"))
        yield slice(start, stop)
        start = stop


def _bounds(prepared: PreparedTexts, settings: FeatureSettings) -> Int64Array:
    """At most this many n-grams come from each text."""
    units = _unit_bounds(np.diff(prepared.offsets), settings.analyzer)
    shortest, longest = settings.ngram_range
    bounds: Int64Array = units * np.maximum(np.minimum(longest, units) - shortest + 1, 1)
    return bounds


def _unit_bounds(lengths: Int64Array, analyzer: str) -> Int64Array:
    """At most this many n-grams of one length come from a text of so many bytes."""
    if analyzer == "char":
        return lengths
    if analyzer == "char_wb":
        # Neighbouring words share the space between them, and a word has at least one byte.
        return lengths + lengths // 2
    # A token has at least two bytes, and a space or another separator follows it.
    return lengths // 3


class _CsrBuilder:
    """A CSR matrix that grows batch by batch within memory for the most entries it can have."""

    def __init__(self, n_rows: int, most_entries: int, dtype: Any) -> None:
        self._indptr = np.zeros(n_rows + 1, np.int64)
        self._indices = np.empty(most_entries, np.int32)
        self._data = np.empty(most_entries, dtype)
        self._rows = 0
        self._entries = 0

    def append(self, keys: AnyArray, positions: Int64Array, counts: Int64Array, signed: bool) -> None:
        """Add rows whose sorted keys start at `positions`."""
        indptr = self._indptr[self._rows + 1 :]
        self._entries = _keys.emit_rows(
            keys, positions, counts, signed, self._entries, indptr, self._indices, self._data
        )
        self._rows += len(counts)

    def finish(self, n_features: int) -> CsrMatrix:
        """Give the matrix; the builder is spent."""
        # In place, so that the unused part of the memory goes back without a copy.
        self._indices.resize(self._entries, refcheck=False)
        self._data.resize(self._entries, refcheck=False)
        # scipy brings both index arrays to int32, or to int64 if int32 cannot count the entries.
        parts = (self._data, self._indices, self._indptr)
        matrix = sp.csr_matrix(parts, shape=(self._rows, n_features), copy=False)
        matrix.has_canonical_format = True
        return matrix
