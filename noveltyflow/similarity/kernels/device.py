"""The device that the GPU kernel runs on, behind a protocol small enough to be emulated."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
_OUT_OF_MEMORY = {"CUBLASError": (1, 3), "CUDADriverError": (2,), "CUDARuntimeError": (2,)}
"""Status by class of error. 1 is cuBLAS without the memory for a handle, and whatever else keeps it from one."""
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
        """Bytes that arrays could take in all, those that are there included; fewer where others use the device."""

    def limit_memory(self, n_bytes: int) -> None:
        """Let arrays take no more than `n_bytes`."""


class CupyDevice:
    """The current CUDA device of this process, through CuPy."""

    def __init__(self) -> None:
        import cupy

        self.xp, self._cublas = cupy, cupy.cuda.cublas  # an ImportError now rather than within a tile
        module = cupy.RawModule(code=source(), options=COMPILER_OPTIONS)
        self._kernels = {name: module.get_function(name) for name in KERNELS}

    def to_host(self, array: DeviceArray) -> Any:
        """See `Device.to_host`."""
        return self.xp.asnumpy(array)

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        """See `Device.matmul`; cuBLAS's mode is set each time, because the handle is the thread's."""
        with memory_errors():
            handle = self.xp.cuda.get_cublas_handle()
            before = self._cublas.getMathMode(handle)
            self._cublas.setMathMode(handle, _NO_REDUCED_PRECISION)
            try:
                self.xp.matmul(a, b, out=out)
            finally:
                self._cublas.setMathMode(handle, before)

    def launch(self, name: str, blocks: int, threads: int, shared: int, arguments: Sequence[Any]) -> None:
        """See `Device.launch`."""
        with memory_errors():
            self._kernels[name]((blocks,), (threads,), tuple(arguments), shared_mem=shared)

    def release(self) -> None:
        """See `Device.release`; copies on their way to the device were kept in memory of the host."""
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def memory(self) -> int:
        """See `Device.memory`."""
        free, total = self.xp.cuda.runtime.memGetInfo()
        held = int(self.xp.get_default_memory_pool().total_bytes()) + _rmm_bytes()
        return int(min(total * MEMORY_SHARE, held + free * MEMORY_SHARE))

    def limit_memory(self, n_bytes: int) -> None:
        """See `Device.limit_memory`; it is CuPy's memory pool that keeps the limit."""
        self.xp.get_default_memory_pool().set_limit(size=n_bytes)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise a `MemoryError` for what libraries of CUDA raise where they find no memory for themselves."""
    try:
        yield
    except RuntimeError as error:  # CuPy's classes, whose modules cannot be imported everywhere
        if getattr(error, "status", None) in _OUT_OF_MEMORY.get(type(error).__name__, ()):
            raise MemoryError(str(error)) from error
        raise


def _rmm_bytes() -> int:
    """What a pool of RMM in this process has taken of the device."""
    rmm = sys.modules.get("rmm")
    size = getattr(rmm.mr.get_current_device_resource(), "pool_size", None) if rmm else None
    return int(size()) if size else 0


def source() -> str:
    """CUDA C of all kernels, complete.

    What it includes is put in its place, because CuPy's cache of compiled kernels looks at the text alone, and
    would not see that an included file has changed.
    """
    shared = (SOURCES / "search.cuh").read_text(encoding="utf-8")
    return (SOURCES / "folded.cu").read_text(encoding="utf-8").replace('#include "search.cuh"', shared)


@cache
def lack_of_cuda() -> str | None:
    """What this process lacks to use a CUDA device: a driver, CuPy, or a device that answers; None if nothing."""
    try:
        # Cheap, and so asked first: most machines have no driver.
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1)"
    try:
        import cupy
    except ImportError as error:
        return f"no CuPy ({error}), which the extra gpu of noveltyflow brings"
    return None if cupy.cuda.is_available() else "a driver, but no device that it shows"


def has_cuda() -> bool:
    """Whether this process can use a CUDA device."""
    return lack_of_cuda() is None


@cache
def cuda_device() -> CupyDevice:
    """Return the device of this process; its kernels are compiled once."""
    return CupyDevice()
