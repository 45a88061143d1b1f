"""The backend seam: what every tile kernel takes, gives and promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix


@dataclass(frozen=True)
class BlockShape:
    """Size of a CSR block, enough to compute how much memory a kernel takes for it."""

    rows: int
    nonzeros: int
    features: int
    longest: int | None = None
    """Most entries in a row, where that is known."""

    @classmethod
    def of(cls, block: CsrMatrix) -> BlockShape:
        """Size of the CSR matrix `block`."""
        longest = int(np.diff(block.indptr).max(initial=0))
        return cls(block.shape[0], block.nnz, block.shape[1], longest)

    @property
    def longest_row(self) -> int:
        """Upper bound of the entries in a row."""
        known = self.nonzeros if self.longest is None else self.longest
        return min(known, self.nonzeros, self.features)


@dataclass(frozen=True)
class TileStats:
    """Work that a tile took, in counts, and times by stage. They add up with `+`.

    Counts do not depend on the machine, but on a GPU, where chance decides what is scored first, candidates and
    verified pairs vary a little. Times do; those of threads that compute side by side add up. What is computed
    without bounds, or on a GPU, is accumulating as a whole, and so is all of a search where the processor's ticks
    cannot be counted.

    Attributes
    ----------
    query_rows : int
        Rows that looked for neighbours, counted once in every tile.
    multiply_adds : int
        Products added to accumulators.
    candidates : int
        Units (rows, or groups of rows) whose bound reached the threshold.
    verified_pairs : int
        Pairs whose similarity was computed.
    skipped_rows : int
        Query rows for which a tile left nothing to compute, counted in every tile as `query_rows` are: none of its
        rows shares a column with them, bounds alone showed that none can be a better neighbour, or what could be
        one was computed for a row before. A GPU does not count them: 0.
    preparing_ns : int
        Nanoseconds in which candidates were indexed.
    seeding_ns : int
        Nanoseconds in which query rows were loaded and their thresholds raised by likely neighbours, and by the best
        sums while lists were added for the first time.
    accumulating_ns : int
        Nanoseconds in which lists were added further, because thresholds allowed too much, and sums compared.
    verifying_ns : int
        Nanoseconds in which what was left was bounded more closely and similarities were computed.
    """

    query_rows: int = 0
    multiply_adds: int = 0
    candidates: int = 0
    verified_pairs: int = 0
    skipped_rows: int = 0
    preparing_ns: int = 0
    seeding_ns: int = 0
    accumulating_ns: int = 0
    verifying_ns: int = 0

    def __add__(self, other: TileStats) -> TileStats:
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return TileStats(*(mine + others for mine, others in both))


def time_shares(stats: Mapping[str, int]) -> dict[str, float]:
    """The share of each stage in the time of `TileStats` as a dict; empty where no time was counted."""
    times = {name.removesuffix("_ns"): spent for name, spent in stats.items() if name.endswith("_ns")}
    whole = sum(times.values())
    return {stage: spent / whole for stage, spent in times.items()} if whole else {}


class PreparedBlock(Protocol):
    """The candidates' side of a tile, indexed by one kernel and understood by that kernel only."""

    @property
    def n_rows(self) -> int:
        """Number of rows of the block it was made from."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held, the block's own included where it is kept."""
        ...

    def rows(self, start: int, stop: int) -> CsrMatrix | None:
        """Rows of the block it was made from, without a copy; None where the block is not kept."""
        ...


class TileKernel(Protocol):
    """Computes tiles on one kind of processor.

    Both blocks are CSR matrices of float32 with sorted column numbers and no stored zeros, whose rows
    have at most unit norm (within 0.001). Everything stays on the host at this seam.
    """

    @property
    def name(self) -> str:
        """Name of the backend, as in the setting `backend`."""
        ...

    def is_usable(self) -> bool:
        """Whether this machine can run the kernel."""
        ...

    def prepare_bytes(self, candidates: BlockShape) -> int:
        """Return an upper bound of the bytes that `prepare` allocates on one thread, its result included."""
        ...

    def compute_bytes(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return an upper bound of what `prepare` keeps beside the block and `compute` allocates, in bytes."""
        ...

    def prepare(self, block: CsrMatrix, n_neighbors: int, *, threads: int = 1) -> PreparedBlock:
        """Index a block of candidates; worth keeping while several tiles use the same block.

        A kernel may use up to `threads` threads. Neither they nor the number of neighbours for which it is prepared
        change the result: searches for fewer or more may take longer.
        """
        ...

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
        """Merge the tile's neighbours into those known so far.

        Parameters
        ----------
        queries : csr_matrix of float32, shape (n, n_features)
            Rows that look for neighbours.
        candidates : PreparedBlock
            What `prepare` gave for the other block.
        best : TopK, shape (n, k)
            Neighbours found before, in other tiles or among these candidates; not modified. High similarities here
            save work.
        queries_start, candidates_start : int
            Global number of each block's first row.
        exclude_self : bool
            Leave out the pair of a global row with itself.

        Returns
        -------
        TopK, shape (n, k)
            `best` merged with the neighbours among the candidates. A pair of rows that share no column
            is never a neighbour.
        TileStats
            Work done.
        """
        ...


@runtime_checkable
class DeviceKernel(TileKernel, Protocol):
    """A kernel whose prepared blocks and scratch space lie in a device's own memory.

    `PreparedBlock.nbytes` then counts device memory, the bytes of `TileKernel` what is taken of the host's.
    """

    def device_bytes_needed(self, queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
        """Return an upper bound of the device memory that a tile takes unless it is halved."""
        ...

    def device_memory(self) -> int:
        """Return the bytes of device memory that may be used."""
        ...

    def limit_device_memory(self, n_bytes: int) -> None:
        """Use no more than `n_bytes` of device memory."""
        ...
