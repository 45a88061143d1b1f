"""Hypothesis strategies of small sparse matrices of unit rows, each shape hard on a kernel in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from noveltyflow.types import AnyArray, CsrMatrix

if TYPE_CHECKING:
    from hypothesis import strategies as st


def unit_rows(dense: AnyArray) -> CsrMatrix:
    """CSR matrix of float32 of the rows of `dense`, divided by their norms; zero rows stay empty."""
    from scipy.sparse import csr_matrix

    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    return csr_matrix(np.divide(dense, norms, out=np.zeros(dense.shape), where=norms > 0).astype(np.float32))


def _random(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    return rng.random((rows, columns)) * (rng.random((rows, columns)) < rng.random())


def _skewed(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    """Column frequencies and weights over many orders of magnitude, as in text."""
    used = rng.random((rows, columns)) < 1 / (1 + np.arange(columns))
    return used * 10.0 ** rng.uniform(-6, 0, (rows, columns))


def _alike_but_one(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    """All rows identical up to one column."""
    dense = np.tile(rng.random(columns) + 0.1, (rows, 1))
    dense[np.arange(rows), rng.integers(columns, size=rows)] = rng.random() * 2
    return dense


def _disjoint(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    """No two rows share a column, as far as there are columns enough."""
    dense = np.zeros((rows, max(rows, columns)))
    dense[np.arange(rows), np.arange(rows)] = rng.random(rows) + 0.1
    return dense


def _common_column(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    """One column in every row."""
    dense = _random(rng, rows, columns)
    dense[:, rng.integers(columns)] = rng.random() + 0.01
    return dense


def _short_and_long(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    """Rows with one non-zero among rows with all of them."""
    dense = rng.random((rows, columns)) + 0.01
    short = np.flatnonzero(rng.random(rows) < 0.5)
    dense[short] = 0
    dense[short, rng.integers(columns, size=short.size)] = 1
    return dense


def _duplicates(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    """Few distinct rows, each many times: everything is a tie."""
    distinct = _random(rng, 1 + rows // 8, columns)
    chosen: AnyArray = distinct[rng.integers(len(distinct), size=rows)]
    return chosen


def _mostly_empty(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    return _random(rng, rows, columns) * (rng.random((rows, 1)) < 0.2)


def _signed(rng: np.random.Generator, rows: int, columns: int) -> AnyArray:
    signed: AnyArray = _random(rng, rows, columns) * rng.choice([-1.0, 1.0], (rows, columns))
    return signed


SHAPES: dict[str, Callable[[np.random.Generator, int, int], AnyArray]] = {
    "random": _random,
    "skewed": _skewed,
    "alike but one": _alike_but_one,
    "disjoint": _disjoint,
    "common column": _common_column,
    "short and long": _short_and_long,
    "duplicates": _duplicates,
    "mostly empty": _mostly_empty,
    "signed": _signed,
}
"""Makers of dense matrices by name: each takes a generator, a number of rows and a number of columns."""


def unit_matrices(shape: str, *, max_rows: int = 40, max_columns: int = 30) -> st.SearchStrategy[CsrMatrix]:
    """Matrices of one of the `SHAPES`.

    Parameters
    ----------
    shape : str
        Key of `SHAPES`.
    max_rows, max_columns : int
        Largest size; a shape that needs more columns takes them.
    """
    # Late: benchmarks take the shapes alone, on machines that have no hypothesis.
    from hypothesis import strategies as st

    def make(seed: int, rows: int, columns: int) -> CsrMatrix:
        return unit_rows(SHAPES[shape](np.random.default_rng(seed), rows, columns))

    return st.builds(make, st.integers(0, 2**32 - 1), st.integers(1, max_rows), st.integers(1, max_columns))
