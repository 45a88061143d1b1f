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
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from threading import Lock

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import ResourceError, StoreError
from noveltyflow.runtime.executor import Executor, Task
from noveltyflow.runtime.plan import TASK_BYTES, mebibytes
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.stages.features import load_weighted
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.similarity.kernels.base import BlockShape, PreparedBlock, TileKernel, TileStats
from noveltyflow.similarity.kernels.registry import get_kernel
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
    strip_done: bool


def tile_bytes(nonzeros_per_row: float, settings: ScoringSettings, backend: str) -> Callable[[int], int]:
    """Projected peak bytes of one `tile` task, as a function of the rows in a block."""
    kernel, n_features = get_kernel(backend), settings.features.n_features

    def projected(block_rows: int) -> int:
        shape = BlockShape(block_rows, int(nonzeros_per_row * block_rows), n_features)
        # int32 columns, float32 weights, and the counts they are made from, for both blocks.
        loaded = 2 * shape.nonzeros * (4 + 4 + 4)
        idf = 3 * 8 * n_features
        return TASK_BYTES + idf + loaded + kernel.bytes_needed(shape, shape, settings.neighbors.n_neighbors)

    return projected


@dataclass(frozen=True)
class TileJob:
    """What all `tile` tasks of a run have in common."""

    store: RunStore
    settings: ScoringSettings
    backend: str
    cache_bytes: int
    seconds: float


def tile(job: TileJob, block: Block) -> TileReport:
    """Carry one strip on for some seconds, at least by one tile, and store its state."""
    kernel, k = get_kernel(job.backend), job.settings.neighbors.n_neighbors
    state = _load_state(job.store, block) or StripState(0, TopK.empty(block.n_rows, k), TileStats())
    tiles = strip(block, blocks_of(job.store))
    queries = load_weighted(job.store, block, job.settings.features)
    deadline = time.monotonic() + job.seconds
    best, stats, done = state.best, state.stats, state.tiles_done
    while done < len(tiles) and (done == state.tiles_done or time.monotonic() < deadline):
        other = tiles[done].candidates
        prepared = _prepared(job, other, kernel)
        best, work = kernel.compute(
            queries, prepared, best, queries_start=block.start, candidates_start=other.start
        )
        stats, done = stats + work, done + 1
    _store_state(job.store, block, StripState(done, best, stats))
    return TileReport(block, done, done - state.tiles_done, done == len(tiles))


def merge(store: RunStore, block: Block) -> TileStats:
    """Move the neighbours of a strip that is through to their final place; the work they took."""
    state = _load_state(store, block)
    if state is None or state.tiles_done < len(blocks_of(store)):
        raise StoreError(f"{store.path}: the checkpoint of row block {block.index} is gone; run again")
    write_neighbors(store, block, state.best)
    return state.stats


def compute_neighbors(
    store: RunStore,
    settings: ScoringSettings,
    backend: str,
    executor: Executor,
    reporter: Reporter,
    fingerprint: str,
) -> None:
    """Compute every tile, merge every strip, then mark stage `neighbors` done."""
    blocks = blocks_of(store)
    job = _job(store, settings, backend, executor)
    _compute_strips(job, blocks, executor, reporter)
    allocate_neighbors(store, settings.neighbors.n_neighbors)
    stats = _merge_strips(store, blocks, executor, reporter)
    figures = {"n_neighbors": settings.neighbors.n_neighbors, "tile_stats": asdict(stats)}
    finish(store, "neighbors", fingerprint, executor, **figures)
    store.scratch.remove()


def recompute_neighbors(
    store: RunStore,
    settings: ScoringSettings,
    backend: str,
    executor: Executor,
    reporter: Reporter,
    blocks: Sequence[Block],
) -> None:
    """Compute the neighbours of some blocks of a finished stage once more, into their old places."""
    _compute_strips(_job(store, settings, backend, executor), blocks, executor, reporter)
    _merge_strips(store, blocks, executor, reporter)
    store.scratch.remove()


def _job(store: RunStore, settings: ScoringSettings, backend: str, executor: Executor) -> TileJob:
    figures, nonzeros = store.figures("urls"), store.figures("features")["nonzeros"]
    projected = tile_bytes(nonzeros / figures["rows"], settings, backend)
    spare = executor.memory_per_thread - projected(figures["block_rows"])
    if spare < 0:
        allowed = executor.memory_per_thread
        raise ResourceError(
            f"stage neighbors: a tile of {figures['block_rows']:,} rows, as this run was begun with, needs "
            f"{mebibytes(allowed - spare)}, a worker has {mebibytes(allowed)} a thread; raise --memory-limit, "
            "lower --threads-per-worker, or start anew with --overwrite"
        )
    return TileJob(store, settings, backend, spare, executor.checkpoint_seconds)


def _compute_strips(job: TileJob, blocks: Sequence[Block], executor: Executor, reporter: Reporter) -> None:
    n_blocks = len(blocks_of(job.store))
    done = _tiles_done(job.store, blocks)
    reporter.start("tile", len(blocks) * n_blocks, "tiles")
    reporter.advance(sum(done.values()))

    def next_task(report: TileReport) -> Task | None:
        return None if report.strip_done else (job, report.block)

    unfinished = [(job, block) for block in blocks if done.get(block.index, 0) < n_blocks]
    for report in executor.run("tile", tile, unfinished, next_task):
        reporter.advance(report.tiles_new)
    reporter.finish(f"{len(blocks) * n_blocks:,} tiles")


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


CacheKey = tuple[str, str, str, Block]
"""Run folder, fingerprint of its weights, backend, and rows: a worker may outlive the run it computed."""


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


_CACHE = _PreparedCache()


def forget_blocks() -> None:
    """Free what tiles kept in this process: a worker outlives its runs, and nothing else takes this memory back."""
    _CACHE.clear()


def _prepared(job: TileJob, block: Block, kernel: TileKernel) -> PreparedBlock:
    key = (job.store.path, job.store.figures("idf")["fingerprint"], job.backend, block)
    if (prepared := _CACHE.get(key)) is None:
        prepared = kernel.prepare(load_weighted(job.store, block, job.settings.features))
        _CACHE.put(key, prepared, job.cache_bytes)
    return prepared
