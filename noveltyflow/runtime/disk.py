"""What the disks and the host of a worker have left, told with every heartbeat: who has no room gets no task."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from distributed import WorkerPlugin

from noveltyflow.errors import FREE_SPACE, TaskError
from noveltyflow.runtime.plan import mebibytes
from noveltyflow.store.files import is_local

DISK_RESERVE = 16 << 20
"""Bytes that must be left where a worker spills and where the run is; checkpoints that are being written go there."""
METRIC = "noveltyflow_disk"
"""Among a worker's metrics: its fullest folder, and the bytes that are left there."""
HOST_METRIC = "noveltyflow_host"
"""Among a worker's metrics: bytes of memory that its host can still give to any process."""


class RoomWatch(WorkerPlugin):  # type: ignore[misc] # distributed is not typed for mypy
    """Has every worker, also a later one, tell what is left where it spills, in the run folder and in its host.

    The next run on the same cluster puts its own in this one's place.

    Parameters
    ----------
    run
        Path or address of the run folder.
    """

    name = "noveltyflow-room"

    def __init__(self, run: str) -> None:
        self._folders = [run] if is_local(run) else []

    def setup(self, worker: Any) -> None:
        """See `WorkerPlugin.setup`."""
        worker.metrics[METRIC] = lambda _: fullest([worker.local_directory, *self._folders])
        worker.metrics[HOST_METRIC] = lambda _: psutil.virtual_memory().available

    def teardown(self, worker: Any) -> None:
        """See `WorkerPlugin.teardown`."""
        for metric in (METRIC, HOST_METRIC):
            worker.metrics.pop(metric, None)


def room_for(run: str, *parts: str) -> int | None:
    """Bytes to which this run, or some parts of its folder, may come: what the disk has free, and what these hold.

    What an earlier command left there is either part of the same run, or removed. None where the folder is not local.
    """
    if not is_local(run):
        return None
    path, held = Path(run).absolute(), 0
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    # A run that goes on meanwhile removes files and folders; what cannot be read is left out.
    for folder, _, names in chain.from_iterable(os.walk(path / part) for part in parts or ("",)):
        for name in names:
            with contextlib.suppress(OSError):
                held += Path(folder, name).lstat().st_size
    return shutil.disk_usage(there).free + held


def compressed(data: bytes, codec: str = "zstd") -> int:
    """Bytes that `data` take once compressed."""
    return len(pa.compress(data, codec=codec, asbytes=True))


def neighbor_bytes(rows: int, n_neighbors: int) -> int:
    """Bytes on disk of the neighbours of some rows, and of their checkpoints: 12 for each, twice."""
    return 2 * 12 * n_neighbors * rows


def require_room(run: str, stage: str, needed: int, *parts: str) -> None:
    """Refuse to begin a stage when the disk has no room for what the run, or some parts of it, will come to.

    Raises
    ------
    TaskError
        Naming the folder, both figures and the remedy.
    """
    room = room_for(run, *parts)
    if room is not None and room < needed:
        raise TaskError(
            f"No space left on device: {run!r} has room for {mebibytes(room)}, from stage {stage} on it needs up to "
            f"{mebibytes(needed)}; {FREE_SPACE}"
        )


def fullest(folders: Sequence[str]) -> tuple[str, int] | None:
    """The folder on whose disk least is left, and the bytes left there; None where no folder can be looked at."""
    free = []
    for folder in folders:
        try:
            free.append((shutil.disk_usage(folder).free, folder))
        except OSError:
            continue  # what it cannot see, a worker says when it needs it
    if not free:
        return None
    n_bytes, folder = min(free)
    return folder, n_bytes
