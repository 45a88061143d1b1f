from __future__ import annotations

from pathlib import Path

import pytest
from emulation.fixtures import gpu_preloads, library, library_path, nvml
from helpers import Cli, some_urls
from runtime.faults import OPTIONS

__all__ = ["gpu_preloads", "library", "library_path", "nvml"]


@pytest.fixture(scope="session")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(["", "http://", *some_urls(4_000, seed=9)]))
    return path


@pytest.fixture(scope="session")
def undisturbed(cli: Cli, urls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run.zarr"
    done = cli("run", urls, "--out", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return out
