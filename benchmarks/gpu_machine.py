"""The machine that `benchmarks/gpu.py` runs on."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from noveltyflow.similarity.kernels.device import CupyDevice


class Gpu:
    """A CUDA device with what a benchmark needs beside what the kernel needs."""

    def __init__(self) -> None:
        import cupy
        from cupyx.scipy import sparse

        self.device = CupyDevice()
        self.sparse = sparse
        self._cupy = cupy

    def synchronize(self) -> None:
        """Wait for the device's work."""
        self._cupy.cuda.Device().synchronize()

    def reset(self) -> None:
        """Give all free memory back, so that `peak_bytes` starts anew."""
        self._cupy.get_default_memory_pool().free_all_blocks()

    def peak_bytes(self) -> int:
        """Bytes that the memory pool took from the device since `reset`; it gives nothing back meanwhile."""
        return int(self._cupy.get_default_memory_pool().total_bytes())

    def describe(self) -> list[tuple[str, str]]:
        """Names and versions."""
        runtime = self._cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self._cupy.cuda.Device().id)
        capability = f"{properties['major']}.{properties['minor']}"
        memory = properties["totalGlobalMem"] / (1 << 30)
        return [
            ("GPU", f"{properties['name'].decode()}, {memory:.0f} GiB, capability {capability}"),
            ("CUDA", f"driver {runtime.driverGetVersion()}, runtime {runtime.runtimeGetVersion()}"),
        ]


def visible_gpu() -> Gpu | None:
    """The device, or None with the reason on standard error."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return _none(f"no NVIDIA driver ({error})")
    try:
        import cupy
    except ImportError as error:
        return _none(
            f"no CuPy ({error}); install cupy-cuda12x or cupy-cuda13x, with its [ctk] where no toolkit is"
        )
    if not cupy.cuda.is_available():
        return _none("the driver shows no device")
    return Gpu()


def _none(reason: str) -> None:
    print(f"no GPU to measure: {reason}", file=sys.stderr)


def cpu_kernel() -> Any:
    """The CPU kernel, which needs numba."""
    from noveltyflow.similarity.kernels.registry import get_kernel

    return get_kernel("cpu")


def describe_machine(gpu: Gpu) -> list[tuple[str, str]]:
    """Hardware and versions, one line each."""
    packages = ["numpy", "scipy", "cupy", "numba", "dask", "dask_cuda", "rmm"]
    return [
        *gpu.describe(),
        ("CPU", f"{_processor()}, {os.cpu_count()} threads"),
        ("Python", platform.python_version()),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in packages)),
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(module: str) -> str:
    for package in packages_distributions().get(module, []):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "absent"
