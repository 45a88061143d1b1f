"""Preloaded into workers: their GPU kernel runs on the emulated device."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from emulation.device import EmulatedDevice
from noveltyflow.similarity.kernels import registry
from noveltyflow.similarity.kernels.gpu import GpuKernel

LIBRARY = "EMULATED_KERNELS"
"""Environment variable with the path of what `build` compiled."""
LAUNCHES = "EMULATED_LAUNCHES"
"""Environment variable with the number of launches after which the device fails."""


@cache
def _device() -> EmulatedDevice:
    launches = float(os.environ.get(LAUNCHES, "inf"))
    return EmulatedDevice(ctypes.PyDLL(os.environ[LIBRARY]), threads=32, launches=launches)


def dask_setup(worker: Any) -> None:
    registry.KERNELS["gpu"] = lambda: GpuKernel(device=_device())
