"""Keeps workers of several backends at work on shared tasks: those that have room for more, whoever comes or goes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import product
from typing import Any

from distributed import Client, Future, wait

from noveltyflow.errors import DeviceError, TaskError
from noveltyflow.runtime.executor import SharedWork, Task
from noveltyflow.runtime.seats import Seat, seats_of

LOOK_SECONDS = 2.0
"""How often the workers are looked at."""
PATIENCE_SECONDS = 300.0
"""How long a run waits for workers when it has none that could go on."""

log = logging.getLogger(__name__)


class Sharing:
    """Iterates over `(seat, result)` as tasks end; the caller tells `work` what came of each.

    A task is meant for one worker, because only the client sees what all of them have left. One that is short of
    memory or disk is given no task until it has recovered; the task of one that is gone is given back, and so is that
    of a device that has failed, which gets no other one.

    Parameters
    ----------
    client
        A connected client.
    work
        Hands out the tasks.
    submit
        Starts a task on a worker.
    answer
        Result of a task that has ended; raises TimeoutError when it does not come, and DeviceError when the device
        failed.
    """

    def __init__(
        self,
        client: Client,
        work: SharedWork,
        submit: Callable[[Seat, Task], Future],
        answer: Callable[[Future], Any],
    ) -> None:
        self._client = client
        self._work = work
        self._submit = submit
        self._answer = answer
        self._running: dict[Future, tuple[Seat, Task]] = {}
        self._seats: list[Seat] = []
        self._seen: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()
        self._failure: DeviceError | None = None
        self._looked = self._could_go_on = time.monotonic()

    def __iter__(self) -> Iterator[tuple[Seat, Any]]:
        self._look()
        while not self._work.finished:
            self._start()
            for future in self._ended():
                try:
                    result = self._answer(future)
                except TimeoutError:
                    # Its worker is gone with the result, and Dask would wait for that very worker to compute it anew:
                    # `_look` sees that it is gone, and gives the task back.
                    continue
                except DeviceError as error:
                    self._leave_out(future, error)
                    continue
                seat, _ = self._running.pop(future)
                yield seat, result
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()

    def _start(self) -> None:
        """Give every free slot of a worker that is ready a task, as far as there are some for it."""
        busy = Counter((seat.worker, seat.backend) for seat, _ in self._running.values())
        slots: Counter[str] = Counter()
        for seat in self._seats:
            # Who has no room for more helps nobody, however quick it was.
            if seat.ready or busy[seat.worker, seat.backend]:
                slots[seat.backend] += seat.slots
        # First all who can go on with what they have prepared, so that nobody prepares the same meanwhile.
        for anew, seat in product((False, True), self._seats):
            while seat.ready and busy[seat.worker, seat.backend] < seat.slots:
                if (task := self._work.take(seat.worker, seat.backend, slots, anew)) is None:
                    break
                self._running[self._submit(seat, task)] = (seat, task)
                busy[seat.worker, seat.backend] += 1

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
        """Look at the workers; a task of one that is gone is given back, for the others."""
        self._looked = time.monotonic()
        try:
            seats = seats_of(self._client, self._work.backends)
        except OSError as error:
            # Where the scheduler is gone, its tasks tell.
            log.info("the scheduler says nothing of its workers: %s", error)
            return
        now = {(seat.worker, seat.backend) for seat in seats}
        self._seen |= now
        # Whoever comes with that address later is another process.
        self._seen -= self._failed - now
        self._failed &= now
        self._seats = self._sound(seats)
        if self._running or any(seat.ready for seat in self._seats):
            self._could_go_on = self._looked
        else:
            log.warning("waiting for workers: none %s", self._why_idle()[0])
        there = {seat.worker for seat in seats}
        lost = [future for future, (seat, _) in self._running.items() if seat.worker not in there]
        lost = [future for future in lost if not future.done()]
        if not lost:
            return
        self._client.cancel(lost)
        for future in lost:
            seat, task = self._running.pop(future)
            log.warning("%s worker %s is gone; its task is given back", seat.backend, seat.worker)
            self._work.give_back(seat.worker, task)

    def _sound(self, seats: Sequence[Seat]) -> list[Seat]:
        """Those whose device has not failed."""
        return [seat for seat in seats if (seat.worker, seat.backend) not in self._failed]

    def _leave_out(self, future: Future, error: DeviceError) -> None:
        """Give a task to others, whose device failed; the process cannot use that again, and is left in peace."""
        seat, task = self._running.pop(future)
        self._failed.add((seat.worker, seat.backend))
        self._failure = error
        self._seats = self._sound(self._seats)
        log.warning(
            "the device of %s failed, which gets no more tiles; its task is given back: %s",
            seat.worker,
            error,
        )
        self._work.give_back(seat.worker, task)

    def _wait_for_workers(self) -> None:
        if self._failure is not None and self._seen == self._failed:
            raise TaskError(
                f"the device of the last worker that could compute tiles failed: {self._failure}; what was finished "
                "is kept: see to the device, and give the same command again, or go on with --backend cpu"
            ) from self._failure
        if time.monotonic() - self._could_go_on > PATIENCE_SECONDS:
            state, remedy = self._why_idle()
            raise TaskError(
                f"no worker of {self._client.scheduler.address} that could compute tiles {state}, for "
                f"{PATIENCE_SECONDS:.0f} s; what was finished is kept: {remedy}, and give the same command again"
            )
        time.sleep(LOOK_SECONDS / 4)

    def _why_idle(self) -> tuple[str, str]:
        lacks = {seat.worker: seat.lacks for seat in self._seats if seat.lacks is not None}
        if not lacks:
            return "is left", "start workers"
        worker, lack = next(iter(lacks.items()))
        return f"has room for more ({worker} {lack.what})", lack.remedy
