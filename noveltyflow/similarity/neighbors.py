"""Exact cosine neighbours of the rows of a sparse matrix, without Dask."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from noveltyflow.similarity.kernels.base import PreparedBlock, TileKernel, TileStats
from noveltyflow.similarity.kernels.registry import get_kernel
from noveltyflow.similarity.tiles import Block, rows_of, split_rows, strip
from noveltyflow.similarity.topk import TopK
from noveltyflow.similarity.validation import as_unit_rows, check_whole, count_threads, without_lonely_columns
from noveltyflow.types import CsrMatrix, Float32Array, Int64Array

QUERY_ROWS = 2048
"""Query rows of one call of the kernel: few enough to keep all threads busy to the end."""
_MANY_COLUMNS = 1 << 22
"""Columns from which on those that no pair of rows shares are left out: an index takes up to 20 bytes for each."""


def cosine_kneighbors(
    X: CsrMatrix, n_neighbors: int = 10, *, Y: CsrMatrix | None = None, n_jobs: int | None = None
) -> tuple[Int64Array, Float32Array]:
    """Exact nearest neighbours, by cosine similarity, of every row of `X`.

    The result is bit-identical whatever the number of threads. It is quickest where similar rows stand
    near one another, as URLs in SURT order do.

    Parameters
    ----------
    X : sparse matrix, shape (n, n_features)
        Rows of unit Euclidean norm, or empty, in anything that converts to CSR; computed in float32.
    n_neighbors : int
        Number of neighbours k of each row.
    Y : sparse matrix, shape (m, n_features), optional
        Rows among which neighbours are sought; without it those of `X`, where a row is never its own
        neighbour.
    n_jobs : int, optional
        Threads: None means 1, -1 all cores, -2 all but one.

    Returns
    -------
    indices : ndarray of int64, shape (n, k)
        Row numbers of the neighbours, by similarity descending, then row ascending; -1 in empty slots.
        Rows that share no column are not neighbours, so slots can stay empty.
    similarities : ndarray of float32, shape (n, k)
        Their cosine similarities; minus infinity in empty slots.

    Raises
    ------
    ValueError
        If a matrix is not two-dimensional, real or finite, if its `indptr` or a column number is out of range, if
        a row is neither empty nor of unit norm (within 0.001), if the numbers of features differ, or if
        `n_neighbors` or `n_jobs` is no integer or out of range.
    """
    check_whole(n_neighbors, "n_neighbors")
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be at least 1, not {n_neighbors}")
    threads = count_threads(n_jobs)
    queries = as_unit_rows(X, "X")
    others = queries if Y is None else as_unit_rows(Y, "Y")
    if queries.shape[1] != others.shape[1]:
        raise ValueError(f"X has {queries.shape[1]} features but Y has {others.shape[1]}")
    if others.shape[1] > max(_MANY_COLUMNS, max(queries.nnz, others.nnz) // 2):
        queries, others = without_lonely_columns(queries, others)
    best, _ = search(
        queries, others, n_neighbors, get_kernel("auto"), threads=threads, exclude_self=Y is None
    )
    return best.indices, best.similarities


def search(
    queries: CsrMatrix,
    others: CsrMatrix,
    n_neighbors: int,
    kernel: TileKernel,
    *,
    threads: int = 1,
    block_rows: int | None = None,
    query_rows: int = QUERY_ROWS,
    exclude_self: bool = True,
) -> tuple[TopK, TileStats]:
    """Neighbours of validated rows, tile by tile, with the work done.

    Parameters
    ----------
    queries, others : csr_matrix of float32
        As `as_unit_rows` gives them.
    n_neighbors : int
        Number of neighbours of each row.
    kernel : TileKernel
        What computes the tiles.
    threads : int
        Calls of the kernel at a time, and threads that index a block.
    block_rows : int, optional
        Rows of `others` in a block; by default all of them. It does not change the result.
    query_rows : int
        Rows of `queries` in one call. It does not change the result.
    exclude_self : bool
        Leave out the pair of a row with the row of the same number.
    """
    best = TopK.empty(queries.shape[0], n_neighbors)
    stats = TileStats()
    blocks = split_rows(others.shape[0], block_rows or max(others.shape[0], 1))
    parts = split_rows(queries.shape[0], query_rows)
    with ThreadPoolExecutor(threads) as pool:
        for tile in strip(Block(0, 0, queries.shape[0]), blocks):
            block = tile.candidates
            began = time.perf_counter_ns()
            prepared = kernel.prepare(rows_of(others, block), n_neighbors, threads=threads)
            stats += TileStats(preparing_ns=time.perf_counter_ns() - began)
            part_of_tile = partial(_update, kernel, queries, prepared, best, block.start, exclude_self)
            stats = sum(pool.map(part_of_tile, parts), stats)
    return best, stats


def _update(
    kernel: TileKernel,
    queries: CsrMatrix,
    prepared: PreparedBlock,
    best: TopK,
    candidates_start: int,
    exclude_self: bool,
    part: Block,
) -> TileStats:
    """Compute one part of a tile and write it into its own rows of `best`."""
    known = best.rows(part.start, part.stop)
    found, stats = kernel.compute(
        rows_of(queries, part),
        prepared,
        known,
        queries_start=part.start,
        candidates_start=candidates_start,
        exclude_self=exclude_self,
    )
    known.similarities[:] = found.similarities
    known.indices[:] = found.indices
    return stats
