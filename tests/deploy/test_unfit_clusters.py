"""Clusters that a run cannot use are refused, saying what they lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from helpers import Cli

HURRIED = """
from noveltyflow.cli import main
from noveltyflow.runtime import cluster
cluster._FIRST_WORKER_SECONDS = 1.0
main()
"""
"""The command, which waits for a first worker for no more than a second."""


def test_cluster_without_the_resource_is_refused(cli: Cli, url_list: Path, tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit="1GiB",
    ) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(1)
        done = cli("run", url_list, "--out", tmp_path / "run.zarr", "--scheduler", cluster.scheduler_address)
    assert done.returncode == 2
    assert "--resources CPU=1" in done.stderr


def test_cluster_without_workers_is_refused(url_list: Path, tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        out = tmp_path / "run.zarr"
        command = [sys.executable, "-c", HURRIED, "run", url_list, "--out", out]
        command += ["--scheduler", cluster.scheduler_address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "has no workers" in done.stderr


@pytest.mark.parametrize("option", ["--workers", "--threads-per-worker", "--memory-limit"])
def test_options_of_a_local_cluster_are_refused_with_a_scheduler(
    option: str, cli: Cli, url_list: Path, tmp_path: Path
) -> None:
    value = {"--workers": 2, "--threads-per-worker": 2, "--memory-limit": "1GiB"}[option]
    out = tmp_path / "run.zarr"
    done = cli("run", url_list, "--out", out, "--scheduler", "tcp://127.0.0.1:9", option, value)
    assert done.returncode == 2
    assert option.strip("-").replace("-", "_") in done.stderr
