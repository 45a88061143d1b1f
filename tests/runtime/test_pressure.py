"""A real worker that is short of memory gets no tiles until it has recovered; the result is the same."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from distributed import Client

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.runtime import sharing
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import Executor, SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.seats import seats_of, workers_of
from noveltyflow.runtime.stages.neighbors import _SharedTiles
from noveltyflow.testing.runs import assert_same_content

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not know the tests

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=4096), neighbors=NeighborSettings(n_neighbors=5)
)
STRIPS, BLOCK_ROWS = 12, 20
BALLAST_SHARE = 0.87
"""Of its limit: more than a worker may hold for another task, and less than its nanny would end it for."""
ALONE = 3
"""Tasks that the other worker computes before this one recovers."""
PATIENCE_SECONDS = 60.0


def load(dask_worker: Any) -> None:
    """Let a worker hold so much that it may not take another task."""
    held = psutil.Process().memory_info().rss
    dask_worker.ballast = b"\1" * (int(BALLAST_SHARE * dask_worker.memory_manager.memory_limit) - held)


def unload(dask_worker: Any) -> None:
    dask_worker.ballast = b""


class Ballast(Silent):
    """Loads one worker before the first tile, and unloads it after some tasks of the other."""

    def __init__(self, client: Client, worker: str, given: list[str]) -> None:
        self._client, self._worker, self._given = client, worker, given

    def start(self, stage: str, total: int | None, unit: str) -> None:
        if stage == "tile":
            self._client.run(load, workers=[self._worker])
            self._wait_until(ready=False)

    def advance(self, amount: int) -> None:
        if len(self._given) == ALONE:
            self._client.run(unload, workers=[self._worker])
            self._wait_until(ready=True)

    def _wait_until(self, *, ready: bool) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while {seat.worker: seat.ready for seat in seats_of(self._client)}[self._worker] != ready:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def run(urls: Path, out: Path, executor: Executor, reporter: Silent) -> str:
    plan = plan_run([str(urls)], str(out), SETTINGS)
    execute(plan, executor, reporter, block_rows=BLOCK_ROWS, backend="cpu")
    return str(out)


@pytest.mark.slow
def test_a_worker_without_memory_gets_no_tiles_until_it_has_recovered(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls, given, take = tmp_path / "urls.txt", list[str](), _SharedTiles.take
    urls.write_text("\n".join(f"https://host{i}.example/page/{i % 7}" for i in range(STRIPS * BLOCK_ROWS)))

    def taken(work: _SharedTiles, worker: str, *how: Any, **more: Any) -> Any:
        if (task := take(work, worker, *how, **more)) is not None:
            given.append(worker)
        return task

    monkeypatch.setattr(_SharedTiles, "take", taken)
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.2)
    with Client(scheduler) as client:
        loaded, other = workers_of(client)
        executor = DaskExecutor(client, "token", task_seconds=0)
        try:
            out = run(urls, tmp_path / "run.zarr", executor, Ballast(client, loaded, given))
        finally:
            client.run(unload)
    assert set(given[:ALONE]) == {other}
    assert loaded in given[ALONE:]
    monkeypatch.undo()
    assert_same_content(out, run(urls, tmp_path / "reference.zarr", SerialExecutor(), Silent()))
