"""Sparse rows and their neighbours in a device's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from noveltyflow.similarity.kernels.base import BlockShape
from noveltyflow.similarity.kernels.device import Device, DeviceArray
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix

STAGED_ENTRIES = 1024
"""Entries of a query row that are kept in shared memory, a power of two; a longer row is read where it is."""
_BOUNDS_PER_THREAD, _SPARE_CANDIDATES, _HISTOGRAM_BYTES, _PROGRESS_BYTES = 8, 512, 8192, 24


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """CSR rows on a device: int64 `indptr`, int32 `columns`, float32 `weights`."""

    indptr: DeviceArray
    columns: DeviceArray
    weights: DeviceArray
    n_features: int

    @classmethod
    def of(cls, device: Device, block: CsrMatrix) -> DeviceRows:
        """Copy a CSR matrix to the device."""
        xp = device.xp
        return cls(
            xp.asarray(block.indptr.astype(np.int64)),
            xp.asarray(block.indices.astype(np.int32, copy=False)),
            xp.asarray(block.data),
            block.shape[1],
        )

    def to_host(self, device: Device) -> CsrMatrix:
        """Copy them to a CSR matrix."""
        weights, columns, indptr = map(device.to_host, (self.weights, self.columns, self.indptr))
        rows = sp.csr_matrix((weights, columns, indptr), (self.n_rows, self.n_features), copy=False)
        rows.has_canonical_format = True
        return rows

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return int(self.indptr.nbytes + self.columns.nbytes + self.weights.nbytes)

    @property
    def arguments(self) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """The arrays in the order in which all kernels take them."""
        return self.indptr, self.columns, self.weights

    def part(self, start: int, stop: int) -> DeviceRows:
        """Rows `start` to `stop` as views; their entries stay where they are."""
        return DeviceRows(self.indptr[start : stop + 1], self.columns, self.weights, self.n_features)


def rows_bytes(shape: BlockShape) -> int:
    """Bytes of the `DeviceRows` of a block."""
    return 8 * shape.nonzeros + 8 * (shape.rows + 1)


@dataclass(frozen=True, eq=False)
class DeviceSearch:
    """Query rows that look for neighbours, and what they found so far.

    Attributes
    ----------
    rows : DeviceRows
        The query rows.
    similarities, neighbors : device arrays of float32 and int64, shape (n, k)
        Their `TopK`, changed in place.
    start : int
        Global number of the first query row.
    self_start : int
        The number which that row has among the candidates; one that none of them has, where a row is no
        candidate of its own.
    scored : device array of uint64, shape (1,)
        How many candidates were scored.
    """

    rows: DeviceRows
    similarities: DeviceArray
    neighbors: DeviceArray
    start: int
    self_start: int
    scored: DeviceArray

    @property
    def n_neighbors(self) -> int:
        """Number of slots of each row."""
        return int(self.neighbors.shape[1])

    def known(self, device: Device) -> TopK:
        """Copy what was found to the host."""
        return TopK(device.to_host(self.similarities), device.to_host(self.neighbors))

    def arguments(self, others: DeviceRows, others_start: int) -> tuple[Any, ...]:
        """What every search kernel is told about its rows, the candidates being `others`."""
        own = self.self_start - others_start
        return (
            *self.rows.arguments,
            *others.arguments,
            np.int64(others_start),
            np.int64(own),
            self.similarities,
            self.neighbors,
            np.int32(self.n_neighbors),
            np.int32(STAGED_ENTRIES),
            self.scored,
        )


def search_shared_bytes(threads: int) -> int:
    """Shared memory of the search that all kernels have in common; `after_search` in `search.cuh`."""
    capacity = threads * _BOUNDS_PER_THREAD + _SPARE_CANDIDATES
    return _PROGRESS_BYTES + 16 * STAGED_ENTRIES + max(8 * capacity, _HISTOGRAM_BYTES)
