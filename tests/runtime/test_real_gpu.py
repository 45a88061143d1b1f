"""Whole runs on a GPU that is really there: on it alone, beside CPU workers, and with its worker killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from deploy.hand_cluster import scheduler_by_hand, started
from distributed import Client
from helpers import Cli, some_urls
from runtime.test_mixed import SETTINGS, Watch

from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.similarity.kernels.device import has_cuda
from noveltyflow.testing.runs import assert_same_content

pytestmark = [
    pytest.mark.skipif(not (has_cuda() and find_spec("dask_cuda")), reason="needs a GPU and dask-cuda"),
    pytest.mark.slow,
]

BLOCK_ROWS = 250
OPTIONS = {
    "as it is": [],
    "little device memory": ["--device-memory-limit", "20MiB"],
    "a pool of RMM": ["--rmm-pool-size", "2GiB"],
}
WORKERS = {
    "cpu": ["worker", "--nworkers", "1", "--no-nanny", "--memory-limit", "2GiB"],
    "gpu": ["gpu-worker", "--memory-limit", "8GiB"],
}


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(some_urls(20_000, seed=4)))
    return path


@pytest.fixture(scope="module")
def reference(urls: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reference") / "run.zarr"
    plan = plan_run([str(urls)], str(out), SETTINGS)
    execute(plan, SerialExecutor(), Silent(), block_rows=BLOCK_ROWS, backend="cpu")
    return str(out)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Client, dict[str, subprocess.Popen[bytes]]]]:
    """A scheduler with a worker of each kind."""
    with ExitStack() as stack:
        address = stack.enter_context(scheduler_by_hand(tmp_path))
        processes = {
            name: stack.enter_context(
                started(
                    words[0], address, *words[1:], "--local-directory", name, log=tmp_path / f"{name}.log"
                )
            )
            for name, words in WORKERS.items()
        }
        client = stack.enter_context(Client(address))
        client.wait_for_workers(2, timeout=120)
        yield client, processes


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_on_the_gpu_alone(options: list[str], cli: Cli, urls: Path, reference: str, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    own = ["--n-features", SETTINGS.features.n_features, "--n-neighbors", SETTINGS.neighbors.n_neighbors]
    done = cli("run", urls, "--out", out, "--backend", "gpu", "--block-rows", BLOCK_ROWS, *own, *options)
    assert done.returncode == 0, done.stderr
    assert "device memory" in done.stderr
    assert_same_content(str(out), reference)


@pytest.mark.parametrize("dies", [None, "cpu", "gpu"])
def test_beside_a_cpu(
    dies: str | None,
    workers: tuple[Client, dict[str, subprocess.Popen[bytes]]],
    urls: Path,
    reference: str,
    tmp_path: Path,
) -> None:
    client, processes = workers
    watch = Watch(1, lambda: os.killpg(processes[dies].pid, signal.SIGKILL) if dies else None)
    plan = plan_run([str(urls)], str(tmp_path / "run.zarr"), SETTINGS)
    executor = DaskExecutor(client, "token", task_seconds=0.2)
    execute(plan, executor, watch, block_rows=BLOCK_ROWS, backend="auto")
    assert_same_content(str(tmp_path / "run.zarr"), reference)
    if dies is None:
        assert watch.shares()["gpu"] > 0
    else:
        assert processes[dies].wait(timeout=10) == -signal.SIGKILL
