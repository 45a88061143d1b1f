"""The tile kernel for CPUs: Numba loops that release the GIL, one call for each thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileStats
from noveltyflow.similarity.kernels.dense.batch import batch_bytes
from noveltyflow.similarity.kernels.dense.index import LEAST_SHARE, LONGEST_ROW, DenseIndex, frequent_columns
from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.parts import CpuPrepared, IndexedPart, ListedPart, Part, nearest_first
from noveltyflow.similarity.kernels.postings import PostingLists, column_frequency
from noveltyflow.similarity.kernels.pruned.index import (
    LEAST_GROUP,
    MOST_DIFFERENT,
    MOST_ROWS,
    GroupIndex,
    building_bytes,
    index_bytes,
    rows_in_group,
)
from noveltyflow.similarity.kernels.pruned.query import scratch_bytes
from noveltyflow.similarity.kernels.searching import LISTING, PATIENCE, Tile
from noveltyflow.similarity.tiles import Block, rows_of, split_rows
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix, Int64Array

SLAB_ROWS = 1 << 14
"""Candidates whose posting lists are made at a time, where they are not kept."""
_SLAB_NONZEROS = 1 << 19
"""And non-zeros of these candidates, but for the last row's."""
CHEAP_LIST = 256
"""Multiply-adds with all candidates, for a non-zero on average, up to which no pair is left out: that is quicker."""
_ROW_NONZEROS = 80
"""A row beside its non-zeros counts as so many of them."""
_MANY_NEIGHBORS = 8
"""One in so many rows of an index, or more, are too many neighbours for bounds: sorting all rows is quicker."""
ROW_BYTES = 80
"""What finding identical rows takes for each row: hashes, their order, numbers and members."""
_NOBODY = -(1 << 62)
_TRIALS, _TRIED_ROWS, _TRIED_SHARE = 16, 8, 256
"""How often some of a new index's own rows are searched for in it, how many at most, and one in how many."""
_TRIAL_PATIENCE = 6_000
"""Multiply-adds that bounds may take beyond what computing everything does, for each of these rows."""


@dataclass(frozen=True)
class CpuKernel:
    """Exact tiles on one CPU core; threads call it side by side.

    Weights that are nowhere negative, as all of a run's are, allow bounds that spare most of the work; tiles
    with a negative weight are computed exhaustively, and so is what is cheap anyway, or has bounds that spare little
    because a row has many neighbours.

    Attributes
    ----------
    slab_rows : int
        Candidates whose posting lists are made at a time, where they are not kept. It does not change the result.
    part_rows : int
        Most candidates in one index. It does not change the result.
    dense_share : float
        Share of the squared weights that must lie in frequent columns for them to be stored densely. It does not
        change the result.
    most_different : float
        Share of the entries of eight neighbouring rows that different columns may make up for such rows to be
        bounded together; beyond it four are. It does not change the result.
    cheap_list : int
        Multiply-adds with all candidates, for a non-zero on average, up to which no pair is left out; a row counts as
        80 non-zeros more. If negative, bounds are used wherever they are valid. It does not change the result.
    """

    slab_rows: int = SLAB_ROWS
    part_rows: int = MOST_ROWS
    dense_share: float = LEAST_SHARE
    most_different: float = MOST_DIFFERENT
    cheap_list: int = CHEAP_LIST
    name: str = "cpu"

    def is_usable(self) -> bool:
        """Return True: every machine has a CPU."""
        return True

    def prepare_bytes(self, candidates: BlockShape) -> int:
        """Return the bytes of the index and of what building it takes."""
        building = building_bytes(candidates.rows, candidates.nonzeros, candidates.features)
        return self._index_bytes(candidates) + max(building, _bounded_bytes(candidates, candidates))

    def compute_bytes(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return the bytes of the index, of one thread's arrays and of the result."""
        bounded = _bounded_bytes(queries, candidates)
        # What is left to the end, where all is computed, has lists of a slab at a time.
        slab = min(self.slab_rows, candidates.rows)
        longest = min(candidates.longest_row, candidates.features)
        lists = 8 * min(slab * longest, candidates.nonzeros, _SLAB_NONZEROS + longest) + 8 * (
            candidates.features + slab + 2
        )
        exhaustive = 12 * candidates.rows + 16 * queries.longest_row
        scratch = max(bounded, exhaustive, lists + 12 * slab + 16 * queries.longest_row)
        merged = 44 * n_neighbors + 1024  # what waits to be merged, where neighbours are many
        return self._index_bytes(candidates) + scratch + merged + (12 * n_neighbors + 33) * queries.rows

    def _index_bytes(self, shape: BlockShape) -> int:
        more_parts = -(-shape.rows // self.part_rows) - 1
        starts = 8 * (shape.features + 2)
        ranks = max(starts, 4 * shape.features + 8 * min(shape.features, shape.nonzeros))
        listed = starts + 8 * (shape.nonzeros + shape.rows)
        whole = max(listed, index_bytes(shape.rows, shape.nonzeros, shape.features))
        return whole + more_parts * ranks + ROW_BYTES * shape.rows

    def prepare(self, block: CsrMatrix, n_neighbors: int, *, threads: int = 1) -> CpuPrepared:
        """Index `block`, unless computing everything is quicker."""
        if block.nnz and block.data.min() < 0:
            return CpuPrepared(block, (_all_listed(block, Block(0, 0, block.shape[0])),))
        # Parts of equal size: what a row costs beside its multiply-adds is paid once for each.
        n_parts = max(1, -(-block.shape[0] // self.part_rows))
        parts = split_rows(block.shape[0], max(1, -(-block.shape[0] // n_parts)))
        return CpuPrepared(
            block, tuple(one for part in parts for one in self._index(block, part, n_neighbors, threads))
        )

    def _index(self, block: CsrMatrix, part: Block, n_neighbors: int, threads: int) -> list[Part]:
        """Index consecutive rows, or list them all where no bounds pay."""
        rows = rows_of(block, part)
        frequency = column_frequency(rows.indices, rows.shape[1])
        cheap = frequency @ frequency <= self.cheap_list * (rows.nnz + _ROW_NONZEROS * rows.shape[0])
        many = self.cheap_list >= 0 and n_neighbors * _MANY_NEIGHBORS >= part.n_rows
        frequent = None if cheap or many else frequent_columns(rows, frequency, self.dense_share)
        del frequency  # as large as a small block's index
        if not cheap and not many:
            indexed = self._bound(rows, part, frequent, threads)
            if self.cheap_list < 0 or _pays(rows, indexed, n_neighbors):
                too_long = np.flatnonzero(np.diff(rows.indptr) > LONGEST_ROW)
                if frequent is None or not too_long.size:
                    return [indexed]
                return [indexed, ListedPart(part.start, part.n_rows, PostingLists.of(rows, too_long))]
            del indexed  # before the lists are made, which take as much
        return [_all_listed(rows, part)]

    def _bound(self, rows: CsrMatrix, part: Block, frequent: Int64Array | None, threads: int) -> IndexedPart:
        """Index the rows of a part; where columns are frequent, but for rows that are too long."""
        distinct = Distinct.of(rows)
        if frequent is not None:
            return IndexedPart(part.start, part.n_rows, distinct, DenseIndex.of(rows, distinct, frequent))
        group_rows = rows_in_group(rows, distinct, self.most_different)
        index = GroupIndex.of(rows, distinct, threads, group_rows)
        return IndexedPart(part.start, part.n_rows, distinct, index)

    def _slabs(self, rows: CsrMatrix, numbers: Int64Array) -> list[Int64Array]:
        """Cut row numbers into parts whose lists take little memory."""
        if not numbers.size:
            return []
        before = np.append(0, np.cumsum(np.diff(rows.indptr)[numbers]))
        by_nonzeros = np.searchsorted(before, np.arange(0, before[-1], _SLAB_NONZEROS))
        borders = np.union1d(by_nonzeros, np.arange(0, numbers.size, self.slab_rows))
        return np.split(numbers, borders[(borders > 0) & (borders < numbers.size)])

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
        """Merge the tile's neighbours into `best`; see `TileKernel.compute`."""
        if not isinstance(candidates, CpuPrepared):
            raise TypeError(f"a block prepared by the cpu kernel is needed, not {type(candidates).__name__}")
        if queries.shape[1] != candidates.block.shape[1]:
            raise ValueError(
                f"queries have {queries.shape[1]} features, candidates {candidates.block.shape[1]}"
            )
        if best.n_rows != queries.shape[0]:
            raise ValueError(f"{queries.shape[0]} query rows have neighbours of {best.n_rows} rows")
        found = best.copy()
        own_offset = queries_start - candidates_start if exclude_self else _NOBODY
        work, computed = TileStats(), np.zeros(queries.shape[0], np.bool_)
        every = np.arange(queries.shape[0])
        for part in nearest_first(candidates.parts, own_offset, queries.shape[0]):
            tile = Tile(queries, found, computed, candidates_start + part.start, own_offset - part.start)
            if isinstance(part, ListedPart):
                work += tile.exhaustive(every, part.lists)
                continue
            some, left = tile.bounded(part, PATIENCE + LISTING * part.index.columns.size)
            work += some
            if left.size:
                rows = rows_of(candidates.block, Block(0, part.start, part.start + part.n_rows))
                numbers = np.arange(part.n_rows)
                if isinstance(part.index, DenseIndex):
                    numbers = numbers[np.diff(rows.indptr) <= LONGEST_ROW]
                for slab in self._slabs(rows, numbers):
                    work += tile.exhaustive(left, PostingLists.of(rows, slab))
        skipped = int(np.count_nonzero(~computed))
        return found, work + TileStats(queries.shape[0], skipped_rows=skipped)


def _all_listed(rows: CsrMatrix, part: Block) -> ListedPart:
    """All rows of a part, for which everything is computed."""
    return ListedPart(part.start, part.n_rows, PostingLists.of(rows, np.arange(part.n_rows)))


def _bounded_bytes(queries: BlockShape, candidates: BlockShape) -> int:
    """Bytes of one thread's arrays where an index is searched."""
    return max(
        scratch_bytes(queries.longest_row, candidates.rows // LEAST_GROUP + 1),
        batch_bytes(min(queries.longest_row, LONGEST_ROW)),
    )


def _pays(rows: CsrMatrix, part: IndexedPart, n_neighbors: int) -> bool:
    """Whether bounds are not given up for rows of the part itself, at more than a quarter of some places.

    Where they pay at some places only, keeping the index costs little: elsewhere they are given up again.
    """
    tried = min(_TRIED_ROWS, part.n_rows // _TRIED_SHARE)
    given_up = 0
    places = np.random.default_rng(part.n_rows).integers(0, part.n_rows - tried, _TRIALS, endpoint=True)
    for start in np.sort(places).tolist():
        queries = rows_of(rows, Block(0, start, start + tried))
        tile = Tile(queries, TopK.empty(tried, n_neighbors), np.zeros(tried, np.bool_), part.start, start)
        _, left = tile.bounded(part, tried * _TRIAL_PATIENCE)
        given_up += int(np.any(tile.fits(part)[left]))
    return 4 * given_up < 3 * _TRIALS


EVERY_SEARCH = (
    CpuKernel(),
    CpuKernel(cheap_list=-1, dense_share=1.0, most_different=0.0),
    CpuKernel(cheap_list=-1, dense_share=1.0, most_different=1.0),
    CpuKernel(cheap_list=-1, dense_share=-1.0),
)
"""Kernels that, for a few rows, use every kind of search between them, so that all of them are compiled."""
