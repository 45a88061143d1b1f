"""Geometry of the tile graph: blocks of consecutive rows, and the order in which tiles are best computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from noveltyflow.types import BoolArray, CsrMatrix


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


def next_span(queries: Block, candidates: Sequence[Block], done: BoolArray, size: int) -> Sequence[Block]:
    """Of a strip, the nearest tile that is not done, with others beside it that can be computed as one.

    Spans of one size begin at multiples of it, so that strips take the same ones and their indexes serve again.

    Parameters
    ----------
    queries : Block
        The block whose strip it is.
    candidates : sequence of Block
        All blocks, by index.
    done : bool array, one for each candidate block
        Tiles that are computed.
    size : int
        Most blocks.

    Returns
    -------
    sequence of Block
        Consecutive blocks that are not done; empty when all are.
    """
    left = [candidates[index] for index in np.flatnonzero(~done).tolist()]
    if not left:
        return []
    start = min(left, key=_distance_from(queries)).index
    stop = start + 1
    first, last = start - start % size, min(start - start % size + size, len(candidates))
    while start > first and not done[start - 1]:
        start -= 1
    while stop < last and not done[stop]:
        stop += 1
    return candidates[start:stop]


def _distance_from(queries: Block) -> Callable[[Block], tuple[int, int]]:
    middle = queries.start + queries.stop
    return lambda block: (abs(block.start + block.stop - middle), block.index)


def tiles(queries: Sequence[Block], candidates: Sequence[Block]) -> Iterator[Tile]:
    """Every tile of `queries` against `candidates`, strip by strip."""
    for block in queries:
        yield from strip(block, candidates)
