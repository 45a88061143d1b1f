"""Who computes tiles: the workers of a cluster, the backends they serve, and what a worker has too little of."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distributed import Client

from noveltyflow.errors import ResourceError
from noveltyflow.runtime.disk import DISK_RESERVE, HOST_METRIC, METRIC
from noveltyflow.runtime.plan import TASK_BYTES, USABLE_SHARE, mebibytes
from noveltyflow.similarity.kernels.base import DeviceKernel
from noveltyflow.similarity.kernels.device import lack_of_cuda
from noveltyflow.similarity.kernels.registry import KERNELS

CPU_RESOURCE = "CPU"
RESOURCES = {"gpu": "GPU", "cpu": CPU_RESOURCE}
"""The worker resource that tiles of each backend ask for, the preferred backend first."""
_BY_HAND = f"dask worker --resources {CPU_RESOURCE}=1 (as cluster/worker does)"

log = logging.getLogger(__name__)


class Lack(NamedTuple):
    """Why a worker gets no task now."""

    what: str
    """What it is or lacks, with both figures; follows the worker's name."""
    remedy: str


@dataclass(frozen=True)
class Seat:
    """A worker that computes tiles of one backend.

    Attributes
    ----------
    worker : str
        Its address.
    backend : str
    slots : int
        Tasks that it computes at once.
    lacks : Lack, optional
        Why it gets no other task: it is starting, paused or near its memory limit, its host has next to no memory
        left, or a disk is nearly full.
    """

    worker: str
    backend: str
    slots: int
    lacks: Lack | None = None

    @property
    def ready(self) -> bool:
        """Whether it has what another task needs."""
        return self.lacks is None


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows now of each worker, by address.

    Between the question of `Client.scheduler_info` and its answer a client can forget all workers, as every two
    seconds it asks for none of them; and it answers from memory where the scheduler does not answer.

    Raises
    ------
    OSError
        When the scheduler does not answer.
    """
    if client.scheduler is None:
        raise OSError("the client is closed")
    workers: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return workers


def wait_for_workers(client: Client, number: int, seconds: float, *, gone: Sequence[str] = ()) -> int:
    """Wait until so many workers have started and none of `gone` is left, or time is over; how many others there are.

    Dask's own waiting would change what a cluster knows of its workers while it does so itself.
    """
    deadline = time.monotonic() + seconds
    while True:
        there = {address for address, about in workers_of(client).items() if about["status"] != "init"}
        if (len(there) >= number and there.isdisjoint(gone)) or time.monotonic() > deadline:
            return len(there.difference(gone))
        time.sleep(0.1)


def seats_of(client: Client, backends: Sequence[str] = tuple(RESOURCES)) -> list[Seat]:
    """Who computes tiles of some backends, as the workers said last."""
    workers = workers_of(client)
    return [
        Seat(address, backend, int(slots), _lack_of(about))
        for backend in backends
        for address, about in workers.items()
        if (slots := about["resources"].get(RESOURCES[backend], 0))
    ]


def _lack_of(worker: Mapping[str, Any]) -> Lack | None:
    metrics, limit = worker["metrics"], worker["memory_limit"] or sys.maxsize
    held, allowed = metrics.get("memory", 0), int(USABLE_SHARE * limit)
    if worker["status"] == "init":
        return Lack("is starting", "see in its log why it does not come")
    if worker["status"] != "running" or held > allowed:
        what = f"lacks memory, it is {worker['status']}, and holds {mebibytes(held)} of {mebibytes(limit)}"
        return Lack(what, "raise --memory-limit")
    host = metrics.get(HOST_METRIC, TASK_BYTES)
    if host < TASK_BYTES:
        left = f"{mebibytes(host)} left of the {mebibytes(TASK_BYTES)} it must have"
        return Lack(
            f"lacks memory of its host, which has {left}", "end other processes there, or start fewer workers"
        )
    folder, free = metrics.get(METRIC) or ("", DISK_RESERVE)
    if free < DISK_RESERVE:
        what = (
            f"lacks disk, {folder} has {mebibytes(free)} left of the {mebibytes(DISK_RESERVE)} it must have"
        )
        return Lack(what, "free some space")
    return None


def slots_of(client: Client) -> Counter[str]:
    """How many tiles of each backend the workers that are there now compute at once."""
    slots = Counter(dict.fromkeys(RESOURCES, 0))
    for seat in seats_of(client):
        slots[seat.backend] += seat.slots
    return slots


def choose_backends(client: Client, backend: str) -> list[str]:
    """Backends that compute tiles: the one asked for, or with `auto` all that the workers report.

    Raises
    ------
    ResourceError
        When there are no workers, none of them carries a resource that is needed, or one that carries `GPU` has
        no device that works.
    """
    workers = workers_of(client)
    address = client.scheduler.address
    if not workers:
        raise ResourceError(f"{address} has no workers; start some with: cluster/worker ADDRESS")
    slots = slots_of(client)
    chosen = [name for name in RESOURCES if slots[name] and backend in ("auto", name)]
    if not chosen:
        wanted = CPU_RESOURCE if backend == "auto" else RESOURCES[backend]
        how = "cluster/gpu-worker ADDRESS" if wanted == RESOURCES["gpu"] else _BY_HAND
        raise ResourceError(
            f"none of the {len(workers)} workers of {address} carries the resource {wanted}, which backend "
            f"{backend!r} asks for; start workers with: {how}"
        )
    if "gpu" in chosen:
        _require_devices(client, workers)
    carried = {RESOURCES[name] for name in chosen}
    for worker, about in workers.items():
        if not any(about["resources"].get(resource) for resource in carried):
            log.warning(
                "worker %s carries no %s resource and gets no tiles", worker, " or ".join(sorted(carried))
            )
    log.info(
        "backend %r: tiles go to %s", backend, ", ".join(f"{slots[name]} slots of {name}" for name in chosen)
    )
    return chosen


def device_memory(client: Client, limit: int | None) -> int | None:
    """Bytes that tiles may take of the smallest device, and no more than `limit`; None where there is none."""
    carrying = _with_device(workers_of(client))
    answers = client.run(_device_memory, workers=carrying).values() if carrying else []
    found = [n_bytes for n_bytes in (*answers, limit) if n_bytes is not None]
    return min(found, default=None) if answers else None


def _with_device(workers: Mapping[str, Any]) -> list[str]:
    return [address for address, about in workers.items() if about["resources"].get(RESOURCES["gpu"])]


def _device_memory() -> int | None:
    """Bytes of this worker's device; None where its kernel has none."""
    kernel = KERNELS["gpu"]()
    return kernel.device_memory() if isinstance(kernel, DeviceKernel) else None


def _require_devices(client: Client, workers: Mapping[str, Any]) -> None:
    """Refuse a worker that carries `GPU` and could not compute a single tile."""
    for address, lack in client.run(_lack_of_device, workers=_with_device(workers)).items():
        if lack is not None:
            raise ResourceError(
                f"worker {address} carries the resource {RESOURCES['gpu']}, but has no GPU that it can use: {lack}, "
                "or choose --backend cpu"
            )


def _lack_of_device() -> str | None:
    """Why this worker cannot use a device, and what to do about it; None where it can."""
    kernel = KERNELS["gpu"]()
    if not kernel.is_usable():
        return f"there is {lack_of_cuda()}; stop it"
    try:
        _device_memory()
    except (
        Exception
    ) as error:  # CUDA's own, as after a failure, when all calls fail until the process has ended
        return f"{type(error).__name__}: {error}; see to that and start it anew"
    return None
