"""The task `tile`: carries one strip on for some seconds, and stores how far it came.

Candidates are taken in spans of several blocks, as many as the memory that is free just now admits. While a span
is computed, one thread reads the next one and another writes the last checkpoint; the kernels release the GIL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.runtime.load import measured, wait_for_host
from noveltyflow.runtime.plan import TASK_BYTES
from noveltyflow.runtime.spans import SpanSize
from noveltyflow.runtime.stages.indexed import SpanKey, load_span, spans_of
from noveltyflow.runtime.stages.strips import StripState, load_state, store_state
from noveltyflow.similarity.kernels.base import BlockShape, DeviceKernel, PreparedBlock, TileKernel
from noveltyflow.similarity.kernels.registry import get_kernel
from noveltyflow.similarity.tiles import Block, next_span
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of, csr_nonzeros
from noveltyflow.types import BoolArray, CsrMatrix

LARGEST_SPAN = 1 << 19
"""Rows of a span; the index of a larger one would be cut into parts, which gains nothing."""
_MOST_NONZEROS = np.iinfo(np.int32).max

T = TypeVar("T")


@dataclass(frozen=True)
class TileJob:
    """What all `tile` tasks of a run have in common."""

    store: RunStore
    settings: ScoringSettings
    allowed: int
    """Bytes of host memory for one task, where what is free cannot be measured."""
    device_bytes: int | None
    """Device memory for everything, where tiles are computed on devices."""
    checkpoint_seconds: float


@dataclass(frozen=True)
class TileReport:
    """What a `tile` task says to the client; times are in seconds, those of kernels contained in the whole."""

    block: Block
    tiles_done: int
    tiles_new: int
    seconds: float
    kernel_seconds: float
    size: SpanSize


def tile_memory(
    kernel: TileKernel, queries: BlockShape, candidates: BlockShape, largest_block: int, n_neighbors: int
) -> int:
    """Projected peak bytes of a `tile` task's data.

    Either it indexes a span of candidates, or it computes that while it reads another span as large, whose largest
    block has so many non-zeros.
    """
    indexing = _loaded_bytes(queries, candidates, n_neighbors) + kernel.prepare_bytes(candidates)
    reading = _reading_bytes(candidates.nonzeros, largest_block)
    return max(indexing, computing_memory(kernel, queries, candidates, n_neighbors) + reading)


def computing_memory(
    kernel: TileKernel, queries: BlockShape, candidates: BlockShape, n_neighbors: int
) -> int:
    """Projected bytes of a `tile` task's data while it computes a span, without what it reads meanwhile."""
    loaded = _loaded_bytes(queries, candidates, n_neighbors)
    return loaded + kernel.compute_bytes(queries, candidates, n_neighbors)


def _loaded_bytes(queries: BlockShape, candidates: BlockShape, n_neighbors: int) -> int:
    # int32 columns and float32 weights; and the weights of all columns.
    loaded = (4 + 4) * (queries.nonzeros + candidates.nonzeros) + 8 * queries.features
    # Neighbours known so far, those of the last checkpoint, and the file that is made of these.
    return loaded + 3 * 12 * n_neighbors * queries.rows


def _reading_bytes(nonzeros: int, largest_block: int) -> int:
    """Bytes that a span takes as it is read: of each block, for a while, also the counts behind its weights."""
    return (4 + 4) * nonzeros + (4 + 4 + 4) * largest_block


def tile(
    job: TileJob, block: Block, backend: str, seconds: float, size: SpanSize, most_blocks: int
) -> TileReport:
    """Carry one strip on for some seconds, at least by one span of candidates, and store its state.

    Parameters
    ----------
    job
        What all tasks have in common.
    block
        The rows that look for neighbours: one or several consecutive blocks of the run.
    backend
        What computes.
    seconds
        After which no other span is begun.
    size, most_blocks
        How many blocks of candidates the first span has, and each at most.
    """
    started = time.monotonic()
    strip = _Strip(job, block, backend, most_blocks)
    before = strip.state.tiles_done
    with ExitStack() as stack:
        reader, writer = stack.enter_context(_Aside()), stack.enter_context(_Aside())
        size = strip.fitting(size)
        span, stored, lasted = strip.next(strip.state.done, size.blocks), started, 0.0
        load: Callable[[], CsrMatrix] = partial(strip.load, span)
        while span:
            begun = time.monotonic()
            prepared = strip.indexed(span, load)
            done = strip.done_after(span)
            size = strip.resized(size, done)
            following = strip.next(done, size.blocks)
            load = partial(strip.load, following)
            # Nobody needs a span that is read for a tile which will not be begun.
            wanted = begun + lasted < started + seconds and following and not strip.is_indexed(following)
            if wanted and strip.make_room_to_read(following, span, prepared):
                load = partial(reader.take, reader.begin(strip.load, following))
            strip.compute(span, prepared)
            del prepared  # its memory is for the next one
            if time.monotonic() - started >= seconds:
                break
            if time.monotonic() - stored >= job.checkpoint_seconds:
                writer.begin(store_state, job.store, block, strip.state)
                stored = time.monotonic()
            span, lasted = following, time.monotonic() - begun
        writer.begin(store_state, job.store, block, strip.state)
    strip.relieve()
    new = strip.state.tiles_done - before
    return TileReport(
        block, strip.state.tiles_done, new, time.monotonic() - started, strip.kernel_seconds, size
    )


class _Aside:
    """One thread that does one thing at a time beside the task; what went wrong there is raised in the task."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[Any] | None = None

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown()
        if self._last is not None and raised[0] is None:
            self._last.result()

    def begin(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Call a function as soon as the last call has ended."""
        if self._last is not None:
            self._last.result()
        self._last = future = self._pool.submit(function, *args)
        return future

    def take(self, future: Future[T]) -> T:
        """Result of a call, which is not held here any longer."""
        self._last = None
        return future.result()


class _Strip:
    """A strip in the hands of one task."""

    def __init__(self, job: TileJob, block: Block, backend: str, most_blocks: int) -> None:
        self._job, self._block, self._most_blocks = job, block, most_blocks
        self._kernel = get_kernel(backend)
        if isinstance(self._kernel, DeviceKernel) and job.device_bytes is not None:
            self._kernel.limit_device_memory(job.device_bytes)
        self._kept = spans_of(self._kernel.name)
        self._blocks = blocks_of(job.store)
        self._fingerprint: str = job.store.figures("idf")["fingerprint"]
        self._block_nonzeros: dict[int, int] = {}
        self._k = job.settings.neighbors.n_neighbors
        self.state = load_state(job.store, block) or StripState.begin(block, len(self._blocks), self._k)
        own = [other for other in self._blocks if block.start <= other.start < block.stop]
        self._queries = load_span(job.store, own, job.settings.features)
        self.kernel_seconds = 0.0

    def next(self, done: BoolArray, size: int) -> Sequence[Block]:
        """Candidates of the next tile; none when the strip is through."""
        return next_span(self._block, self._blocks, done, size)

    def done_after(self, span: Sequence[Block]) -> BoolArray:
        """Tiles that are done once `span` is."""
        done = self.state.done.copy()
        done[[block.index for block in span]] = True
        return done

    def load(self, span: Sequence[Block]) -> CsrMatrix:
        """Read and weigh a span."""
        return load_span(self._job.store, span, self._job.settings.features)

    def is_indexed(self, span: Sequence[Block]) -> bool:
        """Whether this process has its index still."""
        return self._key(span) in self._kept

    def indexed(self, span: Sequence[Block], load: Callable[[], CsrMatrix]) -> PreparedBlock:
        """The index of a span, made from what `load` gives unless this process has it still."""
        key = self._key(span)
        if (kept := self._kept.get(key)) is not None:
            return kept
        self._make_room(span)
        prepared = self._timed(self._kernel.prepare, load())
        self._kept.put(key, prepared)
        return prepared

    def make_room_to_read(
        self, following: Sequence[Block], span: Sequence[Block], prepared: PreparedBlock
    ) -> bool:
        """Let go of indexes for which there is no room while `span` is computed and another one is read.

        Returns whether there is room for both; `prepared` is the index of `span`.
        """
        queries, room = BlockShape.of(self._queries), self._room()
        needed = computing_memory(self._kernel, queries, self._shape(span), self._k)
        needed += _reading_bytes(self._shape(following).nonzeros, self._largest_block(following))
        if needed > room:
            return False
        if not isinstance(self._kernel, DeviceKernel):
            self._kept.shrink(room - needed + prepared.nbytes)
        return True

    def compute(self, span: Sequence[Block], prepared: PreparedBlock) -> None:
        """Compute the tiles of a span at once."""
        best, work = self._timed(
            self._kernel.compute,
            self._queries,
            prepared,
            self.state.best,
            queries_start=self._block.start,
            candidates_start=span[0].start,
        )
        self.state = self.state.with_tiles(span, best, work)

    def fitting(self, size: SpanSize) -> SpanSize:
        """The size with which a task begins: as large as others came to, if there is room for it here."""
        fits = self._fits(self.state.done)
        while size.blocks > 1 and not fits(size.blocks):
            size = size.halved()
        return size

    def resized(self, size: SpanSize, done: BoolArray) -> SpanSize:
        """The size of the next span, by what is free now that the current one is indexed."""
        load = measured()
        if load is not None and load.pressed:
            return size.after_pressure()
        return size.after_tile(self._fits(done))

    def relieve(self) -> None:
        """Let go of everything where the process is near its limit: paused, it would never be given a task again."""
        load = measured()
        if load is not None and load.pressed:
            self._kept.shrink(0)

    def _timed(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        began = time.monotonic()
        result = function(*args, **options)
        self.kernel_seconds += time.monotonic() - began
        return result

    def _key(self, span: Sequence[Block]) -> SpanKey:
        return self._job.store.path, self._fingerprint, span[0].start, span[-1].stop

    def _nonzeros(self, block: Block) -> int:
        if block.index not in self._block_nonzeros:
            self._block_nonzeros[block.index] = csr_nonzeros(self._job.store, block.index)
        return self._block_nonzeros[block.index]

    def _shape(self, span: Sequence[Block]) -> BlockShape:
        nonzeros = sum(self._nonzeros(block) for block in span)
        return BlockShape(span[-1].stop - span[0].start, nonzeros, self._queries.shape[1])

    def _memory(self, span: Sequence[Block]) -> int:
        queries = BlockShape.of(self._queries)
        return tile_memory(self._kernel, queries, self._shape(span), self._largest_block(span), self._k)

    def _largest_block(self, span: Sequence[Block]) -> int:
        return max(self._nonzeros(block) for block in span)

    def _fits(self, done: BoolArray) -> Callable[[int], bool]:
        """Whether the next span may have so many blocks."""
        room = self._room()

        def fits(size: int) -> bool:
            span = self.next(done, size)
            if len(span) < 2:
                return True
            if size > self._most_blocks or span[-1].stop - span[0].start > LARGEST_SPAN:
                return False
            shape = self._shape(span)
            return shape.nonzeros <= _MOST_NONZEROS and self._memory(span) <= room and self._on_device(shape)

        return fits

    def _on_device(self, shape: BlockShape) -> bool:
        if not isinstance(self._kernel, DeviceKernel):
            return True
        needed = self._kernel.device_bytes_needed(BlockShape.of(self._queries), shape, self._k)
        return needed <= self._kernel.device_memory()

    def _held(self) -> int:
        """Bytes of the host that this task has already, and whatever is kept besides."""
        queries = self._queries.data.nbytes + self._queries.indices.nbytes + self._queries.indptr.nbytes
        best = self.state.best.similarities.nbytes + self.state.best.indices.nbytes
        kept = 0 if isinstance(self._kernel, DeviceKernel) else self._kept.nbytes
        idf = 8 * self._queries.shape[1]
        return int(queries + best + kept + idf)

    def _room(self) -> int:
        load = measured()
        return self._job.allowed - TASK_BYTES if load is None else load.room(self._held())

    def _make_room(self, span: Sequence[Block]) -> None:
        """Let go of indexes for which there is no room beside the one that is to be made."""
        needed = self._memory(span)
        if isinstance(self._kernel, DeviceKernel):
            shape = self._shape(span)
            tile_bytes = self._kernel.device_bytes_needed(BlockShape.of(self._queries), shape, self._k)
            self._kept.shrink(max(0, self._kernel.device_memory() - tile_bytes))
        else:
            self._kept.shrink(max(0, self._room() - needed))
        if measured() is not None:
            wait_for_host(needed - self._held())
