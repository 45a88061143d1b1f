"""What stages need of whatever runs their tasks, and the serial executor that all others must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import dask

from noveltyflow.similarity.kernels.registry import get_kernel

Task = tuple[Any, ...]
"""Positional arguments of one call; small, because they travel through the scheduler."""


class SharedWork(Protocol):
    """Tasks that workers of several backends share; a free worker pulls the next one."""

    @property
    def backends(self) -> Sequence[str]:
        """Backends that may take part."""

    @property
    def finished(self) -> bool:
        """Whether all is done."""

    def take(self, worker: str, backend: str, slots: Mapping[str, int], anew: bool) -> Task | None:
        """Next task for a free worker of `backend`; `slots` is how many tasks each backend runs at once.

        Without `anew` only one that goes on with what the worker has prepared for others before.
        """

    def done(self, worker: str, backend: str, result: Any) -> None:
        """A task has given `result`, after which there may be more of them."""

    def give_back(self, worker: str, task: Task) -> None:
        """The worker that had a task is gone."""


class Executor(Protocol):
    """Runs pure task functions; results come back in any order and must be small."""

    n_threads: int
    """Tasks that can run at once."""
    threads_per_worker: int
    """Tasks that share the memory of one process; of unlike workers, the most."""
    memory_per_thread: int
    """Bytes that one task may count on, what the bare worker needs already taken off."""
    task_seconds: float
    """How long a task of stage `neighbors` computes before another one takes over."""

    def backends(self, backend: str) -> list[str]:
        """Backends that compute tiles where the setting is `backend`; what `auto` chose is logged.

        Raises
        ------
        ResourceError
            If no worker can.
        """

    def device_memory(self) -> int | None:
        """Bytes of memory of the smallest device that computes tiles; None where there is none."""

    def run(self, name: str, function: Callable[..., Any], tasks: Iterable[Task]) -> Iterator[Any]:
        """Yield the result of every task as it ends."""

    def share(self, name: str, function: Callable[..., Any], work: SharedWork) -> Iterator[Any]:
        """Yield the result of every task of `work` as it ends, until it is finished."""

    def compute(self, delayed: Sequence[Any]) -> Iterator[Any]:
        """Yield the value of every `dask.delayed` object as it is known."""

    def tree(
        self, name: str, chunk: Callable[..., Any], combine: Callable[..., Any], tasks: Sequence[Task]
    ) -> Any:
        """Return `combine` over all `chunk(*task)` as one `dask.delayed`-like value for `compute`."""

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call a function once in every process that runs tasks; one that is just then lost is passed over."""

    def renew(self, forget: Callable[[], None]) -> None:
        """Make room for a stage in every process that runs tasks.

        Each calls `forget`; one that then holds half of its memory still is replaced, if no one else may be using it.
        """


class SerialExecutor:
    """Runs one task after the other in this process: the reference, and the way to debug."""

    n_threads = threads_per_worker = 1

    def __init__(self, memory_per_thread: int = 1 << 30, task_seconds: float = 30.0) -> None:
        self.memory_per_thread = memory_per_thread
        self.task_seconds = task_seconds

    def backends(self, backend: str) -> list[str]:
        """See `Executor.backends`."""
        return [get_kernel(backend).name]

    def device_memory(self) -> int | None:
        """See `Executor.device_memory`; a tile that does not fit is halved."""
        return None

    def run(self, name: str, function: Callable[..., Any], tasks: Iterable[Task]) -> Iterator[Any]:
        """See `Executor.run`."""
        for task in tasks:
            yield function(*task)

    def share(self, name: str, function: Callable[..., Any], work: SharedWork) -> Iterator[Any]:
        """See `Executor.share`."""
        (backend,) = work.backends

        def tasks() -> Iterator[Task]:
            while (task := work.take("", backend, {backend: 1}, anew=True)) is not None:
                yield task

        for result in self.run(name, function, tasks()):
            work.done("", backend, result)
            yield result

    def compute(self, delayed: Sequence[Any]) -> Iterator[Any]:
        """See `Executor.compute`."""
        yield from dask.compute(*delayed, scheduler="synchronous")

    def tree(
        self, name: str, chunk: Callable[..., Any], combine: Callable[..., Any], tasks: Sequence[Task]
    ) -> Any:
        """See `Executor.tree`."""
        return dask.delayed(lambda: reduce(lambda a, b: combine([a, b]), (chunk(*task) for task in tasks)))()

    def everywhere(self, function: Callable[[], None]) -> None:
        """See `Executor.everywhere`."""
        function()

    def renew(self, forget: Callable[[], None]) -> None:
        """See `Executor.renew`."""
        forget()
