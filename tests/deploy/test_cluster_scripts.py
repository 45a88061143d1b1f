"""The command lines that the scripts of `cluster/` make of what people type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from deploy.hand_cluster import ROOT, Launch, environment, write_script
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from noveltyflow.runtime.cluster import DASK_CONFIG
from noveltyflow.runtime.seats import CPU_RESOURCE
from noveltyflow.similarity.kernels.device import has_cuda

ADDRESS = "tcp://127.0.0.1:8786"


def worker_options(launch: Launch, *arguments: str) -> dict[str, Any]:
    """What `dask worker` understands of the command line that `cluster/worker` makes."""
    lines = launch("cluster/worker", *arguments).stdout.splitlines()
    assert lines[1] == "worker"
    return dict(dask_worker.make_context("worker", lines[2:]).params)


def test_a_scheduler_is_private_unless_told_otherwise(launch: Launch) -> None:
    lines = launch("cluster/scheduler").stdout.splitlines()
    options = dask_scheduler.make_context("scheduler", lines[2:]).params
    assert lines[1] == "scheduler"
    assert (options["host"], options["port"]) == ("127.0.0.1", "8786")
    assert options["dashboard_address"] == "127.0.0.1:8787"


def test_options_of_the_scheduler_are_passed_through(launch: Launch) -> None:
    lines = launch("cluster/scheduler", "--host", "10.1.2.3", "--port=9000").stdout.splitlines()
    options = dask_scheduler.make_context("scheduler", lines[2:]).params
    assert (options["host"], options["port"]) == ("10.1.2.3", "9000")


def test_workers_take_every_core_with_one_thread_each(launch: Launch) -> None:
    options = worker_options(launch, ADDRESS)
    assert options["scheduler"] == ADDRESS
    assert (options["n_workers"], options["nthreads"]) == ("-1", 1)
    assert options["resources"] == f"{CPU_RESOURCE}=1"
    assert (options["host"], options["dashboard_address"]) == ("127.0.0.1", "127.0.0.1:0")


@pytest.mark.parametrize(
    "arguments", [["--nthreads", "3"], ["--nthreads=3"], ["--nthreads", "8", "--nthreads=3"]]
)
def test_the_resource_follows_the_threads(launch: Launch, arguments: list[str]) -> None:
    options = worker_options(launch, ADDRESS, *arguments, "--memory-limit", "2GiB", "--nworkers", "2")
    assert (options["nthreads"], options["resources"]) == (3, f"{CPU_RESOURCE}=3")
    assert (options["memory_limit"], options["n_workers"]) == ("2GiB", "2")


@pytest.mark.parametrize(
    ("name", "value"),
    [("host", "10.1.2.3"), ("interface", "eth7"), ("listen_address", "tcp://10.1.2.3:9000")],
)
def test_where_a_worker_listens_can_be_chosen(launch: Launch, name: str, value: str) -> None:
    options = worker_options(launch, ADDRESS, f"--{name.replace('_', '-')}", value)
    chosen = {key: options[key] for key in ("host", "interface", "listen_address") if options.get(key)}
    assert chosen == {name: value}


@pytest.mark.parametrize("script", ["cluster/worker", "cluster/gpu-worker"])
def test_a_worker_needs_the_address_of_a_scheduler(launch: Launch, script: str) -> None:
    for arguments in ([], ["--nthreads", "2"]):
        result = launch(script, *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"{script} ADDRESS" in result.stderr
    result = launch(script, "tcp://no-such-host.invalid:8786")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no way to the scheduler at tcp://no-such-host.invalid:8786" in result.stderr


@pytest.mark.skipif(has_cuda(), reason="this machine has a GPU")
def test_a_gpu_worker_without_a_gpu_is_refused_in_a_line(launch: Launch) -> None:
    done = launch("cluster/gpu-worker", ADDRESS, LD_LIBRARY_PATH="")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no NVIDIA driver that works on this host" in line


def test_a_gpu_worker_carries_the_gpu_and_no_cpu(launch: Launch) -> None:
    lines = launch("cluster/gpu-worker", ADDRESS, "--memory-limit", "8GiB").stdout.splitlines()
    assert lines[1:3] == ["cuda", "worker"]
    assert lines[lines.index("--resources") + 1] == "GPU=1"
    assert lines[lines.index("--host") + 1] == "127.0.0.1"
    assert lines[-3:] == [ADDRESS, "--memory-limit", "8GiB"]
    # What dask-cuda preloads itself would take the place of what the configuration says.
    preloads = [after for before, after in pairwise(lines) if before == "--preload"]
    assert preloads == DASK_CONFIG["distributed.worker.preload"]


def test_the_configuration_is_the_packages_own_unless_one_is_named(launch: Launch, tmp_path: Path) -> None:
    named = launch("cluster/scheduler", DASK_CONFIG="mine.yaml").stdout.splitlines()[0]
    default = Path(launch("cluster/scheduler").stdout.splitlines()[0])
    assert named == "mine.yaml"
    assert (ROOT / default.relative_to(tmp_path / "checkout")).is_file()


def test_a_variable_changes_one_value_of_the_configuration() -> None:
    show = "import dask, json; print(json.dumps(dask.config.get('distributed.worker.memory')))"
    changed = environment() | {
        "DASK_CONFIG": str(ROOT / "noveltyflow/runtime/dask.yaml"),
        "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "0.65",
    }
    shown = subprocess.run(
        [sys.executable, "-c", f"import distributed; {show}"], env=changed, capture_output=True, check=True
    )
    memory = json.loads(shown.stdout)
    assert [memory[name] for name in ("target", "spill", "pause", "terminate")] == [0.6, 0.65, 0.8, 0.95]


def test_an_installed_package_carries_its_configuration() -> None:
    package = ROOT / "noveltyflow"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {path for pattern in settings["noveltyflow"] for path in package.glob(pattern)}
    assert set(package.rglob("*.yaml")) <= carried


def test_the_checkouts_own_environment_comes_first(launch: Launch, tmp_path: Path) -> None:
    write_script(tmp_path / "checkout/.venv/bin/dask", "echo its own")
    assert launch("cluster/scheduler").stdout == "its own\n"


def test_without_dask_they_say_what_to_do(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "bin/dask").unlink()
    result = launch("cluster/scheduler")
    assert result.returncode == 2
    assert "run: make install" in result.stderr


def test_they_can_be_executed() -> None:
    for script in ("scheduler", "worker", "gpu-worker"):
        assert os.access(ROOT / "cluster" / script, os.X_OK), script
