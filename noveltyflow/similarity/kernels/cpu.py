"""The tile kernel for CPUs: Numba loops that release the GIL, one call for each thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileStats
from noveltyflow.similarity.kernels.dense.index import LEAST_SHARE, LONGEST_ROW, DenseIndex, frequent_columns
from noveltyflow.similarity.kernels.dense.search import batch_bytes
from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.kernels.pruned.index import MOST_ROWS, GroupIndex, building_bytes, index_bytes
from noveltyflow.similarity.kernels.pruned.query import LONGEST_QUERY, scratch_bytes
from noveltyflow.similarity.tiles import Block, rows_of, split_rows
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import AnyArray, CsrMatrix

SLAB_ROWS = 1 << 14
"""Candidates of the exhaustive path accumulated at a time: 9 bytes each, which fit a core's second-level cache."""
ROW_BYTES = 80
"""What finding identical rows takes for each row: hashes, their order, numbers and members."""
_NOBODY = -(1 << 62)


@dataclass(frozen=True, eq=False)
class IndexedPart:
    """Consecutive candidates from row `start` of the block on, few enough for one index."""

    start: int
    distinct: Distinct
    index: GroupIndex | DenseIndex

    @property
    def nbytes(self) -> int:
        """Bytes beside the rows themselves."""
        return self.distinct.nbytes + self.index.nbytes


@dataclass(frozen=True, eq=False)
class CpuPrepared:
    """Candidates with their index in parts; without one where a weight is negative."""

    block: CsrMatrix
    parts: tuple[IndexedPart, ...] | None
    lists: PostingLists | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows of the block."""
        return int(self.block.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the block and of its index."""
        block = self.block.data.nbytes + self.block.indices.nbytes + self.block.indptr.nbytes
        lists = self.lists.nbytes if self.lists is not None else 0
        return int(block + lists + sum(part.nbytes for part in self.parts or ()))

    def rows(self, start: int, stop: int) -> CsrMatrix:
        """See `PreparedBlock.rows`."""
        return rows_of(self.block, Block(0, start, stop))


@dataclass(frozen=True)
class CpuKernel:
    """Exact tiles on one CPU core; threads call it side by side.

    Weights that are nowhere negative, as all of a run's are, allow bounds that spare most of the work; tiles
    with a negative weight are computed exhaustively.

    Attributes
    ----------
    slab_rows : int
        Candidates that the exhaustive path accumulates at a time. It does not change the result.
    part_rows : int
        Most candidates in one index. It does not change the result.
    dense_share : float
        Share of the squared weights that must lie in frequent columns for them to be stored densely. It does not
        change the result.
    """

    slab_rows: int = SLAB_ROWS
    part_rows: int = MOST_ROWS
    dense_share: float = LEAST_SHARE
    name: str = "cpu"

    def is_usable(self) -> bool:
        """Return True: every machine has a CPU."""
        return True

    def prepare_bytes(self, candidates: BlockShape) -> int:
        """Return the bytes of the index and of what building it takes."""
        building = building_bytes(candidates.rows, candidates.nonzeros, candidates.features)
        return self._index_bytes(candidates) + building

    def compute_bytes(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return the bytes of the index, of one thread's arrays and of the result."""
        scratch = max(
            scratch_bytes(queries.longest_row, candidates.rows // 8 + 1) + 13 * self.slab_rows,
            batch_bytes(min(queries.longest_row, LONGEST_ROW)),
        )
        return self._index_bytes(candidates) + scratch + (12 * n_neighbors + 8) * queries.rows

    def _index_bytes(self, shape: BlockShape) -> int:
        more_parts = -(-shape.rows // self.part_rows) - 1
        ranks = 4 * shape.features + 12 * min(shape.features, shape.nonzeros)
        whole = index_bytes(shape.rows, shape.nonzeros, shape.features)
        return whole + more_parts * ranks + ROW_BYTES * shape.rows

    def prepare(self, block: CsrMatrix, threads: int = 1) -> CpuPrepared:
        """Index `block`."""
        if block.nnz and block.data.min() < 0:
            return CpuPrepared(block, None, PostingLists.of(block))
        parts = []
        # Parts of equal size: what a row costs beside its multiply-adds is paid once for each.
        n_parts = max(1, -(-block.shape[0] // self.part_rows))
        for part in split_rows(block.shape[0], max(1, -(-block.shape[0] // n_parts))):
            rows = rows_of(block, part)
            distinct = Distinct.of(rows)
            frequent = frequent_columns(rows, self.dense_share)
            index = (
                GroupIndex.of(rows, distinct, threads)
                if frequent is None
                else DenseIndex.of(rows, distinct, frequent)
            )
            parts.append(IndexedPart(part.start, distinct, index))
        return CpuPrepared(block, tuple(parts))

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
        work = TileStats(queries.shape[0])
        for rows, bounded in _runs(queries, candidates.parts):
            some, best_of_them = rows_of(queries, rows), found.rows(rows.start, rows.stop)
            offset = own_offset + rows.start
            if not bounded:
                work += self._exhaustive(some, candidates, best_of_them, candidates_start, offset)
                continue
            for part in _nearest_first(candidates.parts or (), offset, rows.n_rows):
                work += _search_part(some, part, best_of_them, candidates_start, offset)
        return found, work

    def _exhaustive(
        self, queries: CsrMatrix, candidates: CpuPrepared, found: TopK, candidates_start: int, own_offset: int
    ) -> TileStats:
        from noveltyflow.similarity.kernels.exhaustive import score_all

        work = TileStats()
        whole = Block(0, 0, candidates.n_rows)
        # Lists that are not kept are made for some rows at a time, which takes little memory.
        slabs = split_rows(candidates.n_rows, self.slab_rows) if candidates.lists is None else [whole]
        for slab in slabs:
            lists = candidates.lists or PostingLists.of(rows_of(candidates.block, slab))
            multiply_adds, pairs = score_all(
                queries.indptr.astype(np.int64),
                queries.indices,
                queries.data,
                lists.indptr,
                lists.rows,
                lists.weights,
                slab.n_rows,
                found.similarities,
                found.indices,
                candidates_start + slab.start,
                own_offset - slab.start,
                self.slab_rows,
            )
            work += TileStats(0, multiply_adds, pairs, pairs)
        return work


def _nearest_first(parts: tuple[IndexedPart, ...], start: int, n_rows: int) -> list[IndexedPart]:
    """Parts by their distance from the queries' own rows, where the best thresholds are found; see `tiles.strip`."""
    return sorted(
        parts,
        key=lambda part: max(part.start - start - n_rows, start - part.start - part.distinct.row_of.size, 0),
    )


def _runs(queries: CsrMatrix, parts: tuple[IndexedPart, ...] | None) -> list[tuple[Block, bool]]:
    """Cut query rows into runs, with whether the sums over their weights are upper bounds that fit accumulators."""
    whole = Block(0, 0, queries.shape[0])
    if parts is None or (queries.nnz and queries.data.min() < 0):
        return [(whole, False)]
    dense = any(isinstance(part.index, DenseIndex) for part in parts)
    fits = np.diff(queries.indptr) <= (LONGEST_ROW if dense else LONGEST_QUERY)
    borders = [0, *(np.flatnonzero(fits[1:] != fits[:-1]) + 1).tolist(), whole.stop]
    return [(Block(0, start, stop), bool(fits[start])) for start, stop in pairwise(borders) if start < stop]


def _search_part(
    queries: CsrMatrix, part: IndexedPart, found: TopK, candidates_start: int, own_offset: int
) -> TileStats:
    from noveltyflow.similarity.kernels.dense import search as dense
    from noveltyflow.similarity.kernels.pruned import search as pruned
    from noveltyflow.similarity.kernels.scoring import Members

    distinct = part.distinct
    search_rows: Callable[..., AnyArray] = (
        dense.search_rows if isinstance(part.index, DenseIndex) else pruned.search_rows
    )
    work = search_rows(
        queries.indptr.astype(np.int64),
        queries.indices,
        queries.data,
        part.index,
        Members(distinct.member_starts, distinct.members, candidates_start + part.start),
        distinct.row_of,
        own_offset - part.start,
        found.similarities,
        found.indices,
    )
    return TileStats(0, *work.tolist())
