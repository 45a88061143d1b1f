"""`cosine_kneighbors` measured in a process of its own: time, memory, work, exactness."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import psutil

from kneighbors.matrices import csr_bytes, load_matrix
from noveltyflow import cosine_kneighbors
from noveltyflow.similarity.kernels import registry
from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileKernel, TileStats
from noveltyflow.similarity.tiles import Block, rows_of
from noveltyflow.similarity.topk import TopK
from noveltyflow.testing.compare import Neighbors, brute_force_rows
from noveltyflow.types import CsrMatrix, Int64Array

THREADS = 2
LONG_SECONDS = 120.0
"""A run that takes longer is not repeated."""
_RUNS = 3
_CHECKED_ROWS = 200
_SAMPLED_ROWS = 2_000
_WARM_UP_ROWS = 64


@dataclass(frozen=True)
class OurResult:
    """What was measured for one matrix.

    Attributes
    ----------
    rows, nonzeros : int
        Size of the matrix.
    csr_bytes : int
        Bytes of the matrix itself.
    seconds : tuple of float
        Wall-clock time of every run.
    peak_bytes : int
        Most resident memory during the first run, beyond what was resident before it.
    work : TileStats
        Of one run.
    slowest_share : float
        Share of the multiply-adds that the costliest hundredth of a sample of rows takes.
    checked_rows : int
        Random rows that were found equal to brute force in float64, bit for bit.
    """

    rows: int
    nonzeros: int
    csr_bytes: int
    seconds: tuple[float, ...]
    peak_bytes: int
    work: TileStats
    slowest_share: float
    checked_rows: int

    @property
    def median_seconds(self) -> float:
        """Median of the runs."""
        return statistics.median(self.seconds)


@dataclass
class _Counting:
    """The kernel `inner`, with the work of all its calls added up."""

    inner: TileKernel
    work: TileStats = field(default_factory=TileStats)
    _lock: Lock = field(default_factory=Lock)

    @property
    def name(self) -> str:
        return self.inner.name

    def is_usable(self) -> bool:
        return self.inner.is_usable()

    def prepare_bytes(self, candidates: BlockShape) -> int:
        return self.inner.prepare_bytes(candidates)

    def compute_bytes(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        return self.inner.compute_bytes(queries, candidates, n_neighbors)

    def prepare(self, block: CsrMatrix, n_neighbors: int, *, threads: int = 1) -> PreparedBlock:
        began = time.perf_counter_ns()
        prepared = self.inner.prepare(block, n_neighbors, threads=threads)
        self._add(TileStats(preparing_ns=time.perf_counter_ns() - began))
        return prepared

    def compute(
        self,
        queries: CsrMatrix,
        candidates: PreparedBlock,
        best: TopK,
        *,
        queries_start: int,
        candidates_start: int,
        exclude_self: bool = True,
    ) -> tuple[TopK, TileStats]:
        found, work = self.inner.compute(
            queries,
            candidates,
            best,
            queries_start=queries_start,
            candidates_start=candidates_start,
            exclude_self=exclude_self,
        )
        self._add(work)
        return found, work

    def _add(self, work: TileStats) -> None:
        with self._lock:
            self.work += work


def measure_ours(folder: Path, k: int) -> OurResult:
    """Measure the matrix stored in `folder`; to be called in a fresh process.

    Raises
    ------
    AssertionError
        If a row is not answered exactly.
    """
    kernel = registry.get_kernel("cpu")
    counting = _Counting(kernel)
    # The public function takes its kernel from here, so that the work counted is that of the very run timed.
    registry.KERNELS.clear()
    registry.KERNELS[kernel.name] = lambda: counting
    matrix = load_matrix(folder)
    cosine_kneighbors(matrix[:_WARM_UP_ROWS], k, n_jobs=THREADS)  # compiles, or loads what was compiled
    counting.work = TileStats()
    gc.collect()
    before = psutil.Process().memory_info().rss
    answer, first = _timed(matrix, k)
    peak, work = _peak_resident() - before, counting.work
    again = [_timed(matrix, k)[1] for _ in range(_RUNS - 1)] if first <= LONG_SECONDS else []
    return OurResult(
        matrix.shape[0],
        matrix.nnz,
        csr_bytes(matrix),
        (first, *again),
        peak,
        work,
        _slowest_share(matrix, k, kernel),
        _check(matrix, k, answer),
    )


def _timed(matrix: CsrMatrix, k: int) -> tuple[Neighbors, float]:
    start = time.perf_counter()
    answer = cosine_kneighbors(matrix, k, n_jobs=THREADS)
    return answer, time.perf_counter() - start


def _peak_resident() -> int:
    """Most bytes ever resident in this process, so at least what was resident since any moment."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def sample_rows(n_rows: int, most: int) -> Int64Array:
    """At most so many rows at random, ascending."""
    return np.sort(np.random.default_rng(0).permutation(n_rows)[:most])


def _slowest_share(matrix: CsrMatrix, k: int, kernel: TileKernel) -> float:
    prepared = kernel.prepare(matrix, k)
    spent = []
    for row in sample_rows(matrix.shape[0], _SAMPLED_ROWS).tolist():
        query = rows_of(matrix, Block(0, row, row + 1))
        _, work = kernel.compute(query, prepared, TopK.empty(1, k), queries_start=row, candidates_start=0)
        spent.append(work.multiply_adds)
    ordered = np.sort(spent)[::-1]
    return float(ordered[: -(-len(spent) // 100)].sum() / max(ordered.sum(), 1))


def _check(matrix: CsrMatrix, k: int, answer: Neighbors) -> int:
    """Require that some rows equal brute force bit for bit, ties included; returns their number."""
    rows = sample_rows(matrix.shape[0], _CHECKED_ROWS)
    expected = brute_force_rows(matrix, rows, k)
    for ours, theirs in zip(answer, expected, strict=True):
        wrong = np.flatnonzero((ours[rows] != theirs).any(axis=1))
        if wrong.size:
            row = rows[wrong[0]]
            raise AssertionError(
                f"row {row} is answered {ours[row]}, but is {theirs[wrong[0]]} by brute force"
            )
    return len(rows)
