"""CPU and GPU workers in one run. The GPU workers are stand-ins: they carry the resource and compute on the CPU."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cloudpickle
import pytest
from deploy.hand_cluster import scheduler_by_hand, started
from distributed import Client
from helpers import Cli, some_urls

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.runtime import sharing
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.seats import workers_of
from noveltyflow.testing.runs import assert_same_content

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the processes do not know the tests

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=4096), neighbors=NeighborSettings(n_neighbors=5)
)
BLOCK_ROWS, TILES = 40, 144
RESOURCES = {"cpu": "CPU=1", "gpu": "GPU=1"}
SLOW, BRISK, FAST = 0.2, 0.05, 0.01
"""Seconds that a stand-in takes for a tile, on top of computing it."""


class Watch(Silent):
    """Keeps what was said, and does something once when some tiles are done."""

    def __init__(self, at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.said: list[str] = []
        self._stage, self._done, self._at, self._act = "", 0, at, act

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self._stage = stage

    def advance(self, amount: int) -> None:
        if self._stage != "tile":
            return
        before, self._done = self._done, self._done + amount
        if before < self._at <= self._done:
            self._act()

    def finish(self, message: str) -> None:
        self.said.append(message)

    def shares(self) -> dict[str, int]:
        (message,) = (text for text in self.said if re.search(r"\d+ tiles", text))
        return {backend: int(number) for number, backend in re.findall(r"(\d+) by (\w+)", message)}


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(some_urls(500, seed=3)[:480]))
    return path


@pytest.fixture(scope="module")
def reference(urls: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reference") / "run.zarr"
    plan = plan_run([str(urls)], str(out), SETTINGS)
    execute(plan, SerialExecutor(), Silent(), block_rows=BLOCK_ROWS, backend="cpu")
    return str(out)


@pytest.fixture
def cpu_seconds() -> float:
    """What the CPU worker takes for a tile; a test to which its slowness is nothing asks for another."""
    return SLOW


@pytest.fixture
def client(cpu_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A scheduler with one worker of each kind and no nannies."""
    monkeypatch.setenv("STAND_IN_CPU_SECONDS", str(cpu_seconds))
    monkeypatch.setenv("STAND_IN_GPU_SECONDS", str(FAST))
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.5)
    options = ["--nworkers", "1", "--no-nanny", "--memory-limit", "900MiB"]
    options += ["--preload", str(Path(__file__).with_name("stand_in.py"))]
    with ExitStack() as stack:
        address = stack.enter_context(scheduler_by_hand(tmp_path))
        for name, resource in RESOURCES.items():
            own, log = ["--resources", resource], tmp_path / f"{name}.log"
            stack.enter_context(started("worker", address, *options, *own, log=log))
        client = stack.enter_context(Client(address))
        client.wait_for_workers(len(RESOURCES), timeout=120)
        yield client


def run(client: Client, urls: Path, out: Path, watch: Watch, backend: str = "auto") -> str:
    plan = plan_run([str(urls)], str(out), SETTINGS)
    executor = DaskExecutor(client, "token", task_seconds=2)
    execute(plan, executor, watch, block_rows=BLOCK_ROWS, backend=backend)
    return str(out)


@pytest.mark.slow
def test_shares_follow_speed(client: Client, urls: Path, reference: str, tmp_path: Path) -> None:
    watch = Watch()
    out = run(client, urls, tmp_path / "run.zarr", watch)
    assert_same_content(out, reference)
    shares = watch.shares()
    assert sum(shares.values()) == TILES
    # The stand-in for a GPU is some ten times as fast, whatever else this machine does.
    assert shares["gpu"] > 2 * shares["cpu"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("cpu_seconds", [BRISK])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_only_the_backend_asked_for_computes(
    backend: str, client: Client, urls: Path, reference: str, tmp_path: Path
) -> None:
    out = run(client, urls, tmp_path / "run.zarr", Watch(), backend)
    assert_same_content(out, reference)
    workers = workers_of(client)
    kind = RESOURCES[backend].partition("=")[0]
    for address, number in client.run(count_tiles).items():
        # And the trial of a worker's first task.
        assert number == (TILES + 1 if kind in workers[address]["resources"] else 0)


def count_tiles() -> int:
    """Tiles that the stand-in of a worker has computed."""
    return int(os.environ.get("STAND_IN_TILES", 0))


def test_gpu_workers_that_are_not_there_are_missed_before_any_work(
    cli: Cli, scheduler: str, urls: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    done = cli("run", urls, "--out", out, "--scheduler", scheduler, "--backend", "gpu")
    assert done.returncode == 2
    assert "none of the 2 workers" in done.stderr
    assert "cluster/gpu-worker" in done.stderr
    assert not out.exists()


def test_a_gpu_that_is_not_there_is_missed_before_any_work(cli: Cli, urls: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    # Without devices to see, a machine with GPUs is like one without.
    done = cli("run", urls, "--out", out, "--backend", "gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr
    assert "--backend cpu" in done.stderr
    assert not out.exists()


def test_auto_says_who_computes(scheduler: str, caplog: pytest.LogCaptureFixture) -> None:
    from noveltyflow.runtime.seats import choose_backends

    with Client(scheduler) as client, caplog.at_level("INFO", "noveltyflow"):
        assert choose_backends(client, "auto") == ["cpu"]
    assert "2 slots of cpu" in caplog.text


def test_a_run_without_any_worker_left_ends(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from noveltyflow.errors import TaskError

    class Endless:
        backends = ("gpu",)
        finished = False

    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(sharing, "PATIENCE_SECONDS", 0.3)

    def never(*_: object) -> None:
        pytest.fail("there is nothing to submit or to answer")

    with Client(scheduler) as client, pytest.raises(TaskError, match="no worker"):
        list(sharing.Sharing(client, Endless(), never, never))


def test_a_gpu_worker_without_a_gpu_is_refused_before_any_work(
    cli: Cli, urls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "run.zarr"
    options = ["--nworkers", "1", "--no-nanny", "--memory-limit", "900MiB", "--resources", "GPU=1"]
    with ExitStack() as stack:
        address = stack.enter_context(scheduler_by_hand(tmp_path))
        stack.enter_context(started("worker", address, *options, log=tmp_path / "worker.log"))
        with Client(address) as client:
            client.wait_for_workers(1, timeout=120)
        done = cli("run", urls, "--out", out, "--scheduler", address)
    assert done.returncode == 2
    assert "has no GPU that it can use" in done.stderr
    assert not out.exists()
