"""Keeps the workers of several backends at work on shared tasks, whoever of them comes or goes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

from distributed import Client, Future, wait

from noveltyflow.errors import TaskError
from noveltyflow.runtime.cluster import slots_of
from noveltyflow.runtime.executor import SharedWork, Task

LOOK_SECONDS = 2.0
"""How often the workers are counted."""
PATIENCE_SECONDS = 300.0
"""How long a run waits for workers when it has none that could go on."""

log = logging.getLogger(__name__)


class Sharing:
    """Iterates over `(backend, future)` as tasks end; the caller tells `work` what came of each.

    Parameters
    ----------
    client
        A connected client.
    work
        Hands out the tasks.
    submit
        Starts a task on the workers of a backend.
    """

    def __init__(self, client: Client, work: SharedWork, submit: Callable[[str, Task], Future]) -> None:
        self._client = client
        self._work = work
        self._submit = submit
        self._running: dict[Future, tuple[str, Task]] = {}
        self._slots: Counter[str] = Counter()
        self._looked = self._had_workers = time.monotonic()

    def __iter__(self) -> Iterator[tuple[str, Future]]:
        self._look()
        while not self._work.finished:
            self._start()
            for future in self._ended():
                backend, _ = self._running.pop(future)
                yield backend, future
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()

    def _start(self) -> None:
        """Give every free slot a task, as far as there are some for it."""
        busy = Counter(backend for backend, _ in self._running.values())
        for backend in self._work.backends:
            while busy[backend] < self._slots[backend]:
                if (task := self._work.take(backend, self._slots)) is None:
                    break
                self._running[self._submit(backend, task)] = (backend, task)
                busy[backend] += 1

    def _ended(self) -> list[Future]:
        if not self._running:
            self._wait_for_workers()
            return []
        try:
            return list(wait(list(self._running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except CancelledError:
            # As when the scheduler is gone: whoever asks such a future for its result is told so.
            return [future for future in self._running if future.cancelled()]

    def _look(self) -> None:
        """Count the workers; tasks of a backend that has none left are given back, for the others."""
        found = slots_of(self._client)
        self._slots = Counter({backend: found[backend] for backend in self._work.backends})
        self._looked = time.monotonic()
        if any(self._slots.values()):
            self._had_workers = self._looked
        lost = [future for future, (backend, _) in self._running.items() if not self._slots[backend]]
        lost = [future for future in lost if not future.done()]
        if not lost:
            return
        self._client.cancel(lost)
        for future in lost:
            backend, task = self._running.pop(future)
            log.warning("no %s worker is left; a task of theirs is given back", backend)
            self._work.give_back(task)

    def _wait_for_workers(self) -> None:
        if time.monotonic() - self._had_workers > PATIENCE_SECONDS:
            raise TaskError(
                f"no worker of {self._client.scheduler.address} is left that could compute tiles, for "
                f"{PATIENCE_SECONDS:.0f} s; what was finished is kept: start workers and run again"
            )
        time.sleep(LOOK_SECONDS / 4)
