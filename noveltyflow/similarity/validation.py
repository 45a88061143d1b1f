"""Checks of what a user hands in, each with an error that names the row and the remedy."""

from __future__ import annotations

import os
from numbers import Integral

import numba
import numpy as np

from noveltyflow.similarity.kernels.scoring import count_below
from noveltyflow.similarity.norms import row_norms
from noveltyflow.types import CsrMatrix, Float32Array, Int32Array, Int64Array

NORM_TOLERANCE = 1e-3
"""How far a row's norm may be from one; float32 rounding of a normalised row stays far below."""
_PARTS = {"csr": "row", "csc": "column", "bsr": "block row"}
"""What `indptr` divides in the formats that have one."""


def as_unit_rows(matrix: CsrMatrix, name: str) -> CsrMatrix:
    """`matrix` as CSR of float32 with sorted columns and no stored zeros, copied only where it must be.

    Raises
    ------
    ValueError
        If it is not two-dimensional, not real or not finite, if a row's entries are not where `indptr` says, if a
        column number is out of range, or a row is neither empty nor of unit norm.
    """
    from scipy.sparse import csr_matrix, issparse

    if not issparse(matrix):
        raise ValueError(f"{name} must be a scipy sparse matrix or array, not {type(matrix).__name__}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, not {matrix.ndim}")
    if matrix.dtype.kind == "c":
        raise ValueError(
            f"{name} must have real weights, not {matrix.dtype}; take {name}.real if that is meant"
        )
    if matrix.shape[1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"{name} has {matrix.shape[1]:,} columns; at most {np.iinfo(np.int32).max:,} can be numbered"
        )
    if matrix.format in _PARTS:
        _check_indptr(matrix, name)
    rows = csr_matrix(matrix, dtype=np.float32)
    _check_columns(rows, name)
    if not rows.has_canonical_format or not rows.data.all():
        rows = rows.copy()  # their columns may be the caller's, whatever became of the weights
        rows.sum_duplicates()
        rows.eliminate_zeros()
    rows.indices = rows.indices.astype(np.int32, copy=False)
    _check_norms(rows, name)
    return rows


def without_lonely_columns(queries: CsrMatrix, others: CsrMatrix) -> tuple[CsrMatrix, CsrMatrix]:
    """The same rows with the columns that a pair of them can share, in their order; similarities stay the same.

    What an index takes for each column would be most of its memory where nearly all are empty or have one row.
    If less than half of the columns would go, everything stays as it is. The new rows take no more than the
    numbers and weights of what is left, and only the numbers where that is all; they can be shorter than one.
    """
    shared = _shared_columns(queries, others)
    if 2 * shared.size > others.shape[1]:
        return queries, others
    narrowed = _with_columns(others, shared)
    return (narrowed if queries is others else _with_columns(queries, shared)), narrowed


def _shared_columns(queries: CsrMatrix, others: CsrMatrix) -> Int32Array:
    """Columns, ascending, that two rows have, or a row of each where these are two matrices."""
    if queries is others:
        return _repeated(others.indices[: others.nnz], 2)
    each = [_repeated(rows.indices[: rows.nnz], 1) for rows in (queries, others)]
    return _repeated(np.concatenate(each), 2)


def _repeated(numbers: Int32Array, times: int) -> Int32Array:
    """The distinct numbers, ascending, that occur at least so many times."""
    ordered = np.sort(numbers)
    return ordered[: _keep_repeated(ordered, times)].copy()


def _with_columns(rows: CsrMatrix, kept: Int32Array) -> CsrMatrix:
    """Rows whose entries in the columns `kept`, ascending, are renumbered by them, and the others left out."""
    indptr, weights = rows.indptr.astype(np.int64), rows.data[: rows.nnz]
    places = np.empty(rows.nnz, np.int32)
    _find_places(kept, indptr, rows.indices, places)
    left = int(np.count_nonzero(places >= 0))
    if left < places.size:
        weights = np.empty(left, np.float32)
        _drop_unknown(indptr, places, rows.data, weights)
        places.resize(left, refcheck=False)
    narrowed = type(rows)((weights, places, indptr), shape=(rows.shape[0], kept.size))
    narrowed.has_canonical_format = True
    return narrowed


@numba.njit(nogil=True, cache=True)
def _keep_repeated(ordered: Int32Array, times: int) -> int:
    """Move the distinct ones of ascending numbers that occur `times` to the front, in place; returns how many."""
    found = run = 0
    last = np.int32(-1)
    for number in ordered:
        run = run + 1 if run > 0 and number == last else 1
        last = number
        if run == times:
            ordered[found] = number
            found += 1
    return found


@numba.njit(nogil=True, cache=True)
def _find_places(kept: Int32Array, indptr: Int64Array, columns: Int32Array, places: Int32Array) -> None:
    """Write where each entry's column stands among `kept`, or -1; both ascend, the columns within each row."""
    for row in range(indptr.size - 1):
        first = 0
        for entry in range(indptr[row], indptr[row + 1]):
            first += count_below(kept[first:], columns[entry])
            known = first < kept.size and kept[first] == columns[entry]
            places[entry] = first if known else -1


@numba.njit(nogil=True, cache=True)
def _drop_unknown(indptr: Int64Array, places: Int32Array, weights: Float32Array, kept: Float32Array) -> None:
    """Move places to the front, in place, where there is one, and their weights to `kept`; `indptr` follows."""
    start = found = 0
    for row in range(indptr.size - 1):
        for entry in range(start, indptr[row + 1]):
            if places[entry] >= 0:
                places[found], kept[found] = places[entry], weights[entry]
                found += 1
        start, indptr[row + 1] = indptr[row + 1], found


def _check_indptr(matrix: CsrMatrix, name: str) -> None:
    starts, ends = matrix.indptr[:-1], matrix.indptr[1:]
    stored = min(len(matrix.indices), len(matrix.data))
    wrong = (starts > ends) | (ends > stored)
    wrong[:1] |= starts[:1] != 0
    if not wrong.any():
        return
    part = int(np.argmax(wrong))
    raise ValueError(
        f"{_PARTS[matrix.format]} {part} of {name} has entries {starts[part]} to {ends[part]}, but indptr must begin "
        f"with 0, never descend and end within the {stored} stored; build {name} anew"
    )


def _check_columns(rows: CsrMatrix, name: str) -> None:
    columns = rows.indices[: rows.nnz]
    if columns.min(initial=0) >= 0 and columns.max(initial=-1) < rows.shape[1]:
        return
    place = int(np.flatnonzero((columns < 0) | (columns >= rows.shape[1]))[0])
    row = int(np.searchsorted(rows.indptr, place, side="right")) - 1
    raise ValueError(
        f"row {row} of {name} has a weight in column {columns[place]}, but columns are numbered from 0 to "
        f"{rows.shape[1] - 1}; remove it or give {name} more columns"
    )


def _check_norms(rows: CsrMatrix, name: str) -> None:
    norms = row_norms(rows.indptr, rows.data)
    wrong = np.flatnonzero(~((np.abs(norms - 1) <= NORM_TOLERANCE) | (np.diff(rows.indptr) == 0)))
    if not wrong.size:
        return
    row = int(wrong[0])
    if not np.isfinite(rows.data[rows.indptr[row] : rows.indptr[row + 1]]).all():
        raise ValueError(f"{name} has a NaN or infinite weight in row {row}; remove or replace it")
    raise ValueError(
        f"row {row} of {name} has norm {norms[row]:.6g}, but rows must have unit norm or be empty; "
        f"use sklearn.preprocessing.normalize({name})"
    )


def check_whole(number: object, name: str) -> None:
    """Refuse what is no integer, and True and False, with a ValueError."""
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise ValueError(f"{name} must be a whole number, not {number!r}")


def count_threads(n_jobs: int | None) -> int:
    """Return the number of threads that scikit-learn's `n_jobs` stands for.

    Raises
    ------
    ValueError
        If `n_jobs` is no integer, is 0, or so negative that no core is left.
    """
    if n_jobs is None:
        return 1
    check_whole(n_jobs, "n_jobs")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = n_jobs if n_jobs > 0 else cores + 1 + n_jobs
    if n_jobs == 0 or threads < 1:
        raise ValueError(f"n_jobs must be positive, or from -1 (all {cores} cores) to -{cores}, not {n_jobs}")
    return threads
