"""What the parts of `benchmarks/gpu.py` share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpu_machine import Gpu

from noveltyflow.similarity.kernels.gpu import GpuKernel, Method
from noveltyflow.similarity.topk import TopK

K = 10


@dataclass
class Bench:
    """Where it runs, how much time is left, and what has gone wrong."""

    gpu: Gpu
    deadline: float
    wrong: list[str] = field(default_factory=list)

    def lacks(self, seconds: float, what: str) -> bool:
        """Whether less time than `seconds` is left for `what`, which is then said."""
        left = self.deadline - time.monotonic()
        if left < seconds:
            say(f"- skipped: {what} (about {seconds:.0f} s, {left:.0f} s are left; see --minutes)")
        return left < seconds

    def check(self, what: str, exact: bool) -> str:
        """`yes` or `NO`; the latter is remembered."""
        if not exact:
            self.wrong.append(what)
        return "yes" if exact else "**NO**"


@dataclass
class Seconds:
    """What `timed` measured."""

    value: float = 0.0


def say(text: str) -> None:
    """Print at once, for whoever watches or only gets the beginning."""
    print(text, flush=True)


@contextmanager
def timed(gpu: Gpu) -> Iterator[Seconds]:
    """Measure what happens inside, the device's work included."""
    spent = Seconds()
    gpu.synchronize()
    start = time.perf_counter()
    yield spent
    gpu.synchronize()
    spent.value = time.perf_counter() - start


def once(gpu: Gpu, method: Method, rows: Any) -> tuple[TopK, int, float, float]:
    """Result, scored pairs, and seconds of preparing and of searching `rows` among themselves."""
    kernel = GpuKernel(method, gpu.device)
    with timed(gpu) as preparing:
        prepared = kernel.prepare(rows)
    empty = TopK.empty(rows.shape[0], K)
    with timed(gpu) as searching:
        found, stats = kernel.compute(rows, prepared, empty, queries_start=0, candidates_start=0)
    return found, stats.verified_pairs, preparing.value, searching.value
