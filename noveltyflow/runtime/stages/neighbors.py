"""Stage `neighbors`: the exact k nearest neighbours of every row, tile by tile.

A strip (all tiles of one row block) is a chain of tasks named `tile`. Each of them takes up the strip where it
stands, computes tiles for a few seconds, and stores how far it came; so a kill costs a few seconds of one
strip, thresholds travel from tile to tile, and the number of tasks follows the work instead of n². When a
strip is through, a task named `merge` moves its neighbours to their final place.
"""

from __future__ import annotations

import io
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from threading import Lock

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import ResourceError, StoreError
from noveltyflow.runtime.executor import Executor, Task
from noveltyflow.runtime.handout import Handout
from noveltyflow.runtime.plan import TASK_BYTES, mebibytes
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.stages.features import load_weighted
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.similarity.kernels.base import (
    BlockShape,
    DeviceKernel,
    PreparedBlock,
    TileKernel,
    TileStats,
)
from noveltyflow.similarity.kernels.registry import KERNELS, get_kernel
from noveltyflow.similarity.tiles import Block, strip
from noveltyflow.similarity.topk import TopK
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import allocate_neighbors, blocks_of, write_neighbors


@dataclass(frozen=True)
class StripState:
    """A strip after its first `tiles_done` tiles."""

    tiles_done: int
    best: TopK
    stats: TileStats


@dataclass(frozen=True)
class TileReport:
    """What a `tile` task says to the client."""

    block: Block
    tiles_done: int
    tiles_new: int
    seconds: float


def tile_bytes(
    nonzeros_per_row: float, settings: ScoringSettings, backends: Sequence[str]
) -> Callable[[int], int]:
    """Projected peak bytes of one `tile` task of any of the backends, as a function of the rows in a block."""
    kernels, n_features = [KERNELS[backend]() for backend in backends], settings.features.n_features

    def projected(block_rows: int) -> int:
        shape = BlockShape(block_rows, int(nonzeros_per_row * block_rows), n_features)
        # int32 columns, float32 weights, and the counts they are made from, for both blocks.
        loaded = 2 * shape.nonzeros * (4 + 4 + 4)
        idf = 3 * 8 * n_features
        k = settings.neighbors.n_neighbors
        needed = max(kernel.bytes_needed(shape, shape, k) for kernel in kernels)
        return TASK_BYTES + idf + loaded + needed

    return projected


@dataclass(frozen=True)
class TileJob:
    """What all `tile` tasks of a run have in common."""

    store: RunStore
    settings: ScoringSettings
    cache_bytes: int
    """Host memory for indexed blocks."""
    device_bytes: int | None
    """Device memory for everything, where tiles are computed on devices."""


def tile(job: TileJob, block: Block, backend: str, seconds: float) -> TileReport:
    """Carry one strip on for some seconds, at least by one tile, and store its state."""
    started = time.monotonic()
    kernel, k = get_kernel(backend), job.settings.neighbors.n_neighbors
    if isinstance(kernel, DeviceKernel) and job.device_bytes is not None:
        kernel.limit_device_memory(job.device_bytes)
    state = _load_state(job.store, block) or StripState(0, TopK.empty(block.n_rows, k), TileStats())
    tiles = strip(block, blocks_of(job.store))
    queries = load_weighted(job.store, block, job.settings.features)
    deadline = time.monotonic() + seconds
    best, stats, done = state.best, state.stats, state.tiles_done
    while done < len(tiles) and (done == state.tiles_done or time.monotonic() < deadline):
        other = tiles[done].candidates
        prepared = _prepared(job, other, kernel, BlockShape.of(queries))
        best, work = kernel.compute(
            queries, prepared, best, queries_start=block.start, candidates_start=other.start
        )
        stats, done = stats + work, done + 1
    _store_state(job.store, block, StripState(done, best, stats))
    return TileReport(block, done, done - state.tiles_done, time.monotonic() - started)


def merge(store: RunStore, block: Block) -> TileStats:
    """Move the neighbours of a strip that is through to their final place; the work they took."""
    state = _load_state(store, block)
    if state is None or state.tiles_done < len(blocks_of(store)):
        raise StoreError(f"{store.path}: the checkpoint of row block {block.index} is gone; run again")
    write_neighbors(store, block, state.best)
    return state.stats


class _SharedTiles:
    """The tiles of a run as work that several backends share."""

    def __init__(
        self, job: TileJob, backends: Sequence[str], blocks: Sequence[Block], checkpoint_seconds: float
    ) -> None:
        done, strip_tiles = _tiles_done(job.store, blocks), len(blocks_of(job.store))
        self.backends = backends
        self.handout = Handout({block: strip_tiles - done.get(block.index, 0) for block in blocks})
        self.tiles, self.tiles_done = len(blocks) * strip_tiles, sum(done.values())
        self._job, self._strip_tiles, self._checkpoint_seconds = job, strip_tiles, checkpoint_seconds

    @property
    def finished(self) -> bool:
        """See `SharedWork.finished`."""
        return self.handout.finished

    def take(self, backend: str, slots: Mapping[str, int]) -> Task | None:
        """See `SharedWork.take`."""
        block = self.handout.take(backend, slots)
        if block is None:
            return None
        return self._job, block, backend, self.handout.patience(slots, self._checkpoint_seconds)

    def done(self, backend: str, report: TileReport) -> None:
        """See `SharedWork.done`."""
        left = self._strip_tiles - report.tiles_done
        self.tiles_done += self.handout.done(backend, report.block, report.tiles_new, left, report.seconds)

    def give_back(self, task: Task) -> None:
        """See `SharedWork.give_back`."""
        self.handout.give_back(task[1])


def compute_neighbors(
    store: RunStore,
    settings: ScoringSettings,
    backends: Sequence[str],
    executor: Executor,
    reporter: Reporter,
    fingerprint: str,
) -> None:
    """Compute every tile, merge every strip, then mark stage `neighbors` done."""
    blocks = blocks_of(store)
    job = _plan_tiles(store, settings, backends, executor, reporter)
    _compute_strips(job, backends, blocks, executor, reporter)
    allocate_neighbors(store, settings.neighbors.n_neighbors)
    stats = _merge_strips(store, blocks, executor, reporter)
    figures = {"n_neighbors": settings.neighbors.n_neighbors, "tile_stats": asdict(stats)}
    finish(store, "neighbors", fingerprint, executor, **figures)
    store.scratch.remove()


def recompute_neighbors(
    store: RunStore,
    settings: ScoringSettings,
    backends: Sequence[str],
    executor: Executor,
    reporter: Reporter,
    blocks: Sequence[Block],
) -> None:
    """Compute the neighbours of some blocks of a finished stage once more, into their old places."""
    job = _plan_tiles(store, settings, backends, executor, reporter)
    _compute_strips(job, backends, blocks, executor, reporter)
    _merge_strips(store, blocks, executor, reporter)
    store.scratch.remove()


def _plan_tiles(
    store: RunStore,
    settings: ScoringSettings,
    backends: Sequence[str],
    executor: Executor,
    reporter: Reporter,
) -> TileJob:
    """Compare what tiles need with what workers and devices have."""
    block_rows = store.figures("urls")["block_rows"]
    nonzeros_per_row = store.figures("features")["nonzeros"] / store.figures("urls")["rows"]
    spare = executor.memory_per_thread - tile_bytes(nonzeros_per_row, settings, backends)(block_rows)
    if spare < 0:
        allowed = executor.memory_per_thread
        raise ResourceError(
            f"stage neighbors: a tile of {block_rows:,} rows, as this run was begun with, "
            f"needs {mebibytes(allowed - spare)}, a worker has {mebibytes(allowed)} a thread; raise --memory-limit, "
            "lower --threads-per-worker, or start anew with --overwrite"
        )
    device_bytes = executor.device_memory() if "gpu" in backends else None
    if device_bytes is not None:
        shape = BlockShape(block_rows, int(nonzeros_per_row * block_rows), settings.features.n_features)
        _note_device_memory(shape, settings.neighbors.n_neighbors, device_bytes, reporter)
    return TileJob(store, settings, spare, device_bytes)


def _note_device_memory(shape: BlockShape, n_neighbors: int, device_bytes: int, reporter: Reporter) -> None:
    kernel = KERNELS["gpu"]()
    if isinstance(kernel, DeviceKernel):
        needed = kernel.device_bytes_needed(shape, shape, n_neighbors)
        reporter.note(
            f"device memory: a tile of {shape.rows:,} rows needs {mebibytes(needed)}, a device has "
            f"{mebibytes(device_bytes)}" + ("; tiles will be halved" if needed > device_bytes else "")
        )


def _compute_strips(
    job: TileJob, backends: Sequence[str], blocks: Sequence[Block], executor: Executor, reporter: Reporter
) -> None:
    work = _SharedTiles(job, backends, blocks, executor.checkpoint_seconds)
    reporter.start("tile", work.tiles, "tiles")
    reporter.advance(work.tiles_done)
    before = work.tiles_done
    for _ in executor.share("tile", tile, work):
        reporter.advance(work.tiles_done - before)
        before = work.tiles_done
    shares = ", ".join(f"{number:,} by {backend}" for backend, number in sorted(work.handout.tiles.items()))
    reporter.finish(f"{work.tiles:,} tiles" + (f": {shares}" if len(backends) > 1 else ""))


def _merge_strips(
    store: RunStore, blocks: Sequence[Block], executor: Executor, reporter: Reporter
) -> TileStats:
    reporter.start("merge", len(blocks), "blocks")
    stats = TileStats()
    for work in executor.run("merge", merge, [(store, block) for block in blocks]):
        stats += work
        reporter.advance(1)
    reporter.finish(f"{stats.multiply_adds / sum(block.n_rows for block in blocks):,.0f} multiply-adds a row")
    return stats


def _tiles_done(store: RunStore, blocks: Sequence[Block]) -> dict[int, int]:
    """How far earlier, interrupted runs came in each strip."""
    names = set(store.scratch.names("strips"))
    states = {b.index: _load_state(store, b) for b in blocks if f"{b.index:06d}.npz" in names}
    return {index: state.tiles_done for index, state in states.items() if state is not None}


def _state_name(block: Block) -> str:
    return f"strips/{block.index:06d}.npz"


def _load_state(store: RunStore, block: Block) -> StripState | None:
    data = store.scratch.read(_state_name(block))
    if data is None:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as saved:
        best = TopK(saved["similarities"], saved["indices"])
        return StripState(int(saved["tiles_done"]), best, TileStats(*saved["stats"].tolist()))


def _store_state(store: RunStore, block: Block, state: StripState) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        similarities=state.best.similarities,
        indices=state.best.indices,
        tiles_done=np.int64(state.tiles_done),
        stats=np.array(astuple(state.stats), np.int64),
    )
    store.scratch.write(_state_name(block), buffer.getbuffer())


CacheKey = tuple[str, str, Block]
"""Run folder, fingerprint of its weights, and rows: a worker may outlive the run it computed."""


class _PreparedCache:
    """Indexed blocks that this process used last, up to a number of bytes."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[CacheKey, PreparedBlock] = OrderedDict()
        self._lock = Lock()

    def get(self, key: CacheKey) -> PreparedBlock | None:
        """The block, if it is still here."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: CacheKey, block: PreparedBlock, limit: int) -> None:
        """Keep a block, and let go of those used longest ago."""
        with self._lock:
            self._blocks[key] = block
            while self._blocks and sum(kept.nbytes for kept in self._blocks.values()) > limit:
                self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Let go of all blocks."""
        with self._lock:
            self._blocks.clear()


_CACHES: dict[str, _PreparedCache] = {}
"""By backend: blocks on a device and blocks on the host have memory of their own."""


def forget_blocks() -> None:
    """Free what tiles kept in this process: a worker outlives its runs, and nothing else takes this memory back."""
    for cache in list(_CACHES.values()):
        cache.clear()


def _prepared(job: TileJob, block: Block, kernel: TileKernel, queries: BlockShape) -> PreparedBlock:
    cache = _CACHES.setdefault(kernel.name, _PreparedCache())
    key = (job.store.path, job.store.figures("idf")["fingerprint"], block)
    if (prepared := cache.get(key)) is None:
        prepared = kernel.prepare(load_weighted(job.store, block, job.settings.features))
        cache.put(key, prepared, _cache_limit(job, kernel, queries))
    return prepared


def _cache_limit(job: TileJob, kernel: TileKernel, queries: BlockShape) -> int:
    """Bytes that indexed blocks may take, in the memory where they lie."""
    if not isinstance(kernel, DeviceKernel):
        return job.cache_bytes
    tile = kernel.device_bytes_needed(queries, queries, job.settings.neighbors.n_neighbors)
    return kernel.device_memory() - tile
