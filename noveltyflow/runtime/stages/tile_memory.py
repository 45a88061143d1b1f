"""What a `tile` task takes of a host's memory and of a device's, told before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from noveltyflow.config import ScoringSettings
from noveltyflow.runtime.plan import TASK_BYTES
from noveltyflow.similarity.kernels.base import BlockShape, DeviceKernel, TileKernel
from noveltyflow.similarity.kernels.registry import KERNELS

_LONGEST_ROW = 100
"""How many times longer than the mean the longest row is taken to be."""
READING_BYTES = 4 + 4 + 4
"""For each entry of a block that is being read: column and count, and before it is weighted the count once more."""


def likely_shape(rows: int, nonzeros: int, features: int) -> BlockShape:
    """Shape of rows that were not read yet.

    What a row takes that is much longer than the others is among the bytes that every task may take.
    """
    return BlockShape(rows, nonzeros, features, _LONGEST_ROW * nonzeros // max(rows, 1))


def tile_memory(
    kernel: TileKernel, queries: BlockShape, candidates: BlockShape, largest_block: int, n_neighbors: int
) -> int:
    """Projected peak bytes of a `tile` task's data.

    First it reads and indexes a span of candidates, whose largest block has so many non-zeros; then it computes one
    strip while it reads another one as large.
    """
    indexing = max(kernel.prepare_bytes(candidates), READING_BYTES * largest_block)
    strips = (8 + 8 + 4) * queries.nonzeros
    # Neighbours: those of one strip, the file that is made of the last one's, and the next one's with their file.
    strips += 5 * 12 * n_neighbors * queries.rows
    computing = kernel.compute_bytes(queries, candidates, n_neighbors) + strips
    return (4 + 4) * candidates.nonzeros + 8 * candidates.features + max(indexing, computing)


def tile_bytes(
    nonzeros: Callable[[int], float], settings: ScoringSettings, backends: Sequence[str]
) -> Callable[[int, int], int]:
    """Projected peak bytes of a `tile` task of any of the backends.

    A function of the rows in a block, and of the blocks in a span; `nonzeros` tells how many so many rows have.
    """
    kernels, n_features = [KERNELS[backend]() for backend in backends], settings.features.n_features

    def projected(block_rows: int, span_blocks: int) -> int:
        queries, candidates = (
            likely_shape(rows, int(nonzeros(rows)), n_features)
            for rows in (block_rows, span_blocks * block_rows)
        )
        k = settings.neighbors.n_neighbors
        # While the frequencies are loaded, they are there as counts, as weights, and in between.
        loading = 3 * 8 * n_features
        return TASK_BYTES + max(
            loading, *(tile_memory(it, queries, candidates, queries.nonzeros, k) for it in kernels)
        )

    return projected


def device_tile_bytes(block_rows: int, nonzeros: int, settings: ScoringSettings) -> int | None:
    """Bytes of a device's memory that a tile of two blocks takes unless it is halved; None where tiles take none."""
    kernel, shape = KERNELS["gpu"](), BlockShape(block_rows, nonzeros, settings.features.n_features)
    if not isinstance(kernel, DeviceKernel):
        return None
    return kernel.device_bytes_needed(shape, shape, settings.neighbors.n_neighbors)
