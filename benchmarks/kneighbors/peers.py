"""The best public libraries for the same product, timed on samples of rows and scaled to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from sp_matmul_rs import sp_matmul_topn as rs_topn
from sparse_dot_topn import sp_matmul_topn as dot_topn

from kneighbors.matrices import load_matrix
from kneighbors.ours import THREADS
from noveltyflow.types import CsrMatrix, Int64Array

LEAST_SHARE = 0.02
MOST_SECONDS = 90.0
"""A sample that would take longer may be smaller than `LEAST_SHARE`."""
_AIM_SECONDS = 10.0
_SAMPLES = 3
_PILOT_SHARE = 0.002
_RUN_ROWS = 16
"""Rows of a sample come in runs of so many consecutive ones, whose neighbours serve one another from the cache."""
_CLOSE = 1.25
"""A library this much slower than the fastest in the pilot is not timed further."""


class Product(Protocol):
    """The k + 1 largest entries of every row of A times B."""

    def __call__(
        self, A: CsrMatrix, B: CsrMatrix, top_n: int, *, threshold: float, sort: bool, n_threads: int
    ) -> CsrMatrix:
        """Compute them with so many threads."""
        ...


PEERS: dict[str, Product] = {
    "sparse_dot_topn": dot_topn,
    "sp_matmul_rs": rs_topn,
    # Its width of a chunk is made for the first-level cache; its manual says that wider can be better.
    "sp_matmul_rs, 16k columns": partial(rs_topn, chunk_cols=1 << 14),
    "sp_matmul_rs, 64k columns": partial(rs_topn, chunk_cols=1 << 16),
    "sp_matmul_rs, 128k columns": partial(rs_topn, chunk_cols=1 << 17),
    "sp_matmul_rs, 256k columns": partial(rs_topn, chunk_cols=1 << 18),
}


@dataclass(frozen=True)
class PeerResult:
    """Time of the faster peer, in seconds for the whole matrix, and the share of rows that it rests on."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class _Setup:
    """What all calls of the peers share; `fixed` is what a call takes for a single row, by peer."""

    matrix: CsrMatrix
    transposed: CsrMatrix
    top_n: int
    transposition: float
    fixed: dict[str, float]

    def seconds(self, name: str, rows: Int64Array) -> float:
        """Time of one call for some rows."""
        part = self.matrix[rows]
        start = time.perf_counter()
        PEERS[name](part, self.transposed, self.top_n, threshold=0.0, sort=True, n_threads=THREADS)
        return time.perf_counter() - start

    def scaled(self, name: str, rows: Int64Array) -> float:
        """Estimate for the whole matrix; what is done once whatever the number of rows is counted once."""
        share: float = len(rows) / self.matrix.shape[0]
        once = min(self.fixed[name], self.seconds(name, rows[:1]))
        varying = max(self.seconds(name, rows) - once, 0.0) / share
        return varying + once + self.transposition


def measure_peers(folder: Path, k: int) -> PeerResult:
    """Time the peers on the matrix stored in `folder`; the faster one counts.

    Every estimate is the median of three samples of disjoint rows. A row finds itself first, so the peers are
    asked for k + 1.
    """
    setup = _prepare(load_matrix(folder), k)
    pilot = next(_samples(setup.matrix.shape[0], _PILOT_SHARE))
    guesses = {name: setup.scaled(name, pilot) for name in PEERS}
    fastest = min(guesses.values())
    results = [_measure(setup, name, guess) for name, guess in guesses.items() if guess <= _CLOSE * fastest]
    return min(results, key=lambda result: result.seconds)


def _prepare(matrix: CsrMatrix, k: int) -> _Setup:
    start = time.perf_counter()
    transposed = matrix.T.tocsr()
    spent = time.perf_counter() - start
    setup = _Setup(matrix, transposed, k + 1, spent, {})
    row = np.zeros(1, np.int64)
    # The first call of a library also loads it; the second is what every later one pays.
    setup.fixed.update({name: min(setup.seconds(name, row) for _ in range(2)) for name in PEERS})
    return setup


def _measure(setup: _Setup, name: str, guess: float) -> PeerResult:
    share = share_of_rows(guess)
    samples = list(_samples(setup.matrix.shape[0], share))[:_SAMPLES]
    return PeerResult(name, statistics.median(setup.scaled(name, rows) for rows in samples), share)


def share_of_rows(guess: float) -> float:
    """Share of the rows in a sample, if all of them are guessed to take so many seconds."""
    share = min(max(_AIM_SECONDS / guess, LEAST_SHARE), MOST_SECONDS / guess)
    return share if share * _SAMPLES <= 1 else 1.0


def _samples(n_rows: int, share: float) -> Iterator[Int64Array]:
    """Disjoint samples of about a share of all rows, each spread over all of them; the whole matrix if it is 1."""
    starts = np.random.default_rng(0).permutation(np.arange(0, n_rows, _RUN_ROWS))
    if share >= 1:
        for _ in range(_SAMPLES):
            yield np.arange(n_rows)
        return
    size = max(round(share * len(starts)), 1)
    for first in range(0, len(starts), size):
        chosen = np.sort(starts[first : first + size])
        rows = (chosen[:, None] + np.arange(_RUN_ROWS)).ravel()
        yield rows[rows < n_rows]
