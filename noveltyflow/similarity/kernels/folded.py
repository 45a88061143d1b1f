"""Upper bounds on the GPU as a half-precision product of folded rows; the proof is in `folded.cu`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noveltyflow.similarity.kernels.base import BlockShape
from noveltyflow.similarity.kernels.device import Device, DeviceArray
from noveltyflow.similarity.kernels.device_rows import DeviceRows, DeviceSearch, search_shared_bytes
from noveltyflow.similarity.tiles import Block, split_rows, strip

KEPT = 1 - 2.0**-8
"""What rounding leaves of a folded product at least.

Folded weights are rounded up, products of halves are exact in float32, and all terms are non-negative. Tensor
cores may cut each of the at most 2^13 terms, and each sum carried on, at the 23rd bit: less than 2^-9 in all.
The final rounding to half takes at most 2^-11.
"""
_MOST_BUCKETS = 1 << 13
_THREADS = 256
"""No more than the launch bounds in `folded.cu`."""
_SEGMENT_ENTRIES = 128
_SCORING_BLOCKS = 1024
"""Enough to fill any device; each takes one segment after the other."""
_ALIGNED_ROWS = 8
"""Candidates are padded to a multiple of this, so that every line of bounds is aligned to 16 bytes."""


@dataclass(frozen=True, eq=False)
class FoldedPart:
    """Candidates from row `start` of their block on, with their folded form."""

    start: int
    rows: DeviceRows
    buckets: DeviceArray
    folded: DeviceArray

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.rows.nbytes + int(self.buckets.nbytes + self.folded.nbytes)


@dataclass(frozen=True, eq=False)
class _PutOff:
    """Candidates of rows that have very many, for a launch of their own; `PutOff` in `search.cuh`.

    Attributes
    ----------
    segments : device array of int32, shape (capacity, 128)
    used : device array of uint32, shape (1,)
    locks : device array of int32, shape (n,)
        A 0 for each query row.
    """

    segments: DeviceArray
    used: DeviceArray
    locks: DeviceArray

    @property
    def arguments(self) -> tuple[DeviceArray, DeviceArray, np.int32]:
        """What kernels are told."""
        return self.segments, self.used, np.int32(len(self.segments))


@dataclass(frozen=True)
class Folded:
    """How bounds are made, and how much at a time; nothing of it changes the result.

    Attributes
    ----------
    n_buckets : int
        Width of a folded row, a multiple of 8 and at most 8,192. More buckets give tighter bounds and more
        work.
    query_rows, candidate_rows : int
        Size of one product; `candidate_rows` is a multiple of 8.
    segments : int
        Room for candidates that are put off, 126 in each, for each query row; they may be of any row.
    """

    n_buckets: int = 2048
    query_rows: int = 4096
    candidate_rows: int = 1 << 16
    segments: int = 8

    def __post_init__(self) -> None:
        if not 8 <= self.n_buckets <= _MOST_BUCKETS or self.n_buckets % 8:
            raise ValueError(f"n_buckets must be a multiple of 8 up to {_MOST_BUCKETS}, not {self.n_buckets}")
        if self.candidate_rows < _ALIGNED_ROWS or self.candidate_rows % _ALIGNED_ROWS:
            raise ValueError(
                f"candidate_rows must be a multiple of {_ALIGNED_ROWS}, not {self.candidate_rows}"
            )

        if self.query_rows < 1:
            raise ValueError(f"query_rows must be at least 1, not {self.query_rows}")
        if self.segments < 0:
            raise ValueError(f"segments must be at least 0, not {self.segments}")

    def prepare(self, device: Device, rows: DeviceRows, start: int) -> FoldedPart:
        """Choose the buckets and fold the candidates."""
        buckets = self._choose_buckets(device, rows)
        return FoldedPart(
            start, rows, buckets, self._fold(device, rows, buckets, self._width(rows.n_features))
        )

    def search(self, device: Device, part: FoldedPart, search: DeviceSearch, candidates_start: int) -> int:
        """Look for neighbours among the part's rows; the multiply-adds that it took."""
        first = candidates_start + part.start
        folded = self._fold(device, search.rows, part.buckets, part.folded.shape[1])
        later = _PutOff(
            device.xp.empty((self.segments * search.rows.n_rows, _SEGMENT_ENTRIES), np.int32),
            device.xp.zeros(1, np.uint32),
            device.xp.zeros(search.rows.n_rows, np.int32),
        )
        blocks = split_rows(part.folded.shape[0], self.candidate_rows)
        middle = Block(0, search.start - first, search.start - first + search.rows.n_rows)
        for tile in strip(middle, blocks):
            self._scan(device, part, search, folded, first, tile.candidates, later)
        return int(folded.shape[0] * part.folded.size)

    def _scan(
        self,
        device: Device,
        part: FoldedPart,
        search: DeviceSearch,
        folded: DeviceArray,
        first: int,
        block: Block,
        later: _PutOff,
    ) -> None:
        bounds = device.xp.empty((folded.shape[0], block.n_rows), np.float16)
        device.matmul(folded, part.folded[block.start : block.stop].T, bounds)
        head = (bounds, np.int32(block.n_rows), np.int32(block.start), np.float32(KEPT))
        shared, own = search_shared_bytes(_THREADS), search.arguments(part.rows, first)
        later.used.fill(0)
        arguments = (*head, *later.arguments, *own)
        device.launch("scan_folded", search.rows.n_rows, _THREADS, shared, arguments)
        arguments = (*later.arguments, later.locks, *own)
        device.launch("score_put_off", _SCORING_BLOCKS, _THREADS, shared, arguments)

    def _width(self, n_features: int) -> int:
        return min(self.n_buckets, -(-max(n_features, 1) // 8) * 8)

    def _choose_buckets(self, device: Device, rows: DeviceRows) -> DeviceArray:
        """Bucket of each column, so that all have about the same sum of weights; int32, shape (n_features,).

        What folding adds to the product of two rows is, on average, the sum of the squared sums of the
        buckets, which is least where they are equal.
        """
        xp, width = device.xp, self._width(rows.n_features)
        mass = xp.bincount(rows.columns, weights=xp.abs(rows.weights), minlength=rows.n_features)
        rank = xp.arange(rows.n_features, dtype=np.int32)
        place = rank % width
        buckets = xp.empty(rows.n_features, np.int32)
        buckets[xp.argsort(-mass)] = xp.where(rank // width % 2 == 1, width - 1 - place, place)
        return buckets

    def _fold(self, device: Device, rows: DeviceRows, buckets: DeviceArray, width: int) -> DeviceArray:
        """Folded rows, float16, shape (rows padded with zeros to a multiple of 8, width)."""
        padded = -(-rows.n_rows // _ALIGNED_ROWS) * _ALIGNED_ROWS
        folded = device.xp.zeros((padded, width), np.float16)
        if rows.n_rows:
            arguments = (*rows.arguments, buckets, np.int32(width), folded)
            device.launch("fold_rows", rows.n_rows, _THREADS, 4 * width, arguments)
        return folded

    def device_bytes(self, queries: BlockShape, candidates: BlockShape) -> int:
        """Upper bound of the device memory of a tile beside the rows and neighbours themselves."""
        width = self._width(candidates.features)
        query_rows = min(self.query_rows, queries.rows) + _ALIGNED_ROWS
        candidate_rows = min(self.candidate_rows, candidates.rows) + _ALIGNED_ROWS
        # Absolute weights, also as float64; masses, their order, sorting space, ranks and buckets.
        choosing = 12 * candidates.nonzeros + 40 * candidates.features
        folded = 2 * width * (candidates.rows + query_rows + _ALIGNED_ROWS)
        each = query_rows * (2 * candidate_rows + 4 * _SEGMENT_ENTRIES * self.segments + 4)
        return folded + choosing + each
