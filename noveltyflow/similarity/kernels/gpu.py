"""The tile kernel for CUDA devices: CUDA C compiled through CuPy, the same bits as on the CPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from weakref import ref

import numpy as np

from noveltyflow.errors import ResourceError
from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileStats
from noveltyflow.similarity.kernels.device import Device, cuda_device, has_cuda
from noveltyflow.similarity.kernels.device_rows import DeviceRows, DeviceSearch, rows_bytes
from noveltyflow.similarity.kernels.folded import Folded, FoldedPart
from noveltyflow.similarity.tiles import split_rows
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix

logger = logging.getLogger(__name__)

_NOBODY = -(1 << 62)
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class GpuPrepared:
    """Candidates in device memory, in one part or, where that did not fit at once, in several."""

    n_rows: int
    parts: tuple[FoldedPart, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory; none is held on the host."""
        return sum(part.nbytes for part in self.parts)

    def rows(self, start: int, stop: int) -> None:  # noqa: ARG002 - they are on the device
        """See `PreparedBlock.rows`."""
        return


class GpuKernel:
    """Exact tiles on the CUDA device of this process.

    A tile that does not fit into device memory is halved until it does, which is logged once for each size; the next
    ones are cut as small at once.

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
        return self._device.memory()

    def limit_device_memory(self, n_bytes: int) -> None:
        """See `DeviceKernel.limit_device_memory`."""
        self._device.limit_memory(n_bytes)

    def prepare(self, block: CsrMatrix, n_neighbors: int, *, threads: int = 1) -> GpuPrepared:  # noqa: ARG002
        """Copy `block` to the device and index it there, in one way for any number of neighbours."""
        return GpuPrepared(block.shape[0], tuple(self._prepare(block, 0)))

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
        began, found = time.perf_counter_ns(), best.copy()
        scored = products = 0
        if queries.nnz:
            tile = _Tile(candidates, candidates_start, queries_start, exclude_self)
            scored, products = self._compute(queries, found, tile, 0)
        spent = time.perf_counter_ns() - began
        return found, TileStats(queries.shape[0], products, scored, scored, accumulating_ns=spent)

    def _prepare(self, block: CsrMatrix, start: int) -> list[FoldedPart]:
        if not block.nnz:
            return []
        return self._halving(
            "candidates",
            block.shape[0],
            lambda: [self._folded.prepare(self._device, DeviceRows.of(self._device, block), start)],
            lambda middle: (
                self._prepare(block[:middle], start) + self._prepare(block[middle:], start + middle)
            ),
        )

    def _compute(self, queries: CsrMatrix, found: TopK, tile: _Tile, start: int) -> tuple[int, int]:
        """Search for the rows of `queries`, the first of which is row `start` of the tile."""

        def halves(middle: int) -> tuple[int, int]:
            left = self._compute(queries[:middle], found.rows(0, middle), tile, start)
            right = self._compute(queries[middle:], found.rows(middle, found.n_rows), tile, start + middle)
            return left[0] + right[0], left[1] + right[1]

        return self._halving(
            "query rows", queries.shape[0], lambda: self._search(queries, found, tile, start), halves
        )

    def _halving(
        self,
        what: str,
        rows: int,
        whole: Callable[[], _Result],
        halves: Callable[[int], _Result],
    ) -> _Result:
        """Do `whole()`; if the device's memory is too small for it, let go of what can be, try again, do `halves`."""
        if rows > self._most.get(what, rows):
            return halves(rows // 2)
        try:
            return whole()
        except MemoryError:  # CuPy's own error is one, and so is that of an RMM pool
            pass
        # Here and not in the handler, where the traceback would keep the arrays alive.
        self._let_go()
        try:
            return whole()
        except MemoryError as error:
            if rows == 1:
                raise ResourceError(
                    f"the device's memory is too small for a single row of {what} beside what it already "
                    f"holds: {error}; lower --block-rows, or leave out the other users of the device"
                ) from error
        self._most[what] = rows - rows // 2
        _say_once(f"out of device memory: {what} are halved, to {self._most[what]:,} at a time")
        self._let_go()
        return halves(rows // 2)

    def _let_go(self) -> None:
        """Free the query rows, and memory that the device's pool keeps and cannot use for another purpose."""
        self._uploaded = None
        self._device.release()

    def _search(self, queries: CsrMatrix, found: TopK, tile: _Tile, start: int) -> tuple[int, int]:
        rows = self._upload(queries)
        scored = products = 0
        for group in split_rows(rows.n_rows, self._folded.query_rows):
            target = found.rows(group.start, group.stop)
            search = self._begin(rows.part(group.start, group.stop), target, tile, start + group.start)
            for part in tile.candidates.parts:
                products += self._folded.search(self._device, part, search, tile.candidates_start)
            known = search.known(self._device)
            target.similarities[:] = known.similarities
            target.indices[:] = known.indices
            scored += int(self._device.to_host(search.scored)[0])
        return scored, products

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


@cache
def _say_once(message: str) -> None:
    """Log what every task of a process would say again."""
    logger.warning(message)


@dataclass(frozen=True, eq=False)
class _Tile:
    candidates: GpuPrepared
    candidates_start: int
    queries_start: int
    exclude_self: bool
