"""What a run will take, said before it begins: rows, tasks, memory against what workers have, disk, time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import ResourceError
from noveltyflow.features.frequency import chunk
from noveltyflow.features.hashing import hash_block
from noveltyflow.features.weighting import inverse_document_frequency, weight_block
from noveltyflow.runtime.disk import room_for
from noveltyflow.runtime.memory import (
    InputShape,
    disk_bytes,
    fit_blocks,
    in_surt_order,
    input_tasks,
    least_disk_bytes,
    most_span_rows,
    sampled_shape,
)
from noveltyflow.runtime.plan import (
    COUNTS_PER_THREAD,
    FAN_IN,
    MOST_TASKS,
    RESERVED_BYTES,
    STAGE_OF,
    mebibytes,
    too_large,
    usable_memory,
)
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.stages.read import partition_shards
from noveltyflow.runtime.stages.tile_memory import device_tile_bytes
from noveltyflow.similarity.kernels.base import TileKernel
from noveltyflow.similarity.kernels.cpu import EVERY_SEARCH, CpuKernel
from noveltyflow.similarity.tiles import Block, rows_of
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix
from noveltyflow.urls.canonical import canonicalize
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.shards import Shard
from noveltyflow.urls.streams import decompressed, opened

_SAMPLED_SHARDS = 8
_SAMPLED_RECORDS = 4_000
_PEEK_BYTES = 8 << 20
_PIECE_RECORDS, _RANGE_RECORDS = 65_536, 100_000
"""A piece of short records holds four batches of 16,384, with which it has 50,000 of them."""
_SPAN_GROWTH = 0.4
"""Power with which the time of a row in a span of other rows grows with the span: 0.3 to 0.5 for gov_1m."""
_OTHER_WORK = 3
"""Reading, sorting and storing take about twice as long as canonical form and hashing, which are timed."""


@dataclass(frozen=True)
class Capacity:
    """What a cluster has; of unlike workers, the least of each."""

    workers: int
    threads_per_worker: int
    memory_limit: int
    backends: tuple[str, ...] = ("cpu",)
    """Backends that compute tiles."""
    start_seconds: float = 0.0
    """What it takes, however small the work, to import everything, and to start and end workers."""
    device_mem: int | None = None
    """Bytes that tiles may take of a device's memory, where devices compute them."""

    @property
    def n_threads(self) -> int:
        """Tasks that can run at once."""
        return self.workers * self.threads_per_worker

    @property
    def allowed_mem(self) -> int:
        """Bytes that one task may count on."""
        return usable_memory(self.memory_limit) // self.threads_per_worker


@dataclass(frozen=True)
class TaskForecast:
    """One kind of task; `tasks` is how many there are at least, `projected_mem` their peak in bytes."""

    stage: str
    name: str
    tasks: int
    projected_mem: int


@dataclass(frozen=True)
class Forecast:
    """What a run will take. Sizes are in bytes.

    Attributes
    ----------
    lines, rows, nonzeros : int
        Estimated from a sample; as many rows as there would be if no URL occurred twice.
    block_rows, blocks : int
        Size and number of the row blocks.
    reserved_mem, allowed_mem : int
        What a worker needs before it does anything, and what one task may count on.
    projected_mem : int
        Peak of a worker: all its threads at their hungriest task, and what it keeps besides for later tasks.
    memory_limit : int
        What a worker may have.
    projected_device_mem, device_mem : int or None
        What a tile of one block against another takes of a device's memory, unless it is halved, and what of that
        all tiles may take; None where no device computes tiles.
    disk, least_disk : int
        Of the run folder when it is largest, scratch space included, compressed as well as the sample: if no URL
        occurs twice, and at least, however often they do.
    tasks : list of TaskForecast
        Every kind of task.
    start_seconds : float
        What a run takes however short the list is.
    seconds : float or None
        Of the whole run: `start_seconds`, and from what a sample of some thousand rows takes, by a rule of how that
        grows; None when nothing was timed, or when devices compute tiles.
    """

    lines: int
    rows: int
    nonzeros: int
    block_rows: int
    blocks: int
    workers: int
    threads_per_worker: int
    reserved_mem: int
    allowed_mem: int
    projected_mem: int
    memory_limit: int
    projected_device_mem: int | None
    device_mem: int | None
    disk: int
    least_disk: int
    tasks: list[TaskForecast]
    start_seconds: float
    seconds: float | None = None


def forecast(
    shards: Sequence[Shard],
    settings: ScoringSettings,
    capacity: Capacity,
    *,
    block_rows: int | None = None,
    rows: int | None = None,
    timed: bool = False,
) -> Forecast:
    """Estimate from a sample of the input, and choose the size of the row blocks.

    Parameters
    ----------
    shards, settings
        What is to be run.
    capacity
        Workers, their threads, their memory, and what computes their tiles.
    block_rows
        Rows in a block, where the user has set them.
    rows
        Number of rows to plan for, instead of as many as the input has lines.
    timed
        Compute some of the sample, to tell how long all of it takes; not known where devices compute tiles.

    Raises
    ------
    InputError
        When the sample cannot be read.
    ResourceError
        When no size of blocks fits into the workers' memory.
    """
    samples = _samples(shards, settings)
    lines = rows or _estimated_lines(shards, settings.input.max_ratio)
    shape = sampled_shape(samples, lines, settings)
    found = _untimed(shards, shape, settings, capacity, block_rows)
    if timed and capacity.backends == ("cpu",):
        span_rows = most_span_rows(shape, settings, capacity.backends, capacity.allowed_mem, found.block_rows)
        work = _seconds(samples, settings, found, span_rows) / capacity.n_threads
        return replace(found, seconds=found.start_seconds + work)
    return found


def _untimed(
    shards: Sequence[Shard],
    shape: InputShape,
    settings: ScoringSettings,
    capacity: Capacity,
    asked: int | None,
) -> Forecast:
    n_rows = max(shape.lines, 1)
    block_rows, of_blocks = fit_blocks(
        shape,
        settings,
        capacity.backends,
        capacity.allowed_mem,
        capacity.n_threads,
        asked,
        capacity.threads_per_worker,
    )
    needs = input_tasks(shape) | {name: task(block_rows) for name, task in of_blocks.items()}
    tasks = _tasks(shards, shape.lines, block_rows, needs, capacity.n_threads)
    on_device = device_tile_bytes(block_rows, int(shape.nonzeros.sum_of(block_rows)), settings)
    return Forecast(
        lines=shape.lines,
        rows=n_rows,
        nonzeros=int(shape.nonzeros.sum_of(n_rows)),
        block_rows=block_rows,
        blocks=-(-n_rows // block_rows),
        workers=capacity.workers,
        threads_per_worker=capacity.threads_per_worker,
        reserved_mem=RESERVED_BYTES,
        allowed_mem=capacity.allowed_mem,
        projected_mem=_worker_peak(tasks, capacity),
        memory_limit=capacity.memory_limit,
        projected_device_mem=on_device if "gpu" in capacity.backends else None,
        device_mem=capacity.device_mem,
        disk=disk_bytes(shape, settings.neighbors.n_neighbors),
        least_disk=least_disk_bytes(shape),
        tasks=tasks,
        start_seconds=capacity.start_seconds,
    )


def _worker_peak(tasks: Sequence[TaskForecast], capacity: Capacity) -> int:
    """Bytes of a worker at its peak; while there is room it keeps the blocks that it has indexed."""
    hungriest = max(task.projected_mem for task in tasks)
    tile = next(task for task in tasks if task.name == "tile")
    kept = min(max(0, capacity.allowed_mem - tile.projected_mem), tile.tasks * tile.projected_mem)
    threads = capacity.threads_per_worker
    return RESERVED_BYTES + max(threads * hungriest, threads * tile.projected_mem + kept)


def require_fit(found: Forecast, out: str, reporter: Reporter) -> None:
    """Refuse a task that needs more than its share of a worker, or a disk without room for the folder `out`.

    A disk that has room only if URLs occur often enough is noted; how often is known once the rows are.

    Raises
    ------
    ResourceError
        Naming the stage or the disk, both figures, and the setting to change.
    """
    room = room_for(out)
    if room is not None and room < found.least_disk:
        raise ResourceError(
            f"{out}: the run needs at least {mebibytes(found.least_disk)} of disk, there is room for "
            f"{mebibytes(room)}; free some space, or give an --out on another disk"
        )
    needs = {task.name: task.projected_mem for task in found.tasks}
    if max(needs.values()) > found.allowed_mem:
        raise too_large(needs, found.allowed_mem, found.threads_per_worker)
    if room is not None and room < found.disk:
        reporter.note(
            f"{out}: if no URL occurs twice, the run needs {mebibytes(found.disk)} of disk, there is room for "
            f"{mebibytes(room)}; whether that is enough is known once the rows are, before their features are made"
        )


def _tasks(
    shards: Sequence[Shard], lines: int, block_rows: int, needs: Mapping[str, int], n_threads: int
) -> list[TaskForecast]:
    blocks = max(1, -(-lines // block_rows))
    counts = min(blocks, COUNTS_PER_THREAD * n_threads)
    numbers = {
        "read": len(partition_shards(shards)),
        "canonical": -(-lines // _PIECE_RECORDS),
        "sort": -(-lines // _RANGE_RECORDS),
        "document_frequency": counts,
        "document_frequency_combine": _meetings(counts),
    }
    most = {"tile": blocks}
    return [
        TaskForecast(stage, name, min(numbers.get(name, blocks), most.get(name, MOST_TASKS)), needs[name])
        for name, stage in STAGE_OF.items()
    ]


def _meetings(values: int) -> int:
    """Tasks of a tree over so many values, `FAN_IN` of which meet in each."""
    met = -(-values // FAN_IN) if values > 1 else 0
    return met and met + _meetings(met)


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """Some shards that hold anything, from first to last."""
    filled = [shard for shard in shards if shard.size]
    chosen = np.unique(np.linspace(0, max(len(filled) - 1, 0), _SAMPLED_SHARDS).astype(int))
    return [filled[number] for number in chosen] if filled else []


def _samples(shards: Sequence[Shard], settings: ScoringSettings) -> list[str]:
    """The first records of some shards."""
    chosen = _spread(shards)
    each = _SAMPLED_RECORDS // max(1, len(chosen))
    batches = (islice(read_shard(shard, settings.input, batch_records=each), 1) for shard in chosen)
    return [text for some in batches for batch in some for text in batch.texts]


def _estimated_lines(shards: Sequence[Shard], max_ratio: int) -> int:
    """Lines of all shards, if they are as dense everywhere as where some of them begin."""
    counts = [_count_lines(shard, max_ratio) for shard in _spread(shards)]
    lines, read = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 1)
    return round(sum(shard.size for shard in shards) * lines / max(read, 1))


def _count_lines(shard: Shard, max_ratio: int) -> tuple[int, int]:
    """Lines at the beginning of a shard, and the stored bytes that hold them."""
    with opened(shard.source, shard.path) as raw:
        if shard.format == "parquet":
            import pyarrow.parquet as pq

            groups = pq.ParquetFile(raw).metadata
            last = groups.num_row_groups if shard.stop is None else shard.stop
            return sum(groups.row_group(i).num_rows for i in range(shard.start, last)), shard.size
        raw.seek(shard.start)
        lines = held = read = 0
        block = b"\n"
        for block in decompressed(raw, shard.compression, shard.source, max_ratio):
            before, read = read, raw.tell() - shard.start
            if held >= _PEEK_BYTES and read > before > 0:
                # Only when a decoder wants more is it known that it has given all of what it read before.
                return lines, before
            lines += block.count(b"\n")
            # A first line that is longer than this says nothing about the others.
            held += len(block) if lines else 0
            if shard.compression is None and read >= shard.size:
                break
        return lines + (not block.endswith(b"\n")), shard.size


def _seconds(samples: Sequence[str], settings: ScoringSettings, found: Forecast, span_rows: int) -> float:
    """Seconds of one thread for the whole run, from those that the sample takes once everything is compiled."""
    if not samples:
        return 0.0
    # With an index, as for all rows, though half of a sample may be searched sooner without.
    for part, kernels in ((samples[:50], EVERY_SEARCH), (samples, [CpuKernel(cheap_list=-1)])):
        started = time.perf_counter()
        urls = list(dict.fromkeys(in_surt_order(canonicalize(part, settings.urls))))
        counts = hash_block(urls, settings.features)
        prepared_in = time.perf_counter() - started
        for kernel in kernels:
            own, others = _time_search(counts, settings, kernel)
    spans = max(0.0, found.rows / span_rows - 1)
    a_row = own + spans * others * max(1.0, 2 * span_rows / max(1, counts.shape[0])) ** _SPAN_GROWTH
    return float(_OTHER_WORK * prepared_in * found.lines / len(samples) + a_row * found.rows)


def _time_search(counts: CsrMatrix, settings: ScoringSettings, kernel: TileKernel) -> tuple[float, float]:
    """Seconds in which a row of half of the sample finds its neighbours there, and then better ones in the other."""
    idf = inverse_document_frequency(
        chunk(counts.indices, counts.shape[1]), counts.shape[0], settings.features.smooth_idf
    )
    block = weight_block(counts, idf, settings.features)
    middle = -(-counts.shape[0] // 2)
    queries = rows_of(block, Block(0, 0, middle))
    best = TopK.empty(middle, settings.neighbors.n_neighbors)
    times = [time.perf_counter()]
    for half in (Block(0, 0, middle), Block(1, middle, counts.shape[0])):
        prepared = kernel.prepare(rows_of(block, half), settings.neighbors.n_neighbors)
        best, _ = kernel.compute(queries, prepared, best, queries_start=0, candidates_start=half.start)
        times.append(time.perf_counter())
    own, others = (float(spent) / max(1, middle) for spent in np.diff(times))
    return own, others
