"""Runs the tasks of a run on a Dask cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import reduce
from itertools import count, islice
from threading import Timer
from typing import Any
from uuid import uuid4

import dask
import psutil
from distributed import Client, Future, KilledWorker, as_completed
from distributed.comm import CommClosedError

from noveltyflow.errors import FREE_SPACE, NoveltyflowError, TaskError, is_disk_full
from noveltyflow.runtime.executor import SharedWork, Task
from noveltyflow.runtime.plan import FAN_IN, MOST_TASKS, usable_memory
from noveltyflow.runtime.seats import (
    RESOURCES,
    Seat,
    choose_backends,
    device_memory,
    slots_of,
    wait_for_workers,
    workers_of,
)
from noveltyflow.runtime.sharing import LOOK_SECONDS, Sharing

_RETRIES = 2
_FULL_SHARE = 0.5
_RESTART_SECONDS = 60
_ANSWER_SECONDS = 0.2
_MORE_MEMORY = "raise --memory-limit, or start anew with --overwrite and a smaller --block-rows"
_GO_ON = "what was finished is kept, and the same command goes on from there (--log-level debug shows more)"

log = logging.getLogger(__name__)


class DaskExecutor:
    """Hands tasks to the workers of `client` as they become free.

    Parameters
    ----------
    client
        A connected `distributed.Client`.
    token
        Fingerprint of the run; part of every key, so that no task of another run is ever reused.
    task_seconds
        See `Executor`.
    device_memory_limit
        Bytes that tiles may take of a device's memory, if that is limited.
    owns_workers
        Whether the workers were started for this run, and may be replaced.
    """

    def __init__(
        self,
        client: Client,
        token: str,
        task_seconds: float = 30.0,
        device_memory_limit: int | None = None,
        *,
        owns_workers: bool = False,
    ) -> None:
        self._client = client
        self.task_seconds = task_seconds
        # Never the keys of an earlier command: what it left running must not answer for this one.
        self._token = f"{token}-{uuid4().hex[:8]}"
        self._device_memory_limit = device_memory_limit
        self._owns_workers = owns_workers
        workers = workers_of(client).values()
        for_cpu = [worker for worker in workers if worker["resources"].get(RESOURCES["cpu"])]
        self.n_threads = sum(worker["nthreads"] for worker in for_cpu or workers)
        self.threads_per_worker = max(worker["nthreads"] for worker in workers)
        self.memory_per_thread = min(
            usable_memory(worker["memory_limit"] or 1 << 40) // worker["nthreads"] for worker in workers
        )

    def backends(self, backend: str) -> list[str]:
        """See `Executor.backends`."""
        return choose_backends(self._client, backend)

    def device_memory(self) -> int | None:
        """See `Executor.device_memory`."""
        return device_memory(self._client, self._device_memory_limit)

    def run(self, name: str, function: Callable[..., Any], tasks: Iterable[Task]) -> Iterator[Any]:
        """See `Executor.run`. At most two tasks a thread are with the scheduler at any time."""
        queue, number = iter(_grouped(list(tasks))), count()
        # Where no worker is meant for the CPU, the threads beside a device do such work.
        resources = {RESOURCES["cpu"]: 1} if slots_of(self._client)["cpu"] else None

        def submit(group: Sequence[Task]) -> Future:
            key = (f"{name}-{self._token}", next(number))
            return self._client.submit(
                _each, function, group, key=key, resources=resources, retries=_RETRIES, pure=False
            )

        running = as_completed([submit(group) for group in islice(queue, 2 * self.n_threads)])
        for future in running:
            results = outcome(future, name)
            if (group := next(queue, None)) is not None:
                running.add(submit(group))
            yield from results

    def share(self, name: str, function: Callable[..., Any], work: SharedWork) -> Iterator[Any]:
        """See `Executor.share`. A worker with room for more has one task at a time for each of its slots."""
        numbers = count()

        def submit(seat: Seat, task: Task) -> Future:
            return self._client.submit(
                function,
                *task,
                key=(f"{name}-{self._token}", seat.backend, next(numbers)),
                resources={RESOURCES[seat.backend]: 1},
                workers=[seat.worker],
                retries=_RETRIES,
                pure=False,
            )

        def answer(future: Future) -> Any:
            return outcome(future, name, LOOK_SECONDS)

        for seat, result in Sharing(self._client, work, submit, answer):
            work.done(seat.worker, seat.backend, result)
            yield result

    def compute(self, delayed: Sequence[Any]) -> Iterator[Any]:
        """See `Executor.compute`."""
        futures = self._client.compute(list(delayed), retries=_RETRIES)
        for future in as_completed(futures):
            yield outcome(future, str(future.key))

    def tree(
        self, name: str, chunk: Callable[..., Any], combine: Callable[..., Any], tasks: Sequence[Task]
    ) -> Any:
        """See `Executor.tree`; at most eight values meet in one task."""
        level = [
            dask.delayed(_combined)(chunk, combine, group, dask_key_name=(f"{name}-{self._token}", i))
            for i, group in enumerate(_grouped(tasks))
        ]
        depth = 0
        while len(level) > 1:
            depth += 1
            groups = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
            key = f"{name}_combine-{self._token}"
            level = [
                dask.delayed(combine)(group, dask_key_name=(key, depth, i)) for i, group in enumerate(groups)
            ]
        return level[0]

    def everywhere(self, function: Callable[[], None]) -> None:
        """See `Executor.everywhere`; not a task, so a worker that has paused for want of memory does it too."""
        self._client.run(function, on_error="ignore")

    def renew(self, forget: Callable[[], None]) -> None:
        """See `Executor.renew`: of its imports and its heap's fragments a process gets rid only by ending."""
        self.everywhere(forget)
        if not self._owns_workers:
            return
        workers = workers_of(self._client)
        held = self._client.run(_resident_bytes, on_error="ignore")
        full = [
            address
            for address, n_bytes in held.items()
            if address in workers
            and n_bytes > _FULL_SHARE * (workers[address]["memory_limit"] or sys.maxsize)
        ]
        if not full:
            return
        log.info("replacing %d workers, which hold much of their memory without a task", len(full))
        try:
            # Their nannies replace them. Asked to restart a worker, a busy one starts the new one twice.
            self._client.run(_end_soon, workers=full)
            there = wait_for_workers(self._client, len(workers), _RESTART_SECONDS, gone=full)
            if there < len(workers):
                raise TimeoutError(f"after {_RESTART_SECONDS} s")
        except Exception as error:
            # The run goes on with whichever workers there are, and waits for them where there are none.
            log.warning("not all workers were replaced: %s: %s", type(error).__name__, error)


def _grouped(tasks: Sequence[Task]) -> list[Sequence[Task]]:
    """Consecutive tasks that are carried out as one, so that there are not too many."""
    size = max(1, -(-len(tasks) // MOST_TASKS))
    return [tasks[i : i + size] for i in range(0, len(tasks), size)]


def _each(function: Callable[..., Any], group: Sequence[Task]) -> list[Any]:
    return [function(*task) for task in group]


def _combined(chunk: Callable[..., Any], combine: Callable[..., Any], group: Sequence[Task]) -> Any:
    return reduce(lambda total, task: combine([total, chunk(*task)]), group[1:], chunk(*group[0]))


def _end_soon() -> None:
    """End this process, once it has answered."""
    Timer(_ANSWER_SECONDS, os._exit, (1,)).start()


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _dropped(name: str) -> TaskError:
    return TaskError(
        f"the scheduler is gone, or has dropped task {name!r}; what was finished is kept. Start a scheduler, and "
        "give the same command again"
    )


def outcome(future: Future, name: str, timeout: float | None = None) -> Any:
    """Result of a task that has ended; one that lost too many workers is a `TaskError` with the remedy.

    Raises
    ------
    TimeoutError
        When the result is not here after `timeout` seconds; the task is then as it was.
    """
    try:
        result = future.result(timeout=timeout)
    except TimeoutError as error:
        if future.status != "error":
            raise
        raise _failure(future, name, error) from error
    except Exception as error:
        failure = _failure(future, name, error)
        raise failure from (None if failure is error else error)
    future.release()
    return result


def _failure(future: Future, name: str, error: Exception) -> Exception:
    """What to tell of a task that failed, or that is not known any more."""
    future.release()
    if isinstance(error, KilledWorker):
        return TaskError(
            f"task {name!r} lost {error.allowed_failures + 1} workers one after the other, most likely because it "
            f"needs more memory than they have: {_MORE_MEMORY}"
        )
    if isinstance(error, MemoryError):
        return TaskError(f"task {name!r} found no more memory: {_MORE_MEMORY}")
    if isinstance(error, NoveltyflowError):
        return error
    # Not the task's own error: the connection broke while its result was fetched.
    broken = isinstance(error, CommClosedError) and future.status != "error"
    if broken or isinstance(error, CancelledError):
        return _dropped(name)
    remedy = FREE_SPACE if is_disk_full(error) else _GO_ON
    return TaskError(f"task {name!r} failed: {type(error).__name__}: {error}; {remedy}")
