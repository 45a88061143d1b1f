"""Stage `neighbors`: the exact k nearest neighbours of every row, tile by tile.

A strip is all tiles of one row block. Tasks named `tile` index a span of blocks, and let one strip after the other
look for neighbours there for some time; how far a strip came is stored after each. So a kill costs the tiles in
flight, thresholds travel from tile to tile, and the number of tasks follows the work instead of n². When all are
through, tasks named `merge` move the neighbours of each strip to their final place.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import ResourceError, StoreError, TaskError
from noveltyflow.runtime.disk import neighbor_bytes, require_room
from noveltyflow.runtime.executor import Executor, Task
from noveltyflow.runtime.handout import Assignment, Handout, TileTable
from noveltyflow.runtime.plan import MOST_TASKS, limit_for, mebibytes
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.spans import SpanSizes
from noveltyflow.runtime.stages.indexed import forget_spans
from noveltyflow.runtime.stages.notes import Stored, key_of, resumed
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.runtime.stages.strips import done_tiles, load_state
from noveltyflow.runtime.stages.tile import (
    LARGEST_SPANS,
    TileJob,
    TileReport,
    tile,
)
from noveltyflow.runtime.stages.tile_memory import device_tile_bytes, tile_bytes
from noveltyflow.similarity.kernels.base import TileStats, time_shares
from noveltyflow.similarity.kernels.compiled import is_compiled
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import allocate_neighbors, blocks_of, write_neighbors
from noveltyflow.store.run_store import SCRATCH

log = logging.getLogger(__name__)

_MOST_LOSSES = 10
"""Workers that one strip may lose without coming any further."""


def merge(store: RunStore, strip: Block) -> Stored:
    """Move the neighbours of a strip that is through to their final place; the work they took."""
    state = load_state(store, strip)
    if state is None or not state.done.all():
        rows = f"rows {strip.start:,} to {strip.stop - 1:,}"
        raise StoreError(f"{store.path}: the checkpoint of {rows} is gone; run again")
    return astuple(state.stats), write_neighbors(store, strip, state.best)


class _SharedTiles:
    """The tiles of a run as work that several workers share."""

    def __init__(
        self,
        job: TileJob,
        backends: Sequence[str],
        strips: Sequence[Block],
        n_blocks: int,
        task_seconds: float,
    ) -> None:
        table = TileTable(strips, n_blocks)
        self.tiles_done = sum(
            table.set_row(table.place(strip), done) for strip, done in done_tiles(job.store, strips)
        )
        self.tiles = len(strips) * n_blocks
        self.backends = backends
        self.handout = Handout(table)
        self.kernel_seconds, self.most_slots, self._tasks = 0.0, 0, 0
        self._job, self._n_blocks, self._task_seconds = job, n_blocks, task_seconds
        self._block_rows = max(strip.n_rows for strip in strips)
        self._sizes, self._losses = SpanSizes(), Counter[Block]()

    @property
    def finished(self) -> bool:
        """See `SharedWork.finished`."""
        return self.handout.finished

    def take(self, worker: str, backend: str, slots: Mapping[str, int], anew: bool) -> Task | None:
        """See `SharedWork.take`."""
        self.most_slots = max(self.most_slots, sum(slots.values()))
        # The more tasks there were, the longer is each, so that a scheduler can remember those of any run.
        longest = self._task_seconds * 2 ** (self._tasks // MOST_TASKS)
        seconds = self.handout.patience(slots, longest)
        size = self._sizes.of(worker)
        largest = max(1, LARGEST_SPANS[backend] // self._block_rows)
        blocks = size.blocks or min(largest, size.most or largest)
        if sum(number > 0 for number in slots.values()) > 1:
            # Where backends differ, none of them may hold a strip for long when little is left.
            within = self.handout.tiles_within(backend, seconds) or 1
            blocks = min(blocks, 1 << (within.bit_length() - 1))
        assignment = self.handout.take(worker, backend, slots, blocks, seconds, anew)
        if assignment is None:
            return None
        self._tasks += 1
        return self._job, assignment, backend, seconds, size

    def done(self, worker: str, backend: str, report: TileReport) -> None:
        """See `SharedWork.done`."""
        progress = {
            strip: np.unpackbits(bits, count=self._n_blocks).astype(np.bool_)
            for strip, bits in report.progress.items()
        }
        self.tiles_done += self.handout.done(
            worker, backend, report.assignment, progress, report.tiles, report.seconds
        )
        self.kernel_seconds += report.kernel_seconds
        self._sizes.reached(worker, report.size)
        for strip in report.progress:
            del self._losses[strip]
        span = report.assignment.span
        log.debug(
            "%s: %d tiles of %d strips with blocks %d to %d in %.1f s, of which %.1f s in kernels; next span: %s",
            worker,
            report.tiles,
            len(report.progress),
            span.start,
            span.stop - 1,
            report.seconds,
            report.kernel_seconds,
            report.size,
        )

    def give_back(self, worker: str, task: Task) -> None:
        """See `SharedWork.give_back`."""
        assignment: Assignment = task[1]
        self._sizes.lost(worker)
        stored = dict(done_tiles(self._job.store, assignment.strips))
        came = {strip for strip, done in stored.items() if (done & ~self.handout.done_of(strip)).any()}
        self.tiles_done += self.handout.give_back(worker, assignment, stored)
        for strip in assignment.strips:
            if strip in came:
                del self._losses[strip]
                continue
            # The first one that did not come any further is what the worker was lost with.
            self._losses[strip] += 1
            if self._losses[strip] > _MOST_LOSSES:
                raise TaskError(
                    f"the tiles of rows {strip.start:,} to {strip.stop - 1:,} lost {self._losses[strip]} workers "
                    "one after the other, most likely because they need more memory than these have: raise "
                    "--memory-limit, or start anew with --overwrite and a smaller --block-rows"
                )
            break


def compute_neighbors(
    store: RunStore,
    settings: ScoringSettings,
    backends: Sequence[str],
    executor: Executor,
    reporter: Reporter,
    fingerprint: str,
) -> None:
    """Compute every tile, merge every strip, then mark stage `neighbors` done."""
    # What earlier stages left in the workers' heaps would stand in the way of larger spans.
    executor.renew(forget_spans)
    job = _plan_tiles(store, settings, backends, executor, reporter)
    if "cpu" in backends and not is_compiled():
        reporter.note("compiling kernels before the first tile: once, a minute or more")
    strips = blocks_of(store)
    kernel_share = _compute_strips(job, backends, strips, executor, reporter)
    allocate_neighbors(store, settings.neighbors.n_neighbors)
    stats = _merge_strips(store, strips, executor, reporter, fingerprint)
    store.write_aside("work", {"tile_stats": asdict(stats), "kernel_share": kernel_share})
    finish(store, "neighbors", fingerprint, executor, n_neighbors=settings.neighbors.n_neighbors)
    store.scratch.remove()


def recompute_neighbors(
    store: RunStore,
    settings: ScoringSettings,
    backends: Sequence[str],
    executor: Executor,
    reporter: Reporter,
    blocks: Sequence[Block],
    fingerprint: str,
) -> None:
    """Compute the neighbours of some blocks of a finished stage once more, into their old places."""
    job = _plan_tiles(store, settings, backends, executor, reporter)
    _compute_strips(job, backends, blocks, executor, reporter)
    _merge_strips(store, blocks, executor, reporter, fingerprint)
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
    needs = tile_bytes(lambda rows: nonzeros_per_row * rows, settings, backends)
    allowed = executor.memory_per_thread
    if (needed := needs(block_rows, 1)) > allowed:
        threads = executor.threads_per_worker
        limit, lower = limit_for(needed, threads), "lower --threads-per-worker, " if threads > 1 else ""
        raise ResourceError(
            f"stage neighbors: a tile of {block_rows:,} rows, as this run was begun with, needs {mebibytes(needed)}, "
            f"a worker has {mebibytes(allowed)} a thread for it; raise --memory-limit to {limit >> 20} MiB, {lower}"
            "or start anew with --overwrite"
        )
    device_bytes = executor.device_memory() if "gpu" in backends else None
    on_device = device_tile_bytes(block_rows, int(nonzeros_per_row * block_rows), settings)
    if device_bytes is not None and on_device is not None:
        reporter.note(
            f"device memory: a tile of {block_rows:,} rows needs {mebibytes(on_device)}, a device has "
            f"{mebibytes(device_bytes)}" + ("; tiles will be halved" if on_device > device_bytes else "")
        )
    _require_disk(store, settings.neighbors.n_neighbors)
    return TileJob(store, settings, allowed, device_bytes)


def _require_disk(store: RunStore, n_neighbors: int) -> None:
    """Refuse to begin what the disk of the run folder has no room for."""
    needed = neighbor_bytes(store.figures("urls")["rows"], n_neighbors)
    require_room(store.path, "neighbors", needed, "neighbors", SCRATCH)


def _compute_strips(
    job: TileJob, backends: Sequence[str], strips: Sequence[Block], executor: Executor, reporter: Reporter
) -> float | None:
    """Compute all tiles; of the time that workers were there for them, the share in which kernels computed."""
    work = _SharedTiles(job, backends, strips, len(blocks_of(job.store)), executor.task_seconds)
    reporter.start("tile", work.tiles, "tiles")
    reporter.advance(work.tiles_done)
    before, started = work.tiles_done, time.monotonic()
    for _ in executor.share("tile", tile, work):
        reporter.advance(work.tiles_done - before)
        before = work.tiles_done
    available = work.most_slots * (time.monotonic() - started)
    # What was indexed would stand in the way of the tasks that follow.
    executor.everywhere(forget_spans)
    shares = ", ".join(f"{number:,} by {backend}" for backend, number in sorted(work.handout.tiles.items()))
    busy = round(work.kernel_seconds / available, 3) if available else None
    message = f"{work.tiles:,} tiles" + (f": {shares}" if len(backends) > 1 else "")
    reporter.finish(message if busy is None else f"{message}; kernels busy {busy:.0%} of the time")
    return busy


def _merge_strips(
    store: RunStore, strips: Sequence[Block], executor: Executor, reporter: Reporter, fingerprint: str
) -> TileStats:
    reporter.start("merge", len(strips), "strips")
    stats = TileStats()
    tasks = {key_of(strip): (store, strip) for strip in strips}
    for _, work in resumed(store, "neighbors", fingerprint, executor, "merge", merge, tasks):
        stats += TileStats(*work)
        reporter.advance(1)
    reporter.finish(_described(stats, sum(strip.n_rows for strip in strips)))
    return stats


def _described(stats: TileStats, rows: int) -> str:
    """What the tiles took for a row on average, and where the kernels' time went."""
    work = (
        f"{stats.multiply_adds / rows:,.0f} multiply-adds, {stats.verified_pairs / rows:,.1f} similarities and "
        f"{stats.skipped_rows / rows:,.1f} skipped spans a row"
    )
    times = ", ".join(f"{stage} {share:.0%}" for stage, share in time_shares(asdict(stats)).items())
    return f"{work}; {times}" if times else work
