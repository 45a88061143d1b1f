"""How large blocks may be: a pure model of what tasks need against what a worker has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from noveltyflow.errors import ResourceError
from noveltyflow.similarity.tiles import Block

RESERVED_BYTES = 400 << 20
"""What a worker holds besides its tasks: interpreter, imports, compiled kernels; up to 360 MiB were measured."""
TASK_BYTES = 32 << 20
"""What any task may take besides its data: buffers of codecs and of Arrow, fragments of the heap."""
MOST_TASKS = 5_000
"""Tasks of one kind in a stage at most; beyond, each does more, since a scheduler must remember them all."""
_LEAST_TASK_BYTES = 64 << 20
USABLE_SHARE = 0.8
"""Of a worker's memory limit, where Dask pauses it."""
SMALLEST_BLOCK, _LARGEST_BLOCK = 1_024, 65_536
_STRIPS_PER_THREAD = 3
STRIP_BLOCKS = 4
"""Most blocks whose rows look for neighbours together: the index of candidates is then made a quarter as often."""
FAN_IN = 8
"""Values that meet in one task of a tree."""
COUNTS_PER_THREAD = 4
"""Tasks that count documents, for each thread."""

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


def require_worker_memory(memory_limit: int) -> None:
    """Refuse a worker that could not even start its first task.

    Raises
    ------
    ResourceError
        With both figures.
    """
    needed = int((RESERVED_BYTES + _LEAST_TASK_BYTES) / USABLE_SHARE)
    if memory_limit < needed:
        raise ResourceError(
            f"a worker with a memory limit of {mebibytes(memory_limit)} cannot run any task: it needs "
            f"{mebibytes(needed)}; raise --memory-limit"
        )


def choose_block_rows(
    projected: Mapping[str, Callable[[int], int]],
    n_rows: int,
    allowed: int,
    n_threads: int,
    asked: int | None,
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

    Raises
    ------
    ResourceError
        When not even the smallest block (or the one asked for) fits into `allowed` bytes.
    """
    smallest = min(asked or SMALLEST_BLOCK, max(n_rows, 1))
    needed, name = max((task(smallest), name) for name, task in projected.items())
    if needed > allowed:
        raise ResourceError(
            f"stage {STAGE_OF[name]}: a task {name!r} with {smallest:,} rows in a block needs {mebibytes(needed)}, a "
            f"worker has {mebibytes(allowed)} a thread for it; raise --memory-limit, or lower "
            f"{'--block-rows' if asked else '--threads-per-worker'}"
        )
    if asked is not None:
        return smallest
    spread = -(-n_rows // (STRIP_BLOCKS * _STRIPS_PER_THREAD * n_threads))
    rows = max(smallest, min(spread, _LARGEST_BLOCK))
    while rows > smallest and any(task(rows) > allowed for task in projected.values()):
        rows = max(smallest, rows * 3 // 4)
    return rows


def choose_strip_blocks(tile: Callable[[int], int], allowed: int) -> int:
    """Blocks in a strip: as many, up to four, as memory admits.

    Parameters
    ----------
    tile
        Peak bytes of a tile as a function of the blocks in its strip.
    allowed
        Bytes that one task may use.
    """
    fitting = (blocks for blocks in range(STRIP_BLOCKS, 1, -1) if tile(blocks) <= allowed)
    return next(fitting, 1)


def spread_strips(strip_blocks: int, n_blocks: int, n_threads: int) -> int:
    """Blocks in a strip: no more than leave several strips for every thread."""
    return max(1, min(strip_blocks, n_blocks // (_STRIPS_PER_THREAD * n_threads)))


def cut_strips(blocks: Sequence[Block], strip_blocks: int) -> list[Block]:
    """Group consecutive blocks to strips of at most so many, each of which is a block too."""
    strips: list[Block] = []
    for block in blocks:
        if strips and strips[-1].stop == block.start and block.index % strip_blocks:
            strips[-1] = replace(strips[-1], stop=block.stop)
        else:
            strips.append(block)
    return strips


def mebibytes(n_bytes: int) -> str:
    """`n_bytes` for people."""
    return f"{n_bytes / (1 << 20):,.0f} MiB"
