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

from noveltyflow.similarity.tiles import Block, split_rows
from noveltyflow.similarity.topk import TopK


def peers(bench: Bench, tile: Any, known: TopK | None) -> None:
    """The same tile by other ways; their times are scaled from a part, and leave out the choice of the best k."""
    say("\n## Other ways, scaled to the same tile\n\n| way | measured | whole tile, s |\n|---|---|---|")
    ways: dict[str, Callable[[], tuple[str, float]]] = {
        "CPU kernel, 2 threads": lambda: on_cpu(bench, tile, 2, known),
        "CPU kernel, all threads": lambda: on_cpu(bench, tile, os.cpu_count() or 1, known),
        "cupyx sparse product, float32": lambda: sparse_product(bench, tile),
        "dense half-precision product": lambda: dense_product(bench, tile),
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
    bench: Bench, rows: Any, threads: int, known: TopK | None, wanted: float = 5.0
) -> tuple[str, float]:
    """The CPU kernel for as many rows as take some seconds, compared with what the GPU found."""
    kernel = cpu_kernel()
    tiny = rows[:64]
    _cpu_search(kernel, tiny, kernel.prepare(tiny), threads)  # compiles, or loads what was compiled
    start = time.perf_counter()
    prepared = kernel.prepare(rows)
    preparing = time.perf_counter() - start
    n, m, seconds = rows.shape[0], min(rows.shape[0], 64 * threads), 0.0
    while seconds < wanted / 4:
        m = min(m if seconds == 0.0 else 4 * m, n)
        start = time.perf_counter()
        found = _cpu_search(kernel, rows[:m], prepared, threads)
        seconds = time.perf_counter() - start
        if m == n:
            break
    text = f"{m:,} rows in {seconds:.2f} s, prepared in {preparing:.2f} s"
    if known is not None:
        same = np.array_equal(found.indices, known.indices[:m])
        same &= np.array_equal(found.similarities, known.similarities[:m])
        text += f", same bits as the GPU: {bench.check('cpu', same)}"
    return text, preparing + seconds * n / m


def _cpu_search(kernel: Any, queries: Any, prepared: Any, threads: int, part_rows: int = 32) -> TopK:
    best = TopK.empty(queries.shape[0], K)

    def part(block: Block) -> None:
        known, stop = best.rows(block.start, block.stop), block.stop
        starts = {"queries_start": block.start, "candidates_start": 0}
        found, _ = kernel.compute(queries[block.start : stop], prepared, known, **starts)
        known.similarities[:], known.indices[:] = found.similarities, found.indices

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, split_rows(queries.shape[0], part_rows)))
    return best


def sparse_product(bench: Bench, tile: Any, rows: int = 1024) -> tuple[str, float]:
    """Sparse times sparse in chunks; that the product is right is looked at too."""
    sparse = bench.gpu.sparse
    others, queries = sparse.csr_matrix(tile).T.tocsr(), sparse.csr_matrix(tile[:rows])
    queries @ others
    with timed(bench.gpu) as spent:
        product = queries @ others
    expected = (tile[:rows].astype(np.float64) @ tile.astype(np.float64).T).sum()
    right = abs(float(product.sum()) - expected) <= 1e-3 * expected
    m = queries.shape[0]
    return (
        f"{m:,} rows in {spent.value:.3f} s, sum {'right' if right else 'WRONG'}",
        spent.value * tile.shape[0] / m,
    )


def dense_product(bench: Bench, tile: Any, rows: int = 4096) -> tuple[str, float]:
    """Dense halves of the columns in use; only as much as one product of some rows needs."""
    xp, sparse = bench.gpu.device.xp, bench.gpu.sparse
    some = tile[:rows]
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
    m, total = some.shape[0], int(np.count_nonzero(np.bincount(tile.indices)))
    scale = (tile.shape[0] / m) ** 2 * total / len(used)
    return f"{m:,} x {m:,} over {len(used):,} columns in {spent.value:.3f} s", spent.value * scale
