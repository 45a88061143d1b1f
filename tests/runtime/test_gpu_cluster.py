"""How `--backend` chooses a cluster on this machine, where a GPU and dask-cuda are made to look present."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import LocalCluster

from noveltyflow.config import ClusterSettings
from noveltyflow.errors import ResourceError
from noveltyflow.runtime import cluster
from noveltyflow.runtime.cluster import (
    connect,
    local_capacity,
    local_cluster_options,
)
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.seats import choose_backends, slots_of

LOCAL = {"memory_limit": "1GiB", "dashboard_address": "127.0.0.1:0"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `LocalCUDACluster` was asked for; an ordinary cluster with the same resources stands in for it."""
    options: dict[str, Any] = {}

    def stand_in(**given: Any) -> LocalCluster:
        options.update(given)
        if given["n_workers"] > 2:
            raise ValueError("more workers than devices")
        given["preload"] = [*given["preload"], str(Path(__file__).with_name("stand_in.py"))]
        own = ("device_memory_limit", "rmm_pool_size", "rmm_allocator_external_lib_list")
        return LocalCluster(**{name: value for name, value in given.items() if name not in own})

    runtime = SimpleNamespace(getDeviceCount=lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=stand_in))
    monkeypatch.setattr(cluster, "has_cuda", lambda: True)
    for backend in ("CPU", "GPU"):
        monkeypatch.setenv(f"STAND_IN_{backend}_SECONDS", "0")
    return options


@pytest.mark.parametrize("backend", ["gpu", "auto"])
def test_workers_are_started_on_the_gpus(backend: Any, asked: dict[str, Any]) -> None:
    settings = ClusterSettings(backend=backend, device_memory_limit="2GiB", rmm_pool_size="1GiB", **LOCAL)
    assert local_capacity(settings).backends == ("gpu",)
    with connect(settings) as client:
        assert slots_of(client) == {"gpu": 1, "cpu": 0}
        assert choose_backends(client, backend) == ["gpu"]
        # Reading and hashing need no device: they use all threads.
        results = DaskExecutor(client, "token").run(
            "double", lambda number: 2 * number, [(i,) for i in range(5)]
        )
        assert sorted(results) == [0, 2, 4, 6, 8]
    assert asked["n_workers"] == 1
    assert asked["resources"] == {"GPU": 1}
    assert asked["threads_per_worker"] >= 1
    assert (asked["device_memory_limit"], asked["rmm_pool_size"]) == ("2GiB", "1GiB")
    assert asked["rmm_allocator_external_lib_list"] == ["cupy"]
    assert asked["host"] == "127.0.0.1"
    assert asked["preload"] == cluster.DASK_CONFIG["distributed.worker.preload"]


def test_no_pool_is_asked_for_unless_it_is_set(asked: dict[str, Any]) -> None:
    options = cluster.cuda_cluster_options(ClusterSettings(backend="gpu", **LOCAL))
    assert options["device_memory_limit"] == "default"
    assert "rmm_pool_size" not in options


def test_cpu_is_cpu_even_beside_a_gpu(asked: dict[str, Any]) -> None:
    assert local_capacity(ClusterSettings(backend="cpu", workers=1, **LOCAL)).backends == ("cpu",)
    with connect(ClusterSettings(backend="cpu", workers=1, **LOCAL)) as client:
        assert choose_backends(client, "auto") == ["cpu"]
    assert asked == {}


def test_what_dask_cuda_refuses_is_said(asked: dict[str, Any]) -> None:
    with (
        pytest.raises(ResourceError, match="more workers than devices"),
        connect(ClusterSettings(backend="gpu", workers=3, **LOCAL)),
    ):
        pass


def test_without_dask_cuda_gpu_is_refused_and_auto_says_so(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(ResourceError, match=r"dask-cuda.*noveltyflow\[gpu\]"),
        connect(ClusterSettings(backend="gpu", **LOCAL)),
    ):
        pass
    with connect(ClusterSettings(workers=1, **LOCAL)) as client:
        assert choose_backends(client, "auto") == ["cpu"]
    assert "no dask-cuda" in caplog.text


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
