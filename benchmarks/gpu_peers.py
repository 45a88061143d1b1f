"""The same tile by other ways than the GPU kernel, for `benchmarks/gpu.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gpu_bench import Bench, K, say, timed
from gpu_machine import cpu_kernel

from noveltyflow.similarity.tiles import Block
from noveltyflow.similarity.topk import TopK

_MOST_PRODUCTS = 1 << 30
STRETCH = 64
"""Neighbouring rows that the CPU kernel searches for in one call."""


def peers(bench: Bench, matrix: Any, rows: Block, known: TopK | None) -> None:
    """Neighbours of some rows among all by other ways; all but the CPU kernel leave out the choice of the best k."""
    n = matrix.shape[0]
    say(
        f"\n## Other ways, scaled to {n:,} rows among {n:,}\n\n| way | measured | all rows, s |\n|---|---|---|"
    )
    ways: dict[str, Callable[[], tuple[str, float]]] = {
        "CPU kernel, 2 threads": lambda: on_cpu(bench, matrix, rows, 2, known),
        "CPU kernel, all threads": lambda: on_cpu(bench, matrix, rows, os.cpu_count() or 1, known),
        "cupyx sparse product, float32": lambda: sparse_product(bench, matrix),
        "dense half-precision product": lambda: dense_product(bench, matrix[rows.start : rows.stop], n),
    }
    for name, way in ways.items():
        if not bench.lacks(45, name):
            say(f"| {name} | {outcome(way)} |")


def outcome(way: Callable[[], tuple[str, float]]) -> str:
    """Text and seconds; a way that fails here, or needs a package that is absent, does not end the others."""
    try:
        measured, seconds = way()
    except Exception as error:
        return f"failed: {type(error).__name__}: {str(error)[:120]} | -"
    return f"{measured} | {seconds:.2f}"


def on_cpu(
    bench: Bench, matrix: Any, rows: Block, threads: int, known: TopK | None, wanted: float = 5.0
) -> tuple[str, float]:
    """The CPU kernel for as many stretches of the rows as take some seconds, compared with what was found."""
    kernel = cpu_kernel()
    _cpu_search(
        kernel, matrix, [rows.start], kernel.prepare(matrix[:64], K), threads
    )  # compiles what is not yet
    start = time.perf_counter()
    prepared = kernel.prepare(matrix, K, threads=threads)
    preparing = time.perf_counter() - start
    last, stretches, seconds = max(rows.start, rows.stop - STRETCH), 2 * threads, 0.0
    while seconds < wanted / 4 and stretches * STRETCH < 4 * rows.n_rows:
        starts = [int(start) for start in np.linspace(rows.start, last, stretches)]
        start = time.perf_counter()
        found = _cpu_search(kernel, matrix, starts, prepared, threads)
        seconds = time.perf_counter() - start
        stretches *= 4
    m = sum(best.n_rows for best in found)
    text = f"{m:,} rows in {seconds:.2f} s, prepared in {preparing:.2f} s"
    if known is not None:
        same = True
        for first, best in zip(starts, found, strict=True):
            expected = known.rows(first - rows.start, first - rows.start + best.n_rows)
            same &= np.array_equal(best.indices, expected.indices)
            same &= np.array_equal(best.similarities, expected.similarities)
        text += f", same bits as the GPU: {bench.check('cpu', same)}"
    return text, preparing + seconds * matrix.shape[0] / m


def _cpu_search(kernel: Any, matrix: Any, starts: list[int], prepared: Any, threads: int) -> list[TopK]:
    """Neighbours of the rows of a stretch from each of `starts` on."""

    def stretch(start: int) -> TopK:
        queries = matrix[start : start + STRETCH]
        empty = TopK.empty(queries.shape[0], K)
        found, _ = kernel.compute(queries, prepared, empty, queries_start=start, candidates_start=0)
        return found

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(stretch, starts))


def sparse_product(bench: Bench, matrix: Any) -> tuple[str, float]:
    """Sparse times sparse in chunks; that the product is right is looked at too.

    A chunk is as many rows, evenly spread, as have no more products than the library can count.
    """
    sparse = bench.gpu.sparse
    n = matrix.shape[0]
    frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
    spread = np.linspace(0, n - 1, min(n, 256), dtype=int)
    products = np.array([frequency[matrix[row].indices].sum() for row in spread])
    step = max(1, -(-int(products.sum()) // _MOST_PRODUCTS))
    some = matrix[spread[step // 2 :: step]]
    others, queries = sparse.csr_matrix(matrix).T.tocsr(), sparse.csr_matrix(some)
    queries @ others
    with timed(bench.gpu) as spent:
        product = queries @ others
    # In float64, the sum of all products is the product of the sums of rows.
    sums = (np.asarray(part.sum(axis=0, dtype=np.float64)).ravel() for part in (some, matrix))
    expected = float(np.dot(*sums))
    right = abs(float(product.sum(dtype=np.float64)) - expected) <= 1e-3 * expected
    m = queries.shape[0]
    return f"{m:,} rows in {spent.value:.3f} s, sum {'right' if right else 'WRONG'}", spent.value * n / m


def dense_product(bench: Bench, rows: Any, n: int, taken: int = 4096) -> tuple[str, float]:
    """Dense halves of the columns in use; only as much as one product of some rows needs."""
    xp, sparse = bench.gpu.device.xp, bench.gpu.sparse
    some = rows[:taken]
    used, columns = np.unique(some.indices, return_inverse=True)
    compact = sparse.csr_matrix(
        (xp.asarray(some.data), xp.asarray(columns.astype(np.int32)), xp.asarray(some.indptr)),
        shape=(some.shape[0], len(used)),
    )
    dense = compact.toarray().astype(np.float16)
    out = xp.empty((some.shape[0],) * 2, np.float16)
    bench.gpu.device.matmul(dense, dense.T, out)
    with timed(bench.gpu) as spent:
        bench.gpu.device.matmul(dense, dense.T, out)
    m, total = some.shape[0], int(np.count_nonzero(np.bincount(rows.indices)))
    scale = (n / m) ** 2 * total / len(used)
    return f"{m:,} x {m:,} over {len(used):,} columns in {spent.value:.3f} s", spent.value * scale
