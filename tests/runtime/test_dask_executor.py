"""How failures of tasks on a cluster reach a person, and what runs leave in its workers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import dask
import pytest
from distributed import Client, Future, LocalCluster
from helpers import some_urls

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.errors import StoreError, TaskError
from noveltyflow.runtime import dask_executor
from noveltyflow.runtime.cluster import DASK_CONFIG, local_cluster_options
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import indexed
from noveltyflow.store import RunStore

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not know the tests


@pytest.fixture
def client(scheduler: str) -> Iterator[Client]:
    with Client(scheduler) as client:
        yield client


def test_a_failed_task_says_which_and_that_work_is_kept(client: Client) -> None:
    with pytest.raises(TaskError, match=r"'tile' failed: ValueError: .*'x'.*what was finished is kept"):
        list(DaskExecutor(client, "t").run("tile", int, [("x",)]))


def test_an_error_of_ours_is_passed_on_as_it_is(client: Client, tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "nothing.zarr"))
    with pytest.raises(StoreError, match="no run here"):
        list(DaskExecutor(client, "t").run("figures", RunStore.figures, [(store, "urls")]))


def test_a_task_that_was_dropped_says_what_to_do(client: Client) -> None:
    results = DaskExecutor(client, "t").run("tile", time.sleep, [(0,), (3,)])
    assert next(results) is None
    client.cancel([Future(key, client) for key in client.futures])
    with pytest.raises(TaskError, match=r"dropped task 'tile'.*what was finished is kept"):
        next(results)


def test_threads_that_want_the_same_span_make_it_once() -> None:
    spans, made = indexed.IndexedSpans(), []

    def make() -> Any:
        made.append(time.sleep(0.05))
        return SimpleNamespace(nbytes=1)

    key = ("run.zarr", "", 0, 1)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: spans.get_or_make(key, make), range(8)))
    assert len(made) == 1
    assert all(span is got[0] for span in got)
    spans.shrink(0)
    assert spans.get_or_make(key, make) is not got[0]


def keep_a_span() -> None:
    """What a killed command leaves in a worker."""
    indexed.spans_of("cpu").put(("gone.zarr", "", 0, 1), SimpleNamespace(nbytes=5))  # type: ignore[arg-type]


def kept_bytes() -> int:
    return indexed.spans_of("cpu").nbytes


def test_a_run_leaves_nothing_in_the_memory_of_workers(client: Client, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(60)))
    client.run(keep_a_span)
    assert set(client.run(kept_bytes).values()) == {5}
    plan = plan_run([str(tmp_path / "urls.txt")], str(tmp_path / "run.zarr"), ScoringSettings())
    execute(plan, DaskExecutor(client, "t"), Silent(), block_rows=10, backend="cpu")
    assert set(client.run(kept_bytes).values()) == {0}


def test_own_workers_that_hold_too_much_are_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ClusterSettings(workers=1, memory_limit="1GiB", dashboard_address="127.0.0.1:0")
    with (
        dask.config.set(DASK_CONFIG),
        LocalCluster(**local_cluster_options(settings)) as cluster,
        Client(cluster) as client,
    ):
        (before,) = client.run(os.getpid).values()
        own, foreign = DaskExecutor(client, "t", owns_workers=True), DaskExecutor(client, "t")
        own.renew(indexed.forget_spans)  # holds less than half
        assert list(client.run(os.getpid).values()) == [before]
        monkeypatch.setattr(dask_executor, "_FULL_SHARE", 0.01)
        foreign.renew(indexed.forget_spans)
        assert list(client.run(os.getpid).values()) == [before]
        own.renew(indexed.forget_spans)
        (after,) = client.run(os.getpid).values()
        assert after != before
        assert list(own.run("tile", abs, [(-3,)])) == [3]

        monkeypatch.setattr(dask_executor, "_RESTART_SECONDS", 0)
        own.renew(indexed.forget_spans)
        assert "not all workers were replaced" in caplog.text
        assert list(own.run("tile", abs, [(-4,)])) == [4]
