"""What a run will take, said before it begins: rows, tasks, memory against what workers have, disk, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.errors import ResourceError
from noveltyflow.features.frequency import chunk
from noveltyflow.features.hashing import hash_block
from noveltyflow.features.weighting import inverse_document_frequency, weight_block
from noveltyflow.runtime.memory import (
    SHUFFLE_BYTES,
    InputShape,
    block_tasks,
    input_tasks,
    sampled_shape,
)
from noveltyflow.runtime.plan import RESERVED_BYTES, STAGE_OF, choose_block_rows, mebibytes, usable_memory
from noveltyflow.runtime.stages.read import partition_shards
from noveltyflow.similarity.kernels.registry import get_kernel
from noveltyflow.similarity.topk import TopK
from noveltyflow.types import CsrMatrix
from noveltyflow.urls.canonical import canonicalize
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.shards import Shard
from noveltyflow.urls.streams import decompressed, opened

_SAMPLED_SHARDS = 8
_SAMPLED_RECORDS = 4_000
_PEEK_BYTES = 8 << 20
_PIECE_RECORDS, _RANGE_RECORDS = 50_000, 100_000
_OTHER_WORK = 3
"""Reading, shuffling and storing take about twice as long as canonical form and hashing, which are timed."""


@dataclass(frozen=True)
class Capacity:
    """What a cluster has; of unlike workers, the least of each."""

    workers: int
    threads_per_worker: int
    memory_limit: int

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
    disk : int
        At most; compression saves more than half of it. Scratch space is included.
    seconds : float or None
        At most; None when nothing was timed.
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
    disk: int
    seconds: float | None
    tasks: list[TaskForecast]


def forecast(
    shards: Sequence[Shard],
    settings: ScoringSettings,
    cluster: ClusterSettings,
    capacity: Capacity,
    *,
    rows: int | None = None,
    timed: bool = False,
) -> Forecast:
    """Estimate from a sample of the input, and choose the size of the row blocks.

    Parameters
    ----------
    shards, settings, cluster
        What is to be run.
    capacity
        Workers, their threads, and their memory.
    rows
        Number of rows to plan for, instead of as many as the input has lines.
    timed
        Compute some of the sample, to tell how long all of it takes.

    Raises
    ------
    InputError
        When the sample cannot be read.
    ResourceError
        When no size of blocks fits into the workers' memory.
    """
    samples = _samples(shards, settings)
    lines = rows or _estimated_lines(shards)
    shape = sampled_shape(samples, lines, settings)
    n_rows = max(lines, 1)
    n_threads = capacity.workers * capacity.threads_per_worker
    block_rows = choose_block_rows(
        block_tasks(shape, settings, cluster.backend),
        n_rows,
        capacity.allowed_mem,
        n_threads,
        cluster.block_rows,
    )
    tasks = _tasks(shards, shape, settings, cluster.backend, block_rows)
    nonzeros = int(n_rows * shape.nonzeros_per_row)
    return Forecast(
        lines=lines,
        rows=n_rows,
        nonzeros=nonzeros,
        block_rows=block_rows,
        blocks=-(-n_rows // block_rows),
        workers=capacity.workers,
        threads_per_worker=capacity.threads_per_worker,
        reserved_mem=RESERVED_BYTES,
        allowed_mem=capacity.allowed_mem,
        projected_mem=_worker_peak(tasks, capacity),
        memory_limit=capacity.memory_limit,
        disk=int(
            3 * lines * (shape.url_bytes + 32) + 8 * nonzeros + 24 * n_rows * settings.neighbors.n_neighbors
        ),
        seconds=_seconds(samples, settings, cluster.backend, lines, n_rows) / n_threads if timed else None,
        tasks=tasks,
    )


def _worker_peak(tasks: Sequence[TaskForecast], capacity: Capacity) -> int:
    """Bytes of a worker at its peak; while there is room it keeps the blocks that it has indexed."""
    hungriest = max(task.projected_mem for task in tasks)
    tile = next(task for task in tasks if task.name == "tile")
    kept = min(max(0, capacity.allowed_mem - tile.projected_mem), tile.tasks * tile.projected_mem)
    shuffled = SHUFFLE_BYTES + capacity.threads_per_worker * hungriest
    return RESERVED_BYTES + max(shuffled, capacity.threads_per_worker * tile.projected_mem + kept)


def require_fit(found: Forecast) -> None:
    """Refuse a run with a task that needs more than its share of a worker.

    Raises
    ------
    ResourceError
        Naming the stage, both figures, and the setting to change.
    """
    for task in found.tasks:
        if task.projected_mem > found.allowed_mem:
            enough = (RESERVED_BYTES + found.threads_per_worker * task.projected_mem) / 0.8
            raise ResourceError(
                f"stage {task.stage}: a task {task.name!r} needs {mebibytes(task.projected_mem)}, a worker has "
                f"{mebibytes(found.allowed_mem)} a thread for it; raise --memory-limit to {mebibytes(int(enough))}, "
                "or lower --threads-per-worker"
            )


def _tasks(
    shards: Sequence[Shard], shape: InputShape, settings: ScoringSettings, backend: str, block_rows: int
) -> list[TaskForecast]:
    blocks = max(1, -(-shape.lines // block_rows))
    numbers = {
        "read": len(partition_shards(shards)),
        "canonical": -(-shape.lines // _PIECE_RECORDS),
        "sort": -(-shape.lines // _RANGE_RECORDS),
    }
    of_blocks = block_tasks(shape, settings, backend)
    needs = input_tasks(shape) | {name: task(block_rows) for name, task in of_blocks.items()}
    return [TaskForecast(STAGE_OF[name], name, numbers.get(name, blocks), needs[name]) for name in STAGE_OF]


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


def _estimated_lines(shards: Sequence[Shard]) -> int:
    """Lines of all shards, if they are as dense everywhere as where some of them begin."""
    counts = [_count_lines(shard) for shard in _spread(shards)]
    lines, read = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 1)
    return round(sum(shard.size for shard in shards) * lines / max(read, 1))


def _count_lines(shard: Shard) -> tuple[int, int]:
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
        for block in decompressed(raw, shard.compression, shard.source):
            before, read = read, raw.tell() - shard.start
            if held >= _PEEK_BYTES and read > before > 0:
                # Only when a decoder wants more is it known that it has given all of what it read before.
                return lines, before
            lines, held = lines + block.count(b"\n"), held + len(block)
        return lines + (not block.endswith(b"\n")), shard.size


def _seconds(
    samples: Sequence[str], settings: ScoringSettings, backend: str, lines: int, n_rows: int
) -> float:
    """Seconds of one thread for the whole run, from those that the sample takes once everything is compiled."""
    if not samples:
        return 0.0
    for part in (samples[:50], samples):
        started = time.perf_counter()
        urls = [url for url in canonicalize(part, settings.urls).urls if url is not None]
        counts = hash_block(urls, settings.features)
        prepared_in = time.perf_counter() - started
        tile_in = _time_tile(counts, settings, backend)
    pairs = max(1, counts.shape[0]) ** 2
    return float(_OTHER_WORK * prepared_in * lines / len(samples) + tile_in * n_rows**2 / pairs)


def _time_tile(counts: CsrMatrix, settings: ScoringSettings, backend: str) -> float:
    """Seconds of one tile of the sample with itself."""
    idf = inverse_document_frequency(chunk(counts), counts.shape[0], settings.features.smooth_idf)
    block, kernel = weight_block(counts, idf, settings.features), get_kernel(backend)
    best = TopK.empty(block.shape[0], settings.neighbors.n_neighbors)
    started = time.perf_counter()
    kernel.compute(block, kernel.prepare(block), best, queries_start=0, candidates_start=0)
    return time.perf_counter() - started
