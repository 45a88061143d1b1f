"""How query rows go through a part of a block, and when bounds are given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from noveltyflow.similarity.kernels.base import TileStats
from noveltyflow.similarity.kernels.dense.batch import MOST_QUERIES
from noveltyflow.similarity.kernels.dense.index import LONGEST_ROW, DenseIndex
from noveltyflow.similarity.kernels.parts import IndexedPart
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.kernels.pruned.query import LONGEST_QUERY
from noveltyflow.similarity.tiles import Block, rows_of
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import BoolArray, CsrMatrix, Int64Array

_GIVEN_UP = 32
"""Query rows for which everything is computed after one for which bounds have not paid; a batch, if it is one."""
PATIENCE, LISTING = 200_000, 8
"""Multiply-adds that bounds may take beyond what computing everything does; and, for each non-zero of the candidates,
what making the lists takes that are needed then, which is put off as long."""


@dataclass(frozen=True)
class Tile:
    """Query rows, their best k so far, and what a part of the index is to them.

    `computed` tells for which of them there was anything to compute; `candidates_start` is the number of the part's
    first row, `own_offset` which of its rows is query row 0.
    """

    queries: CsrMatrix
    found: TopK
    computed: BoolArray
    candidates_start: int
    own_offset: int

    def exhaustive(self, chosen: Int64Array, lists: PostingLists) -> TileStats:
        """Compute all similarities of the chosen query rows."""
        from noveltyflow.similarity.kernels.exhaustive import score_all

        began = time.perf_counter_ns()
        multiply_adds, pairs = score_all(
            chosen,
            self.queries.indptr.astype(np.int64),
            self.queries.indices,
            self.queries.data,
            lists,
            self.found.similarities,
            self.found.indices,
            self.computed,
            self.candidates_start,
            self.own_offset,
        )
        spent = time.perf_counter_ns() - began
        return TileStats(0, multiply_adds, pairs, pairs, accumulating_ns=spent)

    def bounded(self, part: IndexedPart, patience: int) -> tuple[TileStats, Int64Array]:
        """Search an index; also returns the query rows that are left, because bounds do not fit or do not pay.

        They do not pay where they have taken `patience` multiply-adds more than computing everything would.
        """
        work, left = TileStats(), [np.empty(0, np.int64)]
        first = MOST_QUERIES if isinstance(part.index, DenseIndex) else _GIVEN_UP
        for rows, fits in self._runs(part):
            start, given_up = rows.start, first if fits else rows.n_rows
            while start < rows.stop:
                if fits:
                    some, answered = self._search(Block(0, start, rows.stop), part, patience)
                    work, start, patience = work + some, start + answered, PATIENCE
                # The rows that follow may be others: bounds are tried again, each time later.
                left.append(np.arange(start, min(start + given_up, rows.stop)))
                start, given_up = start + given_up, 2 * given_up
        return work, np.concatenate(left)

    def fits(self, part: IndexedPart) -> BoolArray:
        """Which query rows are short enough for accumulators."""
        longest = LONGEST_ROW if isinstance(part.index, DenseIndex) else LONGEST_QUERY
        fits: BoolArray = np.diff(self.queries.indptr) <= longest
        return fits

    def _runs(self, part: IndexedPart) -> list[tuple[Block, bool]]:
        """Cut query rows into runs, with whether sums over their weights are upper bounds that fit accumulators."""
        whole = Block(0, 0, self.queries.shape[0])
        if self.queries.nnz and self.queries.data.min() < 0:
            return [(whole, False)]
        fits = self.fits(part)
        borders = [0, *(np.flatnonzero(fits[1:] != fits[:-1]) + 1).tolist(), whole.stop]
        return [
            (Block(0, start, stop), bool(fits[start])) for start, stop in pairwise(borders) if start < stop
        ]

    def _search(self, rows: Block, part: IndexedPart, patience: int) -> tuple[TileStats, int]:
        """Search for a run of rows; returns how many of them are answered, too."""
        from noveltyflow.similarity.kernels.dense import search as dense
        from noveltyflow.similarity.kernels.pruned import search as pruned
        from noveltyflow.similarity.kernels.scoring import Members

        queries, best = rows_of(self.queries, rows), self.found.rows(rows.start, rows.stop)
        distinct = part.distinct
        search_rows: Callable[..., tuple[Int64Array, Int64Array, int]] = (
            dense.search_rows if isinstance(part.index, DenseIndex) else pruned.search_rows
        )
        began = time.perf_counter_ns()
        work, ticks, answered = search_rows(
            queries.indptr.astype(np.int64),
            queries.indices,
            queries.data,
            part.index,
            Members(distinct.member_starts, distinct.members, self.candidates_start),
            distinct.row_of,
            self.own_offset + rows.start,
            best.similarities,
            best.indices,
            self.computed[rows.start : rows.stop],
            patience,
        )
        times = _by_stage(time.perf_counter_ns() - began, ticks)
        return TileStats(0, *work.tolist()) + times, answered


def _by_stage(spent: int, ticks: Int64Array) -> TileStats:
    """Nanoseconds of a search, shared out as its ticks are; where there are none, all is accumulating."""
    # A counter may stand elsewhere once a virtual machine has been moved.
    seeding, accumulating, verifying = (max(0, number) for number in ticks.tolist())
    whole = max(1, seeding + accumulating + verifying)
    seeding_ns, verifying_ns = spent * seeding // whole, spent * verifying // whole
    return TileStats(
        seeding_ns=seeding_ns,
        accumulating_ns=spent - seeding_ns - verifying_ns,
        verifying_ns=verifying_ns,
    )
