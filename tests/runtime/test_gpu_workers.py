"""Whole runs on the workers of dask-cuda: on them alone, beside CPU workers, and with workers killed.

Where this machine has no GPU, the device is emulated; all else is what it is where there is one.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from deploy.hand_cluster import scheduler_by_hand, started
from distributed import Client
from emulation.worker import LAUNCHES
from helpers import Cli, some_urls
from runtime.test_mixed import BRISK, Watch

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.errors import ResourceError, TaskError
from noveltyflow.runtime import sharing
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.seats import workers_of
from noveltyflow.similarity.kernels.device import has_cuda
from noveltyflow.testing.runs import assert_same_content

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Size:
    """How much a device is given to do."""

    rows: int
    block_rows: int
    tiles_before: int
    """How many are done when something happens."""
    little_memory: str
    """Less than a tile takes."""
    settings: ScoringSettings


EMULATED = Size(
    180,
    18,
    30,
    "150kB",
    ScoringSettings(features=FeatureSettings(n_features=512), neighbors=NeighborSettings(n_neighbors=4)),
)
REAL = Size(
    20_000,
    250,
    1,
    "20MiB",
    ScoringSettings(features=FeatureSettings(n_features=4096), neighbors=NeighborSettings(n_neighbors=5)),
)


@pytest.fixture(scope="module")
def size(gpu_preloads: list[str]) -> Size:
    return EMULATED if gpu_preloads else REAL


@pytest.fixture(scope="module")
def urls(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(some_urls(size.rows, seed=4)))
    return path


@pytest.fixture(scope="module")
def reference(size: Size, urls: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reference") / "run.zarr"
    plan = plan_run([str(urls)], str(out), size.settings)
    execute(plan, SerialExecutor(), Silent(), block_rows=size.block_rows, backend="cpu")
    return str(out)


def test_on_gpus_alone(here: Cli, size: Size, urls: Path, reference: str, tmp_path: Path) -> None:
    done = run_alone(here, size, urls, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "device memory" in done.stderr
    assert "halved" not in done.stderr
    assert_same_content(str(tmp_path / "run.zarr"), reference)


@pytest.mark.skipif(not (has_cuda() and find_spec("rmm")), reason="needs a GPU and RMM")
def test_with_a_pool_of_rmm(here: Cli, size: Size, urls: Path, reference: str, tmp_path: Path) -> None:
    done = run_alone(here, size, urls, tmp_path, "--rmm-pool-size", "2GiB", "--device-memory-limit", "4GiB")
    assert done.returncode == 0, done.stderr
    assert_same_content(str(tmp_path / "run.zarr"), reference)


def test_with_little_device_memory(here: Cli, size: Size, urls: Path, reference: str, tmp_path: Path) -> None:
    done = run_alone(here, size, urls, tmp_path, "--device-memory-limit", size.little_memory)
    assert done.returncode == 0, done.stderr
    assert "tiles will be halved" in done.stderr
    assert_same_content(str(tmp_path / "run.zarr"), reference)


def run_alone(
    here: Cli, size: Size, urls: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    own = ["--n-features", size.settings.features.n_features]
    own += ["--n-neighbors", size.settings.neighbors.n_neighbors, "--block-rows", size.block_rows]
    return here("run", urls, "--out", folder / "run.zarr", "--backend", "gpu", *own, *options)


@pytest.mark.skipif(has_cuda(), reason="a device that is really there does not fail when it is told to")
def test_a_device_that_fails_ends_the_run_which_goes_on_later(
    here: Cli, size: Size, urls: Path, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCHES, "20")
    with pytest.raises(
        TaskError, match=r"the last worker that could compute tiles failed.*an illegal memory access"
    ):
        run_alone(here, size, urls, tmp_path)
    monkeypatch.delenv(LAUNCHES)
    done = run_alone(here, size, urls, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_content(str(tmp_path / "run.zarr"), reference)


@dataclass(frozen=True)
class Workers:
    """A worker of each backend, as the scripts start them."""

    client: Client
    processes: dict[str, subprocess.Popen[bytes]]

    def addresses(self) -> dict[str, str]:
        """Where the worker of each backend is now."""
        return {
            backend: address
            for address, about in workers_of(self.client).items()
            for backend in self.processes
            if backend.upper() in about["resources"]
        }

    def end(self, backend: str) -> None:
        """Kill a worker and whatever would start it again."""
        os.killpg(self.processes[backend].pid, signal.SIGKILL)

    def lose(self, backend: str) -> None:
        """Kill a worker that its nanny starts again."""
        (pid,) = self.client.run(os.getpid, workers=[self.addresses()[backend]]).values()
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def workers(gpu_preloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.5)
    commands = {
        "cpu": ("worker", "--nworkers", "1", "--no-nanny", "--memory-limit", "2GiB"),
        "gpu": ("gpu-worker", "--memory-limit", "8GiB", *options_of(gpu_preloads)),
    }
    if gpu_preloads:  # the other one would have done everything before an emulated device has begun
        monkeypatch.setenv("STAND_IN_CPU_SECONDS", str(BRISK))
        commands["cpu"] += options_of([str(Path(__file__).with_name("stand_in.py"))])
    with ExitStack() as stack:
        address = stack.enter_context(scheduler_by_hand(tmp_path))
        processes = {
            backend: stack.enter_context(
                started(
                    script, address, *options, "--local-directory", backend, log=tmp_path / f"{backend}.log"
                )
            )
            for backend, (script, *options) in commands.items()
        }
        client = stack.enter_context(Client(address))
        client.wait_for_workers(2, timeout=120)
        yield Workers(client, processes)


def options_of(preloads: list[str]) -> tuple[str, ...]:
    return tuple(word for preload in preloads for word in ("--preload", preload))


@pytest.mark.skipif(has_cuda(), reason="a device that is really there does not fail when it is told to")
def test_a_device_that_fails_leaves_the_rest_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    size: Size,
    urls: Path,
    reference: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(LAUNCHES, "20")
    workers: Workers = request.getfixturevalue("workers")
    before, watch = workers.addresses(), Watch()
    plan = plan_run([str(urls)], str(tmp_path / "run.zarr"), size.settings)
    executor = DaskExecutor(workers.client, "token", task_seconds=0.2)
    execute(plan, executor, watch, block_rows=size.block_rows, backend="auto")
    assert_same_content(str(tmp_path / "run.zarr"), reference)
    assert f"the device of {before['gpu']} failed" in caplog.text
    assert workers.addresses() == before
    assert watch.shares()["cpu"] > 0
    # It stays broken until its process ends, and the next run is told so before any work.
    with pytest.raises(
        ResourceError, match="an illegal memory access was encountered; see to that and start"
    ):
        executor.backends("auto")
    assert executor.backends("cpu") == ["cpu"]


FATES: dict[str, tuple[Callable[[Workers], None], set[str], set[str]]] = {
    "nothing happens": (lambda workers: None, {"cpu", "gpu"}, {"cpu", "gpu"}),
    "the CPU worker ends": (lambda workers: workers.end("cpu"), {"gpu"}, {"gpu"}),
    "the GPU worker ends": (lambda workers: workers.end("gpu"), {"cpu"}, {"cpu"}),
    "the GPU worker is lost and comes back": (lambda workers: workers.lose("gpu"), {"cpu"}, {"cpu", "gpu"}),
}
"""What happens in the middle of a run, whom it leaves alone, and who is there in the end."""


@pytest.mark.parametrize(("fate", "undisturbed", "left"), FATES.values(), ids=FATES)
def test_beside_a_cpu(
    fate: Callable[[Workers], None],
    undisturbed: set[str],
    left: set[str],
    workers: Workers,
    size: Size,
    urls: Path,
    reference: str,
    tmp_path: Path,
) -> None:
    before, watch = workers.addresses(), Watch(size.tiles_before, lambda: fate(workers))
    plan = plan_run([str(urls)], str(tmp_path / "run.zarr"), size.settings)
    executor = DaskExecutor(workers.client, "token", task_seconds=0.2)
    execute(plan, executor, watch, block_rows=size.block_rows, backend="auto")
    assert_same_content(str(tmp_path / "run.zarr"), reference)
    workers.client.wait_for_workers(len(left), timeout=60)
    after = workers.addresses()
    assert after.keys() == left
    assert {backend for backend in after if after[backend] == before[backend]} == undisturbed
    # A GPU that is really there may leave nothing to the CPU beside it.
    computing = undisturbed if size is EMULATED or "gpu" not in left else undisturbed - {"cpu"}
    assert all(watch.shares()[backend] > 0 for backend in computing)
