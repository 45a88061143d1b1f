"""What `cluster/scheduler` and `cluster/worker` start, seen from a client and by a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import psutil
import pytest
import yaml
from dask.utils import parse_bytes
from deploy.hand_cluster import ROOT, hand_cluster, started
from distributed import Client
from helpers import Cli

from noveltyflow.config import ClusterSettings
from noveltyflow.errors import ResourceError
from noveltyflow.runtime.cluster import DASK_CONFIG, connect
from noveltyflow.runtime.seats import CPU_RESOURCE, choose_backends, workers_of
from noveltyflow.runtime.versions import OWN_PACKAGES, require_same_versions
from noveltyflow.testing.runs import assert_same_content

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the processes do not know the tests


def configured() -> dict[str, Any]:
    return {name: dask.config.get(name) for name in DASK_CONFIG}


def pids_of(client: Client) -> list[int]:
    """The scheduler, the workers, and the nannies that watch over them."""
    workers = [*client.run(os.getpid).values(), *client.run(os.getpid, nanny=True).values()]
    return [client.run_on_scheduler(os.getpid), *workers]


def test_workers_carry_the_resource_threads_and_memory_asked_for(client: Client) -> None:
    found = [(w["resources"], w["nthreads"], w["memory_limit"]) for w in workers_of(client).values()]
    assert found == [({CPU_RESOURCE: 1.0}, 1, parse_bytes("700MiB"))] * 2
    assert choose_backends(client, "auto") == ["cpu"]


def test_every_process_has_the_configuration_of_the_package(client: Client) -> None:
    assert DASK_CONFIG["distributed.deploy.lost-worker-timeout"] == "1h"
    assert client.run_on_scheduler(configured) == DASK_CONFIG
    assert list(client.run(configured).values()) == [DASK_CONFIG] * 2
    assert list(client.run(configured, nanny=True).values()) == [DASK_CONFIG] * 2


def test_the_configuration_takes_effect(client: Client) -> None:
    def failures(dask_scheduler: Any) -> int:
        return int(dask_scheduler.allowed_failures)

    def fractions(dask_worker: Any) -> tuple[float, ...]:
        manager = dask_worker.memory_manager
        return manager.memory_target_fraction, manager.memory_spill_fraction, manager.memory_pause_fraction

    def pages() -> str | None:
        return os.environ.get("GLIBC_TUNABLES")

    def preloaded() -> bool:
        return set(DASK_CONFIG["distributed.worker.preload"]) <= set(sys.modules)

    assert client.run_on_scheduler(failures) == 10
    assert set(client.run(pages).values()) == {"glibc.malloc.hugetlb=1"}
    assert set(client.run(preloaded).values()) == {True}
    assert set(client.run(fractions).values()) == {(0.6, 0.7, 0.8)}


def test_an_embedded_cluster_is_configured_like_one_started_by_hand(client: Client) -> None:
    before = dask.config.get("distributed.deploy.lost-worker-timeout")
    settings = ClusterSettings(workers=1, memory_limit="700MiB", dashboard_address="127.0.0.1:0")
    with connect(settings) as embedded:
        (worker,) = workers_of(embedded).values()
        by_hand = next(iter(workers_of(client).values()))
        assert list(embedded.run(configured).values()) == [DASK_CONFIG]
        assert embedded.cluster.scheduler.allowed_failures == 10
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1h"
        for name in ("resources", "nthreads", "memory_limit"):
            assert worker[name] == by_hand[name]
    assert dask.config.get("distributed.deploy.lost-worker-timeout") == before


def test_nothing_listens_beyond_this_machine(client: Client) -> None:
    listening = {
        connection.laddr.ip
        for pid in pids_of(client)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_the_health_check_of_the_compose_file_tells_a_scheduler_from_none(client: Client) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    how, interpreter, flag, code = compose["services"]["scheduler"]["healthcheck"]["test"]
    assert (how, interpreter, flag) == ("CMD", "python", "-c")
    for port, healthy in ((client.scheduler_info()["services"]["dashboard"], True), (1, False)):
        here = code.replace("8787", str(port))
        result = subprocess.run([sys.executable, "-c", here], capture_output=True, timeout=60)
        assert (result.returncode == 0) is healthy, result.stderr


def test_a_killed_worker_comes_back_with_its_resource(client: Client) -> None:
    before = set(client.run(os.getpid).values())
    os.kill(min(before), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(after := set(client.run(os.getpid, on_error="ignore").values())) < 2 or after == before:
        assert time.monotonic() < deadline, "the worker did not come back"
        time.sleep(0.2)
    assert len(after & before) == 1
    assert [worker["resources"] for worker in workers_of(client).values()] == [{CPU_RESOURCE: 1.0}] * 2


def test_same_content_as_embedded(
    cli: Cli,
    cluster_by_hand: str,
    url_list: Path,
    small_run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where none of the cluster's processes stand
    options = ["--scheduler", cluster_by_hand, "--block-rows", 150]
    done = cli("run", url_list, "--out", "here.zarr", *options, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stderr
    assert_same_content(str(tmp_path / "here.zarr"), small_run)


def test_a_worker_with_another_release_is_refused(
    cli: Cli, cluster_by_hand: str, url_list: Path, tmp_path: Path
) -> None:
    about = tmp_path / "other/noveltyflow-0.0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: noveltyflow\nVersion: 0.0.1\n")
    options = ["--nworkers", "1", "--memory-limit", "700MiB", "--local-directory", str(tmp_path)]
    path = f"{about.parent}:{ROOT}"
    with started("worker", cluster_by_hand, *options, log=tmp_path / "worker.log", PYTHONPATH=path):
        with Client(cluster_by_hand) as client:
            client.wait_for_workers(3, timeout=60)
        done = cli("run", url_list, "--out", tmp_path / "run.zarr", "--scheduler", cluster_by_hand)
    assert done.returncode == 2
    assert "noveltyflow 0.0.1, this command" in done.stderr
    assert done.stderr.count("worker tcp://") == 1
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("python", "3.9.1.final.0", "python 3.9"),
        ("dask", "2020.1", "dask 2020.1"),
        ("noveltyflow", None, "(none)"),
    ],
)
def test_a_scheduler_of_other_versions_is_refused(
    cluster_by_hand: str, name: str, version: str | None, told: str
) -> None:
    with Client(cluster_by_hand) as client:
        found = client.get_versions(packages=OWN_PACKAGES)
    require_same_versions(found)
    found["scheduler"]["packages"][name] = version
    with pytest.raises(ResourceError, match="the scheduler has") as caught:
        require_same_versions(found)
    assert told in str(caught.value)


def failing_visitor(folder: Path, seen: list[psutil.Process]) -> None:
    with hand_cluster(folder, workers=1) as address:
        with Client(address) as client:
            seen += map(psutil.Process, pids_of(client))
        raise ZeroDivisionError


def test_no_process_outlives_the_helper(tmp_path: Path) -> None:
    seen: list[psutil.Process] = []
    with pytest.raises(ZeroDivisionError):
        failing_visitor(tmp_path, seen)
    gone, alive = psutil.wait_procs(seen, timeout=10)
    assert (len(gone), alive) == (3, [])
