"""However long the list, the scheduler gets no more tasks than it can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask.base import collections_to_expr
from distributed import Client, LocalCluster, SchedulerPlugin
from distributed.worker import thread_state
from helpers import some_urls

from noveltyflow.config import FeatureSettings, InputSettings, ScoringSettings
from noveltyflow.runtime import dask_executor
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.forecast import Capacity, forecast
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.plan import MOST_TASKS
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import read
from noveltyflow.runtime.stages import urls as stage
from noveltyflow.runtime.stages.read import partition_shards
from noveltyflow.store import Scratch
from noveltyflow.testing.runs import assert_same_content
from noveltyflow.urls.shards import Shard, plan_shards

MOST = 100_000
SETTINGS = ScoringSettings(features=FeatureSettings(n_features=512))


@pytest.mark.parametrize("memory", [2, 8])
@pytest.mark.parametrize("n_rows", [10**3, 10**5, 10**7, 10**8, 10**9])
def test_any_list_makes_a_bounded_number_of_tasks(n_rows: int, memory: int, url_list: Path) -> None:
    shards = plan_shards([str(url_list)], InputSettings())
    capacity = Capacity(100, 1, memory << 30)
    found = forecast(shards, ScoringSettings(), capacity, rows=n_rows)
    numbers = {task.name: task.tasks for task in found.tasks}
    strips = numbers.pop("tile")
    assert sum(numbers.values()) + strips <= MOST
    assert strips * found.block_rows >= n_rows
    assert max(numbers.values()) <= MOST_TASKS
    assert all(task.projected_mem <= found.allowed_mem for task in found.tasks)


class Ended(SchedulerPlugin):
    """Counts tasks that ended, by the first part of their name."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def transition(self, key: object, start: str, finish: str, *_: object, **__: object) -> None:
        if (start, finish) == ("processing", "memory"):
            self.counts[str(key[0] if isinstance(key, tuple) else key).partition("-")[0]] += 1


def test_a_run_has_as_many_tasks_as_planned(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(f"http://h{i}.example/{i}" for i in range(600)))
    plan = plan_run([str(tmp_path / "urls.txt")], str(tmp_path / "run.zarr"), SETTINGS)
    ended, threads = Ended(), 3
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=threads,
        processes=False,
        resources={"CPU": threads},
        dashboard_address=None,
    )
    with cluster, Client(cluster) as client:
        cluster.scheduler.add_plugin(ended)
        execute(plan, DaskExecutor(client, "token"), Silent(), block_rows=50, backend="cpu")
    found = forecast(plan.shards, SETTINGS, Capacity(1, threads, 2 << 30), block_rows=50)
    # How many tiles a task computes depends on how long they take.
    planned = {task.name: task.tasks for task in found.tasks if task.name != "tile"}
    assert planned == {name: ended.counts[name] for name in planned}
    assert (planned["document_frequency"], planned["document_frequency_combine"]) == (12, 3)


def test_pieces_are_planned_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(f"http://a.example/{i}" for i in range(120_000)))
    shards = plan_shards([str(tmp_path / "urls.txt")], InputSettings())
    reports = read.read(partition_shards(shards), Scratch(str(tmp_path / "scratch")), InputSettings())
    found = forecast(shards, SETTINGS, Capacity(1, 1, 2 << 30))
    written = sum(len(report.names) for report in reports if isinstance(report, read.ReadReport))
    assert [task.tasks for task in found.tasks if task.name == "canonical"] == [written] == [2]


class Counting(SerialExecutor):
    """Counts tasks by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def run(self, name: str, *more: object) -> Iterator[object]:  # type: ignore[override]
        for result in super().run(name, *more):  # type: ignore[arg-type]
            self.counts[name] += 1
            yield result


def test_pieces_and_ranges_are_grouped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(200)))
    monkeypatch.setattr(read, "_PIECE_RECORDS", 10)
    monkeypatch.setattr(read, "_BATCH_RECORDS", 7)
    monkeypatch.setattr(stage, "_RANGE_RECORDS", 13)
    for most, canonical, ranges in ((1_000, 15, 16), (4, 4, 4)):
        monkeypatch.setattr(stage, "MOST_TASKS", most)
        plan, executor = (
            plan_run([str(tmp_path / "urls.txt")], str(tmp_path / f"{most}.zarr"), SETTINGS),
            Counting(),
        )
        execute(plan, executor, Silent(), block_rows=None, backend="cpu")
        assert (executor.counts["canonical"], executor.counts["sort"]) == (canonical, ranges)
    assert_same_content(str(tmp_path / "4.zarr"), str(tmp_path / "1000.zarr"))


def key_and_number(number: int) -> tuple[str, int]:
    return str(thread_state.key), number


def add(values: list[int]) -> int:
    return sum(values)


def test_tasks_of_blocks_are_grouped(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "MOST_TASKS", 8)
    with Client(scheduler) as client:
        executor = DaskExecutor(client, "token")
        results = list(executor.run("number", key_and_number, [(i,) for i in range(50)]))
        assert sorted(number for _, number in results) == list(range(50))
        assert len({key for key, _ in results}) <= 8
        tree = executor.tree("sum", int, add, [(i,) for i in range(50)])
        assert len(collections_to_expr(tree).__dask_graph__()) <= 10
        assert list(executor.compute([tree])) == [sum(range(50))]


def test_tiny_shards_share_partitions_of_bounded_length() -> None:
    shards = [Shard(f"{i}", f"/{i}", "text", None, 0, None, i % 3, "") for i in range(5_000)]
    partitions = partition_shards(shards)
    assert [shard for _, _, part in partitions for shard in part] == shards
    assert [first for _, first, _ in partitions] == [0, 1024, 2048, 3072, 4096]
