"""The device that the GPU kernel runs on, behind a protocol small enough to be emulated."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

DeviceArray = Any
"""An array of the device, with numpy's interface."""

SOURCES = Path(__file__).parent / "cuda"
"""Folder of the CUDA C sources."""
KERNELS = ("fold_rows", "scan_folded", "score_put_off")
"""Names of the kernels in the source."""
COMPILER_OPTIONS = ("-std=c++17",)
MEMORY_SHARE = 0.9
"""What is used of a device's memory where no limit is set; the rest is left to others."""
_NO_REDUCED_PRECISION = 16
"""cuBLAS's `CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION`."""


class Device(Protocol):
    """What the GPU kernel needs of a device. An array that does not fit raises `MemoryError`."""

    @property
    def xp(self) -> Any:
        """Module with numpy's functions for arrays of the device."""

    def to_host(self, array: DeviceArray) -> Any:
        """Copy an array to a numpy array."""

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        """Product of matrices of float16, summed in float32, rounded once to float16."""

    def launch(self, name: str, blocks: int, threads: int, shared: int, arguments: Sequence[Any]) -> None:
        """Run one of `KERNELS` with at most 48 KiB of shared memory, which every device has.

        Arguments are arrays of the device and numpy scalars.
        """

    def release(self) -> None:
        """Give memory that is kept for reuse back to the device."""

    def memory(self) -> int:
        """Bytes that arrays may take in all."""

    def limit_memory(self, n_bytes: int) -> None:
        """Let arrays take no more than `n_bytes`."""


class CupyDevice:
    """The current CUDA device of this process, through CuPy."""

    def __init__(self) -> None:
        import cupy

        self.xp = cupy
        module = cupy.RawModule(code=source(), options=COMPILER_OPTIONS)
        self._kernels = {name: module.get_function(name) for name in KERNELS}

    def to_host(self, array: DeviceArray) -> Any:
        """See `Device.to_host`."""
        return self.xp.asnumpy(array)

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        """See `Device.matmul`; cuBLAS's mode is set each time, because the handle is the thread's."""
        cublas = self.xp.cuda.cublas
        handle = self.xp.cuda.get_cublas_handle()
        before = cublas.getMathMode(handle)
        cublas.setMathMode(handle, _NO_REDUCED_PRECISION)
        try:
            self.xp.matmul(a, b, out=out)
        finally:
            cublas.setMathMode(handle, before)

    def launch(self, name: str, blocks: int, threads: int, shared: int, arguments: Sequence[Any]) -> None:
        """See `Device.launch`."""
        self._kernels[name]((blocks,), (threads,), tuple(arguments), shared_mem=shared)

    def release(self) -> None:
        """See `Device.release`; copies on their way to the device were kept in memory of the host."""
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def memory(self) -> int:
        """See `Device.memory`."""
        _, total = self.xp.cuda.runtime.memGetInfo()
        return self.xp.get_default_memory_pool().get_limit() or int(total * MEMORY_SHARE)

    def limit_memory(self, n_bytes: int) -> None:
        """See `Device.limit_memory`; it is CuPy's memory pool that keeps the limit."""
        self.xp.get_default_memory_pool().set_limit(size=n_bytes)


def source() -> str:
    """CUDA C of all kernels, complete.

    What it includes is put in its place, because CuPy's cache of compiled kernels looks at the text alone, and
    would not see that an included file has changed.
    """
    shared = (SOURCES / "search.cuh").read_text(encoding="utf-8")
    return (SOURCES / "folded.cu").read_text(encoding="utf-8").replace('#include "search.cuh"', shared)


@cache
def has_cuda() -> bool:
    """Whether this process can use a CUDA device: a driver, CuPy, and a device that answers."""
    try:
        # Cheap, and so asked first: most machines have no driver.
        ctypes.CDLL("libcuda.so.1")
        import cupy
    except (OSError, ImportError):
        return False
    return bool(cupy.cuda.is_available())


@cache
def cuda_device() -> CupyDevice:
    """Return the device of this process; its kernels are compiled once."""
    return CupyDevice()
