"""Preloaded into workers: kernels that compute on the CPU, as slowly as the environment says, under both names."""

from __future__ import annotations

import os
import time
from typing import Any

from noveltyflow.similarity.kernels import registry
from noveltyflow.similarity.kernels.cpu import CpuKernel

BLOCK_ROWS = 40
COUNTER = "STAND_IN_TILES"
"""Environment variable of the worker that counts its tiles."""


class StandIn:
    """The CPU kernel, some seconds later."""

    def __init__(self, name: str) -> None:
        self._kernel = CpuKernel()
        self._seconds = float(os.environ[f"STAND_IN_{name.upper()}_SECONDS"])
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def compute(self, queries: Any, candidates: Any, *args: Any, **options: Any) -> Any:
        tiles = -(-candidates.n_rows // BLOCK_ROWS)
        os.environ[COUNTER] = str(int(os.environ.get(COUNTER, 0)) + tiles)
        time.sleep(self._seconds * tiles)
        return self._kernel.compute(queries, candidates, *args, **options)


def dask_setup(worker: Any) -> None:
    registry.KERNELS.update(gpu=lambda: StandIn("gpu"), cpu=lambda: StandIn("cpu"))
