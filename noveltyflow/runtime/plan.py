"""How large blocks may be: a pure model of what tasks need against what a worker has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from noveltyflow.errors import ResourceError

RESERVED_BYTES = 400 << 20
"""What a worker holds besides its tasks: interpreter, imports, compiled kernels; up to 360 MiB were measured."""
TASK_BYTES = 32 << 20
"""What a tile may take besides its data: buffers of codecs, fragments of the heap, rows longer than all others."""
MOST_TASKS = 5_000
"""Tasks of one kind in a stage at most; beyond, each does more, since a scheduler must remember them all."""
LEAST_TASK_BYTES = 80 << 20
"""What a worker must have for each task, whatever it is: as much as where document frequencies meet."""
USABLE_SHARE = 0.8
"""Of a worker's memory limit, where Dask pauses it."""
SMALLEST_BLOCK, _LARGEST_BLOCK = 1_024, 65_536
_BLOCKS_PER_THREAD = {"cpu": 12, "gpu": 3}
"""How finely the work is cut for threads. Where tiles go to GPUs alone, only the other stages need all threads."""
SPAN_BLOCKS = 2
"""Blocks that have room in a span, where memory admits: the larger a span, the less a pair of rows costs."""
FAN_IN = 8
"""Values that meet in one task of a tree."""
COUNTS_PER_THREAD = 4
"""Tasks that count documents, for each thread."""

_LOWER = "--threads-per-worker"
"""The option that leaves each thread more of a worker's memory."""

STAGE_OF = {
    "read": "urls",
    "canonical": "urls",
    "sort": "urls",
    "rows": "urls",
    "hash": "features",
    "document_frequency": "idf",
    "document_frequency_combine": "idf",
    "tile": "neighbors",
    "merge": "neighbors",
}
"""The stage of every kind of task."""


def usable_memory(memory_limit: int) -> int:
    """Bytes of a worker's `memory_limit` that its tasks share; Dask pauses a worker above 80 %."""
    return max(0, int(memory_limit * USABLE_SHARE) - RESERVED_BYTES)


def limit_for(task_bytes: int, threads: int = 1) -> int:
    """The least `memory_limit`, in bytes but whole MiB, of a worker that has `task_bytes` for each of its threads."""
    return math.ceil((RESERVED_BYTES + threads * task_bytes) / USABLE_SHARE / (1 << 20)) << 20


def too_large(
    needs: Mapping[str, int],
    allowed: int,
    threads: int,
    *,
    lower: str = _LOWER,
    block_rows: int = 0,
) -> ResourceError:
    """What to tell of a plan of which some task does not fit: the hungriest, and the limit with which all of them do.

    Parameters
    ----------
    needs
        Peak bytes of every kind of task, by its name.
    allowed
        Bytes that one task may use.
    threads
        Of a worker.
    lower
        The other option that helps; that of the threads is not named where there is but one.
    block_rows
        Rows in the blocks with which `needs` were told, where it matters.
    """
    needed, name = max((n_bytes, name) for name, n_bytes in needs.items())
    blocks = f"with {block_rows:,} rows in a block " if block_rows else ""
    or_lower = "" if lower == _LOWER and threads == 1 else f", or lower {lower}"
    return ResourceError(
        f"stage {STAGE_OF[name]}: {blocks}a task {name!r} needs {mebibytes(needed)}, a worker has "
        f"{mebibytes(allowed)} a thread for it; raise --memory-limit to {limit_for(needed, threads) >> 20} MiB"
        f"{or_lower}"
    )


def require_worker_memory(memory_limit: int) -> None:
    """Refuse a worker that could not even start its first task.

    Raises
    ------
    ResourceError
        With both figures.
    """
    needed = limit_for(LEAST_TASK_BYTES)
    if memory_limit < needed:
        raise ResourceError(
            f"a worker with a memory limit of {mebibytes(memory_limit)} cannot run any task: it takes "
            f"{mebibytes(RESERVED_BYTES)} itself and at least {mebibytes(LEAST_TASK_BYTES)} for a task, and may use "
            f"{USABLE_SHARE:.0%} of its limit; raise --memory-limit to {mebibytes(needed)}"
        )


def choose_block_rows(
    projected: Mapping[str, Callable[[int], int]],
    n_rows: int,
    allowed: int,
    n_threads: int,
    asked: int | None,
    backends: Sequence[str] = ("cpu",),
    *,
    besides: Mapping[str, int] | None = None,
    threads_per_worker: int = 1,
) -> int:
    """Rows in a block: as asked, else the most that memory admits and that still keeps all threads busy.

    Parameters
    ----------
    projected
        Peak bytes of every kind of task that takes row blocks, as functions of the rows in a block.
    n_rows
        Rows of the run.
    allowed
        Bytes that one task may use.
    n_threads
        Tasks that run at once.
    asked
        Rows in a block as set by the user, if at all.
    backends
        What computes the tiles.
    besides
        Peak bytes of the other tasks of the plan; a refusal names a limit with which these fit too.
    threads_per_worker
        Tasks that share the memory of a worker.

    Raises
    ------
    ResourceError
        When not even the smallest block (or the one asked for) fits into `allowed` bytes.
    """
    smallest = min(asked or SMALLEST_BLOCK, max(n_rows, 1))
    needs = {name: task(smallest) for name, task in projected.items()}
    if max(needs.values()) > allowed:
        lower = _LOWER if asked is None and threads_per_worker > 1 else "--block-rows"
        needs |= besides or {}
        raise too_large(needs, allowed, threads_per_worker, lower=lower, block_rows=smallest)
    if asked is not None:
        return smallest
    per_thread = max(_BLOCKS_PER_THREAD[backend] for backend in backends)
    spread = -(-n_rows // (per_thread * n_threads))
    rows = max(smallest, min(spread, _LARGEST_BLOCK))
    while rows > smallest and any(task(rows) > allowed for task in projected.values()):
        rows = max(smallest, rows * 3 // 4)
    return rows


def mebibytes(n_bytes: int) -> str:
    """`n_bytes` for people: `1,234 MiB`, `3 MiB`, `0.4 MiB`, `12 KiB`."""
    if 0 < n_bytes < 100 << 10:
        return f"{n_bytes / (1 << 10):.0f} KiB"
    size = n_bytes / (1 << 20)
    return f"{size:,.0f} MiB" if size >= 10 else f"{size:.1f}".removesuffix(".0") + " MiB"
