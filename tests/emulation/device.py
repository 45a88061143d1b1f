"""A device that is not there: numpy arrays, and the CUDA sources compiled by the C++ compiler."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noveltyflow.similarity.kernels.device import SOURCES

HERE = Path(__file__).parent
LEAST_SHARED_BYTES = 48 << 10
"""What a block may have on any device without asking for more."""


def build(folder: Path) -> Path:
    """Compile the kernels into a library."""
    kernels = ["-include", str(HERE / "cuda_emulation.h"), f"-I{SOURCES}", "-ffp-contract=off"]
    kernels.append("-U_FORTIFY_SOURCE")  # which some compilers define, and which ends a jump to another stack
    return _compiled(HERE / "emulated.cpp", folder / "emulated.so", *kernels)


def build_nvml(folder: Path) -> Path:
    """Compile what dask-cuda asks about the GPUs of a machine, under the name by which it is found."""
    name = "libnvidia-ml.so.1"
    return _compiled(HERE / "nvml.cpp", folder / name, f"-Wl,-soname,{name}")


def _compiled(source: Path, library: Path, *options: str) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("no g++: install a C++ compiler, the CUDA sources are tested through it")
    usual = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command = [compiler, *usual, *options, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return library


class LimitedNumpy:
    """numpy, whose arrays cannot be larger than a limit all together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.alive = self.peak = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        return self._limited(function) if name in ("array", "asarray", "empty", "zeros") else function

    def _limited(self, function: Any) -> Any:
        def limited(*args: Any, **options: Any) -> Any:
            array = function(*args, **options)
            if self.alive + array.nbytes > self.limit:
                raise MemoryError(f"{array.nbytes} bytes beside {self.alive}")
            return self._counted(array.copy())

        return limited

    def _counted(self, array: Any) -> Any:
        self.alive += array.nbytes
        self.peak = max(self.peak, self.alive)
        weakref.finalize(array, self._gone, array.nbytes)
        return array

    def _gone(self, n_bytes: int) -> None:
        self.alive -= n_bytes


class EmulatedDevice:
    """Runs the kernels on this CPU.

    Parameters
    ----------
    library
        What `build` gave, loaded.
    threads
        Threads of a block, in place of what the host code asks for; fewer are quicker to emulate.
    backwards
        Run the threads of a block in descending order between barriers.
    limit
        Bytes that all arrays may have together.
    launches
        After how many launches the device fails, for good.
    """

    def __init__(
        self,
        library: ctypes.PyDLL,
        *,
        threads: int = 64,
        backwards: bool = False,
        limit: int = 1 << 40,
        launches: float = math.inf,
    ) -> None:
        self._library = library
        self._threads = threads
        self._backwards = backwards
        self.xp = LimitedNumpy(limit)
        self.released = 0
        self._launches = launches
        self._size = limit

    def to_host(self, array: Any) -> Any:
        return array.copy()

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        out[:] = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)

    def launch(self, name: str, blocks: int, threads: int, shared: int, arguments: Sequence[Any]) -> None:
        assert shared <= LEAST_SHARED_BYTES
        self._launches -= 1
        self._require_sound()
        threads = min(threads, self._threads)
        if name == "score_put_off":
            blocks = min(blocks, 3)  # any number of them does all the work
        values = [self._value(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function = getattr(self._library, f"emulate_{name}")
        sizes = (ctypes.c_uint(number) for number in (blocks, threads, shared))
        function(*sizes, ctypes.c_int(self._backwards), addresses)

    @staticmethod
    def _value(argument: Any) -> Any:
        if isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            return ctypes.c_void_p(argument.ctypes.data)
        return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())

    def release(self) -> None:
        self.released += 1

    def memory(self) -> int:
        self._require_sound()
        return self._size

    def _require_sound(self) -> None:
        """Once anything has failed, everything does, as with CUDA."""
        if self._launches < 0:
            raise RuntimeError("an illegal memory access was encountered")

    def limit_memory(self, n_bytes: int) -> None:
        self.xp.limit = n_bytes
