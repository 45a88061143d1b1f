"""Tasks go to workers that have memory left; the task of a worker that is gone is given back."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client

from noveltyflow.errors import DeviceError, TaskError
from noveltyflow.runtime import sharing
from noveltyflow.runtime.disk import HOST_METRIC, METRIC, RoomWatch, fullest
from noveltyflow.runtime.seats import Seat, seats_of, slots_of, workers_of
from noveltyflow.runtime.sharing import Sharing
from noveltyflow.runtime.stages.neighbors import _MOST_LOSSES, _SharedTiles
from noveltyflow.runtime.stages.tile import TileJob
from noveltyflow.similarity.tiles import Block, split_rows
from noveltyflow.types import BoolArray

MIB = 1 << 20


def info(status: str, memory: int, disk: int | None = None, host: int | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if disk is not None:
        told[METRIC] = ["/scratch", disk * MIB]
    if host is not None:
        told[HOST_METRIC] = host * MIB
    return {
        "status": status,
        "memory_limit": 1000 * MIB,
        "metrics": {"memory": memory * MIB} | told,
        "resources": {"CPU": 2},
    }


def client_of(workers: Mapping[str, Any]) -> Any:
    return SimpleNamespace(
        sync=lambda function, **arguments: function(**arguments),
        cancel=lambda futures: None,
        scheduler=SimpleNamespace(
            address="tcp://scheduler", identity=lambda n_workers: {"workers": dict(workers)}
        ),
    )


class Work:
    """Endless tasks, of which some are done."""

    backends = ("cpu",)

    def __init__(self, tasks: int) -> None:
        self.left = tasks
        self.given: list[str] = []
        self.slots: list[int] = []
        self.back: list[str] = []

    @property
    def finished(self) -> bool:
        return not self.left

    def take(self, worker: str, backend: str, slots: Mapping[str, int], anew: bool) -> tuple[int]:
        self.given.append(worker)
        self.slots.append(slots["cpu"])
        return (len(self.given),)

    def done(self, worker: str, backend: str, result: Any) -> None:
        self.left -= 1

    def give_back(self, worker: str, task: Any) -> None:
        self.back.append(worker)


class Future:
    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False


def answer(future: Future) -> None:
    if not future.answers:
        raise TimeoutError


def test_who_is_paused_or_near_the_limit_or_has_a_full_disk_or_host_is_not_ready() -> None:
    workers = {
        "free": info("running", 700),
        "paused": info("paused", 100),
        "full": info("running", 801),
        "roomy": info("running", 700, disk=16),
        "crammed": info("running", 700, disk=15),
        "alone": info("running", 700, host=32),
        "crowded": info("running", 700, host=31),
    }
    seats = seats_of(client_of(workers), ["cpu"])
    assert [(seat.worker, seat.slots, seat.ready) for seat in seats] == [
        ("free", 2, True),
        ("paused", 2, False),
        ("full", 2, False),
        ("roomy", 2, True),
        ("crammed", 2, False),
        ("alone", 2, True),
        ("crowded", 2, False),
    ]
    assert slots_of(client_of(workers))["cpu"] == 14


def test_only_those_that_are_ready_get_tasks_and_as_many_as_they_have_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = {"free": info("running", 100), "full": info("running", 900)}
    work = Work(5)
    monkeypatch.setattr(sharing, "wait", lambda futures, **_: SimpleNamespace(done=futures[:1]))
    for seat, _ in Sharing(client_of(workers), work, lambda seat, task: Future(), answer):
        assert seat.worker == "free"
        work.done(seat.worker, seat.backend, None)
        workers["full"] = info("running", 900 if work.left > 1 else 100)
    assert set(work.given) == {"free"}
    assert len(work.given) == 6
    assert set(work.slots) == {2}  # who has no memory left is not counted on


def test_the_task_of_a_worker_that_is_gone_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = {"first": info("running", 100), "second": info("running", 100)}
    work, running = Work(1), []
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0)

    def submit(seat: Seat, task: Any) -> Future:
        running.append(seat.worker)
        return Future()

    def lose_one(futures: list[Future], **_: Any) -> Any:
        if workers.pop("first", None) is None:
            return SimpleNamespace(done=futures[:1])
        raise TimeoutError

    monkeypatch.setattr(sharing, "wait", lose_one)
    for seat, _ in Sharing(client_of(workers), work, submit, answer):
        work.done(seat.worker, seat.backend, None)
    assert running[:4] == ["first", "first", "second", "second"]
    assert work.back == ["first", "first"]
    assert set(running[4:]) <= {"second"}


def test_a_task_whose_worker_is_gone_with_the_result_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = {"first": info("running", 100)}
    work = Work(1)
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0)

    def end_and_vanish(futures: list[Future], **_: Any) -> Any:
        if workers.pop("first", None):
            workers["second"] = info("running", 100)
        return SimpleNamespace(done=futures[:1])

    monkeypatch.setattr(sharing, "wait", end_and_vanish)

    def submit(seat: Seat, task: Any) -> Future:
        return Future(answers=seat.worker != "first")

    for seat, _ in Sharing(client_of(workers), work, submit, answer):
        assert seat.worker == "second"
        work.done(seat.worker, seat.backend, None)
    assert work.back == ["first", "first"]


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (info("running", 900), r"full lacks memory.* 900 MiB of 1,000 MiB.*raise --memory-limit"),
        (info("init", 63), r"\(full is starting\).*see in its log"),
        (info("running", 100, disk=3), r"full lacks disk, /scratch has 3 MiB .* 16 MiB .*free some space"),
        (info("running", 100, host=5), r"lacks memory of its host, .* 5 MiB .* 32 MiB .*start fewer workers"),
    ],
)
def test_a_run_without_room_anywhere_ends(
    worker: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(sharing, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(TaskError, match=said):
        list(
            Sharing(client_of({"full": worker}), Work(1), lambda seat, task: pytest.fail("not ready"), answer)
        )


def test_workers_are_seen_whatever_the_client_asks_for_meanwhile(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every two seconds a client asks for none of the workers, and remembers that.
    with Client(scheduler) as client:
        client.wait_for_workers(1)
        ask = client._update_scheduler_info
        monkeypatch.setattr(client, "_update_scheduler_info", lambda **_: ask(n_workers=0))
        assert client.scheduler_info(n_workers=-1)["workers"] == {}
        assert len(workers_of(client)) == len(client.run(os.getpid))
        assert {seat.worker for seat in seats_of(client)} == set(workers_of(client))
    with pytest.raises(OSError, match="client is closed"):
        workers_of(client)


def test_no_task_is_given_back_while_the_scheduler_says_nothing() -> None:
    def identity(n_workers: int) -> Any:
        answers.append(n_workers)
        if len(answers) > 1:
            raise OSError("no answer")
        return {"workers": {"one": info("running", 100)}}

    answers: list[int] = []
    client, work = client_of({}), Work(1)
    client.scheduler.identity = identity
    shared: Any = Sharing(client, work, lambda seat, task: Future(), answer)  # type: ignore[arg-type, return-value]
    shared._look()
    shared._start()
    shared._look()
    assert len(answers) == 2
    assert work.back == []
    assert [seat.worker for seat, _ in shared._running.values()] == ["one"] * 2


def test_a_device_that_failed_gets_no_other_task_and_the_last_one_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers = {"sick": info("running", 100), "well": info("running", 100)}
    work = Work(5)
    tasks: dict[Future, str] = {}

    def submit(seat: Seat, task: Any) -> Future:
        tasks[future := Future()] = seat.worker
        return future

    def told(future: Future) -> None:
        if tasks[future] in failing:
            raise DeviceError("an illegal memory access")

    failing = {"sick"}
    monkeypatch.setattr(sharing, "wait", lambda futures, **_: SimpleNamespace(done=futures[:1]))
    shared: Any = Sharing(client_of(workers), work, submit, told)  # type: ignore[arg-type]
    for seat, _ in shared:
        assert seat.worker == "well"
        work.done(seat.worker, seat.backend, None)
        assert work.given.count("sick") == 2  # both of its slots, before it was known
    assert work.back == ["sick", "sick"]
    assert "the device of sick failed, which gets no more tiles" in caplog.text
    assert "an illegal memory access" in caplog.text

    # A worker that is gone for a moment is waited for.
    failing, work.left = {"sick", "well"}, 5
    del workers["well"]
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.0)
    shared._look()
    workers["well"] = info("running", 100)
    with pytest.raises(
        TaskError, match=r"device of the last worker.*an illegal memory access.*same command again"
    ):
        next(iter(shared))


def test_workers_tell_what_is_left_where_they_spill_in_the_run_and_on_the_host(
    scheduler: str, tmp_path: Path
) -> None:
    def told(metric: str) -> list[Any]:
        workers = workers_of(client).values()
        return [worker["metrics"].get(metric) for worker in workers]

    with Client(scheduler) as client:
        for run in (tmp_path / "one", tmp_path):
            client.register_plugin(RoomWatch(str(run)))
        while None in told(METRIC) + told(HOST_METRIC):
            time.sleep(0.05)
        assert all(free > 0 and Path(folder).is_dir() for folder, free in told(METRIC))
        assert all(0 < free < psutil.virtual_memory().total for free in told(HOST_METRIC))


def test_a_folder_that_cannot_be_seen_is_passed_over(tmp_path: Path) -> None:
    found = fullest([str(tmp_path / "none"), str(tmp_path)])
    assert found is not None
    assert found[0] == str(tmp_path)
    assert fullest([str(tmp_path / "none")]) is None


def test_tiles_that_lose_one_worker_after_the_other_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noveltyflow.runtime.stages.neighbors.done_tiles", lambda store, strips: [])
    job = TileJob(None, None, 0, None)  # type: ignore[arg-type]
    work = _SharedTiles(job, ["cpu"], split_rows(10, 10), 1, 30.0)
    for loss in range(_MOST_LOSSES + 1):
        task = work.take(f"worker-{loss}", "cpu", {"cpu": 1}, anew=True)
        assert task is not None
        if loss < _MOST_LOSSES:
            work.give_back(f"worker-{loss}", task)
    with pytest.raises(TaskError, match=r"rows 0 to 9 lost 11 workers.*--memory-limit"):
        work.give_back("worker", task)


def test_a_strip_that_came_further_before_its_worker_was_lost_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strips = split_rows(40, 10)
    stored: dict[Block, BoolArray] = {}
    module = "noveltyflow.runtime.stages.neighbors"
    monkeypatch.setattr(f"{module}.done_tiles", lambda store, strips: list(stored.items()))
    work = _SharedTiles(TileJob(None, None, 0, None), ["cpu"], strips, 4, 30.0)  # type: ignore[arg-type]
    monkeypatch.setattr(f"{module}._MOST_LOSSES", 0)
    for done in range(1, 5):
        task = work.take("worker", "cpu", {"cpu": 1}, anew=True)
        assert task is not None
        stored[task[1].strips[0]] = np.arange(4) < 4
        work.give_back("worker", task)
        assert work.tiles_done == 4 * done
    assert work.finished


def test_the_more_tasks_there_were_the_longer_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noveltyflow.runtime.stages.neighbors.done_tiles", lambda store, strips: [])
    monkeypatch.setattr("noveltyflow.runtime.stages.neighbors.MOST_TASKS", 2)
    job = TileJob(None, None, 0, None)  # type: ignore[arg-type]
    work = _SharedTiles(job, ["cpu"], split_rows(10, 10), 1, 30.0)
    seconds = []
    for _ in range(5):
        task = work.take("worker", "cpu", {"cpu": 1}, anew=True)
        assert task is not None
        seconds.append(task[3])
        work.give_back("worker", task)
    assert seconds == [30, 30, 60, 60, 120]
