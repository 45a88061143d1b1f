"""A block's rows as the CPU kernel prepares them: parts with an index, and parts of which everything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from noveltyflow.similarity.kernels.dense.index import DenseIndex
from noveltyflow.similarity.kernels.duplicates import Distinct
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.kernels.pruned.index import GroupIndex
from noveltyflow.similarity.tiles import Block, rows_of
from noveltyflow.types import CsrMatrix


@dataclass(frozen=True, eq=False)
class IndexedPart:
    """`n_rows` consecutive candidates from row `start` of the block on, few enough for one index."""

    start: int
    n_rows: int
    distinct: Distinct
    index: GroupIndex | DenseIndex

    @property
    def nbytes(self) -> int:
        """Bytes beside the rows themselves."""
        return self.distinct.nbytes + self.index.nbytes


@dataclass(frozen=True, eq=False)
class ListedPart:
    """Some of `n_rows` consecutive candidates from row `start` of the block on, for which all is computed."""

    start: int
    n_rows: int
    lists: PostingLists

    @property
    def nbytes(self) -> int:
        """Bytes beside the rows themselves."""
        return self.lists.nbytes


Part = IndexedPart | ListedPart


@dataclass(frozen=True, eq=False)
class CpuPrepared:
    """Candidates with their index in parts."""

    block: CsrMatrix
    parts: tuple[Part, ...]

    @property
    def n_rows(self) -> int:
        """Number of rows of the block."""
        return int(self.block.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the block and of its index."""
        block = self.block.data.nbytes + self.block.indices.nbytes + self.block.indptr.nbytes
        return int(block + sum(part.nbytes for part in self.parts))

    def rows(self, start: int, stop: int) -> CsrMatrix:
        """See `PreparedBlock.rows`."""
        return rows_of(self.block, Block(0, start, stop))


def nearest_first(parts: tuple[Part, ...], start: int, n_rows: int) -> list[Part]:
    """Parts by their distance from the queries' own rows, where the best thresholds are found; see `tiles.strip`."""
    return sorted(
        parts,
        key=lambda part: max(part.start - start - n_rows, start - part.start - part.n_rows, 0),
    )
