"""The tile kernel for CPUs: Numba loops that release the GIL, one call for each thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileStats
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix

SLAB_ROWS = 1 << 14
"""Candidates accumulated at a time: 9 bytes each, so that a slab stays in a core's second-level cache."""
_NOBODY = -(1 << 62)


@dataclass(frozen=True, eq=False)
class CpuPrepared:
    """Candidates with their posting lists."""

    n_rows: int
    lists: PostingLists

    @property
    def nbytes(self) -> int:
        """Bytes of the posting lists."""
        return self.lists.nbytes


@dataclass(frozen=True)
class CpuKernel:
    """Exact tiles on one CPU core; threads call it side by side.

    Attributes
    ----------
    slab_rows : int
        Candidates accumulated at a time. It does not change the result.
    """

    slab_rows: int = SLAB_ROWS
    name: str = "cpu"

    def is_usable(self) -> bool:
        """Return True: every machine has a CPU."""
        return True

    def bytes_needed(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return the bytes of the posting lists, one thread's accumulators and the result."""
        lists = 8 * candidates.nonzeros + 8 * (candidates.features + 2) + 8 * (candidates.rows + 1)
        longest_row = min(queries.nonzeros, queries.features)
        scratch = 13 * self.slab_rows + 16 * longest_row
        result = 12 * n_neighbors * queries.rows
        return lists + scratch + result + 8 * (queries.rows + 1)

    def prepare(self, block: CsrMatrix) -> CpuPrepared:
        """Build the posting lists of `block`."""
        return CpuPrepared(block.shape[0], PostingLists.of(block))

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
        from noveltyflow.similarity.kernels.exhaustive import score_all

        if not isinstance(candidates, CpuPrepared):
            raise TypeError(f"a block prepared by the cpu kernel is needed, not {type(candidates).__name__}")
        found = best.copy()
        multiply_adds, pairs = score_all(
            queries.indptr.astype(np.int64),
            queries.indices,
            queries.data,
            candidates.lists.indptr,
            candidates.lists.rows,
            candidates.lists.weights,
            candidates.n_rows,
            found.similarities,
            found.indices,
            candidates_start,
            queries_start - candidates_start if exclude_self else _NOBODY,
            self.slab_rows,
        )
        return found, TileStats(queries.shape[0], multiply_adds, pairs, pairs)
