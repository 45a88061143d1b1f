"""The emulated kernels, for the tests of several folders."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from emulation.device import build


@pytest.fixture(scope="session")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA sources, compiled by the C++ compiler."""
    return build(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="session")
def library(library_path: Path) -> ctypes.PyDLL:
    """The compiled sources, loaded; calls keep the GIL, because one block is emulated at a time."""
    return ctypes.PyDLL(str(library_path))
