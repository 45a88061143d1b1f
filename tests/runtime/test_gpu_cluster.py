"""How `--backend` chooses a cluster on this machine, which has a GPU, or one that is emulated."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask_cuda.utils
import psutil
import pytest
from distributed import LocalCluster
from helpers import Cli

from noveltyflow.config import ClusterSettings, FeatureSettings
from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.runtime import cluster
from noveltyflow.runtime.cluster import (
    connect,
    local_capacity,
    local_cluster_options,
)
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.plan import mebibytes
from noveltyflow.runtime.seats import choose_backends, slots_of, workers_of
from noveltyflow.similarity.kernels.base import BlockShape
from noveltyflow.similarity.kernels.gpu import GpuKernel

LOCAL = {"memory_limit": "1GiB", "dashboard_address": "127.0.0.1:0"}


@pytest.mark.parametrize("backend", ["gpu", "auto"])
def test_workers_are_started_on_the_gpus(backend: Any, gpu_preloads: list[str]) -> None:
    settings = ClusterSettings(backend=backend, device_memory_limit="2GiB", workers=1, **LOCAL)
    assert local_capacity(settings).backends == ("gpu",)
    with connect(settings) as client:
        assert slots_of(client) == {"gpu": 1, "cpu": 0}
        assert choose_backends(client, backend) == ["gpu"]
        (about,) = workers_of(client).values()
        assert about["resources"] == {"GPU": 1}
        assert about["nthreads"] == len(os.sched_getaffinity(0))
        assert about["host"] == "127.0.0.1"
        ((loaded, device_bytes),) = client.run(what_it_has).values()
        assert loaded >= {"dask_cuda.initialize", *cluster.DASK_CONFIG["distributed.nanny.preload"]}
        assert "noveltyflow.runtime.ending" in loaded
        assert device_bytes == 2 << 30
        # Reading and hashing need no device: they use all threads.
        results = DaskExecutor(client, "token").run("double", double, [(i,) for i in range(5)])
        assert sorted(results) == [0, 2, 4, 6, 8]


def double(number: int) -> int:
    return 2 * number


def what_it_has(dask_worker: Any) -> tuple[set[str], int]:
    """The modules of a worker, and how much device memory it may keep results in."""
    return set(sys.modules), dask_worker.data.device_buffer.n


def test_without_gpus_for_all_workers_nothing_is_started(gpu_preloads: list[str]) -> None:
    with (
        pytest.raises(ResourceError, match=r"this machine has \d+ GPUs, and 30 workers are asked for"),
        connect(ClusterSettings(backend="gpu", workers=30, **LOCAL)),
    ):
        pass


@pytest.mark.skipif(find_spec("rmm") is not None, reason="RMM is installed")
def test_a_pool_without_rmm_is_refused(gpu_preloads: list[str]) -> None:
    with (
        pytest.raises(ResourceError, match=r"'rmm' is not available.*lower --rmm-pool-size, or leave it out"),
        connect(ClusterSettings(backend="gpu", rmm_pool_size="1GiB", **LOCAL)),
    ):
        pass


FAILING = """
from dask_cuda.plugins import RMMSetup

def setup(plugin, worker):
    raise MemoryError("the device is full")

RMMSetup.setup = setup
"""


def test_what_keeps_a_worker_from_starting_is_said_and_nothing_is_left(
    gpu_preloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    monkeypatch.setitem(cluster.DASK_CONFIG, "distributed.worker.preload", [str(failing)])
    before = set(psutil.Process().children(recursive=True))
    with (
        pytest.raises(ResourceError, match="MemoryError: the device is full; choose --backend cpu"),
        connect(ClusterSettings(backend="gpu", workers=1, **LOCAL)),
    ):
        pass
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [process for process in left if "resource_tracker" not in " ".join(process.cmdline())]


@pytest.mark.parametrize(("limit", "most"), [(None, 0.9), ("2GiB", 2 << 30)])
def test_a_pool_grows_no_further_than_the_limit(
    limit: str | None, most: float, gpu_preloads: list[str]
) -> None:
    settings = ClusterSettings(
        backend="gpu", workers=1, rmm_pool_size="1GiB", device_memory_limit=limit, **LOCAL
    )
    options = cluster.cuda_cluster_options(settings)
    assert (options["rmm_pool_size"], options["rmm_maximum_pool_size"]) == (1 << 30, most)
    assert options["rmm_allocator_external_lib_list"] == ["cupy"]


@pytest.mark.parametrize(
    ("pool", "what"),
    [("3GiB", "'3GiB' is more than device_memory_limit '2GiB'"), ("much", "'much' is not a number")],
)
def test_impossible_pools_are_refused(pool: str, what: str, gpu_preloads: list[str]) -> None:
    settings = ClusterSettings(
        backend="gpu", workers=1, rmm_pool_size=pool, device_memory_limit="2GiB", **LOCAL
    )
    with pytest.raises(SettingsError, match=f"rmm_pool_size {what}"):
        cluster.cuda_cluster_options(settings)


def test_no_pool_is_asked_for_unless_it_is_set(gpu_preloads: list[str]) -> None:
    options = cluster.cuda_cluster_options(ClusterSettings(backend="gpu", workers=1, **LOCAL))
    assert options["device_memory_limit"] == "default"
    assert not [name for name in options if "rmm" in name]


@pytest.mark.parametrize("limit", [None, "50kB"])
def test_a_plan_says_what_a_tile_needs_of_the_device_and_what_that_has(
    limit: str | None, gpu_preloads: list[str], url_list: Path, here: Cli
) -> None:
    options = ["--backend", "gpu", *(["--device-memory-limit", limit] if limit else [])]
    plan = json.loads(here("plan", url_list, "--json", *options).stdout)
    total = dask_cuda.utils.get_device_total_memory()
    assert plan["device_mem"] == (50_000 if limit else int(0.9 * total))
    assert plan["blocks"] == 1
    shape = BlockShape(plan["block_rows"], plan["nonzeros"], FeatureSettings().n_features)
    assert plan["projected_device_mem"] == GpuKernel().device_bytes_needed(shape, shape, 10)
    printed = here("plan", url_list, *options).stdout
    assert f"device_mem  {mebibytes(plan['device_mem'])}" in printed
    assert f"projected_device_mem  {mebibytes(plan['projected_device_mem'])}" in printed


def test_cpu_is_cpu_even_beside_a_gpu(gpu_preloads: list[str]) -> None:
    assert local_capacity(ClusterSettings(backend="cpu", workers=1, **LOCAL)).backends == ("cpu",)
    with connect(ClusterSettings(backend="cpu", workers=1, **LOCAL)) as client:
        assert choose_backends(client, "auto") == ["cpu"]


def test_without_dask_cuda_gpu_is_refused_and_auto_says_so(
    gpu_preloads: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(ResourceError, match=r"needs dask-cuda, which the extra gpu"),
        connect(ClusterSettings(backend="gpu", **LOCAL)),
    ):
        pass
    with connect(ClusterSettings(workers=1, **LOCAL)) as client:
        assert choose_backends(client, "auto") == ["cpu"]
    assert "no dask-cuda" in caplog.text


def test_what_is_for_gpus_is_missed_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "has_cuda", lambda: False)
    assert local_capacity(ClusterSettings(rmm_pool_size="1GiB", workers=1, **LOCAL)).backends == ("cpu",)
    assert "no GPU, and rmm_pool_size does nothing" in caplog.text


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that loses its worker as soon as it has started, and whose nanny then starts another."""

    def started(settings: ClusterSettings) -> LocalCluster:
        begun = LocalCluster(**local_cluster_options(settings))
        (nanny,) = begun.workers.values()
        os.kill(nanny.pid, signal.SIGKILL)
        while begun.scheduler.workers:
            time.sleep(0.01)
        return begun

    monkeypatch.setattr(cluster, "_started_cluster", started)


def test_workers_that_are_lost_at_once_are_waited_for(late: None) -> None:
    with connect(ClusterSettings(backend="cpu", workers=1, **LOCAL)) as client:
        assert choose_backends(client, "cpu") == ["cpu"]


def test_workers_that_never_come_end_the_command(late: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_START_SECONDS", 0.01)
    with (
        pytest.raises(ResourceError, match="0 of 1 workers have started within 0 s; end other processes"),
        connect(ClusterSettings(backend="cpu", workers=1, **LOCAL)),
    ):
        pass
