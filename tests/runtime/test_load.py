"""What is measured decides what a task may take, and a host without memory is waited for."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from distributed import Client, wait

from noveltyflow.errors import ResourceError
from noveltyflow.runtime import load
from noveltyflow.runtime.load import Load
from noveltyflow.runtime.seats import workers_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not know the tests
MIB = 1 << 20


def test_room_is_what_the_limit_leaves_shared_by_the_threads() -> None:
    assert Load(300 * MIB, 1000 * MIB, 1, paused=False, host_free=1 << 40).room(0) == 500 * MIB
    assert Load(300 * MIB, 1000 * MIB, 2, paused=False, host_free=1 << 40).room(0) == 250 * MIB
    assert Load(900 * MIB, 1000 * MIB, 1, paused=False, host_free=1 << 40).room(0) == 0


def test_what_a_task_holds_already_is_not_counted_against_it() -> None:
    assert Load(700 * MIB, 1000 * MIB, 1, paused=False, host_free=1 << 40).room(400 * MIB) == 500 * MIB


def test_room_is_no_more_than_the_host_has() -> None:
    assert Load(300 * MIB, 1000 * MIB, 1, paused=False, host_free=60 * MIB).room(40 * MIB) == 100 * MIB


def test_pressure_is_a_pause_or_a_limit_that_is_near() -> None:
    assert Load(810 * MIB, 1000 * MIB, 1, paused=False, host_free=0).pressed
    assert Load(100 * MIB, 1000 * MIB, 1, paused=True, host_free=0).pressed
    assert not Load(790 * MIB, 1000 * MIB, 1, paused=False, host_free=32 * MIB).pressed
    assert Load(100 * MIB, 1000 * MIB, 1, paused=False, host_free=31 * MIB).pressed


def test_pressure_is_also_what_dask_has_spilled_meanwhile() -> None:
    spilled = Load(100 * MIB, 1000 * MIB, 1, paused=False, host_free=1 << 40, spilled=30 * MIB)
    assert spilled.pressed_since(29 * MIB)
    assert not spilled.pressed_since(30 * MIB)
    assert not spilled.pressed_since(31 * MIB)
    assert not spilled.pressed_since(30 * MIB - 1000)  # what the run itself reports
    assert Load(100 * MIB, 1000 * MIB, 1, paused=True, host_free=0).pressed_since(0)


def spill(dask_worker: Any) -> None:
    """Put all results that a worker holds on its disk, as it does where memory is scarce."""
    while dask_worker.data.fast:
        dask_worker.data.evict()


def test_a_worker_tells_what_it_has_spilled(scheduler: str) -> None:
    with Client(scheduler) as client:
        worker, *_ = workers_of(client)

        def spilled() -> int:
            return int(client.submit(load.measured, workers=[worker], pure=False).result().spilled)

        before = spilled()
        held = client.submit(bytes, MIB, workers=[worker], pure=False)
        wait(held)
        client.run(spill, workers=[worker])
        assert spilled() > before


def test_outside_of_a_worker_nothing_is_measured() -> None:
    assert load.measured() is None


def test_a_host_without_memory_is_waited_for_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10, 20, 400 * MIB])
    monkeypatch.setattr(load, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=next(free, 10 * MIB)), raising=True
    )
    load.wait_for_host(300 * MIB)
    assert next(free, None) is None
    monkeypatch.setattr(load, "HOST_SECONDS", -1)
    with pytest.raises(ResourceError, match=r"needs 300 MiB, this host has 10 MiB free"):
        load.wait_for_host(300 * MIB)
