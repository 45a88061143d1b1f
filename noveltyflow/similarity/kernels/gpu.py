"""The tile kernel for CUDA devices: CUDA C compiled through CuPy, the same bits as on the CPU."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from weakref import ref

import numpy as np

from noveltyflow.errors import ResourceError
from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileStats
from noveltyflow.similarity.kernels.device import Device, cuda_device, has_cuda
from noveltyflow.similarity.kernels.device_rows import DeviceRows, DeviceSearch, rows_bytes
from noveltyflow.similarity.kernels.folded import Folded, FoldedPart
from noveltyflow.similarity.tiles import Block, rows_of, split_rows
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix

logger = logging.getLogger(__name__)

_NOBODY = -(1 << 62)
_CANDIDATES, _QUERIES = "candidates", "query rows"
_FEWEST_QUERIES = 256
"""Where not so many fit beside the candidates, these are cut."""
_SAY_AGAIN_SECONDS = 600.0
_Result = TypeVar("_Result")


@dataclass(eq=False)
class GpuPrepared:
    """Candidates in device memory or, where they find no room there, on the host, to go through it in pieces."""

    n_rows: int
    part: FoldedPart | None
    waiting: CsrMatrix | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of device memory, or of the host's if that is where they wait."""
        if self.waiting is not None:
            return int(self.waiting.data.nbytes + self.waiting.indices.nbytes + self.waiting.indptr.nbytes)
        return self.part.nbytes if self.part is not None else 0

    def rows(self, start: int, stop: int) -> None:  # noqa: ARG002 - they are on the device
        """See `PreparedBlock.rows`."""
        return


class GpuKernel:
    """Exact tiles on the CUDA device of this process.

    Query rows and candidates that do not fit into device memory together are halved until they do, which is logged
    now and then; the next ones are cut as small at once.

    Parameters
    ----------
    folded : Folded, optional
        Sizes with which pairs worth scoring are found; they do not change the result.
    device : Device, optional
        By default the process's CUDA device, which is not touched before the first block is prepared.
    """

    name = "gpu"

    def __init__(self, folded: Folded | None = None, device: Device | None = None) -> None:
        self._folded = folded or Folded()
        self._chosen_device = device
        self._uploaded: tuple[ref[CsrMatrix], DeviceRows] | None = None
        self._limit = sys.maxsize
        self._most: dict[str, int] = {}
        """Rows that are tried at once, where more of them did not fit."""

    @property
    def _device(self) -> Device:
        return self._chosen_device or cuda_device()

    def is_usable(self) -> bool:
        """Whether there are a driver, CuPy and a device."""
        return self._chosen_device is not None or has_cuda()

    def prepare_bytes(self, candidates: BlockShape) -> int:
        """Return the bytes of host memory: row starts as int64, and what CuPy copies on its way to the device."""
        return 8 * (candidates.rows + 1) + 8 * candidates.nonzeros

    def compute_bytes(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return the bytes of host memory: the result, its copy, and what `prepare_bytes` says of both sides."""
        uploaded = self.prepare_bytes(queries) + self.prepare_bytes(candidates)
        return 2 * 12 * n_neighbors * queries.rows + uploaded

    def device_bytes_needed(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return an upper bound of the device memory of a tile that is not halved."""
        rows = rows_bytes(queries) + rows_bytes(candidates)
        return rows + 12 * n_neighbors * queries.rows + self._folded.device_bytes(queries, candidates)

    def device_memory(self) -> int:
        """See `DeviceKernel.device_memory`."""
        return min(self._limit, self._device.memory())

    def limit_device_memory(self, n_bytes: int) -> None:
        """See `DeviceKernel.limit_device_memory`."""
        self._limit = n_bytes
        self._device.limit_memory(n_bytes)

    def prepare(self, block: CsrMatrix, n_neighbors: int, *, threads: int = 1) -> GpuPrepared:  # noqa: ARG002
        """Copy `block` to the device and index it there, in one way for any number of neighbours."""
        if not block.nnz:
            return GpuPrepared(block.shape[0], None)
        part = self._fitting(lambda: self._fold(block, 0))
        return GpuPrepared(block.shape[0], part, block if part is None else None)

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
        """Merge the tile's neighbours into `best`; see `TileKernel.compute`.

        `queries` stay on the device for the next call with the same object, so it must not be changed.
        """
        if not isinstance(candidates, GpuPrepared):
            raise TypeError(f"a block prepared by the gpu kernel is needed, not {type(candidates).__name__}")
        began, found, work = time.perf_counter_ns(), best.copy(), TileStats()
        if queries.nnz:
            work = self._compute(
                candidates, _Tile(queries, found, queries_start, candidates_start, exclude_self)
            )
        spent = time.perf_counter_ns() - began
        return found, work + TileStats(queries.shape[0], accumulating_ns=spent)

    def _compute(self, candidates: GpuPrepared, tile: _Tile) -> TileStats:
        if candidates.part is not None:
            work = self._search_all(tile, candidates.part, _FEWEST_QUERIES)
            if work is not None:
                return work
            # Nothing holds the part while its pieces are searched.
            candidates.waiting = candidates.part.rows.to_host(self._device)
            candidates.part = None
            self._let_go()
        return TileStats() if candidates.waiting is None else self._in_pieces(tile, candidates.waiting, 0)

    def _in_pieces(self, tile: _Tile, block: CsrMatrix, start: int) -> TileStats:
        """Search in the rows of `block`, which are those of the candidates from `start` on."""
        rows = block.shape[0]
        if not block.nnz:
            return TileStats()
        if rows <= self._most.get(_CANDIDATES, rows):
            fewest = _FEWEST_QUERIES if rows > 1 else 1
            work = self._fitting(lambda: self._search_all(tile, self._fold(block, start), fewest))
            if work is not None:
                return work
            if rows == 1:
                raise ResourceError(
                    "the device's memory is too small for a single row of candidates and a query beside what it "
                    "already holds; leave out the other users of the device, or raise --device-memory-limit"
                )
            self._halve(_CANDIDATES, rows)
            self._most.pop(_QUERIES, None)  # beside fewer candidates, there is room for more
        middle = rows // 2
        left = self._in_pieces(tile, rows_of(block, Block(0, 0, middle)), start)
        return left + self._in_pieces(tile, rows_of(block, Block(0, middle, rows)), start + middle)

    def _search_all(self, tile: _Tile, part: FoldedPart, fewest: int) -> TileStats | None:
        """Search in a part for all query rows; None if not even `fewest` of them fit beside it."""
        rows = tile.queries.shape[0]
        if rows <= self._most.get(_QUERIES, rows):
            work = self._fitting(lambda: self._search(tile, part))
            if work is not None:
                return work
            if rows <= fewest:
                return None
            self._halve(_QUERIES, rows)
        work = TileStats()
        for piece in tile.halves():
            if (more := self._search_all(piece, part, fewest)) is None:
                return None
            work += more
        return work

    def _fitting(self, function: Callable[[], _Result]) -> _Result | None:
        """What a function gives; None where the device has too little memory, even if it lets go of what can be."""
        for _ in range(2):
            with suppress(MemoryError):  # CuPy's own error is one, and so is that of an RMM pool
                return function()
            # Here and not in a handler, where the traceback would keep the arrays alive.
            self._let_go()
        return None

    def _halve(self, what: str, rows: int) -> None:
        """Try no more than half of so many from now on."""
        self._most[what] = rows - rows // 2
        _say(f"out of device memory: {what} are halved, to {self._most[what]:,} at a time")

    def _fold(self, block: CsrMatrix, start: int) -> FoldedPart:
        return self._folded.prepare(self._device, DeviceRows.of(self._device, block), start)

    def _let_go(self) -> None:
        """Free the query rows, and memory that the device's pool keeps and cannot use for another purpose."""
        self._uploaded = None
        self._device.release()

    def _search(self, tile: _Tile, part: FoldedPart) -> TileStats:
        rows, work = self._upload(tile.queries), TileStats()
        for group in split_rows(rows.n_rows, self._folded.query_rows):
            target = tile.found.rows(group.start, group.stop)
            search = self._begin(rows.part(group.start, group.stop), target, tile, group.start)
            products = self._folded.search(self._device, part, search, tile.candidates_start)
            known = search.known(self._device)
            target.similarities[:] = known.similarities
            target.indices[:] = known.indices
            scored = int(self._device.to_host(search.scored)[0])
            work += TileStats(multiply_adds=products, candidates=scored, verified_pairs=scored)
        return work

    def _begin(self, rows: DeviceRows, known: TopK, tile: _Tile, start: int) -> DeviceSearch:
        xp, first = self._device.xp, tile.queries_start + start
        return DeviceSearch(
            rows,
            xp.array(known.similarities),
            xp.array(known.indices),
            first,
            first if tile.exclude_self else _NOBODY,
            xp.zeros(1, np.uint64),
        )

    def _upload(self, queries: CsrMatrix) -> DeviceRows:
        """The rows on the device, where those of the last call still are."""
        # Through a variable of its own: several threads may use the kernel, each with other rows.
        uploaded = self._uploaded
        if uploaded is None or uploaded[0]() is not queries:
            uploaded = self._uploaded = None  # gives the memory back first
            uploaded = self._uploaded = (ref(queries), DeviceRows.of(self._device, queries))
        return uploaded[1]


_said: dict[str, float] = {}


def _say(message: str) -> None:
    """Log what every task of a process would say again, but not more than now and then."""
    now = time.monotonic()
    if now - _said.get(message, -math.inf) > _SAY_AGAIN_SECONDS:
        _said[message] = now
        logger.warning(message)


@dataclass(frozen=True, eq=False)
class _Tile:
    """Query rows, what they have found so far, and the numbers of their first one and of the first candidate."""

    queries: CsrMatrix
    found: TopK
    queries_start: int
    candidates_start: int
    exclude_self: bool

    def halves(self) -> Iterator[_Tile]:
        """The first half of the query rows, and the second."""
        rows = self.queries.shape[0]
        for start, stop in ((0, rows // 2), (rows // 2, rows)):
            queries, found = rows_of(self.queries, Block(0, start, stop)), self.found.rows(start, stop)
            yield replace(self, queries=queries, found=found, queries_start=self.queries_start + start)
