"""Run all of `benchmarks/gpu.py` on the emulated device, with nothing but numpy and scipy to import.

python tests/emulation/run_benchmark.py LIBRARY LIST ROWS
"""

from __future__ import annotations

import ctypes
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
ABSENT = {
    "cupy",
    "numba",
    "dask",
    "dask_cuda",
    "distributed",
    "pydantic",
    "sklearn",
    "pandas",
    "zarr",
    "hypothesis",
    "pytest",
}


class Absence(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


class EmulatedGpu:
    """What the benchmark wants of a GPU."""

    def __init__(self, library: str) -> None:
        from scipy import sparse

        from emulation.device import EmulatedDevice

        self.device = EmulatedDevice(ctypes.PyDLL(library), threads=32)
        self.sparse = sparse

    def synchronize(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def peak_bytes(self) -> int:
        return 0

    def describe(self) -> list[tuple[str, str]]:
        return [("GPU", "emulated")]


def main() -> int:
    sys.meta_path.insert(0, Absence())
    import gpu
    from gpu_machine import describe_machine

    library, path, rows = sys.argv[1:]
    bench = gpu.Bench(EmulatedGpu(library), time.monotonic() + 3600)
    for line in describe_machine(bench.gpu):
        gpu.say(": ".join(line))
    gpu.SHAPE_ROWS = 20
    gpu.run(bench, Path(path), int(rows), 40)
    gpu.say(f"wrong: {bench.wrong}")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
