"""What the process of a task and its host have left, measured at the moment of asking."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import psutil

from noveltyflow.errors import ResourceError
from noveltyflow.runtime.plan import TASK_BYTES, USABLE_SHARE, mebibytes

HOST_SECONDS = 300.0
"""How long a task waits for memory of its host."""
_LOOK_SECONDS = 1.0
_SPILL_SLACK = 1 << 19
"""Bytes: reports of the run's own tasks may be spilled, too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """Memory of a worker, in bytes.

    Attributes
    ----------
    rss : int
        What its process holds.
    limit : int
        What it may hold.
    threads : int
        Tasks that share this.
    paused : bool
        Whether Dask gives it no tasks until it holds less.
    host_free : int
        What the host can still give to any process.
    spilled : int
        What Dask has put on the disk of the results of other tasks.
    """

    rss: int
    limit: int
    threads: int
    paused: bool
    host_free: int
    spilled: int = 0

    @property
    def pressed(self) -> bool:
        """Whether it gets no tasks: it holds more than these may count on, or its host has next to nothing left."""
        return self.paused or self.rss > USABLE_SHARE * self.limit or self.host_free < TASK_BYTES

    def pressed_since(self, spilled: int) -> bool:
        """Whether it is pressed, or Dask had to spill more since there were `spilled` bytes on the disk.

        What a run itself leaves with Dask is small. Where others use the same workers, a spill makes room that is
        theirs: tasks that took it would push out ever more.
        """
        return self.pressed or self.spilled > spilled + _SPILL_SLACK

    def room(self, held: int, tasks: int | None = None) -> int:
        """Bytes for one task, of as many as there are threads unless `tasks` says how many there are at once.

        `held` are those of all the process holds that the task would replace.
        """
        own = int(USABLE_SHARE * self.limit) - self.rss + held
        return max(0, min(own, self.host_free + held)) // (tasks or self.threads)


def spilled_bytes(worker: Any) -> int:
    """What a Dask worker has on its disk of results that found no room in memory; 0 where it never spills."""
    spilled = getattr(worker.data, "spilled_total", None)
    return 0 if spilled is None else int(spilled.disk)


def measured() -> Load | None:
    """Load of the Dask worker whose task calls this; None in any other process, which has no limit."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return None
    host = psutil.virtual_memory()
    return Load(
        psutil.Process().memory_info().rss,
        worker.memory_manager.memory_limit or host.total,
        worker.state.nthreads,
        worker.status.name == "paused",
        host.available,
        spilled_bytes(worker),
    )


def wait_for_host(needed: int) -> None:
    """Wait until the host has `needed` bytes left, since otherwise it would begin to swap or to kill.

    Raises
    ------
    ResourceError
        With both figures, when it has not within five minutes.
    """
    deadline = time.monotonic() + HOST_SECONDS
    while (free := psutil.virtual_memory().available) < needed:
        if time.monotonic() > deadline:
            raise ResourceError(
                f"stage neighbors: a tile needs {mebibytes(needed)}, this host has {mebibytes(free)} free, whatever "
                "the workers' limits are; end other processes or start fewer workers, then run again"
            )
        log.warning("waiting for memory of the host: %s free, %s needed", mebibytes(free), mebibytes(needed))
        time.sleep(_LOOK_SECONDS)
