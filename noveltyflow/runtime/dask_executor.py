"""Runs the tasks of a run on a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import count, islice
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from noveltyflow.errors import NoveltyflowError, TaskError
from noveltyflow.runtime.cluster import CPU_RESOURCE
from noveltyflow.runtime.executor import FollowUp, Task
from noveltyflow.runtime.plan import usable_memory

_FAN_IN = 8
_RETRIES = 2
_MORE_MEMORY = "raise --memory-limit, or start anew with --overwrite and a smaller --block-rows"

log = logging.getLogger(__name__)


class DaskExecutor:
    """Hands tasks to the workers of `client` as they become free.

    Parameters
    ----------
    client
        A connected `distributed.Client`.
    token
        Fingerprint of the run; part of every key, so that no task of another run is ever reused.
    checkpoint_seconds
        See `Executor`.
    """

    shuffle_method = "p2p"

    def __init__(self, client: Client, token: str, checkpoint_seconds: float = 5.0) -> None:
        self._client = client
        self.checkpoint_seconds = checkpoint_seconds
        # Never the keys of an earlier command: what it left running must not answer for this one.
        self._token = f"{token}-{uuid4().hex[:8]}"
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        self.n_threads = sum(worker["nthreads"] for worker in workers)
        self.memory_per_thread = min(
            usable_memory(worker["memory_limit"] or 1 << 40) // worker["nthreads"] for worker in workers
        )

    def run(
        self, name: str, function: Callable[..., Any], tasks: Iterable[Task], then: FollowUp | None = None
    ) -> Iterator[Any]:
        """See `Executor.run`. At most two tasks a thread are with the scheduler at any time."""
        queue, number = iter(tasks), count()

        def submit(task: Task) -> Future:
            return self._client.submit(
                function,
                *task,
                key=(f"{name}-{self._token}", next(number)),
                resources={CPU_RESOURCE: 1},
                retries=_RETRIES,
                pure=False,
            )

        running = as_completed([submit(task) for task in islice(queue, 2 * self.n_threads)])
        for future in running:
            result = _result(future, name)
            follow_up = then(result) if then is not None else None
            task = follow_up if follow_up is not None else next(queue, None)
            if task is not None:
                running.add(submit(task))
            yield result

    def compute(self, delayed: Sequence[Any]) -> Iterator[Any]:
        """See `Executor.compute`."""
        futures = self._client.compute(list(delayed), retries=_RETRIES)
        for future in as_completed(futures):
            yield _result(future, str(future.key))

    def tree(
        self, name: str, chunk: Callable[..., Any], combine: Callable[..., Any], tasks: Sequence[Task]
    ) -> Any:
        """See `Executor.tree`; at most eight values meet in one task."""
        level = [
            dask.delayed(chunk)(*task, dask_key_name=(f"{name}-{self._token}", i))
            for i, task in enumerate(tasks)
        ]
        depth = 0
        while len(level) > 1:
            depth += 1
            groups = [level[i : i + _FAN_IN] for i in range(0, len(level), _FAN_IN)]
            key = f"{name}_combine-{self._token}"
            level = [
                dask.delayed(combine)(group, dask_key_name=(key, depth, i)) for i, group in enumerate(groups)
            ]
        return level[0]

    def everywhere(self, function: Callable[[], None]) -> None:
        """See `Executor.everywhere`; not a task, so a worker that has paused for want of memory does it too."""
        self._client.run(function, on_error="ignore")


def _result(future: Future, name: str) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise TaskError(
            f"task {name!r} lost {error.allowed_failures + 1} workers one after the other, most likely because it "
            f"needs more memory than they have: {_MORE_MEMORY}"
        ) from error
    except MemoryError as error:
        raise TaskError(f"task {name!r} found no more memory: {_MORE_MEMORY}") from error
    except CancelledError as error:
        raise TaskError(
            f"the scheduler was lost during task {name!r}; what was finished is kept: start the cluster again, and "
            "give the same command"
        ) from error
    except FutureCancelledError as error:
        raise TaskError(
            f"the scheduler is gone, or has dropped task {name!r}; what was finished is kept. Start a scheduler, and "
            "give the same command again"
        ) from error
    except NoveltyflowError:
        raise
    except Exception as error:
        raise TaskError(
            f"task {name!r} failed: {type(error).__name__}: {error}; what was finished is kept, and the same command "
            "goes on from there (--log-level debug shows more)"
        ) from error
    finally:
        future.release()
