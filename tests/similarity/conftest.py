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
def library(library_path: Path) -> ctypes.CDLL:
    """The compiled sources, loaded."""
    return ctypes.CDLL(str(library_path))
