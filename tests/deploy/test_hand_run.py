"""A run on a cluster started by hand holds what a run on the embedded cluster holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from deploy.hand_cluster import ROOT, started
from distributed import Client, LocalCluster
from helpers import Cli

from noveltyflow.errors import ResourceError
from noveltyflow.runtime.versions import OWN_PACKAGES, require_same_versions
from noveltyflow.testing.runs import assert_same_content


def test_same_content_as_embedded(
    cli: Cli, cluster_by_hand: str, url_list: Path, small_run: str, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    done = cli("run", url_list, "--out", out, "--scheduler", cluster_by_hand)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stderr
    assert_same_content(str(out), small_run)


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


def test_cluster_without_workers_is_refused(cli: Cli, url_list: Path, tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        out = tmp_path / "run.zarr"
        done = cli("run", url_list, "--out", out, "--scheduler", cluster.scheduler_address)
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
