"""The task `tile`: indexes a span of candidates, where some strips look for neighbours, one after the other.

A span is as many blocks as the memory that is free just now admits. While a strip is computed, one thread reads the
next one and another writes the checkpoint of the last one; the kernels release the GIL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import DeviceError, NoveltyflowError
from noveltyflow.runtime.handout import Assignment
from noveltyflow.runtime.load import measured, wait_for_host
from noveltyflow.runtime.plan import TASK_BYTES
from noveltyflow.runtime.spans import SpanSize
from noveltyflow.runtime.stages.features import load_weighted
from noveltyflow.runtime.stages.indexed import SpanKey, load_span, spans_of
from noveltyflow.runtime.stages.strips import StripState, load_state, store_state
from noveltyflow.runtime.stages.tile_memory import READING_BYTES, likely_shape, tile_memory
from noveltyflow.similarity.kernels.base import (
    BlockShape,
    DeviceKernel,
    PreparedBlock,
    TileStats,
)
from noveltyflow.similarity.kernels.compiled import have_compiled
from noveltyflow.similarity.kernels.registry import get_kernel
from noveltyflow.similarity.tiles import Block, rows_of
from noveltyflow.similarity.topk import TopK
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of, csr_nonzeros
from noveltyflow.types import AnyArray, CsrMatrix

LARGEST_SPANS = {"cpu": 1 << 19, "gpu": 1 << 22}
"""Rows of a span by backend. A CPU's index of a larger one would be cut into parts, which gains nothing; a GPU is so
fast that it waits for every strip that has to be read once more."""
_TRIED_ROWS, _TRIED_QUERIES = 4_096, 64
"""Rows of a worker's first block that are indexed, and how many of them are searched for, on trial."""
_LOOK_SECONDS = 0.5
_MOST_NONZEROS = np.iinfo(np.int32).max
_TOTALS = (("urls", "rows"), ("features", "nonzeros"))
"""Figures of stages that say how large all blocks are together."""

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


@dataclass(frozen=True)
class TileReport:
    """What a `tile` task says to the client.

    Attributes
    ----------
    assignment : Assignment
        What it had been given, with the span that there was room for.
    progress : dict of uint8 arrays
        For every strip that it came to, which tiles are done now: a bit for each block, as `numpy.packbits` has them.
    tiles : int
        How many of them this task computed.
    seconds, kernel_seconds : float
        How long it took, and how much of that time its kernel.
    size : SpanSize
        With which its worker goes on.
    """

    assignment: Assignment
    progress: dict[Block, AnyArray]
    tiles: int
    seconds: float
    kernel_seconds: float
    size: SpanSize


def tile(job: TileJob, assignment: Assignment, backend: str, seconds: float, size: SpanSize) -> TileReport:
    """Compute the tiles of some strips with a span of candidates, of at least one strip, and store each.

    Parameters
    ----------
    job
        What all tasks have in common.
    assignment
        Span and strips; a span for which there is no room is made smaller. Tiles that turn out to be done are left.
    backend
        What computes.
    seconds
        After which no other strip is begun.
    size
        Which spans the worker has come to. Before there are any, a block is read, and some of its rows are searched,
        on trial; what is free then says how many of the span's blocks there is room for.
    """
    started = time.monotonic()
    work = _Work(job, assignment.strips, backend)
    own = assignment.strips[0].index
    span = assignment.span
    if size.blocks is None:
        if backend == "cpu":
            have_compiled()
        work.try_out(own)
        size = work.resized(size)
        span = _part(span, size.blocks or 1, own)
    if (fitting := work.fitting(span, own)) != span:
        span, size = fitting, size.limited(len(fitting))
    progress: dict[Block, AnyArray] = {}
    tiles = 0
    with ExitStack() as stack:
        reader, writer = stack.enter_context(_Aside()), stack.enter_context(_Aside())
        prepared = work.indexed(span)
        ahead: Future[tuple[CsrMatrix, StripState]] | None = None
        lasted = 0.0
        strips = assignment.strips
        for strip, following in zip(strips, [*strips[1:], None], strict=True):
            begun = time.monotonic()
            queries, state = reader.take(ahead) if ahead else work.load(strip, span, prepared)
            # Nobody needs a strip that is read for a tile which will not be begun.
            wanted = following and begun + lasted < started + seconds
            ahead = reader.begin(work.load, following, span, prepared) if wanted else None
            if left := int(np.count_nonzero(~state.done[span.start : span.stop])):
                state = work.compute(strip, queries, state, span, prepared)
                writer.begin(store_state, job.store, strip, state)
                tiles += left
            progress[strip] = np.packbits(state.done)
            lasted = time.monotonic() - begun
            if time.monotonic() - started >= seconds or work.looks_pressed():
                break
    del queries, state, prepared, ahead
    size = work.resized(size)
    taken, lasted = Assignment(span, strips), time.monotonic() - started
    return TileReport(taken, progress, tiles, lasted, work.kernel_seconds, size)


def _part(span: range, size: int, own: int) -> range:
    """At most `size` blocks of a span, around block `own` if that is among them; see `Handout`."""
    start = max(span.start, own - own % size) if own in span else span.start
    return range(start, min(start + size, span.stop))


@lru_cache(maxsize=1 << 14)
def _nonzeros(path: str, hashed: str, block: int) -> int:  # noqa: ARG001 - part of the cache's key
    return csr_nonzeros(RunStore(path), block)


@contextmanager
def _failing_as_device(backend: str) -> Iterator[None]:
    """Raise a `DeviceError` for what goes wrong with a GPU: once CUDA has failed, all its calls in a process do."""
    try:
        yield
    except Exception as error:
        if backend != "gpu":
            raise
        what = str(error) if isinstance(error, NoveltyflowError) else f"{type(error).__name__}: {error}"
        raise DeviceError(what) from error


class _Aside:
    """One thread that does one thing at a time beside the task; what went wrong there is raised in the task."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[Any] | None = None

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown()
        last, self._last = self._last, None
        if last is not None and raised[0] is None:
            last.result()

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


class _Work:
    """What one task has in its hands."""

    def __init__(self, job: TileJob, strips: Sequence[Block], backend: str) -> None:
        self._job = job
        with _failing_as_device(backend):
            self._kernel = get_kernel(backend)
            if isinstance(self._kernel, DeviceKernel) and job.device_bytes is not None:
                self._kernel.limit_device_memory(job.device_bytes)
        self._kept = spans_of(self._kernel.name)
        self._blocks = blocks_of(job.store)
        self._n_features = job.settings.features.n_features
        self._k = job.settings.neighbors.n_neighbors
        self._hashed: str = job.store.figures("features")["fingerprint"]
        self._strip = max((self._shape([strip]) for strip in strips), key=lambda shape: shape.nonzeros)
        before = measured()
        self._spilled_before = before.spilled if before else 0
        self.kernel_seconds = 0.0
        self._preparing_ns = 0
        self._looked = -np.inf

    def fitting(self, span: range, own: int) -> range:
        """A span, or so much of it that there is room for its tiles."""
        while len(span) > 1 and not self._has_room(*self._span_shape(span)):
            span = _part(span, -(-len(span) // 2), own)
        return span

    def indexed(self, span: range) -> PreparedBlock:
        """The index of a span, made now unless this process has it still."""
        blocks = self._blocks[span.start : span.stop]
        fingerprint: str = self._job.store.figures("idf")["fingerprint"]
        key: SpanKey = self._job.store.path, fingerprint, blocks[0].start, blocks[-1].stop

        def make() -> PreparedBlock:
            self._make_room(span)
            settings, at_once = self._job.settings.features, self._read_at_once(span)
            candidates = load_span(self._job.store, blocks, settings, at_once)
            prepared, spent = self._timed(self._kernel.prepare, candidates, self._k)
            self._preparing_ns += spent
            return prepared

        return self._kept.get_or_make(key, make)

    def try_out(self, own: int) -> None:
        """Let some rows of a block look for one another: what a worker loads or compiles for that is there then."""
        block = load_weighted(self._job.store, self._blocks[own], self._job.settings.features)
        some = rows_of(block, Block(own, 0, min(_TRIED_ROWS, block.shape[0])))
        queries = rows_of(some, Block(own, 0, min(_TRIED_QUERIES, some.shape[0])))
        prepared, _ = self._timed(self._kernel.prepare, some, self._k)
        none = TopK.empty(queries.shape[0], self._k)
        self._timed(self._kernel.compute, queries, prepared, none, queries_start=0, candidates_start=0)

    def load(self, strip: Block, span: range, prepared: PreparedBlock) -> tuple[CsrMatrix, StripState]:
        """Weights of a strip, which are there already if it is part of the span, and how far it came."""
        store = self._job.store
        state = load_state(store, strip) or StripState.begin(strip, len(self._blocks), self._k)
        queries, first = None, self._blocks[span.start].start
        if strip.index in span:
            queries = prepared.rows(strip.start - first, strip.stop - first)
        if queries is None:
            queries = load_weighted(store, strip, self._job.settings.features)
        return queries, state

    def compute(
        self, strip: Block, queries: CsrMatrix, state: StripState, span: range, prepared: PreparedBlock
    ) -> StripState:
        """The strip after its tiles with a span; what was indexed since the last strip is work of this one."""
        best, work = self._search(strip, queries, state.best, span, prepared)
        work += TileStats(preparing_ns=self._preparing_ns)
        self._preparing_ns = 0
        return state.with_tiles(span, best, work)

    def _search(
        self, strip: Block, queries: CsrMatrix, best: TopK, span: range, prepared: PreparedBlock
    ) -> tuple[TopK, TileStats]:
        found, _ = self._timed(
            self._kernel.compute,
            queries,
            prepared,
            best,
            queries_start=strip.start,
            candidates_start=self._blocks[span.start].start,
        )
        return found

    def is_pressed(self) -> bool:
        """Whether it holds too much or pushed something out; paused, the process would not be given a task again."""
        load = measured()
        return load is not None and load.pressed_since(self._spilled_before)

    def looks_pressed(self) -> bool:
        """`is_pressed`, looked at twice a second: beside the threads that read and store it takes milliseconds."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return self.is_pressed()

    def resized(self, size: SpanSize) -> SpanSize:
        """The size of the worker's next span, by what is free now that the task is at its end."""
        if self.is_pressed():
            self._kept.shrink(0)
            return size.after_pressure()
        return size.after_task(self._has_room_for)

    def _timed(self, function: Callable[..., T], *args: Any, **options: Any) -> tuple[T, int]:
        """What a function of the kernel gives, and the nanoseconds that it took."""
        began = time.perf_counter_ns()
        with _failing_as_device(self._kernel.name):
            result = function(*args, **options)
        spent = time.perf_counter_ns() - began
        self.kernel_seconds += spent / 1e9
        return result, spent

    def _shape(self, blocks: Sequence[Block]) -> BlockShape:
        nonzeros = sum(_nonzeros(self._job.store.path, self._hashed, block.index) for block in blocks)
        return likely_shape(blocks[-1].stop - blocks[0].start, nonzeros, self._n_features)

    def _span_shape(self, span: range) -> tuple[BlockShape, int]:
        """Shape of a span, and the non-zeros of its largest block."""
        blocks = self._blocks[span.start : span.stop]
        return self._shape(blocks), max(self._shape([block]).nonzeros for block in blocks)

    def _has_room_for(self, n_blocks: int) -> bool:
        """Whether there is room for the tiles of a span of so many blocks of the usual size."""
        if n_blocks >= 2 * len(self._blocks):
            return False
        rows, nonzeros = (self._job.store.figures(stage)[name] for stage, name in _TOTALS)
        share = min(1.0, n_blocks / len(self._blocks))
        shape = likely_shape(int(share * rows), int(share * nonzeros), self._n_features)
        return self._has_room(shape, self._strip.nonzeros)

    def _has_room(self, span: BlockShape, largest_block: int) -> bool:
        if span.rows > LARGEST_SPANS[self._kernel.name] or span.nonzeros > _MOST_NONZEROS:
            return False
        if isinstance(self._kernel, DeviceKernel):
            on_device = self._kernel.device_bytes_needed(self._strip, span, self._k)
            if on_device > self._device_memory(self._kernel):
                return False
        return tile_memory(self._kernel, self._strip, span, largest_block, self._k) <= self._room()

    def _device_memory(self, kernel: DeviceKernel) -> int:
        with _failing_as_device(kernel.name):
            return kernel.device_memory()

    def _held(self) -> int:
        """Bytes of the host that this process has already of what a task takes, and could let go of."""
        kept = 0 if isinstance(self._kernel, DeviceKernel) else self._kept.nbytes
        return kept + 8 * self._n_features

    def _room(self) -> int:
        load = measured()
        if load is None:
            return self._job.allowed - TASK_BYTES
        # A worker computes one tile at a time on its device, however many threads it has.
        return load.room(self._held(), 1 if isinstance(self._kernel, DeviceKernel) else None)

    def _read_at_once(self, span: range) -> int:
        """Blocks of a span that are read at a time: where a device computes, the worker's other threads are idle."""
        load = measured()
        if load is None or not isinstance(self._kernel, DeviceKernel):
            return 1
        shape, largest_block = self._span_shape(span)
        left = self._room() - tile_memory(self._kernel, self._strip, shape, largest_block, self._k)
        return 1 + max(0, min(load.threads - 1, left // max(1, READING_BYTES * largest_block)))

    def _make_room(self, span: range) -> None:
        """Let go of indexes for which there is no room beside the one that is to be made."""
        shape, largest_block = self._span_shape(span)
        needed = tile_memory(self._kernel, self._strip, shape, largest_block, self._k)
        if isinstance(self._kernel, DeviceKernel):
            on_device = self._kernel.device_bytes_needed(self._strip, shape, self._k)
            self._kept.shrink(max(0, self._device_memory(self._kernel) - on_device))
        else:
            self._kept.shrink(max(0, self._room() - needed))
        if measured() is not None:
            wait_for_host(needed - self._held())
