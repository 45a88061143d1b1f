from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy.hand_cluster import ROOT, Launch, hand_cluster, write_script
from distributed import Client
from emulation.fixtures import nvml

__all__ = ["nvml"]


@pytest.fixture(scope="module")
def cluster_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hand_cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


@pytest.fixture
def client(cluster_by_hand: str) -> Iterator[Client]:
    with Client(cluster_by_hand) as client:
        yield client


@pytest.fixture
def launch(tmp_path: Path, nvml: Path) -> Launch:
    """Run a script in a copy of `cluster/`, where `dask` prints its configuration and arguments, a line each.

    There seems to be a GPU, as long as LD_LIBRARY_PATH says so.
    """
    shutil.copytree(ROOT / "cluster", tmp_path / "checkout/cluster")
    write_script(tmp_path / "bin/dask", 'printf "%s\\n" "$DASK_CONFIG" "$@"')
    write_script(tmp_path / "bin/python3", f'exec "{sys.executable}" "$@"')

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tmp_path / "checkout" / script, *arguments],
            env={
                "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
                "LD_LIBRARY_PATH": str(nvml.parent),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
