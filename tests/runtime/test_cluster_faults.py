"""Faults of a cluster that the command did not start: its scheduler dies, a worker runs out of memory."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import pytest
from deploy.hand_cluster import hand_cluster
from distributed import Client, LocalCluster
from helpers import Cli
from runtime.faults import OPTIONS, last_words, same_bytes, start, when

from noveltyflow.config import ClusterSettings
from noveltyflow.runtime.cluster import DASK_CONFIG, local_cluster_options

BLOCKS = ("--block-rows", "250", "--task-seconds", "0.3")


def fill_memory(dask_worker: Any) -> None:
    """Take twice as much as the worker may have, page by page, until its nanny ends it."""
    pages = 2 * dask_worker.memory_manager.memory_limit >> 24
    taken = [bytearray(os.urandom(1 << 16)) * (1 << 8) for _ in range(pages)]
    assert len(taken) == pages


@pytest.mark.slow
def test_worker_that_ran_out_of_memory_is_replaced(urls: Path, undisturbed: Path, tmp_path: Path) -> None:
    settings = ClusterSettings(workers=2, memory_limit="700MiB", dashboard_address="127.0.0.1:0")
    out = tmp_path / "run.zarr"
    with (
        dask.config.set(DASK_CONFIG),
        LocalCluster(**local_cluster_options(settings)) as cluster,
        Client(cluster) as client,
    ):
        process = start(urls, out, *BLOCKS, "--scheduler", cluster.scheduler_address)
        when("tiles", out, process)
        before = pids(client)
        client.run(fill_memory, workers=[next(iter(before))], on_error="ignore")
        assert process.poll() is None, "the run ended before the worker did"
        stderr = process.communicate(timeout=240)[1]
        assert process.returncode == 0, stderr.decode()
        client.wait_for_workers(2, timeout=60)
        assert len(set(before.values()) & set(pids(client).values())) == 1
    assert same_bytes(out, undisturbed)


def pids(client: Client) -> dict[str, int]:
    return {address: int(pid) for address, pid in client.run(os.getpid).items()}


@pytest.mark.slow
def test_killed_scheduler_ends_the_command_and_the_run_continues_elsewhere(
    cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    with ExitStack() as stack:
        address = stack.enter_context(hand_cluster(tmp_path))
        with Client(address) as client:
            scheduler = client.run_on_scheduler(os.getpid)
        process = start(urls, out, *BLOCKS, "--scheduler", address)
        when("tiles", out, process)
        os.kill(scheduler, signal.SIGKILL)
        stderr = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 1, stderr
    assert last_words(stderr).startswith("the scheduler is gone")
    again = cli("run", urls, "--out", out, *OPTIONS)
    assert again.returncode == 0, again.stderr
    assert "continuing" in again.stderr
    assert same_bytes(out, undisturbed)
