"""The emulated kernels and the emulated GPU, for the tests of several folders."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulation.device import HERE, build, build_nvml
from emulation.worker import LIBRARY
from noveltyflow.runtime import cluster
from noveltyflow.similarity.kernels.device import has_cuda

PRELOAD = "distributed.worker.preload"


@pytest.fixture(scope="session")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA sources, compiled by the C++ compiler."""
    return build(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="session")
def library(library_path: Path) -> ctypes.PyDLL:
    """The compiled sources, loaded; calls keep the GIL, because one block is emulated at a time."""
    return ctypes.PyDLL(str(library_path))


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tells dask-cuda of a GPU; in a folder that, in LD_LIBRARY_PATH, makes it what every process finds."""
    return build_nvml(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def gpu_preloads(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """A GPU that dask-cuda finds, and what its workers must load to use it.

    Where this machine has one, that is it, and nothing is to be loaded. Otherwise dask-cuda asks a library of ours,
    and its workers emulate the device.
    """
    if has_cuda():
        yield []
        return
    nvml, library = request.getfixturevalue("nvml"), request.getfixturevalue("library_path")
    ctypes.CDLL(str(nvml))  # from now on, this is what its name stands for in this process
    preloads = [str(HERE / "worker.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LIBRARY, str(library))
        patch.setenv("LD_LIBRARY_PATH", str(nvml.parent), prepend=os.pathsep)
        patch.setenv("PYTHONPATH", str(HERE.parent), prepend=os.pathsep)
        patch.setattr(cluster, "has_cuda", lambda: True)
        patch.setattr("cupy.cuda.runtime.getDeviceCount", lambda: 1)
        patch.setitem(cluster.DASK_CONFIG, PRELOAD, [*cluster.DASK_CONFIG[PRELOAD], *preloads])
        yield preloads
