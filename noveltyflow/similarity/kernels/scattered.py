"""Upper bounds on the GPU from posting lists scattered into shared memory; the proof is in `postings.cu`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noveltyflow.similarity.kernels.base import BlockShape
from noveltyflow.similarity.kernels.device import Device, DeviceArray
from noveltyflow.similarity.kernels.device_rows import (
    STAGED_ENTRIES,
    DeviceRows,
    DeviceSearch,
    search_shared_bytes,
)

_THREADS = 512
_ROWS_PER_BLOCK = 8
_LEVELS = 64
_LEVELS_PER_OCTAVE = 2
_MOST_SLAB_ROWS = 1 << 16
_LARGEST_NORM = 1.0011
"""At least the norm of every row: unit rows may be off by 0.001, and there is float32 rounding."""


@dataclass(frozen=True, eq=False)
class ScatteredPart:
    """Candidates from row `start` of their block on, with posting lists by slab and column."""

    start: int
    rows: DeviceRows
    starts: DeviceArray
    postings: DeviceArray
    levels: DeviceArray
    slab_rows: int

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        lists = self.starts.nbytes + self.postings.nbytes + self.levels.nbytes
        return self.rows.nbytes + int(lists)


@dataclass(frozen=True)
class Scattered:
    """The method.

    Attributes
    ----------
    slab_rows : int
        Candidates accumulated at a time, a multiple of 8 and at most 65,536; fewer where the device has not
        so much shared memory.
    head_share : float
        How much of its threshold a row may leave to its most frequent columns, from 0 to below 1. More
        saves additions and costs candidates.
    query_rows : int
        Rows of one launch.
    """

    slab_rows: int = 1 << 15
    head_share: float = 0.4
    query_rows: int = 1 << 14

    def __post_init__(self) -> None:
        if not 8 <= self.slab_rows <= _MOST_SLAB_ROWS or self.slab_rows % 8:
            raise ValueError(
                f"slab_rows must be a multiple of 8 up to {_MOST_SLAB_ROWS}, not {self.slab_rows}"
            )
        if not 0 <= self.head_share < 1:
            raise ValueError(f"head_share must be at least 0 and below 1, not {self.head_share}")

    def prepare(self, device: Device, rows: DeviceRows, start: int) -> ScatteredPart:
        """Build the posting lists."""
        xp, slab_rows = device.xp, self._fitting_slab_rows(device)
        n_slabs = max(1, -(-rows.n_rows // slab_rows))
        shape = (np.int32(rows.n_rows), np.int32(rows.n_features), np.int32(slab_rows))
        starts = xp.zeros(n_slabs * rows.n_features + 1, np.uint32)
        blocks, threads = max(1, -(-rows.n_rows // _ROWS_PER_BLOCK)), 32 * _ROWS_PER_BLOCK
        device.launch("count_postings", blocks, threads, 0, (*rows.arguments[:2], *shape, starts))
        frequency = starts[:-1].reshape(n_slabs, rows.n_features).sum(axis=0, dtype=np.int64)
        starts = xp.cumsum(starts, dtype=np.uint32)
        postings = xp.empty(len(rows.columns), np.uint32)
        device.launch("fill_postings", blocks, threads, 0, (*rows.arguments, *shape, starts, postings))
        return ScatteredPart(start, rows, starts, postings, _levels(device, frequency), slab_rows)

    def search(self, device: Device, part: ScatteredPart, search: DeviceSearch, candidates_start: int) -> int:
        """Look for neighbours among the part's rows; 0, because the kernel counts the additions."""
        if part.rows.n_rows:
            head = (part.starts, part.postings, part.levels, np.int32(part.rows.n_features))
            sizes = (np.int32(part.slab_rows), np.int32(part.rows.n_rows))
            pruning = (np.float32(_LARGEST_NORM), np.float32(self.head_share))
            own = search.arguments(part.rows, candidates_start + part.start)
            shared = _shared_bytes(part.slab_rows)
            arguments = (*head, *sizes, *pruning, *own)
            device.launch("search_postings", search.rows.n_rows, _THREADS, shared, arguments)
        return 0

    def _fitting_slab_rows(self, device: Device) -> int:
        rows = self.slab_rows
        while rows > 8 and _shared_bytes(rows) > device.shared_bytes:
            rows = rows // 16 * 8
        return rows

    def device_bytes(self, queries: BlockShape, candidates: BlockShape) -> int:
        """Upper bound of the device memory of a tile beside the rows and neighbours themselves."""
        del queries
        # A device with less shared memory takes up to eight times as many slabs.
        slabs = 8 * -(-candidates.rows // self.slab_rows) if candidates.rows > self.slab_rows // 8 else 1
        # Starts before and after the sum, then postings, then frequencies and levels.
        return 8 * (slabs * candidates.features + 1) + 4 * candidates.nonzeros + 32 * candidates.features


def _shared_bytes(slab_rows: int) -> int:
    """Shared memory of `search_postings`: the search, sums by level, staged levels, accumulators, alignment."""
    return search_shared_bytes(_THREADS) + 4 * _LEVELS + STAGED_ENTRIES + 12 + 16 + 2 * slab_rows


def _levels(device: Device, frequency: DeviceArray) -> DeviceArray:
    """Level of each column: two for each doubling of its document frequency; uint8."""
    xp = device.xp
    levels = _LEVELS_PER_OCTAVE * xp.log2(xp.maximum(frequency, 1).astype(np.float64))
    return xp.minimum(levels, _LEVELS - 1).astype(np.uint8)
