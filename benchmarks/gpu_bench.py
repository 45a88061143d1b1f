"""What the parts of `benchmarks/gpu.py` share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpu_machine import Gpu

from noveltyflow.similarity.kernels.device import Device
from noveltyflow.similarity.kernels.folded import Folded
from noveltyflow.similarity.kernels.gpu import GpuKernel
from noveltyflow.similarity.tiles import Block
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


class Stopwatch:
    """A device that also tells how long its products and kernels took; it waits for each of them.

    Parameters
    ----------
    gpu : Gpu
        Whose device does the work.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.seconds: Counter[str] = Counter()
        """By the name of the kernel, or `matmul`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gpu.device, name)

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """See `Device.matmul`."""
        with timed(self._gpu) as spent:
            self._gpu.device.matmul(a, b, out)
        self.seconds["matmul"] += spent.value

    def launch(self, name: str, *arguments: Any) -> None:
        """See `Device.launch`."""
        with timed(self._gpu) as spent:
            self._gpu.device.launch(name, *arguments)
        self.seconds[name] += spent.value


def once(
    gpu: Gpu, folded: Folded, others: Any, rows: Block, device: Device | None = None
) -> tuple[TopK, int, float, float]:
    """Result, scored pairs, and seconds of preparing `others` and of searching for some of its rows there."""
    kernel = GpuKernel(folded, device or gpu.device)
    queries = others if rows.n_rows == others.shape[0] else others[rows.start : rows.stop]
    with timed(gpu) as preparing:
        prepared = kernel.prepare(others, K)
    empty = TopK.empty(rows.n_rows, K)
    with timed(gpu) as searching:
        found, stats = kernel.compute(queries, prepared, empty, queries_start=rows.start, candidates_start=0)
    return found, stats.verified_pairs, preparing.value, searching.value
