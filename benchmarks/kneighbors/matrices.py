"""Matrices of the cases, made by the package's own functions, and how they pass between processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from kneighbors.cases import Case, Part, Shape
from kneighbors.lists import read_parts
from noveltyflow.config import FeatureSettings, UrlSettings
from noveltyflow.features import frequency
from noveltyflow.features.hashing import hash_block
from noveltyflow.features.weighting import inverse_document_frequency, weight_block
from noveltyflow.types import CsrMatrix
from noveltyflow.urls.canonical import canonicalize

_ARRAYS = ("data", "indices", "indptr")
_LONG_ROW = 20_000


def save_matrix(case: Case, folder: Path) -> None:
    """Make the matrix of a case and store its arrays in `folder`.

    Raises
    ------
    MissingListError
        If a list that the case is made of cannot be had.
    """
    matrix = build(case, folder.parent)
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(matrix, name))
    np.save(folder / "shape.npy", matrix.shape)


def load_matrix(folder: Path) -> CsrMatrix:
    """The matrix that `save_matrix` stored."""
    parts = tuple(np.load(folder / f"{name}.npy") for name in _ARRAYS)
    matrix = sp.csr_matrix(parts, shape=tuple(np.load(folder / "shape.npy").tolist()), copy=False)
    matrix.has_canonical_format = True
    return matrix


def csr_bytes(matrix: CsrMatrix) -> int:
    """Bytes of the three arrays of a CSR matrix."""
    return sum(getattr(matrix, name).nbytes for name in _ARRAYS)


def build(case: Case, scratch: Path) -> CsrMatrix:
    """Unit rows of a case, in SURT order unless it asks for another; downloads go to `scratch`."""
    rng = np.random.default_rng(0)
    if isinstance(case.content, str):
        return _SHAPES[case.content](case, rng)
    parts = read_parts(case.content, scratch)
    urls = distinct_in_order(
        [text for part, texts in parts for text in _drawn(part, texts, rng)], UrlSettings()
    )
    if case.shuffled:
        urls = [urls[row] for row in rng.permutation(len(urls))]
    return _from_texts([_host_and_path(url) for url in urls] if case.text == "host and path" else urls, case)


def _drawn(part: Part, texts: list[str], rng: np.random.Generator) -> list[str]:
    """Rows of distinct texts of a part; the first n of one random order, so that small samples are nested."""
    distinct = list(dict.fromkeys(texts))
    if part.rows is None:
        return distinct
    return [distinct[row] for row in rng.permutation(len(distinct))[: part.rows]]


def distinct_in_order(texts: Sequence[str], settings: UrlSettings) -> list[str]:
    """Distinct canonical URLs by (SURT, URL), as the rows of a run; what is no URL is left out."""
    batch = canonicalize(texts, settings)
    keys = {(surt, url) for surt, url in zip(batch.surts, batch.urls, strict=True) if surt and url}
    return [url for _, url in sorted(keys)]


def _host_and_path(url: str) -> str:
    return "//" + url.partition("://")[2].removeprefix("www.")


def weigh(
    blocks: Sequence[CsrMatrix], features: FeatureSettings, *, idf: bool = True, threads: int = 1
) -> CsrMatrix:
    """Unit rows of blocks of counts, weighted as in a run, or without idf, as one matrix."""
    table = None
    if idf:
        counted = (frequency.chunk(block.indices, block.shape[1]) for block in blocks)
        seen = frequency.finalize(frequency.combine(counted))
        n_rows = sum(block.shape[0] for block in blocks)
        table = inverse_document_frequency(seen, n_rows, features.smooth_idf)
    with ThreadPoolExecutor(threads) as pool:
        return sp.vstack(list(pool.map(partial(weight_block, idf=table, settings=features), blocks)), "csr")


def _from_texts(texts: list[str], case: Case) -> CsrMatrix:
    return weigh([hash_block(texts, case.features)], case.features, idf=case.idf)


def _one_digit(case: Case, rng: np.random.Generator) -> CsrMatrix:
    digits = rng.integers(10, size=case.rows)
    return _from_texts(
        [f"https://www.example.gov/reports/archive/page-{digit}.html" for digit in digits], case
    )


def _numbered(case: Case, rng: np.random.Generator) -> CsrMatrix:
    numbers = np.sort(rng.choice(10 * case.rows, case.rows, replace=False))
    return _from_texts([f"https://www.example.gov/reports/archive/page-{n:07}.html" for n in numbers], case)


def _disjoint(case: Case, rng: np.random.Generator) -> CsrMatrix:
    columns = np.arange(5 * case.rows).reshape(case.rows, 5)
    return _unit_rows([np.sort(row) for row in columns], rng, case)


def _common_column(case: Case, rng: np.random.Generator) -> CsrMatrix:
    rare = rng.integers(1, case.features.n_features, size=(case.rows, 30))
    return _unit_rows([np.union1d(row, [0]) for row in rare], rng, case)


def _short_and_long(case: Case, rng: np.random.Generator) -> CsrMatrix:
    """One row in a thousand has 20,000 columns, the others have one."""
    sizes = np.where(np.arange(case.rows) % 1000 == 0, _LONG_ROW, 1)
    rows = [np.unique(rng.integers(2 * _LONG_ROW, size=size)) for size in sizes]
    return _unit_rows(rows, rng, case)


def _nearly_tied(case: Case, rng: np.random.Generator) -> CsrMatrix:
    """One column has nearly all weight of every row; sixty others, each in about 40 rows, hardly tell rows apart."""
    light, each = 0.03, 60
    others = 1 + np.sort(rng.integers(case.rows * each // 40, size=(case.rows, each)), axis=1)
    weights = 0.5 + rng.random((case.rows, each))
    weights *= light / np.linalg.norm(weights, axis=1, keepdims=True)
    columns = np.hstack([np.zeros((case.rows, 1), np.int64), others])
    data = np.hstack([np.full((case.rows, 1), (1 - light**2) ** 0.5), weights]).astype(np.float32)
    indptr = np.arange(case.rows + 1) * (each + 1)
    matrix = sp.csr_matrix((data.ravel(), columns.ravel(), indptr), (case.rows, case.features.n_features))
    matrix.sum_duplicates()
    return matrix


def _unit_rows(
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]], rng: np.random.Generator, case: Case
) -> CsrMatrix:
    """Rows with random weights in the given columns."""
    indptr = np.cumsum([0, *map(len, rows)])
    counts = rng.integers(1, 4, size=indptr[-1]).astype(np.float32)
    matrix = sp.csr_matrix(
        (counts, np.concatenate(rows), indptr), shape=(len(rows), case.features.n_features)
    )
    return weight_block(matrix, None, case.features)


_SHAPES: dict[Shape, Callable[[Case, np.random.Generator], CsrMatrix]] = {
    "one digit": _one_digit,
    "numbered": _numbered,
    "disjoint": _disjoint,
    "common column": _common_column,
    "short and long": _short_and_long,
    "nearly tied": _nearly_tied,
}
