"""Geometry of the tile graph: blocks of consecutive rows, and the order in which tiles are best computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from noveltyflow.types import CsrMatrix


@dataclass(frozen=True, order=True)
class Block:
    """Rows `start` to `stop` of a matrix; `index` counts the blocks from 0."""

    index: int
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Tile:
    """The rows of `queries` look for neighbours among the rows of `candidates`."""

    queries: Block
    candidates: Block


def split_rows(n_rows: int, block_rows: int) -> list[Block]:
    """Cut `n_rows` rows into blocks of `block_rows`; only the last may be shorter.

    Raises
    ------
    ValueError
        If `n_rows` is negative or `block_rows` is not positive.
    """
    if n_rows < 0 or block_rows < 1:
        raise ValueError(f"cannot cut {n_rows} rows into blocks of {block_rows}")
    starts = range(0, n_rows, block_rows)
    return [Block(i, start, min(start + block_rows, n_rows)) for i, start in enumerate(starts)]


def rows_of(matrix: CsrMatrix, block: Block) -> CsrMatrix:
    """Rows of a CSR matrix as a matrix that shares its columns and weights, where scipy would copy them."""
    indptr = matrix.indptr[block.start : block.stop + 1]
    entries = slice(int(indptr[0]), int(indptr[-1]))
    view = matrix.__class__((block.n_rows, matrix.shape[1]), dtype=matrix.dtype)
    view.data, view.indices, view.indptr = matrix.data[entries], matrix.indices[entries], indptr - indptr[0]
    return view


def strip(queries: Block, candidates: Sequence[Block]) -> list[Tile]:
    """All tiles of the block `queries`, those nearest to the diagonal first.

    Rows are in SURT order, so a row's best neighbours mostly stand near it: found first, they raise
    the threshold with which the distant tiles are pruned. Equal distances go by block index.
    """
    return [Tile(queries, block) for block in sorted(candidates, key=_distance_from(queries))]


def _distance_from(queries: Block) -> Callable[[Block], tuple[int, int]]:
    middle = queries.start + queries.stop
    return lambda block: (abs(block.start + block.stop - middle), block.index)
