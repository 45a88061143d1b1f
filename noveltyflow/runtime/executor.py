"""What stages need of whatever runs their tasks, and the serial executor that all others must equal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any, Protocol

import dask

Task = tuple[Any, ...]
"""Positional arguments of one call; small, because they travel through the scheduler."""
FollowUp = Callable[[Any], Task | None]


class Executor(Protocol):
    """Runs pure task functions; results come back in any order and must be small."""

    n_threads: int
    """Tasks that can run at once."""
    memory_per_thread: int
    """Bytes that one task may count on, what the bare worker needs already taken off."""
    checkpoint_seconds: float
    """How long a task of stage `neighbors` computes before it stores how far it came."""
    shuffle_method: str
    """How `dask.dataframe` moves rows between partitions."""

    def run(
        self, name: str, function: Callable[..., Any], tasks: Iterable[Task], then: FollowUp | None = None
    ) -> Iterator[Any]:
        """Yield the result of every task as it ends; `then(result)` may add one more task."""

    def compute(self, delayed: Sequence[Any]) -> Iterator[Any]:
        """Yield the value of every `dask.delayed` object as it is known."""

    def tree(
        self, name: str, chunk: Callable[..., Any], combine: Callable[..., Any], tasks: Sequence[Task]
    ) -> Any:
        """Return `combine` over all `chunk(*task)` as one `dask.delayed`-like value for `compute`."""

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call a function once in every process that runs tasks; one that is just then lost is passed over."""


class SerialExecutor:
    """Runs one task after the other in this process: the reference, and the way to debug."""

    n_threads = 1
    shuffle_method = "disk"

    def __init__(self, memory_per_thread: int = 1 << 30, checkpoint_seconds: float = 5.0) -> None:
        self.memory_per_thread = memory_per_thread
        self.checkpoint_seconds = checkpoint_seconds

    def run(
        self, name: str, function: Callable[..., Any], tasks: Iterable[Task], then: FollowUp | None = None
    ) -> Iterator[Any]:
        """See `Executor.run`."""
        queue = deque(tasks)
        while queue:
            result = function(*queue.popleft())
            if then is not None and (task := then(result)) is not None:
                queue.append(task)
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
